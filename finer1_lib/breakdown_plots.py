"""Figure: right answers against something that they should not, or need not, depend on.

The place of the truth among the options: a model that looks is level. The length of the answer: a model that
thinks longer is compared with others at the same length.

Source: audit A1 and 4.3 (accuracy at equal output length); the figure is our choice.
"""

import re
from typing import Mapping, Optional

from finer1_lib.contenders import colour_of, in_order, label_of
from finer1_lib.plots import CATEGORY_LABELS, WIDEST
from finer1_lib.statistics import has_interval

SPREAD = 0.72  # of a level's width that the models share
FEW = 20  # below so many answers a marker is hollow
MARKERS = "osD^vP*Xhd<>p8"  # beside the colour, for a grey print


def breakdown_dots(
    df, labels: Optional[Mapping[str, str]] = None, *, xlabel: str = "", chance: Optional[float] = None
):
    """A marker a model and level with its 95 % interval, a model's own joined by a line.

    Args:
        df: columns model, categories, level, value, low, high, n (fractions; low and high may be missing);
            rows of one setting, scorer, metric and breakdown. Levels that begin with a number are drawn in
            its order, others as they come: a model may lack some.
        labels: {model: label} in the order to draw, of `contenders.labels_of`.
        xlabel: what the levels are.
        chance: fraction where guessing lands, for a dotted line.

    Returns:
        The figure, a panel for each kind of sub-categories; a marker of fewer than `FEW` answers is hollow.
    """
    import matplotlib.pyplot as plt

    kinds = [kind for kind in [*CATEGORY_LABELS, "all"] if kind in set(df["categories"])]
    models, levels = in_order(df["model"], labels), _in_order(df["level"])
    width = min(WIDEST, len(kinds) * max(3.4, len(levels) * (0.1 * len(models) + 0.5)) + 1)
    lines = -(-(len(models) + 2) // 4)
    fig, axes = plt.subplots(1, len(kinds), figsize=(width, 4.6 + 0.28 * lines), sharey=True, squeeze=False,
                             layout="constrained")  # fmt: skip
    for axis, kind in zip(axes[0], kinds):
        for number, model in enumerate(models):
            part = df[(df["categories"] == kind) & (df["model"] == model)]
            part = part.sort_values("level", key=lambda column: column.map(levels.index))
            shift = SPREAD * ((number + 0.5) / len(models) - 0.5)
            _series(axis, part, [levels.index(level) + shift for level in part["level"]], model,
                    MARKERS[number % len(MARKERS)])  # fmt: skip
        _frame(axis, levels, CATEGORY_LABELS.get(kind, "all sub-categories"), xlabel)
        if chance is not None:
            axis.axhline(100 * chance, color="black", linestyle=":", linewidth=1.5)
    axes[0][0].set_ylabel("right answers (%), 95 % intervals", fontsize=13)
    _legend(fig, models, labels, chance is not None, bool((df["n"] < FEW).any()))
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig


def _in_order(levels) -> list:
    levels = list(dict.fromkeys(levels))
    starts = [re.match(r"\d+", str(level)) for level in levels]
    if all(starts):
        levels.sort(key=lambda level: int(re.match(r"\d+", str(level))[0]))
    return levels


def _series(axis, part, places, model: str, marker: str) -> None:
    colour = colour_of(model)
    for place, row in zip(places, part.itertuples()):
        if has_interval(row.low):
            axis.plot([place] * 2, [100 * row.low, 100 * row.high], color=colour, linewidth=4, alpha=0.45,
                      solid_capstyle="butt")  # fmt: skip
            axis.plot([place] * 2, [100 * row.low, 100 * row.high], color="black", linewidth=0.8)
    values = 100 * part["value"].to_numpy(dtype=float)
    axis.plot(places, values, color=colour, linewidth=1.2, alpha=0.8)
    for place, value, n in zip(places, values, part["n"]):
        axis.plot(place, value, marker, markerfacecolor="white" if n < FEW else colour,
                  markeredgecolor=colour if n < FEW else "black", markersize=7, zorder=3)  # fmt: skip


def _frame(axis, levels, title: str, xlabel: str) -> None:
    axis.set_title(title, fontsize=14)
    axis.set_xticks(range(len(levels)), [str(level) for level in levels])
    axis.set_xlim(-0.55, len(levels) - 0.45)
    axis.set_ylim(-3, 103)
    axis.set_yticks([0, 25, 50, 75, 100])
    axis.set_xlabel(xlabel, fontsize=13)
    axis.tick_params(labelsize=12)
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    for border in range(1, len(levels)):
        axis.axvline(border - 0.5, color="#DDDDDD", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(fig, models, labels, chance: bool, few: bool) -> None:
    from matplotlib.lines import Line2D

    signs = [Line2D([], [], color=colour_of(model), marker=MARKERS[number % len(MARKERS)], markersize=8,
                    markeredgecolor="black", label=label_of(model, labels))
             for number, model in enumerate(models)]  # fmt: skip
    if few:
        signs.append(Line2D([], [], color="none", marker="o", markerfacecolor="white", markersize=8,
                            markeredgecolor="#555555", label=f"fewer than {FEW} answers"))  # fmt: skip
    if chance:
        signs.append(Line2D([], [], color="black", linestyle=":", linewidth=1.5, label="guessing"))
    fig.legend(handles=signs, loc="outside upper center", ncols=min(4, len(signs)), fontsize=12,
               frameon=False)  # fmt: skip
