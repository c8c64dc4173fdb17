"""What a step of TAPO costs beside one of DAPO with as many rollouts, and what sharing saves.

    finer1 benchmark miniature

Everything is measured in one process, in turns (DAPO, TAPO, DAPO, TAPO, ...), so that a busy machine slows
both; the median over turns is reported with the lowest and the highest. A step is the trainer's own, timed by
its own metrics; only the filter is off, so that both methods train on every rollout they sample.

Sharing is switched off by the prompts given, not by another code path: rows share what is one object.

    prompts    a group's rollouts are one `Encoded`: one pass of tower and prompt
    pictures   equal prompts in several objects over one tensor of pixels: one pass of the tower
    nothing    every row has its own
"""

import dataclasses
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Callable, Mapping, Optional, Sequence

import typer

from finer1_lib.commands.terminal import Json, OutputRoot, new_app, run_app, show_table, write_json
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import check_targets, read_json
from finer1_lib.core.prompts import user_message
from finer1_lib.models import loading as models
from finer1_lib.models.encoding import Encoder, pad
from finer1_lib.models.generation import cut_batches, sample_ids
from finer1_lib.models.log_probabilities import score_completions
from finer1_lib.models.trainable import Trainable, make_trainable
from finer1_lib.runs.chain import find_run
from finer1_lib.training.methods import METHODS, method_config
from finer1_lib.training.tapo import build_trainer, triplet_rows
from finer1_lib.training.tapo_config import TapoConfig, make_config

PARTS = ("rollout", "scoring", "update", "step")
LEVELS = ("nothing", "pictures", "prompts")


def measure_run(
    run_name: str, output_root: Optional[str] = None, checkpoint: Optional[str] = None,
    adapter: Optional[str] = None, backend: str = "transformers", repeats: int = 5,
    say: Optional[Callable[[str], None]] = None,
) -> dict[str, Any]:
    """`measure` on a finished run's triplets, settings of 03 and CoT SFT model.

    Another `checkpoint` than the run's starts from a fresh adapter where no `adapter` is given.

    Raises: UserError: 03 is not finished there.
    """
    import pandas

    folder = find_run(output_root, run_name)
    stage = folder / "03_tapo/stage.json"
    if not stage.is_file():
        raise UserError(f"run {run_name!r} in {folder.parent} has not finished 03_tapo: run it first")
    settings = read_json(stage)["parameters"]
    names = {field.name for field in dataclasses.fields(TapoConfig)}
    config = make_config("kit", **{key: value for key, value in settings.items() if key in names})
    root = folder / read_json(folder / "01_data/data.json")["image_root"]
    if checkpoint is None:
        checkpoint = read_json(folder / "00_miniature_world/base.json")["checkpoint"]
        adapter = adapter or str(folder / "02_cot_sft/cot_sft")
    loaded = models.load(checkpoint, adapter, backend=backend)
    if adapter is None:
        rank, alpha = settings.get("lora_rank", 8), settings.get("lora_alpha", 16)
        loaded = make_trainable(loaded, Trainable("lora", rank, alpha))
    rows = triplet_rows(pandas.read_parquet(folder / "01_data/triplets.parquet"), root)
    return measure(loaded, rows, config, repeats=repeats, say=say)


def measure(
    loaded: Any, rows: Sequence[Any], config: TapoConfig, *, repeats: int = 5,
    methods: Sequence[str] = ("dapo", "tapo"), say: Optional[Callable[[str], None]] = None,
) -> dict[str, Any]:
    """Measure steps of the methods (the others are compared with the first) and what sharing saves.

    The model's weights are put back. A step is a rollout batch of `config`, divided by `updates_per_rollout`;
    one more turn than `repeats` goes before, to warm up. Ready for JSON: `machine`, `settings`, `steps` (method
    -> part -> seconds of every turn, and tokens), `sharing` (what was done -> level -> seconds of every turn).

    Raises: UserError: no turn, an unknown method, or no triplets.
    """
    import torch

    if repeats < 1:
        raise UserError(f"benchmark: repeats is {repeats}: it must be at least 1")
    if not rows:
        raise UserError("benchmark: there are no triplets to sample from")
    steps: dict[str, dict[str, list[float]]] = {
        name: {part: [] for part in (*PARTS, "tokens")} for name in methods}
    shared: dict[str, dict[str, list[float]]] = {}
    for turn in range(repeats + 1):
        for name in methods:
            own = dataclasses.replace(
                method_config(name, config), steps=config.updates_per_rollout, max_sampling_rounds=1,
                nothing_survives="keep", checkpoints_every=config.steps + 1, seed=turn)
            for part, seconds in _step(loaded, rows, own).items():
                steps[name][part] += [seconds] if turn else []
        for what, levels in _sharing(loaded, rows, config, turn).items():
            for level, seconds in levels.items():
                shared.setdefault(what, {}).setdefault(level, []).extend([seconds] if turn else [])
        if say:
            say(f"turn {turn} of {repeats}" + ("" if turn else " (to warm up)"))
    return {
        "machine": {"device": loaded.device, "threads": torch.get_num_threads(), "torch": torch.__version__,
                    "processor": platform.processor() or platform.machine()},
        "settings": dataclasses.asdict(config), "repeats": repeats, "steps": steps, "sharing": shared}


