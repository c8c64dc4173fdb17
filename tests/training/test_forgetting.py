"""Metrics of forgetting: the questions, how an answer is judged, and how a change is computed, by hand."""

import pandas as pd
import pytest

from finer1_lib.core.errors import UserError
from finer1_lib.models.generation import Generation
from finer1_lib.models.trainable import Trainable
from finer1_lib.training import forgetting
from finer1_lib.training.forgetting import BASE, METRICS, OPEN_WORLD, SETTINGS, TWINS, judge
from finer1_lib.training.plots import before_and_after

GUIDE = {
    "super_categories": {"bird": {"attributes": {"crown": ["red", "blue"], "bill": ["hooked", "stout"]}}},
    "sub_categories": {
        "Red Wren": {"super_category": "bird", "attributes": {"crown": "red", "bill": "hooked"}},
        "Blue Wren": {"super_category": "bird", "attributes": {"crown": "blue", "bill": "stout"}},
    },
    "seen": ["Red Wren"], "unseen": ["Blue Wren"],
}
FOUR = ("<think><analysis>red crown</analysis><options>Red Wren, Blue Wren</options>"
        "<comparison>c</comparison><prediction>Red Wren</prediction></think><answer>Red Wren</answer>")


def images(per_class: int = 3) -> pd.DataFrame:
    rows = [{"image_id": f"bird/{name}/{k}.png", "super_category": "bird", "sub_category": name,
             "categories": kind, "split": split}
            for name, kind in (("Red Wren", "seen"), ("Blue Wren", "unseen"))
            for split, first in (("train", 0), ("test", 10)) for k in range(first, first + per_class)]
    return pd.DataFrame(rows)


def asked(guide=GUIDE, prompts=("cot_open",), per_class=2):
    return forgetting.questions(forgetting.gauge_pictures(images(), per_class, 0), "root", guide, prompts)


@pytest.mark.parametrize("gauge, completion, expected", [
    ("attributes_seen", "<analysis>red crown, hooked bill</analysis>", (1.0, True)),
    ("attributes_seen", "<analysis>red crown, stout bill</analysis>", (0.5, True)),
    ("attributes_seen", "<analysis>red crown</analysis>", (0.5, True)),
    ("attributes_seen", "red crown, hooked bill", (0.0, False)),
    ("attributes_seen", "<answer>Red Wren</answer>", (0.0, False)),
    ("attributes_from_name", "<analysis>blue crown, stout bill</analysis>", (0.0, True)),
    ("name_from_attributes", "<answer>red wren</answer>", (1.0, True)),
    ("name_from_attributes", "<answer>Red Wren, Blue Wren</answer>", (0.0, True)),
    ("name_from_attributes", "Red Wren", (0.0, False)),
    ("reasoning_in_text", FOUR, (1.0, True)),
    ("reasoning_in_text", FOUR.replace("<answer>Red", "<answer>Blue"), (0.0, True)),
    ("reasoning_in_text", "<answer>Red Wren</answer>", (0.0, False)),
    (OPEN_WORLD, FOUR, (1.0, True)),
    (OPEN_WORLD, "<think>hm</think>", (0.0, False)),
])
def test_answers_are_judged_by_value_and_by_form(gauge, completion, expected):
    assert judge({"gauge": gauge, "sub_category": "Red Wren"}, completion, GUIDE) == expected


def test_what_is_asked_and_of_what():
    rows = asked(prompts=("answer_open", "cot_open"))
    counts = pd.DataFrame(rows).groupby("gauge").size().to_dict()
    # 2 pictures of 2 sub-categories; text questions once per sub-category; two open-world prompts
    assert counts == {OPEN_WORLD: 8, "attributes_seen": 4, "attributes_from_name": 2,
                      "name_from_attributes": 2, "reasoning_in_text": 2}
    for row in rows:
        pictured = row["gauge"] in (OPEN_WORLD, "attributes_seen")
        assert (row["image_id"] is not None) == pictured
        if row["gauge"] != "attributes_from_name":
            assert row["sub_category"] not in row["text"], "the question must not give the answer"
    described = [row["text"] for row in rows if row["gauge"] == "reasoning_in_text"]
    assert all("crown" in text and "<comparison>" in text for text in described)
    assert asked() == asked() and asked(guide=None) == [r for r in asked() if r["gauge"] == OPEN_WORLD]


def test_test_pictures_alone_are_shown_and_the_seed_draws_them():
    chosen = forgetting.gauge_pictures(images(), 2, 0)
    assert set(chosen["split"]) == {"test"} and chosen.groupby("sub_category").size().tolist() == [2, 2]
    assert len(forgetting.gauge_pictures(images(), 9, 0)) == 6
    draws = {tuple(forgetting.gauge_pictures(images(8), 2, seed)["image_id"]) for seed in range(6)}
    assert len(draws) > 1
    for wrong in (lambda: forgetting.gauge_pictures(images(), 0, 0),
                  lambda: forgetting.gauge_pictures(images().query("split == 'train'"), 1, 0)):
        with pytest.raises(UserError, match="need both"):
            wrong()


