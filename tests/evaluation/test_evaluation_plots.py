"""Figures of notebook 04: what is drawn is what the table holds."""

import matplotlib
import numpy
import pandas as pd
import pytest

matplotlib.use("Agg")
from matplotlib.colors import to_hex  # noqa: E402

from finer1_lib.evaluation.plots import FEW, breakdown_dots, data_set_bars, order_dots  # noqa: E402
from finer1_lib.training.methods import colour_of  # noqa: E402

LABELS = {"base": "base", "cot_sft_tapo": "CoT SFT + TAPO"}


def by_data_set(data_sets=("bird", "aircraft"), settings=("closed_world",)):
    rows, value = [], 0.11
    for setting in settings:
        for data_set in data_sets:
            for model in LABELS:
                for kind, n in (("seen", 120), ("unseen", 80)):
                    rows.append({"model": model, "dataset": data_set, "setting": setting, "categories": kind,
                                 "value": value, "low": value - 0.05, "high": value + 0.05, "n": n,
                                 "chance": 0.25 if setting == "closed_world" else None})
                    value += 0.03
    return pd.DataFrame(rows)


def bars(axis):
    """(lower end, width, colour, hatched) of the filled bars."""
    return [(bar.get_y(), bar.get_width(), to_hex(bar.get_facecolor()).upper(), bool(bar.get_hatch()))
            for bar in axis.patches if bar.get_facecolor()[3] > 0]


def test_every_data_set_has_its_panel_and_every_value_its_bar():
    df = by_data_set()
    figure = data_set_bars(df, LABELS)
    assert [axis.get_title() for axis in figure.axes] == [
        "bird, closed world\nn = 120 seen, 80 unseen", "aircraft, closed world\nn = 120 seen, 80 unseen"]
    for axis, data_set in zip(figure.axes, ("bird", "aircraft")):
        part = df[df["dataset"] == data_set].set_index(["model", "categories"])["value"]
        drawn = bars(axis)
        assert len(drawn) == 4
        for place, model in enumerate(LABELS):
            for kind, hatched in (("seen", False), ("unseen", True)):
                found = [bar for bar in drawn if bar[2] == colour_of(model) and bar[3] == hatched]
                assert [bar[1] for bar in found] == [pytest.approx(100 * part[model, kind])]
                assert (found[0][0] + 0.2 > place) == hatched  # the unseen one below
        assert {text.get_text() for text in axis.texts} == {f"{100 * value:.0f}" for value in part}
        (chance,) = [line for line in axis.lines if line.get_linestyle() == ":"]
        assert list(chance.get_xdata()) == [25, 25]
        spans = [tuple(line.get_xdata()) for line in axis.lines if line.get_linestyle() == "-"]
        assert len(spans) == 4 and all(round(high - low, 6) == 10 for low, high in spans)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(LABELS.values())


def test_four_data_sets_take_two_rows_and_empty_panels_are_hidden():
    df = by_data_set(("bird", "dog", "pet", "car"), ("open_world", "closed_world"))
    figure = data_set_bars(df, LABELS)
    seen = [axis for axis in figure.axes if axis.get_visible()]
    assert len(figure.axes) == 12 and len(seen) == 8
    assert seen[0].get_title().startswith("bird, closed world")  # the closed world first, as in every table
    assert seen[4].get_title().startswith("bird, open world")
    assert not [line for line in seen[4].lines if line.get_linestyle() == ":"]
    assert [bool(axis.get_xlabel()) for axis in seen] == [False, True, True, True] * 2


def test_a_row_without_interval_is_a_bar_without_whisker():
    df = by_data_set(("bird",)).assign(low=None, high=None, chance=None)
    (axis,) = data_set_bars(df).axes
    assert len(bars(axis)) == 4 and not axis.lines


def by_level(levels=(1, 2, 3), n=40):
    rows = []
    for number, model in enumerate(LABELS):
        for kind in ("seen", "unseen"):
            for place, level in enumerate(levels):
                value = 0.2 + 0.3 * number + 0.1 * place
                rows.append({"model": model, "categories": kind, "level": level, "n": n, "value": value,
                             "low": value - 0.1, "high": value + 0.1})
    return pd.DataFrame(rows)


