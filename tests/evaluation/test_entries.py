"""The rows that are compared: read from what was trained; labelled, coloured and paired for any list."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.entries import (FIXED, all_entries, find_entry, labels_of, pairs_of, start_of,
                                           with_more, with_strategies, with_systems)
from finer1_lib.evaluation.systems.registry import System, find_systems
from finer1_lib.training.methods import CONTROLS, METHODS, ROWS, colour_of, in_order, label_of, model_name

FIXED_NAMES = ["base", "base_cot_prompt", "sft_answer_only", "cot_sft"]
FULL = ["full_sft_answer_only", "full_cot_sft"]
METHOD_NAMES = [name for name in ROWS if name not in FIXED_NAMES + FULL]


def trained(*names, **changes):
    """Entries as notebook 03 writes them."""
    return [
        {"name": name, "label": f"label of {name}", "adapter": f"03_tapo/{name}", "prompt": "cot", **changes}
        for name in names
    ]


def test_every_method_has_its_row_and_colour():
    assert METHOD_NAMES == [model_name(method) for method in METHODS] and len(METHOD_NAMES) >= 12
    for name in METHOD_NAMES:
        assert ROWS[name].colour and ROWS[name].against in (None, *ROWS)


def test_the_fixed_rows_come_first_then_what_was_trained_in_its_order():
    found = all_entries(trained("cot_sft_tapo", "cot_sft_dapo", "cot_sft_mine"))
    assert [c.model for c in found] == [*FIXED_NAMES, "cot_sft_tapo", "cot_sft_dapo", "cot_sft_mine"]
    assert [c.prompts for c in found[:4]] == ["answer", "cot", "answer", "cot"]
    assert [c.adapter for c in found[:5]] == [
        None, None, "02_cot_sft/sft_answer_only", "02_cot_sft/cot_sft", "03_tapo/cot_sft_tapo"]
    assert labels_of(found)["cot_sft_mine"] == "label of cot_sft_mine"
    assert all_entries([]) == FIXED


@pytest.mark.parametrize(
    "entries, message",
    [(["cot_sft_tapo"], "entry 0: not an object with the texts name, label, adapter, prompt"),
     ([{"name": "a", "label": "A", "adapter": "a"}], "entry 0: not an object"),
     (trained("a", adapter=3), "not an object"), (trained("a", "a"), "entry 1: the name 'a' is listed twice"),
     (trained("cot_sft"), "the name 'cot_sft' is listed twice"),
     (trained("../a"), "name '../a' is not of letters"),
     (trained("a", adapter="../02_cot_sft/cot_sft"), "adapter '../02_cot_sft/cot_sft' is not a folder of"),
     (trained("a", adapter="03_tapo/../cot_sft"), "is not a folder of 02_cot_sft or 03_tapo"),
     (trained("a", adapter="cot_sft_tapo"), "is not a folder of 02_cot_sft or 03_tapo"),
     (trained("a", prompt="both"), "prompt 'both' is not one of cot, answer"),
     (trained("a", label=" "), "the label is empty")],
)
def test_a_wrong_list_is_one_line_that_names_the_notebook(entries, message):
    with pytest.raises(UserError) as error:
        all_entries(entries)
    line = str(error.value)
    assert message in line and line.startswith("03_tapo/models.json, entry") and "\n" not in line
    assert line.endswith("run notebook 03_tapo again")


def test_a_model_that_was_not_trained_is_one_clear_line():
    entries = all_entries(trained("cot_sft_dapo"))
    assert find_entry(entries, "cot_sft").adapter == "02_cot_sft/cot_sft"
    message = r"probed_models: 'cot_sft_tapo' was not trained in this run \(nor named in more_models\); there are base, .*cot_sft_dapo$"
    with pytest.raises(UserError, match=message):
        find_entry(entries, "cot_sft_tapo")


def test_pairs_come_from_what_is_there():
    fixed = [("base_cot_prompt", "base"), ("sft_answer_only", "base"), ("cot_sft", "sft_answer_only")]
    assert pairs_of(FIXED) == fixed
    both = pairs_of(all_entries(trained("cot_sft_dapo", "cot_sft_tapo")))
    assert both == [*fixed, ("cot_sft_dapo", "cot_sft"), ("cot_sft_tapo", "cot_sft"),
                    ("cot_sft_tapo", "cot_sft_dapo")]
    alone = pairs_of(all_entries(trained("cot_sft_tapo", "cot_sft_intra", "cot_sft_no_entropy")))
    assert alone[3:] == [("cot_sft_tapo", "cot_sft"), ("cot_sft_intra", "cot_sft"),
                         ("cot_sft_no_entropy", "cot_sft"), ("cot_sft_no_entropy", "cot_sft_tapo")]
    twins = trained("full_sft_answer_only", adapter="02_cot_sft/a") + trained("full_cot_sft")
    assert pairs_of(all_entries(twins))[3:] == [
        ("full_sft_answer_only", "sft_answer_only"), ("full_cot_sft", "full_sft_answer_only")]
    answers = trained("base_cls_rl") + trained("base_no_thinking_rl", prompt="answer") + trained("other")
    assert pairs_of(all_entries(answers))[3:] == [("base_cls_rl", "base_cot_prompt"),
                                                  ("base_no_thinking_rl", "base"),
                                                  ("base_no_thinking_rl", "base_cls_rl")]


@settings(deadline=None)
@given(st.lists(st.sampled_from([*METHOD_NAMES, "cot_sft_x", "x"]), unique=True))
def test_any_list_gives_pairs_of_rows_that_exist_each_once(names):
    entries = all_entries(trained(*names))
    pairs, known = pairs_of(entries), {c.model for c in entries}
    assert len(set(pairs)) == len(pairs) and all(a in known and b in known and a != b for a, b in pairs)
    for entry in entries[4:]:
        start = start_of(entry)
        assert (start is None and entry.model == "x") or (entry.model, start) in pairs


def test_labels_and_order():
    labels = labels_of(all_entries(trained("cot_sft_tapo", "cot_sft_dapo")))
    assert label_of("cot_sft_tapo") == "CoT SFT + TAPO" and label_of("mine") == "mine"
    assert label_of("cot_sft_tapo", labels) == "label of cot_sft_tapo"
    models = ["mine", "cot_sft_dapo", "base", "cot_sft_tapo", "base"]
    assert in_order(models) == ["base", "cot_sft_dapo", "cot_sft_tapo", "mine"]
    assert in_order(models, labels) == ["base", "cot_sft_tapo", "cot_sft_dapo", "mine"]


def lightness_and_chroma(colours, seen_by):
    """CIELAB (D65) of sRGB colours for normal and colour-blind eyes; matrices of Machado et al. 2009, severity 1."""
    eyes = {
        "normal": np.eye(3),
        "red-blind": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                      [-0.003882, -0.048116, 1.051998]],
        "green-blind": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                        [-0.011820, 0.042940, 0.968881]],
    }
    srgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(eyes[seen_by]).T, 0, 1)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("seen_by", ["normal", "red-blind", "green-blind"])
def test_colours_differ_for_every_eye_and_in_grey(seen_by):
    lab = dict(zip(ROWS, lightness_and_chroma([row.colour for row in ROWS.values()], seen_by)))
    for first, second in itertools.combinations(ROWS, 2):
        assert np.linalg.norm(lab[first] - lab[second]) > 20, (first, second)
        if seen_by == "normal":
            assert abs(lab[first][0] - lab[second][0]) > 3, (first, second)
    if seen_by == "normal":  # the rows of the default run: further apart
        usual = sorted(lab[name][0] for name in [*FIXED_NAMES, *FULL, "cot_sft_dapo", "cot_sft_tapo"])
        assert np.diff(usual).min() > 4


def test_controls_are_known_by_label_and_grey_and_are_not_rows_of_the_main_table():
    from finer1_lib.evaluation.summary import check_rows, fault_table, main_table

    assert not CONTROLS.keys() & ROWS.keys() and label_of("always_first") == "always the first option"
    red, green, blue = (colour_of("always_first")[i : i + 2] for i in (1, 3, 5))
    assert red == green == blue and colour_of("always_first") not in {row.colour for row in ROWS.values()}
    rows = [row_of(model, metric=metric) for model in ("always_first", "base", "cot_sft")
            for metric in ("accuracy", "chose_first", "format_failure")]
    assert check_rows(rows, "x", ["base", "cot_sft"]) == rows
    assert [line[0] for line in main_table(rows)[1]] == ["base", "CoT SFT"]
    titles, lines = fault_table(rows, "closed_world")
    assert titles == ["model", "no single answer, seen", "no single answer, unseen",
                      "the first option, seen", "the first option, unseen"]
    assert [line[0] for line in lines] == ["base", "CoT SFT", "always the first option"]
    assert lines[0][1:] == ["50.0 [25.0, 75.0]", "-"] * 2


def test_the_main_table_reads_the_shuffled_order_only():
    from finer1_lib.evaluation.summary import main_table

    others = [row_of("base", option_order=order, value=0.9) for order in ("release", "rotations")]
    assert main_table(others)[1] == []
    for rows in (others + [row_of("base")], [row_of("base")] + others):
        assert main_table(rows)[1][0][1] == "50.0 [25.0, 75.0]"


def test_an_unknown_name_has_its_own_colour_always_the_same():
    assert colour_of("cot_sft_mine") == colour_of("cot_sft_mine") == "#8E65C4"  # on every machine
    found = {colour_of(f"cot_sft_{letter}") for letter in "abcdefghij"}
    assert len(found) == 10 and not found & {row.colour for row in ROWS.values()}
    assert colour_of("base") == ROWS["base"].colour


# ---------------------------------------------------------------- the run's own tables


def row_of(model, **changes):
    row = {"model": model, "dataset": "average", "setting": "closed_world", "scorer": "strict",
           "metric": "accuracy", "categories": "seen", "option_order": "shuffled", "variant": None,
           "value": 0.5, "low": 0.25, "high": 0.75, "n": 4, "seed": 0}
    return {**row, **changes}


def test_the_main_table_has_every_model_once_in_the_run_s_order():
    from finer1_lib.evaluation.summary import main_table

    labels = labels_of(all_entries(trained("cot_sft_papo", "cot_sft_mine", "cot_sft_dapo")))
    rows = [row_of(model) for model in ("cot_sft_dapo", "cot_sft_mine", "base", "cot_sft_papo")]
    rows += [row_of("base", categories="unseen", value=0.25), row_of("cot_sft", scorer="official")]
    titles, table = main_table(rows, labels=labels)
    own = [f"label of cot_sft_{method}" for method in ("papo", "mine", "dapo")]
    assert [line[0] for line in table] == ["base", *own]
    assert titles[:3] == ["model", "closed world, seen", "closed world, unseen"]
    assert table[0][1:] == ["50.0 [25.0, 75.0]", "25.0 [25.0, 75.0]", "-", "-"]
    known = ["base", "CoT SFT + DAPO", "CoT SFT + PAPO", "cot_sft_mine"]
    assert [line[0] for line in main_table(rows)[1]] == known
    assert main_table(rows, "official", labels)[1] == [["CoT SFT", "50.0 [25.0, 75.0]", "-", "-", "-"]]


def test_a_run_knows_its_labels_and_checks_its_rows_against_them(tmp_path):
    from finer1_lib.evaluation.summary import check_rows, labels_in

    assert list(labels_in(tmp_path)) == FIXED_NAMES  # before 03 has finished
    (tmp_path / "03_tapo").mkdir()
    (tmp_path / "03_tapo" / "models.json").write_text(json.dumps(trained("cot_sft_mine")))
    labels = labels_in(tmp_path)
    assert labels["cot_sft_mine"] == "label of cot_sft_mine"
    assert check_rows([row_of("cot_sft_mine")], "x", labels)
    with pytest.raises(ValueError, match="x, row 0: model 'cot_sft_mine'"):
        check_rows([row_of("cot_sft_mine")], "x")
    (tmp_path / "03_tapo" / "models.json").write_text("{}")
    with pytest.raises(UserError, match="models.json"):
        labels_in(tmp_path)


def test_figures_grow_with_the_list_and_use_the_run_s_labels():
    import pandas as pd

    from finer1_lib.evaluation.plots import accuracy_bars

    labels = labels_of(all_entries(trained(*METHOD_NAMES, "cot_sft_mine")))
    figure = accuracy_bars(pd.DataFrame([row_of(model) for model in labels]), labels)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == list(labels.values())
    assert len(axis.patches) == 17 and figure.get_size_inches()[1] > 8
    few = accuracy_bars(pd.DataFrame([row_of(model) for model in FIXED_NAMES]))
    assert len(few.axes[0].patches) == 4 and few.get_size_inches()[1] < 4


def test_checkpoints_from_elsewhere_follow_what_was_trained(tmp_path):
    import tiny_checkpoint

    own = all_entries(trained("cot_sft_tapo"))
    folder = tiny_checkpoint.build(tmp_path / "Fine=R1")
    more = with_more(own, ["Fine-R1 3B = StevenHH2000/Fine-R1-3B@6da43fd", f"Qwen=answer:{folder}"])
    assert more[: len(own)] == own and with_more(own, []) == own
    released, answering = more[len(own) :]
    assert (released.model, released.label, released.prompts) == ("fine-r1-3b", "Fine-R1 3B", "cot")
    assert released.checkpoint == "StevenHH2000/Fine-R1-3B@6da43fd" and released.adapter is None
    assert (answering.model, answering.prompts, answering.checkpoint) == ("qwen", "answer", str(folder))
    assert labels_of(more)["fine-r1-3b"] == "Fine-R1 3B" and {c.checkpoint for c in own} == {None}
    pairs = pairs_of(more)
    assert set(pairs) - set(pairs_of(own)) == {
        ("fine-r1-3b", "base_cot_prompt"), ("qwen", "base"), ("cot_sft_tapo", "fine-r1-3b")}
    untrained = with_more(all_entries([]), ["A=a/b"])
    assert set(pairs_of(untrained)) - set(pairs_of(FIXED)) == {("a", "base_cot_prompt")}


@pytest.mark.parametrize("entry, message", [
    ("Fine-R1-3B", "'Fine-R1-3B' is not of the form label=checkpoint"),
    ("=owner/name", "is not of the form"),
    ("a\x1b[31mb=owner/name", "holds a control character"),
    ("Fine-R1-3B=", "is not of the form"),
    ("Fine-R1-3B=answer:", "is not of the form"),
    ("base=owner/name", "the name 'base' of 'base' is taken; choose another label"),
    ("Always_First=owner/name", "the name 'always_first' of 'Always_First' is taken"),
])
def test_a_wrong_entry_of_more_models_is_one_line(entry, message):
    with pytest.raises(UserError) as error:
        with_more(FIXED, [entry])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_two_of_more_models_need_two_names():
    with pytest.raises(UserError, match="the name 'a' of 'A' is taken"):
        with_more(FIXED, ["a=o/n", "A=o/m"])


def test_a_checkpoint_from_elsewhere_is_probed_too():
    from finer1_lib.probing.study import entries_to_probe, pairs_to_compare

    more = with_more(all_entries([]), ["cot_sft_theirs=o/n"])  # its name tells nothing of its start
    probed = entries_to_probe(more, ["base", "cot_sft", "cot_sft_theirs"])
    assert pairs_to_compare(probed) == [("cot_sft", "base"), ("cot_sft_theirs", "base")]


def test_a_run_s_tables_know_the_checkpoints_from_elsewhere(tmp_path):
    from finer1_lib.evaluation.summary import labels_in

    (tmp_path / "04_evaluation").mkdir()
    record = {"parameters": {"more_models": ["Fine-R1-3B=gone/from/here", "twin=answer:owner/name"]}}
    (tmp_path / "04_evaluation/stage.json").write_text(json.dumps(record))
    labels = labels_in(tmp_path)
    assert labels["fine-r1-3b"] == "Fine-R1-3B" and labels["twin"] == "twin" and "base" in labels


SYSTEMS = ["llava-1.6-7b", "siglip-l"]


def test_systems_and_strategies_follow_and_are_compared_with_their_start():
    more = with_systems(all_entries([]), find_systems(SYSTEMS))
    llava, siglip = more[len(FIXED) :]
    assert (llava.prompts, siglip.prompts, siglip.system.kind) == ("answer", "clip_photo", "encoder")
    entries = ["cot_sft = self_consistency", "llava-1.6-7b=in_context", "base=step_by_step"]
    added = with_strategies(more, entries, samples=3)
    assert added[: len(more)] == more
    names = ["cot_sft-self_consistency", "llava-1.6-7b-in_context", "base-step_by_step"]
    assert [(c.model, c.strategy, c.samples) for c in added[len(more) :]] == list(
        zip(names, ["self_consistency", "in_context", "step_by_step"], [3, 1, 1]))
    assert [c.prompts for c in added[len(more) :]] == ["cot", "answer", "step"]
    assert added[-2].system is llava.system and added[-3].adapter == "02_cot_sft/cot_sft"
    assert [start_of(c) for c in added[len(more) :]] == ["cot_sft", "llava-1.6-7b", "base"]
    assert {(name, start_of(c)) for name, c in zip(names, added[len(more) :])} <= set(pairs_of(added))


@pytest.mark.parametrize("entries, samples, message", [
    (["cot_sft"], 8, "'cot_sft' is not of the form model=strategy"),
    (["unknown=in_context"], 8, "'unknown=in_context' is not of the form"),
    (["base=by_magic"], 8, "a strategy of step_by_step, "),
    (["siglip-l=in_context"], 8, "siglip-l is an encoder"),
    (["base=self_consistency"], 1, "samples is 1: self_consistency needs two or more"),
    (["base=in_context", "base=in_context"], 8, "'base=in_context' is listed twice"),
])
def test_a_wrong_entry_of_strategies_is_one_line(entries, samples, message):
    with pytest.raises(UserError) as error:
        with_strategies(with_systems(FIXED, find_systems(SYSTEMS)), entries, samples)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["base", "always_first", "siglip-l"])
def test_a_system_needs_a_new_name(name):
    added = with_systems(FIXED, find_systems(SYSTEMS))
    with pytest.raises(UserError, match=f"the name '{name}' is taken by another row"):
        with_systems(added, [System(name=name, label="A", checkpoint="o/n")])
