"""How fast an evaluation is beside the release's method: same model, items and prompts, in one process.

    finer1 benchmark-evaluation miniature --items 500

The release's method, rewritten from its code: two questions at a time, each image prepared for each question,
transformers' own cache, weights loaded once for each split and setting, and four passes of the text encoder per
answer, one text each, nothing cached. The kit's is the notebook's: `evaluation.collect_records`, then `scores`.
Both query the same loaded model, so dtype, threads and attention are equal; loading is reported separately and
is in no ratio.

    shipped   the run's base with its CoT SFT, which answers and stops
    larger    random weights of ten times the size, which write up to the last token

Source: release eval/evaluation.py:79-165 (closed world), :169-270 (open world), eval/eval_closed.sh:9-30.
"""

import platform
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Mapping, Optional, Sequence

import typer
from benchmarks.benchmark_answers import PARTS, Say, measure_answers
from benchmarks.benchmark_similarity import BASE_SIZE, measure_similarity, random_tower

from finer1_lib.commands.terminal import Json, OutputRoot, new_app, run_app, show_table, write_json
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import check_targets, read_json, read_jsonl
from finer1_lib.evaluation.entries import all_entries
from finer1_lib.evaluation.requests import select_items
from finer1_lib.evaluation.requests import all_requests
from finer1_lib.evaluation.scores.official import official_answer
from finer1_lib.evaluation.scores.scoring import make_scorer, score_records
from finer1_lib.models import loading as models
from finer1_lib.models.checkpoint_files import read_config
from finer1_lib.runs.chain import find_run

SIZES = ("shipped", "larger")
SETTINGS_ASKED = 2  # closed and open world: the release loads the model again for each, seen and unseen too
WAYS = {"release": "release's way", "kit": "kit's way"}


def measure_run(
    run_name: str, output_root: Optional[str] = None, *, items: int = 500, max_new_tokens: int = 256,
    larger_tokens: int = 125, batch_size: int = 64, sizes: Sequence[str] = SIZES, similarity: bool = True,
    tower: Optional[Mapping[str, int]] = None, seed: int = 0, say: Optional[Say] = None,
) -> dict[str, Any]:
    """Both methods on a run's items, with its CoT SFT and with a larger model of random weights.

    `items` are in equal shares of data sets, seen and unseen. The larger size does not end its answers; 125
    tokens are the shipped one's average. The similarity is of the open-world answers of the first size, with a
    random text tower. Ready for JSON: `machine`, `items`, `answers` (size -> of `measure_answers`), `scoring`
    (seconds of both scorers on the first size's records), `similarity`, `overall` (size -> ratio of answering
    and similarity together).

    Raises: UserError: no run that has finished 02, an unknown size, too few items.
    """
    import torch

    if not sizes or set(sizes) - set(SIZES):
        raise UserError(f"benchmark-evaluation: sizes are some of {', '.join(SIZES)}, not {', '.join(sizes)}")
    run, root, base, chosen = _run(run_name, output_root, items, seed)
    (entry,) = [one for one in all_entries([]) if one.model == "cot_sft"]
    asked = all_requests(entry, chosen, ["shuffled"], seed=seed)
    splits = SETTINGS_ASKED * len({(item["super_category"], item["categories"]) for item in chosen})
    result: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(),
                    "threads": torch.get_num_threads(), "torch": torch.__version__},
        "items": len(chosen), "answers": {}}
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            load = partial(models.load, base, str(run / "02_cot_sft/cot_sft"))
            if size == "larger":
                larger_checkpoint(base, Path(folder) / size, seed)
                load = partial(models.load, Path(folder) / size)
            if say:
                say(f"{size}: {sum(map(len, asked))} questions about {len(chosen)} images")
            one = measure_answers(load, asked, root, splits=splits, batch_size=batch_size, say=say,
                                  max_new_tokens=larger_tokens if size == "larger" else max_new_tokens)
            own = one.pop("records")
            records, result["answers"][size] = records or own, one
        result["scoring"] = _scoring(records)
        if similarity:
            tokenizer = models.load_processor(base).tokenizer
            found = random_tower(Path(folder) / "tower", tokenizer, tower or BASE_SIZE, seed)
            near = result["similarity"] = measure_similarity(found, _triples(records), say)
            result["overall"] = {
                size: (one["release"]["total"] + near["release"]) / (one["kit"]["total"] + near["kit"])
                for size, one in result["answers"].items()}
    return result