def test_settings_have_names_labels_and_parts():
    assert len(SETTINGS) == 16 and all(SETTINGS[name].name == name for name in SETTINGS)
    assert len({setting.label for setting in SETTINGS.values()}) == 16
    whole = SETTINGS["cot_full_vision_projector"]
    assert whole.label == "CoT, full + vision + projector" and whole.prompt == "cot_open"
    assert whole.trainable(4, 8) == Trainable("full", 4, 8, vision_tower=True, projector=True)
    assert SETTINGS["answers_lora"].trainable(4, 8) == Trainable("lora", 4, 8)
    assert {twin.data for twin in TWINS.values()} == {"answers", "cot"}
    assert all(twin.name not in SETTINGS and twin.trainable(1, 1).full for twin in TWINS.values())
    assert forgetting.check_settings(["cot_full"]) == [SETTINGS["cot_full"]]
    for wrong in (["cot_half"], ["cot_full", "cot_full"]):
        with pytest.raises(UserError, match="settings_compared"):
            forgetting.check_settings(wrong)
    kept = {"cot_sft": SETTINGS["cot_lora"]}
    plan = forgetting.plan(["cot_full", "cot_lora"], kept, TWINS)
    assert [setting.name for setting in plan] == ["cot_full", "cot_lora", "answers_full_hard", "cot_full_hard"]
    assert forgetting.plan(["cot_lora"], kept, {}, load_in_4bit=True) == [SETTINGS["cot_lora"]]
    with pytest.raises(UserError, match="4bit.*cot_full would"):
        forgetting.plan(["cot_full"], kept, {}, load_in_4bit=True)
    for wrong in (dict(data="cot", kind="LoRA"), dict(data="text", kind="lora")):
        with pytest.raises(UserError, match="one of"):
            forgetting.Setting(**wrong)


def records(setting, rows, said, monkeypatch):
    """What a model would leave that answers by `said(row)`."""
    monkeypatch.setattr(forgetting, "generate", lambda loaded, chats, **how: [
        Generation(said(row), 3, False) for row in rows])
    return forgetting.measure(None, setting, rows, GUIDE, max_new_tokens=9)


def right(row) -> str:
    """The right answer to any question about either wren."""
    colour, bill = ("red", "hooked") if row["sub_category"] == "Red Wren" else ("blue", "stout")
    if row["gauge"].startswith("attributes"):
        return f"<analysis>{colour} crown, {bill} bill</analysis>"
    return FOUR.replace("Red Wren</prediction>", "X</prediction>").replace(
        "<answer>Red Wren", f"<answer>{row['sub_category']}")


def test_changes_are_paired_and_counted(monkeypatch):
    """The base is right on all text and names no picture; afterwards one wren's bill is forgotten."""
    rows = asked(prompts=("answer_open", "cot_open"))
    base = records(BASE, rows, lambda r: "a bird" if r["gauge"] == OPEN_WORLD else right(r), monkeypatch)
    later = [row for row in rows if row["gauge"] != OPEN_WORLD or row["prompt"] == "cot_open"]
    after = records("cot_lora", later, lambda row: right(row).replace("stout bill", "no bill"), monkeypatch)
    assert {"completion", "value", "readable", "setting"} <= after[0].keys() and "image_root" not in after[0]
    table = forgetting.summarise(base + after).set_index(["gauge", "categories"])
    seen = table.loc[("attributes_seen", "all")]
    assert (seen["before"], seen["value"], seen["change"], seen["n"]) == (1.0, 0.75, -0.25, 4)
    assert seen["change_low"] <= -0.25 <= seen["change_high"] and seen["readable"] == 1.0
    for gauge in ("name_from_attributes", "reasoning_in_text"):
        assert table.loc[(gauge, "all")][["before", "value", "change", "n"]].tolist() == [1.0, 1.0, 0.0, 2]
    for kind in ("seen", "unseen"):
        assert table.loc[(OPEN_WORLD, kind)][["before", "value", "n"]].tolist() == [0.0, 1.0, 2]
    with pytest.raises(ValueError, match="the base answered 0 of"):
        forgetting.summarise(base[:1] + after)


