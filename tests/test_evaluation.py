"""Records, resume and rows: no record lost or doubled, whatever kills the run; scores from records alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, namedtuple
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from finer1_lib import evaluation
from finer1_lib.contenders import FIXED
from finer1_lib.encoding import ImageFile
from finer1_lib.errors import UserError
from finer1_lib.evaluation import (
    batches_of,
    build_requests,
    collect_records,
    messages_for,
    select_items,
    shown_options,
)
from finer1_lib.image_folder import load_image
from finer1_lib.prompts import PROMPTS
from finer1_lib.scorers import make_scorer
from finer1_lib.scoring import COLUMNS, compare, compare_all, pick, reading, score_records, summary_rows, tell
from finer1_lib.similarity import TrigramSimilarity
from finer1_lib.statistics import Estimate

Said = namedtuple("Said", "text tokens truncated")
COT = FIXED[3]


def make_items(per_class=3):
    names = {
        "bird": ["Dunen Wren", "Marlo Wren", "Tarn Finch", "Sorel Finch"],
        "aircraft": ["Bodan Scout", "Kelow Scout"],
    }
    pool = [name for group in names.values() for name in group]
    items = []
    for group, members in names.items():
        for place, name in enumerate(members):
            for number in range(per_class):
                path = f"{group}/{name.replace(' ', '_')}/{number}.png"
                others = [other for other in pool if other != name][:3]
                items.append(
                    {
                        "item_id": path,
                        "image_id": path,
                        "super_category": group,
                        "sub_category": name,
                        "categories": "seen" if place % 2 == 0 else "unseen",
                        "question": f"What species is this {group}?",
                        "options": [name, *others],
                    }
                )
    return items


def table_of(items):
    return pd.DataFrame(
        [
            {"image_id": item["image_id"], "width": 28, "height": 28 + 28 * (i % 2)}
            for i, item in enumerate(items)
        ]
    )


@pytest.fixture
def world(tmp_path):
    items = make_items()
    for item in items:
        path = tmp_path / "images" / item["image_id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (28, 28), (len(item["item_id"]) * 7 % 255, 80, 90)).save(path)
    return tmp_path, select_items(items, table_of(items), images_per_class=0, seed=0)


def fake_generate(loaded, prompts, *, max_new_tokens, temperature, batch_size):
    """Answers the first option, or a fixed name in the open world; the text tells the batch it came from."""
    answers = []
    for messages in prompts:
        image, text = messages[0]["content"]
        assert isinstance(image["image"], ImageFile) and temperature == 0.0  # opened here, as `Encoder` does
        assert load_image(*image["image"]).size == (28, 28)
        options = text["text"].split("Choose from: ")
        name = options[1].split(", ")[0] if len(options) > 1 else "Dunen Wren"
        answers.append(Said(f"<think>{len(prompts)}</think><answer>{name}</answer>", 9, False))
    return answers


def collect(world, requests, path, **changes):
    given = dict(
        load=lambda: "model",
        image_root=world[0] / "images",
        max_new_tokens=8,
        batch_size=4,
        generate=fake_generate,
    )
    return collect_records(requests, path, **{**given, **changes})


# ---------------------------------------------------------------- items and prompts


def test_select_takes_as_many_images_of_every_class():
    items = make_items(5)
    chosen = select_items(items, table_of(items), images_per_class=2, seed=1)
    assert set(Counter(item["sub_category"] for item in chosen).values()) == {2}
    assert chosen == select_items(items[::-1], table_of(items), images_per_class=2, seed=1)
    assert chosen != select_items(items, table_of(items), images_per_class=2, seed=2)
    assert len(select_items(items, table_of(items), images_per_class=0, seed=1)) == len(items)
    assert {"width", "height"} <= set(chosen[0])


@pytest.mark.parametrize(
    "items, per_class, message",
    [
        (make_items(), -1, "images_per_class is -1"),
        ([], 2, "holds no items"),
        ([{**make_items()[0], "image_id": "bird/gone.png"}], 2, "images.parquet lacks"),
    ],
)
def test_select_refuses(items, per_class, message):
    with pytest.raises(UserError, match=message):
        select_items(items, table_of(make_items()), images_per_class=per_class, seed=0)


def test_options_are_shuffled_per_item_and_seed(world):
    items = world[1]
    assert all(shown_options(item, "release", 0) == item["options"] for item in items)
    shuffled = [shown_options(item, "shuffled", 0) for item in items]
    assert all(sorted(a) == sorted(item["options"]) for a, item in zip(shuffled, items))
    assert shuffled == [shown_options(item, "shuffled", 0) for item in items]
    assert shuffled != [shown_options(item, "shuffled", 1) for item in items]
    many = [{**items[0], "item_id": str(i)} for i in range(2000)]
    firsts = Counter(shown_options(item, "shuffled", 0)[0] for item in many)
    assert all(400 < count < 600 for count in firsts.values())  # the truth is first one time in four
    with pytest.raises(UserError, match="option_order 'random'"):
        shown_options(items[0], "random", 0)


def test_requests_carry_everything_a_score_needs(world):
    closed = build_requests(COT, world[1], "closed_world", seed=3)[0]
    assert closed["prompt_name"] == "cot_closed" and closed["prompt_hash"] == PROMPTS["cot_closed"].hash
    assert ", ".join(closed["options"]) in closed["prompt"] and closed["option_order"] == "shuffled"
    opened = build_requests(FIXED[0], world[1], "open_world", seed=3)[0]
    assert (
        opened["prompt_name"] == "answer_open"
        and opened["options"] is None
        and opened["option_order"] is None
    )
    assert opened["sub_category"] not in opened["prompt"] and opened["seed"] == 3


def test_batches_hold_one_image_size_and_every_request_once(world):
    requests = build_requests(COT, world[1], "closed_world")
    batches = batches_of(requests, 4)
    assert sorted(r["item_id"] for b in batches for r in b) == sorted(r["item_id"] for r in requests)
    assert batches == batches_of(requests[::-1], 4)
    assert sum(len({tuple(r["size"]) for r in b}) > 1 for b in batches) <= 1


def test_messages_hold_the_image_then_the_prompt():
    content = messages_for({"prompt": "What?"}, "picture")[0]["content"]
    assert content == [{"type": "image", "image": "picture"}, {"type": "text", "text": "What?"}]


# ---------------------------------------------------------------- records and resume


def test_records_are_complete_and_in_the_requests_order(world):
    path = world[0] / "records.jsonl"
    requests = build_requests(COT, world[1], "closed_world")
    steps = []
    records = collect(world, requests, path, progress=lambda *step: steps.append(step))
    assert [r["item_id"] for r in records] == [r["item_id"] for r in requests]
    assert {
        "item_id",
        "image_id",
        "model",
        "setting",
        "prompt",
        "prompt_hash",
        "options",
        "completion",
        "tokens",
        "truncated",
        "super_category",
        "sub_category",
        "categories",
        "seed",
    } <= set(records[0])
    assert "size" not in records[0]
    assert steps == [(n, 5, "cot_sft closed_world") for n in range(1, 6)]  # 18 requests in batches of 4


def test_a_finished_file_needs_no_model(world):
    path = world[0] / "records.jsonl"
    requests = build_requests(COT, world[1], "open_world")
    first = collect(world, requests, path)
    before = path.read_bytes()

    def no_model():
        raise AssertionError("a model was loaded for nothing")

    assert collect(world, requests, path, load=no_model, generate=no_model) == first
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [0, 1, 7, 700, 2500, 5000, -1, -40])
def test_a_torn_file_resumes_to_the_same_bytes(world, cut):
    requests = build_requests(COT, world[1], "closed_world")
    whole = world[0] / "whole.jsonl"
    expected = collect(world, requests, whole)
    torn = world[0] / "torn.jsonl"
    torn.write_bytes(whole.read_bytes()[:cut])
    assert collect(world, requests, torn) == expected
    assert torn.read_bytes() == whole.read_bytes()


def test_several_models_share_a_file(world):
    path = world[0] / "records.jsonl"
    for contender in FIXED[:3]:
        for setting in evaluation.SETTINGS:
            collect(world, build_requests(contender, world[1], setting), path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    keys = [(r["model"], r["setting"], r["item_id"]) for r in lines]
    assert len(keys) == len(set(keys)) == 3 * 2 * len(world[1])


def test_another_question_under_the_same_key_is_refused(world):
    path = world[0] / "records.jsonl"
    collect(world, build_requests(COT, world[1], "closed_world", seed=0), path)
    with pytest.raises(UserError, match="answers another question"):
        collect(world, build_requests(COT, world[1], "closed_world", seed=1), path)


def test_a_truncated_image_is_the_user_s_mistake(world):
    image = world[0] / "images" / world[1][0]["image_id"]
    image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(UserError, match=image.name):
        collect(world, build_requests(COT, world[1], "open_world"), world[0] / "records.jsonl")


def test_a_generator_that_loses_a_completion_is_caught(world):
    requests = build_requests(COT, world[1], "open_world")
    with pytest.raises(RuntimeError, match="4 prompts gave 3"):
        collect(world, requests, world[0] / "r.jsonl", generate=lambda *a, **k: fake_generate(*a, **k)[1:])


CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_evaluation as t
from finer1_lib.evaluation import build_requests, select_items
def slow(*args, **given):
    time.sleep(0.15)
    return t.fake_generate(*args, **given)
items = select_items(t.make_items(), t.table_of(t.make_items()), images_per_class=0, seed=0)
t.collect((Path({folder!r}), items), build_requests(t.COT, items, "closed_world"), Path({path!r}),
generate=slow)
"""


