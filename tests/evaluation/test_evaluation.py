"""Questions, records, resume and rows; scores from records alone. (Kills: test_evaluation_kill.)"""

import json
from collections import Counter, namedtuple
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile, load_image
from finer1_lib.core.prompts import PROMPTS
from finer1_lib.core.statistics import Estimate
from finer1_lib.evaluation import requests as evaluation_requests
from finer1_lib.evaluation.entries import FIXED
from finer1_lib.evaluation.records import RecordFile, batches_of, collect_records, left_to_query, set_aside
from finer1_lib.evaluation.requests import (OPTION_ORDERS, all_requests, always_first, build_requests,
                                            rule_of, select_items, shown_options)
from finer1_lib.evaluation.scores.scoring import (compare_all, findings, make_scorer, order_effects, pick,
                                                  reading, score_records, summary_rows)
from finer1_lib.evaluation.scores.similarity import TrigramSimilarity
from finer1_lib.evaluation.summary import KEYS
from finer1_lib.evaluation.systems.answering import ChatAnswerer
from finer1_lib.evaluation.systems.strategies import messages_for
from finer1_lib.training.methods import CONTROLS

Said = namedtuple("Said", "text tokens truncated")
BASE, COT = FIXED[0], FIXED[3]


def make_items(per_class=3):
    names = {"bird": ["Dunen Wren", "Marlo Wren", "Tarn Finch", "Sorel Finch"],
             "aircraft": ["Bodan Scout", "Kelow Scout"]}
    pool = [name for group in names.values() for name in group]
    items = []
    for group, members in names.items():
        for place, name in enumerate(members):
            for number in range(per_class):
                path = f"{group}/{name.replace(' ', '_')}/{number}.png"
                others = [other for other in pool if other != name][:3]
                items.append(
                    {"item_id": path, "image_id": path, "super_category": group, "sub_category": name,
                     "categories": "seen" if place % 2 == 0 else "unseen",
                     "question": f"What species is this {group}?", "options": [name, *others]}
                )
    return items


def table_of(items):
    return pd.DataFrame(
        [{"image_id": item["image_id"], "width": 28, "height": 28 + 28 * (i % 2)} for i,
         item in enumerate(items)]
    )


