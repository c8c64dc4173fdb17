"""Throughput is measured as said: the release two by two, the kit shared, the same answers of both."""

import json

import pandas as pd
import pytest
import tiny_checkpoint
import torch
from benchmarks import benchmark_answers, benchmark_evaluation
from benchmarks.benchmark_answers import Clock, measure_answers, release_answers, watched
from benchmarks.benchmark_evaluation import measure_run, tables
from benchmarks.benchmark_similarity import in_batches, measure_similarity, one_by_one, random_tower
from typer.testing import CliRunner

from finer1_lib import models
from finer1_lib.commands.cli import app
from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.entries import all_entries
from finer1_lib.evaluation.requests import all_requests

NAMES = ["Dunen Wren", "Marlo Wren", "Tarn Finch", "Sabel Finch"]
TOWER = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
         "num_attention_heads": 2, "max_position_embeddings": 64}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run as far as the benchmark reads it: a base, six pictures, six items."""
    run = tmp_path_factory.mktemp("outputs") / "mine"
    base = tiny_checkpoint.build(run / "base")
    items, images = [], []
    for number in range(6):
        name = NAMES[number % 4]
        image_id = f"bird/{name}/{number}.png"
        path = run / "pictures" / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny_checkpoint.picture(seed=number).save(path)
        options = [name, *(other for other in NAMES if other != name)]
        items.append({"item_id": image_id, "image_id": image_id, "super_category": "bird",
                      "sub_category": name, "categories": "seen" if number % 2 else "unseen",
                      "options": options, "question": "What species is this bird?"})  # fmt: skip
        images.append({"image_id": image_id, "width": 112, "height": 112})
    for folder, name, text in (
        ("00_miniature_world", "base.json", json.dumps({"checkpoint": str(base)})),
        ("01_data", "data.json", json.dumps({"image_root": "pictures"})),
        ("01_data", "items.jsonl", "".join(json.dumps(item) + "\n" for item in items)),
        ("02_cot_sft", "stage.json", "{}"),
    ):
        (run / folder).mkdir(exist_ok=True)
        (run / folder / name).write_text(text, encoding="utf-8")
    pd.DataFrame(images).to_parquet(run / "01_data" / "images.parquet")
    return run


@pytest.fixture(scope="module")
def asked(run):
    (entry,) = [one for one in all_entries([]) if one.model == "base"]
    _, _, _, items = benchmark_evaluation._run(run.name, str(run.parent), 5, 0)
    return all_requests(entry, items, ["shuffled"], seed=0)


def test_both_ways_answer_alike_and_their_parts_add_up(run, asked):
    found = measure_answers(lambda: models.load(run / "base"), asked, run / "pictures", max_new_tokens=6,
                            batch_size=4, splits=4)  # fmt: skip
    assert found["questions"] == 10 == len(found["records"]) and found["same_answers"] == 1.0
    assert found["loads"] == {"release": 4, "kit": 1} and found["loading"] > 0
    for way in ("release", "kit"):
        seconds = dict(found[way])
        total = seconds.pop("total")
        assert sum(seconds.values()) == pytest.approx(total) and min(seconds.values()) > 0
    assert found["ratio"] == found["release"]["total"] / found["kit"]["total"]
    spent = found["processor_seconds"]
    assert found["processor_ratio"] == spent["release"] / spent["kit"] and min(spent.values()) > 0


def test_the_release_prepares_each_image_for_each_question_two_at_a_time(run, asked, monkeypatch):
    loaded = models.load(run / "base")
    seen, passes, prepared = [], [], []
    loaded.model.model.visual.register_forward_pre_hook(lambda module, args: seen.append(1))
    loaded.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True)  # fmt: skip
    preprocess = type(loaded.processor.image_processor).preprocess
    monkeypatch.setattr(type(loaded.processor.image_processor), "preprocess",
                        lambda self, images, *args, **options: prepared.append(len(images)) or preprocess(
                            self, images, *args, **options))  # fmt: skip
    said = release_answers(loaded, asked, image_root=run / "pictures", max_new_tokens=3, clock=Clock())
    assert len(said) == 10 and prepared == [2, 2, 1] * 2 and len(seen) == 6
    assert [rows for rows, length in passes if length > 1] == [2, 2, 1] * 2
    assert all(length == 1 or length > 20 for _, length in passes)


def test_the_watch_leaves_no_hook_behind_and_tells_prompts_from_tokens(run, asked):
    loaded = models.load(run / "base")
    clock = Clock()
    with pytest.raises(RuntimeError, match="inside"), watched(loaded.model, clock):
        release_answers(loaded, [asked[0][:2]], image_root=run / "pictures", max_new_tokens=1, clock=clock)
        assert clock.seconds["prefill"] > 0 and clock.seconds["decoding"] == 0
        raise RuntimeError("inside")
    modules = (loaded.model.model.visual, loaded.model.model.language_model, loaded.model.lm_head)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_other_answers_are_reported(run, asked, monkeypatch):
    answers = benchmark_answers.release_answers
    monkeypatch.setattr(benchmark_answers, "release_answers",
                        lambda *args, **options: ["another", *answers(*args, **options)[1:]])  # fmt: skip
    found = measure_answers(lambda: models.load(run / "base"), asked, run / "pictures", max_new_tokens=2,
                            batch_size=4)  # fmt: skip
    assert found["same_answers"] == pytest.approx(0.9)


def test_the_similarity_is_the_same_in_both_ways_and_costs_four_passes_an_answer(run, tmp_path, monkeypatch):
    from transformers import SiglipTextModel

    tower = random_tower(tmp_path / "tower", models.load_processor(run / "base").tokenizer, TOWER)
    triples = [("Marlo Wren", "Dunen Wren", "bird"), ("a bird", "Dunen Wren", "bird"),
               ("Dunen Wren", "Marlo Wren", "bird")]  # fmt: skip
    batches = []
    forward = SiglipTextModel.forward

    def counted(self, input_ids, *args, **options):
        batches.append(tuple(input_ids.shape))
        return forward(self, input_ids, *args, **options)

    monkeypatch.setattr(SiglipTextModel, "forward", counted)
    _, plain = one_by_one(tower, triples)
    assert batches == [(1, 64)] * (1 + 4 * 3)  # the first to warm up
    batches.clear()
    _, batched = in_batches(tower, triples)
    assert sum(rows for rows, _ in batches) == 4 + 1  # different texts, and the one that tries the tower
    assert plain == pytest.approx(batched, abs=1e-5) and len(plain) == 6 and max(plain) < 1.0001
    found = measure_similarity(tower, triples)
    assert found["texts"] == 4 and found["answers"] == 3 and found["apart"] < 1e-5
    assert found["ratio"] == found["release"] / found["kit"]


def test_the_larger_model_is_ten_times_the_shipped_one(tmp_path):
    from finer1_lib.miniature.base import WEIGHTS

    benchmark_evaluation.larger_checkpoint(str(WEIGHTS), tmp_path / "larger", seed=0)
    count = sum(weight.numel() for weight in models.load(tmp_path / "larger").model.parameters())
    assert 30e6 < count < 40e6


def test_a_run_is_measured_and_reported(run, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_evaluation, "larger_checkpoint", lambda base, folder, seed: (
        tiny_checkpoint.build(folder, seed=1, hidden=64)))  # fmt: skip
    monkeypatch.setattr(benchmark_evaluation, "BASE_SIZE", TOWER)
    target = tmp_path / "found.json"
    words = ["benchmark-evaluation", run.name, "--output-root", run.parent, "--items", 6, "--sizes", "larger", "--larger-tokens", 3]
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, [*map(str, words), "--json", str(target)])
    assert result.exit_code == 0, result.output
    found = json.loads(target.read_text())
    assert found["items"] == 6 and list(found["answers"]) == ["larger"]
    one, near = found["answers"]["larger"], found["similarity"]
    assert one["questions"] == 12 and one["loads"] == {"release": 4, "kit": 1} and near["answers"] == 6
    assert one["max_new_tokens"] == 3 and one["tokens"] <= 36 and found["scoring"]["records"] == 12
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["overall"]["larger"] == pytest.approx(
        (one["release"]["total"] + near["release"]) / (one["kit"]["total"] + near["kit"]))
    assert "12 questions about 6 images" in result.output and "release's way" in result.output


def test_tables_by_hand():
    seconds = {"preprocessing": 1.0, "vision": 2.0, "prefill": 3.0, "decoding": 4.0, "rest": 5.0,
               "total": 15.0}  # fmt: skip
    one = {"parameters": 3_900_000, "questions": 20, "dtype": "float32", "attention": "sdpa", "ratio": 5.0,
           "processor_ratio": 4.5, "same_answers": 0.95, "loading": 0.5,
           "loads": {"release": 8, "kit": 1}, "release": seconds,
           "kit": {part: value / 5 for part, value in seconds.items()}}  # fmt: skip
    found = tables({"machine": {"threads": 2}, "items": 10, "answers": {"shipped": one},
                    "scoring": {"official": 0.25, "strict": 0.5, "records": 20}})  # fmt: skip
    (title, (titles, rows)), (_, (_, scoring)) = found.items()
    assert "3.9 M parameters" in title and "5.0 times as quick" in title and "95.0% of the answers" in title
    assert titles[-1] == "loading" and rows[0] == [
        "release's way", "1.0", "2.0", "3.0", "4.0", "5.0", "15.0", "8 x 0.5"]
    assert rows[1][-2:] == ["3.0", "1 x 0.5"] and scoring[1] == ["strict scorer, kit", "0.50", "20 records"]


@pytest.mark.parametrize(("options", "words"), [
    ({"items": 7}, "has 6 items, not 7"), ({"sizes": ["huge"]}, "sizes are some of"),
    ({"sizes": []}, "sizes are some of"),
    ({"run_name": "none"}, "not finished 02_cot_sft"),
])  # fmt: skip
def test_mistakes_are_reported(run, options, words):
    with pytest.raises(UserError, match=words):
        measure_run(**{"run_name": run.name, "output_root": str(run.parent), "items": 2, **options})
