"""Figure: every data set by itself, for an average over six may hide one that went the other way.

Source: issue 6 (per-data-set bars); METHOD 4 (the average is over data sets, seen and unseen apart).
"""

from typing import Mapping, Optional

from finer1_lib.contenders import colour_of, in_order, label_of
from finer1_lib.plots import SETTING_LABELS, WIDEST, percent_axis
from finer1_lib.statistics import has_interval

A_ROW = 3  # data sets beside each other
HALVES = {"seen": (-0.21, ""), "unseen": (0.21, "////")}  # place in the model's row, and hatching


def data_set_bars(df, labels: Optional[Mapping[str, str]] = None):
    """A panel a data set and setting, two bars a model: seen sub-categories plain, unseen ones hatched below.

    Args:
        df: columns model, dataset, setting, categories, value, low, high, n (fractions; low and high may be
            missing); an optional column chance (fraction) draws a dotted line where guessing lands.
        labels: {model: label} in the order to draw, of `contenders.labels_of`.

    Returns:
        The figure, a row or more for each setting.
    """
    import matplotlib.pyplot as plt

    models, data_sets = in_order(df["model"], labels), list(dict.fromkeys(df["dataset"]))
    settings = sorted(set(df["setting"]), key=[*SETTING_LABELS, *df["setting"]].index)
    columns = min(A_ROW, len(data_sets))
    rows = -(-len(data_sets) // columns)
    height = 0.56 * len(models) + 1.0
    size = (min(WIDEST, 4.1 * columns + 2.7), height * rows * len(settings) + 0.7)
    fig, axes = plt.subplots(rows * len(settings), columns, figsize=size, sharex=True, sharey=True,
                             squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_visible(False)
    for number, setting in enumerate(settings):
        for place, data_set in enumerate(data_sets):
            axis = axes[number * rows + place // columns][place % columns]
            axis.set_visible(True)
            part = df[(df["setting"] == setting) & (df["dataset"] == data_set)]
            _panel(axis, part, models)
            counts = ", ".join(f"{part[part['categories'] == kind]['n'].max():.0f} {kind}" for kind in HALVES
                               if kind in set(part["categories"]))  # fmt: skip
            axis.set_title(f"{data_set}, {SETTING_LABELS.get(setting, setting)}\nn = {counts}", fontsize=13)
            axis.set_yticks(range(len(models)), [label_of(model, labels) for model in models], fontsize=12)
            axis.set_ylim(len(models) - 0.45, -0.55)  # the first model at the top
            percent_axis(axis, 0, 116, labelsize=12)
            below = place + columns >= len(data_sets)
            axis.tick_params(labelbottom=below)
            axis.set_xlabel("right answers (%), 95 % intervals" if below else "", fontsize=12)
    _legend(fig, bool("chance" in df and df["chance"].notna().any()))
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig


def _panel(axis, part, models) -> None:
    from matplotlib.patheffects import withStroke

    white = [withStroke(linewidth=3.4, foreground="white")]
    for row in part.itertuples():
        shift, hatch = HALVES[row.categories]
        place, end = models.index(row.model) + shift, row.value
        axis.barh(place, 100 * row.value, height=0.4, color=colour_of(row.model), edgecolor="white" if hatch
                  else "black", hatch=hatch, linewidth=0 if hatch else 0.6)  # fmt: skip
        axis.barh(place, 100 * row.value, height=0.4, color="none", edgecolor="black", linewidth=0.6)
        if has_interval(row.low):
            axis.plot([100 * row.low, 100 * row.high], [place] * 2, color="black", linewidth=1.6, marker="|",
                      markersize=6, solid_capstyle="butt", path_effects=white)  # fmt: skip
            end = max(end, row.high)
        axis.text(100 * end + 1.5, place, f"{100 * row.value:.0f}", va="center", fontsize=11,
                  path_effects=white)  # fmt: skip
    if "chance" in part and part["chance"].notna().any():
        axis.axvline(100 * part["chance"].dropna().iloc[0], color="black", linestyle=":", linewidth=1.5)


def _legend(fig, chance: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    signs = [Patch(facecolor="#999999", edgecolor="black", label="seen sub-categories"),
             Patch(facecolor="#999999", edgecolor="white", hatch=HALVES["unseen"][1], label="unseen")]
    if chance:
        line = dict(color="black", linestyle=":", linewidth=1.5)
        signs.append(Line2D([], [], label="guessing one of four", **line))
    fig.legend(handles=signs, loc="outside upper center", ncols=len(signs), fontsize=12, frameon=False)