def test_a_killed_process_resumes_to_the_same_bytes(world):
    whole, killed = world[0] / "whole.jsonl", world[0] / "killed.jsonl"
    requests = build_requests(COT, world[1], "closed_world")
    collect(world, requests, whole)
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(world[0]), path=str(killed))
    paths = os.pathsep.join([str(Path(evaluation.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
    deadline = time.monotonic() + 300
    while (
        not (killed.exists() and killed.stat().st_size)
        and child.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 0 < killed.stat().st_size < whole.stat().st_size
    collect(world, requests, killed)
    assert killed.read_bytes() == whole.read_bytes()


# ---------------------------------------------------------------- scores and rows


@pytest.fixture
def scores(world):
    records = []
    for contender in FIXED[2:4]:
        for setting in evaluation.SETTINGS:
            records += collect(world, build_requests(contender, world[1], setting), world[0] / "r.jsonl")
    scorers = [make_scorer(name, similarity=TrigramSimilarity()) for name in ("official", "strict")]
    return score_records(records, scorers)


def test_scores_are_long_and_complete(scores, world):
    assert len(scores) == 2 * len(world[1]) * ((1 + 2) + (2 + 3))  # models x items x metrics (closed + open)
    assert scores["value"].between(0, 1).all()


def test_rows_have_the_summary_s_columns_and_the_unweighted_average(scores):
    rows = summary_rows(scores, seed=0, similarity="trigram")
    assert all(tuple(row) == COLUMNS for row in rows)
    assert {row["dataset"] for row in rows} == {"bird", "aircraft", "average"}
    wanted = dict(
        model="cot_sft", setting="open_world", scorer="strict", metric="text_inclusion", categories="seen"
    )
    value = {row["dataset"]: row["value"] for row in pick(rows, **wanted).to_dict("records")}
    assert value == {
        "bird": 0.5,
        "aircraft": 0.0,
        "average": 0.25,
    }  # always "Dunen Wren"; 2 of 4 birds are seen
    average = pick(rows, **wanted, dataset="average").iloc[0]
    assert average["n"] == 9 and average["seed"] == 0
    variants = {row["metric"]: row["variant"] for row in rows}
    assert variants["relative_semantic_similarity"] == "trigram" and variants["accuracy"] is None
    orders = {row["setting"]: row["option_order"] for row in rows}
    assert orders == {"closed_world": "shuffled", "open_world": None}
    json.dumps(rows, allow_nan=False)


def test_intervals_do_not_depend_on_the_order_of_the_records(scores):
    """records.jsonl is in the order of batches; scored again from the file, every number is the same."""
    keys = ["model", "dataset", "setting", "scorer", "metric", "categories"]
    first, again = (
        pd.DataFrame(summary_rows(frame, seed=0)).sort_values(keys, ignore_index=True)
        for frame in (scores, scores.sample(frac=1, random_state=1))
    )
    pd.testing.assert_frame_equal(first, again)


def test_always_first_scores_everything_on_the_release_s_order_and_a_quarter_on_ours(world):
    for order, low, high in (("release", 1.0, 1.0), ("shuffled", 0.0, 0.6)):
        requests = build_requests(COT, world[1], "closed_world", order=order)
        records = collect(world, requests, world[0] / f"{order}.jsonl")
        scores = score_records(records, [make_scorer("strict")])
        value = scores.loc[scores["metric"] == "accuracy", "value"].mean()
        assert low <= value <= high


def test_equal_models_cannot_be_told_apart(scores):
    table = compare_all(
        scores,
        [("cot_sft", "sft_answer_only")],
        scorer="strict",
        seed=0,
        metrics=[("closed_world", "accuracy"), ("open_world", "text_inclusion")],
    )
    assert tell(
        table, "cot_sft", "sft_answer_only", setting="open_world", metric="text_inclusion", categories="seen"
    ).endswith("p = 1: **cannot tell**")
    assert len(table) == 4 and set(table["difference"]) == {0.0} and set(table["reading"]) == {"cannot tell"}


def test_compare_needs_the_same_items(scores):
    fewer = scores[~((scores["model"] == "cot_sft") & (scores["item_id"] == scores["item_id"].iloc[0]))]
    with pytest.raises(ValueError, match="did not answer the same items"):
        compare(
            fewer,
            "cot_sft",
            "sft_answer_only",
            setting="open_world",
            metric="text_inclusion",
            scorer="strict",
            categories=scores["categories"].iloc[0],
            seed=0,
        )


@pytest.mark.parametrize(
    "low, high, word",
    [
        (0.1, 0.3, "higher"),
        (-0.3, -0.1, "lower"),
        (-0.1, 0.1, "cannot tell"),
        (0.0, 0.2, "cannot tell"),
        (None, None, "cannot tell"),
    ],
)
def test_reading(low, high, word):
    assert reading(Estimate(0.2, low, high, 9, 3)) == word
    if low is not None:  # a test that does not agree takes the claim back
        assert reading(Estimate(0.2, low, high, 9, 3, p=0.01)) == word
        assert reading(Estimate(0.2, low, high, 9, 3, p=0.06)) == "cannot tell"


def test_four_that_differ_of_sixty_are_not_clear():
    from finer1_lib.statistics import paired_difference

    difference = paired_difference([1] * 60, [0] * 4 + [1] * 56, range(60))
    assert difference.low > 0 and difference.p > 0.05 and reading(difference) == "cannot tell"


def test_the_figure_has_a_panel_for_every_setting_and_kind(scores):
    from finer1_lib.plots import accuracy_bars

    rows = summary_rows(scores, seed=0)
    frame = pd.concat(
        [pick(rows, dataset="average", scorer="strict", metric=m) for m in ("accuracy", "text_inclusion")]
    )
    figure = accuracy_bars(frame)
    assert len(figure.axes) == 4 and all(len(axis.patches) == 2 for axis in figure.axes)
