"""The figures of notebook 01 are made from odd data as well: one entry, long names, signs that start a formula."""

import matplotlib
import pandas
from PIL import Image

matplotlib.use("agg")

from finer1_lib.data.plots import montage, prevented, rationale_sheet, rejections, triplet_sheet  # noqa: E402
from finer1_lib.data.rationales.filters import REASONS, write_rationale  # noqa: E402

PICTURE = Image.new("RGB", (20, 30), "red")


def drawn(figure):
    figure.canvas.draw()
    return " ".join(text.get_text() for axis in figure.axes for text in axis.texts)


def test_every_figure_draws():
    drawn(montage([("a $5_very long name of a thing^2", "seen", PICTURE)] * 7))
    drawn(triplet_sheet([[("a", PICTURE), ("b", PICTURE), ("c $x", PICTURE)]]))
    zeros = pandas.DataFrame([{"reason": reason, "texts": 0, "images_dropped": 0} for reason in REASONS])
    assert drawn(rejections(zeros)).split() == ["0"] * 2 * len(REASONS)
    text = write_rationale("red $crown_", ["A", "B"], "A: it; B: not", "A")
    assert "red $crown_" in drawn(rationale_sheet(PICTURE, text, "A"))
    assert "(not readable)" in drawn(rationale_sheet(PICTURE, "babble", "A"))


def test_every_step_stands_with_its_two_values():
    row = {"step": "its filter", "flaw": "mixed language", "n_on": 58, "on": 0.0, "on_low": 0.0,
           "on_high": 0.06, "off": 0.25, "off_low": 0.1, "off_high": 0.4, "n_off": 60}
    no_interval = dict.fromkeys(("on_low", "on_high", "off_low", "off_high"))  # of a single cluster
    bare = {**row, **no_interval, "off": 1.0}
    figure = prevented(pandas.DataFrame([row, bare]))
    assert drawn(figure) == "0 → 25 0 → 100"
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["mixed language\n(its filter)"] * 2
    assert "n 58 to 60" in axis.get_xlabel()
    squares = [list(line.get_xdata()) for line in axis.lines if line.get_marker() == "s"]
    assert squares == [[25.0, 100.0]]