def markers(axis):
    return [line for line in axis.lines if line.get_marker() not in (None, "None", "")]


def test_a_marker_a_model_and_level():
    df = by_level()
    figure = breakdown_dots(df, LABELS, xlabel="place of the truth", chance=0.25)
    assert [axis.get_title() for axis in figure.axes] == ["seen sub-categories", "unseen sub-categories"]
    for axis in figure.axes:
        assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "2", "3"]
        assert axis.get_xlabel() == "place of the truth"
        for model in LABELS:
            own = [line for line in markers(axis) if line.get_markerfacecolor() == colour_of(model)]
            places, values = (numpy.concatenate([line.get_data()[k] for line in own]) for k in (0, 1))
            wanted = 100 * df[(df["model"] == model) & (df["categories"] == "seen")]["value"]
            assert values.tolist() == pytest.approx(wanted.tolist())
            assert numpy.round(places).tolist() == [0, 1, 2]  # within their level
        assert [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == ":"] == [25]
    base, tapo = ([line.get_marker() for line in markers(figure.axes[0])][k] for k in (0, -1))
    assert base != tapo  # a grey print tells the models apart as well


def test_few_answers_are_hollow_and_said_so():
    df = by_level(n=FEW)
    assert not any("fewer" in text.get_text() for text in breakdown_dots(df).legends[0].get_texts())
    df.loc[0, "n"] = FEW - 1
    figure = breakdown_dots(df)
    hollow = [line for line in markers(figure.axes[0]) if line.get_markerfacecolor() == "white"]
    assert [list(line.get_ydata()) for line in hollow] == [[20.0]]
    assert hollow[0].get_markeredgecolor() == colour_of("base")
    assert any(f"fewer than {FEW}" in text.get_text() for text in figure.legends[0].get_texts())


def test_a_level_that_a_model_lacks_moves_no_other():
    df = by_level(("short", "long"))
    df = df[~((df["model"] == "base") & (df["level"] == "short"))]
    axis = breakdown_dots(pd.concat([df[df["level"] == "short"], df[df["level"] == "long"]]), LABELS).axes[0]
    own = [line for line in markers(axis) if line.get_markerfacecolor() == colour_of("base")]
    assert [round(line.get_xdata()[0]) for line in own] == [1] and own[0].get_ydata()[0] == pytest.approx(30)
    assert [text.get_text() for text in axis.get_xticklabels()] == ["short", "long"]


def test_lengths_stand_in_the_order_of_their_numbers():
    """The first model may write long answers only; words have no order of their own."""
    df = by_level(("100-160", "3-5", "20-99"))
    axis = breakdown_dots(df, LABELS).axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["3-5", "20-99", "100-160"]
    own = [line for line in markers(axis) if line.get_markerfacecolor() == colour_of("base")]
    assert {round(line.get_xdata()[0]): round(line.get_ydata()[0]) for line in own} == {2: 20, 0: 30, 1: 40}
    (path,) = [line for line in axis.lines
               if line.get_linewidth() == 1.2 and line.get_color() == colour_of("base")]
    assert list(path.get_xdata()) == sorted(path.get_xdata())  # the line joins neighbours
    words = breakdown_dots(by_level(("seen with rationale", "1 without")), LABELS).axes[0]
    assert [text.get_text() for text in words.get_xticklabels()] == ["seen with rationale", "1 without"]


def test_orders_have_their_markers():
    row = {"categories": "seen", "value": 0.5, "low": 0.4, "high": 0.6}
    rows = [{**row, "model": model, "option_order": order}
            for model in LABELS for order in ("shuffled", "release")]
    (axis,) = order_dots(pd.DataFrame(rows), LABELS).axes
    assert sorted(line.get_marker() for line in markers(axis)) == ["D", "D", "o", "o"]
    assert [text.get_text() for text in axis.get_yticklabels()] == list(LABELS.values())