def _run(
    run_name: str, output_root: Optional[str], count: int, seed: int
) -> tuple[Path, Path, str, list[dict]]:
    """(folder of the run, its images' root, its base, the items)."""
    import pandas as pd

    run = find_run(output_root, run_name)
    if not (run / "02_cot_sft/stage.json").is_file():
        raise UserError(f"run {run_name!r} in {run.parent} has not finished 02_cot_sft: run it first")
    images = pd.read_parquet(run / "01_data/images.parquet")
    items = select_items(read_jsonl(run / "01_data/items.jsonl"), images, images_per_class=0, seed=seed,
                         budget=count)
    if len(items) < count:
        raise UserError(f"benchmark-evaluation: run {run_name!r} has {len(items)} items, not {count}")
    root = run / read_json(run / "01_data/data.json")["image_root"]
    return run, root, read_json(run / "00_miniature_world/base.json")["checkpoint"], items


def larger_checkpoint(base: str, folder: Path, seed: int) -> None:
    """A checkpoint of random weights beside a base's processor: ten times the shipped base's size."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = read_config(base).to_dict()
    for part in ("text_config", "vision_config"):
        config[part].pop("layer_types", None)
    config["text_config"].update(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=9, num_attention_heads=8,
        num_key_value_heads=2, rope_parameters=dict(
            rope_type="default", mrope_section=[8, 12, 12], rope_theta=10000.0))
    config["vision_config"].update(depth=6, hidden_size=256, intermediate_size=704, num_heads=4,
                                   out_hidden_size=512, fullatt_block_indexes=[2, 5])
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))
    processor = models.load_processor(base)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _scoring(records: Sequence[Mapping]) -> dict[str, float]:
    """Seconds of each scorer on the records; trigrams in place of an encoder."""
    seconds = {}
    for name in ("official", "strict"):
        began = time.perf_counter()
        score_records(records, [make_scorer(name)])
        seconds[name] = time.perf_counter() - began
    return {**seconds, "records": len(records)}


def _triples(records: Sequence[Mapping]) -> list[tuple[str, str, str]]:
    """(answer, label, word) of the open world, as the official scorer takes them."""
    opened = [record for record in records if record["setting"] == "open_world"]
    return [(official_answer(record["completion"]) or record["completion"], record["sub_category"],
             record["super_category"]) for record in opened]


def tables(result: Mapping[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """{title: (column titles, rows)} for the terminal."""
    machine, found = result["machine"], {}
    for size, one in result["answers"].items():
        title = (f"{size}, {one['parameters'] / 1e6:.1f} M parameters: {one['questions']} questions about "
                 f"{result['items']} images,\n{one['dtype']}, {one['attention']}, "
                 f"{machine['threads']} threads; {one['same_answers']:.1%} of the answers the same\n"
                 f"{one['ratio']:.1f} times as quick, {one['processor_ratio']:.1f} by processor seconds")
        rows = [[words, *(f"{one[way][part]:.1f}" for part in (*PARTS, "rest", "total")),
                 f"{one['loads'][way]} x {one['loading']:.1f}"] for way, words in WAYS.items()]
        found[title] = ["seconds", *PARTS, "rest", "total", "loading"], rows
    scoring = result["scoring"]
    rows = [[f"{name} scorer, kit", f"{scoring[name]:.2f}", f"{scoring['records']} records"]
            for name in ("official", "strict")]
    if near := result.get("similarity"):
        rows += [[f"similarity, {words}", f"{near[way]:.2f}", f"{near['answers']} answers"]
                 for way, words in WAYS.items()]
        rows.append(["similarity, times as quick", f"{near['ratio']:.1f}", f"{near['texts']} texts"])
        rows += [[f"answers and similarity, {size}, times as quick", f"{ratio:.1f}", ""]
                 for size, ratio in result["overall"].items()]
    found["scoring"] = ["what", "seconds", "of"], rows
    return found


app = new_app()


@app.command()
def benchmark_evaluation(
    run_name: Annotated[str, typer.Argument(help="A run that finished 02_cot_sft.")],
    output_root: OutputRoot = None,
    items: Annotated[int, typer.Option(min=1, help="Items, each queried in both worlds.")] = 500,
    sizes: Annotated[str, typer.Option(help="shipped, larger or both, with a comma.")] = ",".join(SIZES),
    larger_tokens: Annotated[int, typer.Option(min=1, help="Tokens that the larger model writes.")] = 125,
    similarity: Annotated[bool, typer.Option(help="Also the similarity of the answers.")] = True,
    json_file: Json = None,
) -> None:
    """Time an evaluation against the release's method: same model, items, prompts, threads.

    Example: finer1 benchmark-evaluation miniature --items 100 --sizes shipped --json throughput.json
    """
    check_targets(json_file)
    result = measure_run(run_name, output_root, items=items, sizes=sizes.split(","), similarity=similarity,
                         larger_tokens=larger_tokens, say=lambda line: print(line, flush=True))
    for title, (titles, rows) in tables(result).items():
        show_table(title, titles, rows)
    write_json(json_file, result)


if __name__ == "__main__":
    run_app(app)
