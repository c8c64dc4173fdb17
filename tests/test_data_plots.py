"""The figures of notebook 01 are made from odd data as well: one entry, long names, signs that start a formula."""

import matplotlib
import pandas
from PIL import Image

matplotlib.use("agg")

from finer1_lib.data_plots import montage, rationale_sheet, rejections, triplet_sheet  # noqa: E402
from finer1_lib.rationales import REASONS, write_rationale  # noqa: E402

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
