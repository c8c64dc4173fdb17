"""Figures of the evaluation beside the main table: what the order of the options is worth.

A model that looks at the picture answers the same under any order; one that leans on the first place gains in
the release's order, where the truth stands first, and breaks when the options are turned.

Source: audit A1; the figure is our choice.
"""

from typing import Mapping, Optional

from finer1_lib.contenders import CONTROLS, colour_of, in_order, label_of
from finer1_lib.plots import CATEGORY_LABELS, percent_axis
from finer1_lib.statistics import has_interval

# order -> (marker, name in the legend)
ORDERS = {
    "shuffled": ("o", "shuffled for each item"),
    "release": ("D", "the release's: the truth first"),
    "rotations": ("s", "right under all four rotations"),
}
PITCH = 0.27  # inches between two orders of one model


def order_dots(df, labels: Optional[Mapping[str, str]] = None):
    """Closed-world accuracy of each model under each order of the options; controls hollow, at the bottom.

    Args:
        df: columns model, categories, option_order, value, low, high (fractions; low and high may be
            missing); an optional column chance (fraction) draws a dotted line where guessing lands.
        labels: {model: label} in the order to draw, of `contenders.labels_of`.

    Returns:
        The figure: seen on the left, unseen on the right, a marker an order with its 95 % interval and value.
    """
    import matplotlib.pyplot as plt

    orders = [order for order in ORDERS if order in set(df["option_order"])]
    kinds = [kind for kind in CATEGORY_LABELS if kind in set(df["categories"])]
    models = in_order(df["model"], labels)
    models.sort(key=lambda model: model in CONTROLS)  # stable: contenders keep their order
    height = PITCH * (len(orders) + 0.9) * len(models) + 1.5
    fig, axes = plt.subplots(1, len(kinds), figsize=(5 * len(kinds) + 2.6, height), sharey=True,
                             squeeze=False, layout="constrained")  # fmt: skip
    for axis, kind in zip(axes[0], kinds):
        for row in df[df["categories"] == kind].itertuples():
            shift = (orders.index(row.option_order) - (len(orders) - 1) / 2) / (len(orders) + 0.9)
            _dot(axis, row, models.index(row.model) + shift)
        axis.set_title(CATEGORY_LABELS[kind], fontsize=15)
        axis.set_yticks(range(len(models)), [label_of(model, labels) for model in models], fontsize=13)
        percent_axis(axis, -2, 112, labelsize=13)
        axis.set_xlabel("closed world, right answers (%)", fontsize=13)
        for place in range(1, len(models)):
            axis.axhline(place - 0.5, color="#DDDDDD", linewidth=0.8)
        if "chance" in df and df["chance"].notna().any():
            axis.axvline(100 * df["chance"].dropna().iloc[0], color="black", linestyle=":", linewidth=1.5)
        axis.set_ylim(len(models) - 0.5, -0.5)  # the first model at the top
    _legend(fig, orders, "chance" in df and df["chance"].notna().any())
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig


def _dot(axis, row, place: float) -> None:
    """One value: its interval, its marker, and the number right of both."""
    from matplotlib.patheffects import withStroke

    colour, end = colour_of(row.model), row.value
    if has_interval(row.low):
        span = [100 * row.low, 100 * row.high]
        axis.plot(span, [place, place], color=colour, linewidth=7, alpha=0.5, solid_capstyle="butt")
        axis.plot(span, [place, place], color="black", linewidth=1)  # a pale colour alone is lost on a wall
        end = max(end, row.high)
    face = "white" if row.model in CONTROLS else colour
    edge = colour if row.model in CONTROLS else "black"
    axis.plot(100 * row.value, place, ORDERS[row.option_order][0], color=face, markeredgecolor=edge,
              markeredgewidth=1.6 if row.model in CONTROLS else 0.8, markersize=8, zorder=3)  # fmt: skip
    axis.text(100 * end + 2.2, place, f"{100 * row.value:.0f}", va="center", fontsize=12, zorder=4,
              path_effects=[withStroke(linewidth=3, foreground="white")])  # fmt: skip


def _legend(fig, orders, chance: bool) -> None:
    from matplotlib.lines import Line2D

    signs = [
        Line2D([], [], marker=ORDERS[order][0], color="none", markerfacecolor="#BBBBBB", markersize=9,
               markeredgecolor="black", label=ORDERS[order][1]) for order in orders
    ]  # fmt: skip
    if chance:
        line = dict(color="black", linestyle=":", linewidth=1.5)
        signs.append(Line2D([], [], label="guessing one of four", **line))
    fig.legend(handles=signs, loc="outside upper center", ncols=len(signs), fontsize=12, frameon=False)
