"""Figures: a DataFrame in, a matplotlib figure out; nothing is shown or saved here.

Every model has one fixed colour in all notebooks (`contenders.ROWS`), which the colour-blind can tell apart;
bars also carry their model's name and their value, so that a grey print reads the same. What is no model is
drawn in ink or in one of two purples, which no model has.

Source: our choice.
"""

from typing import Mapping, Optional

from finer1_lib.contenders import colour_of, in_order, label_of
from finer1_lib.statistics import has_interval

SEEN, UNSEEN, INK = "#6A2C91", "#CF7FC0", "#333333"
WIDEST = 13.0  # inches; on a projector wider figures shrink, and their text with them

SETTING_LABELS = {"closed_world": "closed world", "open_world": "open world"}
CATEGORY_LABELS = {"seen": "seen sub-categories", "unseen": "unseen sub-categories"}


def accuracy_bars(df, labels: Optional[Mapping[str, str]] = None):
    """Horizontal bars with 95 % intervals: a row of panels a setting, seen on the left, unseen on the right.

    Args:
        df: columns model, setting, categories, value, low, high (fractions; low and high may be missing);
            optional: n, shown in the titles, and chance (fraction), a dotted line where guessing lands.
        labels: {model: label} in the order to draw, of `contenders.labels_of`.

    Returns:
        The figure.
    """
    fig, panels = _grid(df, labels)
    for axis, part, models in panels:
        _panel(axis, part.set_index("model"), models)
    return fig


def seed_dots(df, labels: Optional[Mapping[str, str]] = None):
    """Several runs: a dot for each seed, a bar of ink at their mean, and the 95 % interval; panels as above.

    Args:
        df: `rows` of `seeds.pool`: model, setting, categories, value, low, high, per_seed (fractions).
        labels: {model: label} in the order to draw.

    Returns:
        The figure.
    """
    fig, panels = _grid(df, labels)
    for axis, part, models in panels:
        for row in part.itertuples():
            place = models.index(row.model)
            if has_interval(row.low):
                axis.plot([100 * row.low, 100 * row.high], [place, place], color=colour_of(row.model),
                          linewidth=7, alpha=0.45, solid_capstyle="butt")
            axis.plot([100 * row.value] * 2, [place - 0.3, place + 0.3], color="black", linewidth=2.4)
            spread = [place + 0.11 * (k - (len(row.per_seed) - 1) / 2) for k in range(len(row.per_seed))]
            axis.plot([100 * value for value in row.per_seed], spread, "o", color=colour_of(row.model),
                      markeredgecolor="black", markersize=7, zorder=3)
            axis.text(max(100 * value for value in (row.value, row.high or 0)) + 2.2, place,
                      f"{100 * row.value:.0f}", va="center", fontsize=13)
        axis.set_ylim(len(models) - 0.4, -0.6)
    return fig


def _grid(df, labels):
    """(figure, [(axis, its part of df, models)]): a row of panels a setting, seen left, unseen right."""
    import matplotlib.pyplot as plt

    settings = [name for name in SETTING_LABELS if name in set(df["setting"])]
    kinds = [name for name in CATEGORY_LABELS if name in set(df["categories"])]
    models = in_order(df["model"], labels)
    size = (min(WIDEST, 5.7 * len(kinds) + 1.5), (0.5 * len(models) + 0.7) * len(settings) + 0.3)
    fig, axes = plt.subplots(len(settings), len(kinds), figsize=size, sharex=True, sharey=True, squeeze=False,
                             layout="constrained")
    panels = []
    for line, setting in zip(axes, settings):
        for axis, kind in zip(line, kinds):
            panels.append((axis, df[(df["setting"] == setting) & (df["categories"] == kind)], models))
            number = f" (n = {panels[-1][1]['n'].max():.0f})" if "n" in df and len(panels[-1][1]) else ""
            axis.set_title(f"{SETTING_LABELS[setting]}, {CATEGORY_LABELS[kind]}{number}", fontsize=14)
            axis.set_yticks(range(len(models)), [label_of(model, labels) for model in models])
            axis.tick_params(axis="y", labelsize=14)
            percent_axis(axis, 0, 110, labelsize=13)
    for axis in axes[-1]:
        axis.set_xlabel("right answers (%), 95 % intervals", fontsize=14)
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig, panels


def percent_axis(axis, low: float, high: float, labelsize: int = 12) -> None:
    """Make the horizontal axis one of percent: quarters with a pale line each, no frame above and right.

    Args:
        axis: matplotlib axes.
        low, high: its limits; room beyond 0 and 100 is for markers and labels.
        labelsize: of the ticks, in points.
    """
    axis.set_xlim(low, high)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.tick_params(axis="x", labelsize=labelsize)
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def value_bar(axis, place: int, row) -> None:
    """A model's horizontal bar, its whisker (white around, to be seen on a dark bar), and its value in percent.

    Args:
        axis: matplotlib axes.
        place: height of the bar.
        row: Series named after the model: value, low, high (fractions; low and high may be missing).
    """
    from matplotlib.patheffects import withStroke

    axis.barh(place, 100 * row["value"], color=colour_of(row.name), height=0.72, edgecolor="black",
              linewidth=0.6)
    end = row["value"]
    if has_interval(row["low"]):
        axis.plot([100 * row["low"], 100 * row["high"]], [place] * 2, color="black", linewidth=1.8, marker="|",
                  markersize=9, solid_capstyle="butt",
                  path_effects=[withStroke(linewidth=3.6, foreground="white")])
        end = max(end, row["high"])
    axis.text(100 * end + 1.5, place, f"{100 * row['value']:.0f}", va="center", fontsize=13)


def _panel(axis, part, models) -> None:
    """One panel: bars from the top in the models' order."""
    for place, model in enumerate(models):
        if model not in part.index:
            continue
        value_bar(axis, place, part.loc[model])
    if "chance" in part and part["chance"].notna().any():
        axis.axvline(100 * part["chance"].iloc[0], color="black", linestyle=":", linewidth=1.5)
        axis.text(100 * part["chance"].iloc[0] + 0.8, -0.62, "guessing", fontsize=12, va="center")
    axis.set_ylim(len(models) - 0.4, -0.95)  # the first model at the top