def test_super_categories_count_alike_however_many_pictures_they_have():
    """3 birds at 1 and 1 plane at 0: a half, not three quarters."""
    shared = {"prompt": "describe", "readable": True, "categories": "seen", "gauge": "attributes_seen",
              "text": "t"}
    rows = [{**shared, "setting": setting, "image_id": f"{kind}{k}", "super_category": kind,
             "sub_category": f"{kind}{k}", "value": float(kind == "bird" and setting != BASE)}
            for setting in (BASE, "cot_full") for kind in ("bird", "plane")
            for k in range(3 if kind == "bird" else 1)]
    row = forgetting.summarise(rows).iloc[0]
    assert (row["before"], row["value"], row["change"], row["n"]) == (0.0, 0.5, 0.5, 4)
    assert pd.isna(row["low"]), "one plane allows no interval over planes"


def test_sentences_say_what_fell_and_what_rose():
    base = {"setting": "cot_full", "label": "CoT, full", "categories": "all", "before": 1.0, "readable": 0.5,
            "n": 80}
    fell = {**base, "gauge": "reasoning_in_text", "value": 0.7, "change": -0.3, "change_low": -0.4,
            "change_high": -0.2}
    held = {**base, "gauge": "attributes_seen", "value": 0.99, "change": -0.01, "change_low": -0.03,
            "change_high": 0.01}
    rose = {**base, "gauge": OPEN_WORLD, "categories": "unseen", "before": 0.25, "value": 0.75, "change": 0.5,
            "change_low": 0.3, "change_high": 0.7}
    said = forgetting.losses(pd.DataFrame([fell, held, rose]))
    assert said == ("1 of 2 metrics fell clearly; CoT, full: four-part reasoning in text -30.0 points"
                    " [-40.0, -20.0], 50% in the required form")
    said = forgetting.losses(pd.DataFrame([held, rose]))
    assert said.startswith("none of 1 metrics fell clearly") and "-1.0 points" in said
    assert forgetting.gains(pd.DataFrame([fell, rose])) == ["CoT, full: unseen 75% (before 25%, n = 80)"]


def test_unseen_answers_are_the_truth_a_taught_name_or_something_else(monkeypatch):
    rows = asked(prompts=("answer_open",), per_class=3)  # three pictures of the unseen Blue Wren
    said = iter(["<answer>blue-wren</answer>", "<answer>Red Wren</answer>", "a bird"])
    answers = {row["image_id"]: next(said) for row in rows
               if row["gauge"] == OPEN_WORLD and row["categories"] == "unseen"}
    told = records("answers_full", rows, lambda row: answers.get(row["image_id"], right(row)), monkeypatch)
    found = forgetting.unseen_answers(told, GUIDE).to_dict("records")
    third = pytest.approx(1 / 3)
    assert found == [{"setting": "answers_full", "label": "answer-only, full", "right": third,
                      "seen_name": third, "other": third, "attributes_wrong": 2.0, "n": 3}], "both are wrong"
    assert forgetting.unseen_answers(told, None)["attributes_wrong"].isna().all()


def test_without_a_guide_the_open_world_is_left_and_a_line_says_so(monkeypatch):
    rows = asked(guide=None)
    base = records(BASE, rows, lambda row: "a bird", monkeypatch)
    table = forgetting.summarise(base + records("cot_full", rows, right, monkeypatch))
    assert set(table["gauge"]) == {OPEN_WORLD}
    line = forgetting.not_measurable(None)
    assert "\n" not in line and all(title in line for title in METRICS.values())
    assert forgetting.not_measurable(GUIDE) == ""
    figure = before_and_after(table)
    assert len([axis for axis in figure.axes if axis.get_visible()]) == 2


def test_the_figure_shows_the_table(monkeypatch):
    rows = asked(prompts=("answer_open", "cot_open"))
    base = records(BASE, rows, right, monkeypatch)
    cot = [row for row in rows if row["prompt"] != "answer_open" or row["gauge"] != OPEN_WORLD]
    bare = [row for row in rows if row["prompt"] != "cot_open" or row["gauge"] != OPEN_WORLD]
    table = forgetting.summarise(
        base + records("answers_full", bare, lambda row: "", monkeypatch)
        + records(TWINS["full_cot_sft"].name, cot, lambda row: right(row).replace("stout", "no"),
                  monkeypatch))
    figure = before_and_after(table)
    assert len(figure.axes) == len(METRICS) + 2
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["answer-only, full", "CoT, full, hard"]
    filled = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"
              and line.get_markerfacecolor() != "none"]
    hollow = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert filled == [0.0, 75.0] and hollow == [100.0, 100.0]


def test_records_are_made_once(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return [{"a": 1, "b": "ü"}, {"a": 2, "b": None}]

    first = forgetting.kept(tmp_path / "x.jsonl", make)
    assert forgetting.kept(tmp_path / "x.jsonl", make) == first == [{"a": 1, "b": "ü"}, {"a": 2, "b": None}]
    assert len(calls) == 1

    def fails():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        forgetting.kept(tmp_path / "y.jsonl", fails)
    assert not (tmp_path / "y.jsonl").exists()