@pytest.fixture
def world(tmp_path):
    items = make_items()
    for item in items:
        path = tmp_path / "images" / item["image_id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (28, 28), (len(item["item_id"]) * 7 % 255, 80, 90)).save(path)
    return tmp_path, select_items(items, table_of(items), images_per_class=0, seed=0)


def fake_generate(loaded, prompts, *, max_new_tokens, temperature, batch_size, seed):
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
    """Records of one list of requests; `load` and `generate` stand in for a model."""
    given = dict(load=lambda: "model", generate=fake_generate, max_new_tokens=8, batch_size=4)
    given |= changes
    load, generate = given.pop("load"), given.pop("generate")
    return collect_records(
        [requests], path, lambda: ChatAnswerer(load(), world[0] / "images", generate=generate), **given)


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
    [(make_items(), -1, "images_per_class is -1"), ([], 2, "holds no items"),
     ([{**make_items()[0], "image_id": "bird/gone.png"}], 2, "images.parquet lacks")],
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
    with pytest.raises(UserError, match="'random' is not one of shuffled, release, rotations"):
        shown_options(items[0], "random", 0)


def test_rotations_turn_the_shuffled_order_and_ask_its_own_question_only_once(world):
    items = world[1]
    shuffled = build_requests(COT, items, "closed_world", seed=3)
    turned = build_requests(COT, items, "closed_world", order="rotations", seed=3)
    assert {r["rotation"] for r in shuffled} == {0} and len(turned) == 3 * len(items)
    for first in shuffled:
        own = sorted((r for r in turned if r["item_id"] == first["item_id"]), key=lambda r: r["rotation"])
        a, b, c, d = first["options"]
        assert [r["options"] for r in own] == [[b, c, d, a], [c, d, a, b], [d, a, b, c]]
        assert [r["rotation"] for r in own] == [1, 2, 3] and {r["option_order"] for r in own} == {"rotations"}
    opened = build_requests(COT, items, "open_world", order="rotations", seed=3)
    assert len(opened) == len(items) and {(r["option_order"], r["rotation"]) for r in opened} == {(None, 0)}


def test_all_requests_are_every_order_once_and_the_open_world(world):
    asked = all_requests(COT, world[1], ["release", "rotations", "shuffled"], seed=0)
    assert [(r[0]["setting"], r[0]["option_order"], len(r) // len(world[1])) for r in asked] == [
        ("closed_world", "release", 1), ("closed_world", "rotations", 3), ("closed_world", "shuffled", 1),
        ("open_world", None, 1)]
    for orders in ([], ["release"], ["shuffled", "release", "release"]):
        with pytest.raises(UserError, match="option_orders is .*'shuffled' among them"):
            all_requests(COT, world[1], orders, seed=0)
    with pytest.raises(UserError, match="give some of shuffled, release, rotations"):
        all_requests(COT, world[1], ["shuffled", "random"], seed=0)


def test_requests_carry_everything_a_score_needs(world):
    closed = build_requests(COT, world[1], "closed_world", seed=3)[0]
    assert closed["prompt_name"] == "cot_closed" and closed["prompt_hash"] == PROMPTS["cot_closed"].hash
    assert ", ".join(closed["options"]) in closed["prompt"] and closed["option_order"] == "shuffled"
    opened = build_requests(FIXED[0], world[1], "open_world", seed=3)[0]
    assert (opened["prompt_name"] == "answer_open" and opened["options"] is None
            and opened["option_order"] is None)
    assert opened["sub_category"] not in opened["prompt"] and opened["seed"] == 3


def test_batches_hold_one_image_size_and_every_request_once(world):
    requests = build_requests(COT, world[1], "closed_world")
    batches = batches_of(requests, 4)
    assert sorted(r["item_id"] for b in batches for r in b) == sorted(r["item_id"] for r in requests)
    assert batches == batches_of(requests[::-1], 4)
    assert sum(len({tuple(r["size"]) for r in b}) > 1 for b in batches) <= 1


def test_messages_hold_the_image_then_the_prompt():
    content = messages_for({"prompt": "What?", "image_id": "a.png"}, "root")[0]["content"]
    assert content == [{"type": "image", "image": ImageFile("root", "a.png")}, {"type": "text", "text": "What?"}]


# ---------------------------------------------------------------- records and resume


def test_records_are_complete_and_in_the_requests_order(world):
    path = world[0] / "records.jsonl"
    requests = build_requests(COT, world[1], "closed_world")
    steps = []
    records = collect(world, requests, path, progress=lambda *step: steps.append(step))
    assert [r["item_id"] for r in records] == [r["item_id"] for r in requests]
    assert {"item_id", "image_id", "model", "setting", "prompt", "prompt_hash", "options", "completion",
            "tokens", "truncated", "super_category", "sub_category", "categories", "seed"} <= set(records[0])
    assert "size" not in records[0]
    assert steps == [(n, 5, "cot_sft closed_world") for n in range(1, 6)]  # 18 requests in batches of 4
    collect(world, build_requests(COT, world[1][:1], "closed_world", order="release"), path,
            progress=lambda *step: steps.append(step))
    assert steps[5:] == [(1, 1, "cot_sft closed_world release")]


def test_a_finished_file_needs_no_model(world):
    path = world[0] / "records.jsonl"
    requests = build_requests(COT, world[1], "open_world")
    first = collect(world, requests, path)
    before = path.read_bytes()

    def no_model():
        raise AssertionError("a model was loaded for nothing")

    assert collect(world, requests, path, load=no_model, generate=no_model) == first
    assert path.read_bytes() == before


def test_only_rows_with_a_question_left_are_asked(world):
    path = world[0] / "records.jsonl"
    questions = {one.model: [build_requests(one, world[1], setting) for setting in ("closed_world", "open_world")]
                 for one in (COT, BASE)}
    assert left_to_query(questions, path) == [COT.model, BASE.model]
    for requests in questions[COT.model]:
        collect(world, requests, path)
    assert left_to_query(questions, path) == [BASE.model]
    collect(world, questions[BASE.model][0], path)
    assert left_to_query(questions, path) == [BASE.model], "the open world is still to be asked"
    path.write_bytes(path.read_bytes()[:-3])
    assert left_to_query(questions, path) == [BASE.model]
    for requests in questions[BASE.model]:
        collect(world, requests, path)
    assert left_to_query(questions, path) == []


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
    for entry in FIXED[:3]:
        for requests in all_requests(entry, world[1], OPTION_ORDERS, seed=0):
            collect(world, requests, path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    keys = [(r["model"], r["setting"], r["option_order"], r["rotation"], r["item_id"]) for r in lines]
    assert len(keys) == len(set(keys)) == 3 * (1 + 1 + 3 + 1) * len(world[1])


def test_another_question_under_the_same_key_is_refused(world):
    path = world[0] / "records.jsonl"
    collect(world, build_requests(COT, world[1], "closed_world", seed=0), path)
    with pytest.raises(UserError, match="answers another question"):
        collect(world, build_requests(COT, world[1], "closed_world", seed=1), path)
    path.write_text('{"model": "base", "setting": "open_world", "item_id": "x"}\n')
    with pytest.raises(UserError, match="a line that is not a record.*--set-aside"):
        collect(world, build_requests(COT, world[1], "closed_world"), path)


def test_a_user_s_own_folder_keeps_the_orders_that_it_always_had():
    """The reference's records were asked in both orders: each shuffle follows from the other list."""
    folder = Path(__file__).parents[2] / "outputs" / "reference" / "04_evaluation"
    asked = {}
    for record in RecordFile(folder / "records.jsonl.gz"):
        if record["setting"] == "closed_world":
            asked.setdefault(record["item_id"], {})[record["option_order"]] = record
    assert len(asked) > 100
    for item_id, orders in asked.items():
        item, shuffled = {**orders["release"], "item_id": item_id}, orders["shuffled"]
        assert shown_options(item, "shuffled", shuffled["seed"]) == shuffled["options"]
        assert rule_of(shuffled) == "item_id" and rule_of(orders["release"]) is None


def test_records_say_how_they_were_shuffled_and_the_two_rules_never_mix(world):
    path = world[0] / "records.jsonl"
    requests = build_requests(COT, world[1], "closed_world")
    records = collect(world, requests, path)
    assert {record["order_rule"] for record in records} == {"item_id"}
    before = path.read_text().replace(', "order_rule": "item_id"', "")
    path.write_text(before)  # as the kit wrote them before there was a choice
    assert len(collect(world, requests, path, load=None)) == len(records) and path.read_text() == before
    released = [{**item, "release_path": f"bird_200/images/{item['item_id']}"} for item in world[1]]
    asked = build_requests(COT, released, "closed_world")
    with pytest.raises(UserError, match="shuffled by item_id, and these items are shuffled by release_file"):
        collect(world, asked, path)
    other = world[0] / "other.jsonl"
    assert {one["order_rule"] for one in collect(world, asked, other)} == {"release_file"}
    opened = collect(world, build_requests(COT, released, "open_world"), other)
    assert {one["order_rule"] for one in opened} == {None}
    path.write_text(before + other.read_text())
    with pytest.raises(UserError, match="its order_rule is release_file, of those before it item_id"):
        list(RecordFile(path))


def test_doubled_lines_are_dropped_and_a_second_answer_is_refused(world, capsys):
    path = world[0] / "records.jsonl"
    requests = build_requests(COT, world[1], "closed_world")
    records = collect(world, requests, path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[3], lines[5]]))
    assert collect(world, requests, path, load=None) == records
    assert "2 lines are repeated" in capsys.readouterr().out
    path.write_text("".join([*lines, lines[3].replace("<answer>", "<answer>Not ")]))
    with pytest.raises(UserError, match=f"line {len(lines) + 1} gives .* a second answer.*--set-aside"):
        collect(world, requests, path, load=None)
    set_aside(path)
    assert collect(world, requests, path, load=None) == records


@pytest.mark.parametrize("spoil", [
    lambda line: line[:40] + "\n", lambda line: line.replace('"completion": ', '"complet": '),
    lambda line: "[" * 100000 + "\n", lambda line: "\ufeff\x00\n", lambda line: "null\n", lambda line: "\n",
])
def test_one_bad_line_is_set_aside_and_asked_anew(world, spoil):
    """The message offers it; nothing else is asked again, and the line lies beside the file."""
    path = world[0] / "records.jsonl"
    requests = build_requests(COT, world[1], "closed_world")
    records = collect(world, requests, path)
    lines = path.read_text().splitlines(keepends=True)
    bad = spoil(lines[6])
    path.write_text("".join([*lines[:6], bad, *lines[7:]]))
    with pytest.raises(UserError, match=f"line 7.*`finer1 rescore {path} --set-aside`") as caught:
        collect(world, requests, path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert "1 lines set aside" in set_aside(path)
    assert (world[0] / "records.jsonl.aside").read_text() == bad and path.read_text() == "".join(lines[:6] + lines[7:])
    asked = []
    assert collect(world, requests, path, generate=lambda *a, **k: asked.append(1) or fake_generate(*a, **k)) == records
    assert len(asked) == 1  # its batch


def test_a_truncated_image_is_the_user_s_mistake(world):
    image = world[0] / "images" / world[1][0]["image_id"]
    image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(UserError, match=image.name):
        collect(world, build_requests(COT, world[1], "open_world"), world[0] / "records.jsonl")


def test_a_generator_that_loses_a_completion_is_caught(world):
    requests = build_requests(COT, world[1], "open_world")
    with pytest.raises(RuntimeError, match="4 prompts gave 3"):
        collect(world, requests, world[0] / "r.jsonl", generate=lambda *a, **k: fake_generate(*a, **k)[1:])


# ---------------------------------------------------------------- scores and rows


@pytest.fixture
def scores(world):
    records = []
    for entry in FIXED[2:4]:
        for setting in evaluation_requests.SETTINGS:
            records += collect(world, build_requests(entry, world[1], setting), world[0] / "r.jsonl")
    scorers = [make_scorer(name, similarity=TrigramSimilarity()) for name in ("official", "strict")]
    return score_records(records, scorers)


def test_scores_are_long_and_complete(scores, world):
    # models x items x metrics of official and strict, in the closed and in the open world
    assert len(scores) == 2 * len(world[1]) * ((1 + 5) + (4 + 6))
    unclipped = scores["metric"].str.endswith("_unclipped")
    assert scores.loc[~unclipped, "value"].between(0, 1).all() and (scores["value"] <= 1).all()


def test_rows_have_the_summary_s_columns_and_the_unweighted_average(scores):
    rows = summary_rows(scores, seed=0, similarity="trigram")
    assert all(tuple(row) == KEYS for row in rows)
    assert {row["dataset"] for row in rows} == {"bird", "aircraft", "average"}
    wanted = dict(model="cot_sft", setting="open_world", scorer="strict", metric="text_inclusion",
                  categories="seen")
    value = {row["dataset"]: row["value"] for row in pick(rows, **wanted).to_dict("records")}
    assert value == {"bird": 0.5, "aircraft": 0.0,
                     "average": 0.25}  # always "Dunen Wren"; 2 of 4 birds are seen
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
    first, again = (pd.DataFrame(summary_rows(frame, seed=0)).sort_values(keys, ignore_index=True)
                    for frame in (scores, scores.sample(frac=1, random_state=1)))
    pd.testing.assert_frame_equal(first, again)


@pytest.fixture
def in_orders(world):
    """Scores of a model that always answers the first option, asked in every order, and of the control."""
    records = []
    for requests in all_requests(COT, world[1], OPTION_ORDERS, seed=0):
        records += collect(world, requests, world[0] / "orders.jsonl")
    return score_records(records + always_first(world[1], OPTION_ORDERS, 0), [make_scorer("strict")])


def test_the_control_is_the_policy_and_no_record_on_the_disk(world, in_orders):
    (control,) = CONTROLS
    one, two = (in_orders[(in_orders["model"] == model) & (in_orders["metric"] == "accuracy")]
                for model in (control, "cot_sft"))
    columns = ["item_id", "option_order", "value"]
    pd.testing.assert_frame_equal(one[columns].reset_index(drop=True), two[columns].reset_index(drop=True))
    assert control not in (world[0] / "orders.jsonl").read_text()
    stored = json.loads((world[0] / "orders.jsonl").read_text().splitlines()[0])
    assert set(always_first(world[1], ["release"], 0)[0]) == set(stored) - {"engine"}


def test_rows_of_every_order_and_rotations_count_only_what_is_always_right(world, in_orders):
    rows = summary_rows(in_orders, seed=0)
    wanted = dict(model="cot_sft", setting="closed_world", metric="accuracy", dataset="average")
    picked = pick(rows, **wanted).to_dict("records")
    found = {(row["option_order"], row["categories"]): row["value"] for row in picked}
    assert found["release", "seen"] == found["release", "unseen"] == 1.0
    assert found["rotations", "seen"] == found["rotations", "unseen"] == 0.0  # once in four turns
    assert 0 <= found["shuffled", "seen"] < 1
    assert {r["metric"] for r in rows if r["option_order"] == "rotations"} == {"accuracy"}
    assert {row["n"] for row in picked} == {9}
    first = pick(rows, **{**wanted, "metric": "chose_first"})
    assert set(first["value"]) == {1.0} and set(first["option_order"]) == {"shuffled", "release"}


def test_one_wrong_turn_spoils_an_item_and_a_missing_one_is_an_error(world):
    items = world[1][:2]
    right = [{**record, "completion": f"<answer>{record['sub_category']}</answer>"}
             for record in always_first(items, ["shuffled", "rotations"], 0)]
    def turned(records):
        scores = score_records(records, [make_scorer("strict")])
        return scores[scores["option_order"] == "rotations"].sort_values("item_id")["value"].tolist()
    assert turned(right) == [1.0, 1.0]
    for spoiled in (record for record in right if record["item_id"] == items[1]["item_id"]):
        assert turned([r if r is not spoiled else {**r, "completion": ""} for r in right]) == [1.0, 0.0]
    for broken in (right[:-1], right + right[-1:], [r for r in right if r["option_order"] == "rotations"]):
        with pytest.raises(UserError, match="was not queried about .* under each rotation"):
            turned(broken)


def test_what_an_order_is_worth_is_a_paired_difference_and_changes_no_other_comparison(world, in_orders):
    effects = order_effects(in_orders, scorer="strict", seed=0)
    effects = effects.set_index(["model", "option_order", "categories"])
    shuffled = in_orders[(in_orders["model"] == "cot_sft") & (in_orders["metric"] == "accuracy")
                         & (in_orders["option_order"] == "shuffled") & (in_orders["categories"] == "seen")]
    mean = shuffled.groupby("super_category")["value"].mean().mean()
    assert effects.loc[("cot_sft", "release", "seen"), "difference"] == pytest.approx(1 - mean)
    assert effects.loc[("cot_sft", "rotations", "seen"), "difference"] == pytest.approx(-mean)
    assert len(effects) == 2 * 2 * 2 and set(effects["n"]) == {9}
    only = in_orders[in_orders["option_order"] == "shuffled"]
    assert order_effects(only, scorer="strict", seed=0).empty
    given = dict(metrics=[("closed_world", "accuracy")], scorer="strict", seed=0)
    both = [compare_all(scores, [("cot_sft", "always_first")], **given) for scores in (in_orders, only)]
    assert both[0].equals(both[1]) and set(both[0]["n"]) == {9}


def test_the_figure_of_the_orders_has_a_marker_an_order_and_hollow_controls(in_orders):
    from finer1_lib.evaluation.plots import order_dots

    df = pick(summary_rows(in_orders, seed=0), dataset="average", metric="accuracy", setting="closed_world")
    figure = order_dots(df.assign(chance=0.25))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "CoT SFT", "always the first option"]
    for axis in figure.axes:
        points = [line for line in axis.lines if line.get_marker() in ("o", "D", "s")]
        assert Counter(line.get_marker() for line in points) == {"o": 2, "D": 2, "s": 2}
        assert sum(line.get_markerfacecolor() == "white" for line in points) == 3
        shown = sorted(text.get_text() for text in axis.texts)
        assert shown == sorted(f"{100 * value:.0f}" for value in df[df["categories"] == (
            "seen" if axis is figure.axes[0] else "unseen")]["value"])
    assert figure.get_size_inches()[0] <= 13
    assert min(t.get_fontsize() for axis in figure.axes for t in [*axis.texts, axis.xaxis.label]) >= 11


def test_equal_models_cannot_be_told_apart(scores):
    table = compare_all(scores, [("cot_sft", "sft_answer_only")], scorer="strict", seed=0,
                        metrics=[("closed_world", "accuracy"), ("open_world", "text_inclusion")])
    assert findings(table, "cot_sft", "sft_answer_only", setting="open_world", metric="text_inclusion",
                    categories="seen").endswith("p = 1: **cannot tell**")
    assert len(table) == 4 and set(table["difference"]) == {0.0} and set(table["reading"]) == {"cannot tell"}


def test_compare_needs_the_same_items(scores):
    fewer = scores[~((scores["model"] == "cot_sft") & (scores["item_id"] == scores["item_id"].iloc[0]))]
    with pytest.raises(ValueError, match="did not answer the same items"):
        compare_all(fewer, [("cot_sft", "sft_answer_only")], metrics=[("open_world", "text_inclusion")],
                    scorer="strict", seed=0)


@pytest.mark.parametrize(
    "low, high, word",
    [(0.1, 0.3, "higher"), (-0.3, -0.1, "lower"), (-0.1, 0.1, "cannot tell"), (0.0, 0.2, "cannot tell"),
     (None, None, "cannot tell")],
)
def test_reading(low, high, word):
    assert reading(Estimate(0.2, low, high, 9, 3)) == word
    if low is not None:  # a test that does not agree takes the claim back
        assert reading(Estimate(0.2, low, high, 9, 3, p=0.01)) == word
        assert reading(Estimate(0.2, low, high, 9, 3, p=0.06)) == "cannot tell"


def test_four_that_differ_of_sixty_are_not_clear():
    from finer1_lib.core.statistics import paired_difference

    difference = paired_difference([1] * 60, [0] * 4 + [1] * 56, range(60))
    assert difference.low > 0 and difference.p > 0.05 and reading(difference) == "cannot tell"


def test_the_figure_has_a_panel_for_every_setting_and_kind(scores):
    from finer1_lib.evaluation.plots import accuracy_bars

    rows = summary_rows(scores, seed=0)
    frame = pd.concat(
        [pick(rows, dataset="average", scorer="strict", metric=m) for m in ("accuracy", "text_inclusion")]
    )
    figure = accuracy_bars(frame)
    assert len(figure.axes) == 4 and all(len(axis.patches) == 2 for axis in figure.axes)