def _step(loaded: Any, rows: Sequence[Any], config: TapoConfig) -> dict[str, float]:
    """Seconds of one optimizer step and its parts, and tokens sampled for it: one rollout batch's share."""
    kept = {name: p.detach().clone() for name, p in loaded.model.named_parameters() if p.requires_grad}
    with tempfile.TemporaryDirectory() as scratch:
        trainer = build_trainer(loaded, rows, config, Path(scratch))
        sample = trainer.sampler.batch

        def whole(slots, number):
            batch = sample(slots, number)
            return batch._replace(kept=batch.kept + batch.dropped, dropped=[])

        trainer.sampler.batch = whole
        trainer.train()
        logs = [row for row in trainer.state.log_history if "loss" in row]
    loaded.model.eval()
    for name, parameter in loaded.model.named_parameters():
        if name in kept:
            parameter.data.copy_(kept[name])
            parameter.grad = None
    found = {part: sum(row[f"seconds_{part}"] for row in logs) / len(logs) for part in PARTS[:3]}
    tokens = sum(row["tokens_sampled"] for row in logs) / len(logs)
    return {**found, "step": sum(found.values()), "tokens": tokens}


def _sharing(loaded: Any, rows: Sequence[Any], config: TapoConfig, turn: int) -> dict[str, dict[str, float]]:
    """Seconds of sampling and of scoring an update's rollouts, for every level of sharing."""
    import torch

    encode, tokenizer = Encoder(loaded.processor), loaded.processor.tokenizer
    chosen = [rows[(turn * config.prompts_per_step + i) % len(rows)] for i in range(config.prompts_per_step)]
    anchors = [encode(user_message(row.prompt, row.anchor)) for row in chosen]
    positives = [encode(user_message(row.prompt, row.positive)) for row in chosen]
    sampled = [prompt for pair in zip(anchors, positives)
             for prompt, count in zip(pair, (config.n_anchor, config.n_positive)) for _ in range(count)]
    scored = [anchor for anchor in anchors for _ in range(config.group_size)]
    size, found = config.micro_batch_size, {"sampling": {}, "scoring": {}, "scoring and its gradient": {}}
    loaded.model.eval()
    drawn: list[Any] = [None] * len(sampled)
    for level in LEVELS:
        own, began = copies(sampled, level), time.perf_counter()
        for part in cut_batches([len(row.ids) for row in own], config.generation_batch_size):
            ids = sample_ids(
                loaded.model, tokenizer, [own[i] for i in part], seed=(turn,), temperature=config.temperature,
                max_new_tokens=config.max_new_tokens, top_p=config.top_p)
            for i, row in zip(part, ids):
                drawn[i] = row
        found["sampling"][level] = time.perf_counter() - began
    ids, mask = (tensor.to(loaded.device) for tensor in pad(drawn, tokenizer.pad_token_id, "right"))
    for what, gradient in (("scoring", False), ("scoring and its gradient", True)):
        for level in LEVELS:
            own, began = copies(scored, level), time.perf_counter()
            for k in range(0, len(own), size):
                with torch.set_grad_enabled(gradient):
                    logp = score_completions(
                        loaded.model, own[k : k + size], ids[k : k + size], mask[k : k + size],
                        pad_token_id=tokenizer.pad_token_id).logp
                if gradient:
                    logp.sum().backward()
            found[what][level] = time.perf_counter() - began
    loaded.model.zero_grad(set_to_none=True)
    return found


def copies(rows: Sequence[Any], level: str) -> list[Any]:
    """The same prompts in fresh objects that have only so much in common (`LEVELS`)."""
    prompts = {id(row): row._replace(pixels=row.pixels.clone()) for row in rows}
    if level == "prompts":
        return [prompts[id(row)] for row in rows]
    own = [type(row)(*prompts[id(row)]) for row in rows]
    return own if level == "pictures" else [row._replace(pixels=row.pixels.clone()) for row in own]


# Tables ------------------------------------------------------


def tables(result: Mapping[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Title -> (column titles, rows) of both tables, for the terminal."""
    first, *others = result["steps"]
    labels = [METHODS[name].label for name in result["steps"]]
    titles = ["part of a step", *labels, *(f"{METHODS[name].label} / {labels[0]}" for name in others)]
    seconds = []
    for part in PARTS:
        base = result["steps"][first][part]
        values = [result["steps"][name][part] for name in result["steps"]]
        ratios = [[a / b for a, b in zip(result["steps"][name][part], base) if b] for name in others]
        seconds.append([part, *map(_spread, values), *map(_spread, ratios)])
    saved = []
    for what, levels in result["sharing"].items():
        parts = [[a / b for a, b in zip(levels[level], levels["nothing"])] for level in LEVELS[1:]]
        saved.append([what, *(_spread(levels[level]) for level in LEVELS), *map(_spread, parts)])
    return {
        "seconds of one optimizer step: median [lowest, highest]": (titles, seconds),
        "seconds, by what a group's rollouts share": (
            ["an update's rollouts", *LEVELS, *(f"{level} / nothing" for level in LEVELS[1:])], saved)}


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


app = new_app()


@app.command()
def benchmark(
    run_name: Annotated[str, typer.Argument(help="A run that finished 03_tapo: its triplets and settings.")],
    output_root: OutputRoot = None,
    checkpoint: Annotated[Optional[str], typer.Option(help="Another base.", show_default="the run's")] = None,
    adapter: Annotated[Optional[str], typer.Option(
        help="Another start.", show_default="the run's CoT SFT")] = None,
    backend: Annotated[str, typer.Option(help="transformers or unsloth.")] = "transformers",
    repeats: Annotated[int, typer.Option(min=1, help="Turns that count.")] = 5,
    json_file: Json = None,
) -> None:
    """Time a step of TAPO against one of DAPO with as many rollouts, and what shared prompts save.

    Example: finer1 benchmark miniature --repeats 3 --json cost.json
    """
    check_targets(json_file)
    result = measure_run(run_name, output_root, checkpoint, adapter, backend, repeats, say=print)
    for title, (titles, rows) in tables(result).items():
        show_table(title, titles, rows)
    write_json(json_file, result)


if __name__ == "__main__":
    run_app(app)
