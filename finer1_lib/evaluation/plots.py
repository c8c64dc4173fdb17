"""Figure: right answers against something that they should not, or need not, depend on.

The place of the truth among the options: a model that looks is level. The length of the answer: a model that
thinks longer is compared with others at the same length.


Figure: every data set by itself, for an average over six may hide one that went the other way.


Figures of the evaluation beside the main table: what the order of the options is worth.

A model that looks at the picture answers the same under any order; one that leans on the first place gains in
the release's order, where the truth stands first, and breaks when the options are turned.


Figure: which neighbour a model answers for which, a matrix for each genus with the most such errors.
"""

import re
from typing import Mapping, Optional, Sequence

from finer1_lib.core.plots import CATEGORY_LABELS, SETTING_LABELS, WIDEST, percent_axis
from finer1_lib.core.statistics import has_interval
from finer1_lib.evaluation.scores.hierarchy import ELSEWHERE, OTHERS, UNKNOWN, confusion_matrix, most_confused
from finer1_lib.training.methods import CONTROLS, colour_of, in_order, label_of


def accuracy_bars(df, labels: Optional[Mapping[str, str]] = None):
    """Horizontal bars with 95 % intervals: a row of panels a setting, seen on the left, unseen on the right.

    Args:
        df: columns model, setting, categories, value, low, high (fractions; low and high may be missing);
            optional: n, shown in the titles, and chance (fraction), a dotted line where guessing lands.
        labels: {model: label} in the order to draw, of `entries.labels_of`.

    Returns:
        The figure.
    """
    fig, panels = _grid(df, labels)
    for axis, part, models in panels:
        _bars_panel(axis, part.set_index("model"), models)
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


def _bars_panel(axis, part, models) -> None:
    """One panel: bars from the top in the models' order."""
    for place, model in enumerate(models):
        if model not in part.index:
            continue
        value_bar(axis, place, part.loc[model])
    if "chance" in part and part["chance"].notna().any():
        axis.axvline(100 * part["chance"].iloc[0], color="black", linestyle=":", linewidth=1.5)
        axis.text(100 * part["chance"].iloc[0] + 0.8, -0.62, "guessing", fontsize=12, va="center")
    axis.set_ylim(len(models) - 0.4, -0.95)  # the first model at the top


A_ROW = 3  # data sets beside each other
HALVES = {"seen": (-0.21, ""), "unseen": (0.21, "////")}  # place in the model's row, and hatching


def data_set_bars(df, labels: Optional[Mapping[str, str]] = None):
    """A panel a data set and setting, two bars a model: seen sub-categories plain, unseen ones hatched below.

    Args:
        df: columns model, dataset, setting, categories, value, low, high, n (fractions; low and high may be
            missing); an optional column chance (fraction) draws a dotted line where guessing lands.
        labels: {model: label} in the order to draw, of `entries.labels_of`.

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
    _data_set_legend(fig, bool("chance" in df and df["chance"].notna().any()))
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


def _data_set_legend(fig, chance: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    signs = [Patch(facecolor="#999999", edgecolor="black", label="seen sub-categories"),
             Patch(facecolor="#999999", edgecolor="white", hatch=HALVES["unseen"][1], label="unseen")]
    if chance:
        line = dict(color="black", linestyle=":", linewidth=1.5)
        signs.append(Line2D([], [], label="guessing one of four", **line))
    fig.legend(handles=signs, loc="outside upper center", ncols=len(signs), fontsize=12, frameon=False)


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
        labels: {model: label} in the order to draw, of `entries.labels_of`.

    Returns:
        The figure: seen on the left, unseen on the right, a marker an order with its 95 % interval and value.
    """
    import matplotlib.pyplot as plt

    orders = [order for order in ORDERS if order in set(df["option_order"])]
    kinds = [kind for kind in CATEGORY_LABELS if kind in set(df["categories"])]
    models = in_order(df["model"], labels)
    models.sort(key=lambda model: model in CONTROLS)  # stable: entries keep their order
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
    _order_legend(fig, orders, "chance" in df and df["chance"].notna().any())
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


def _order_legend(fig, orders, chance: bool) -> None:
    from matplotlib.lines import Line2D

    signs = [
        Line2D([], [], marker=ORDERS[order][0], color="none", markerfacecolor="#BBBBBB", markersize=9,
               markeredgecolor="black", label=ORDERS[order][1]) for order in orders
    ]  # fmt: skip
    if chance:
        line = dict(color="black", linestyle=":", linewidth=1.5)
        signs.append(Line2D([], [], label="guessing one of four", **line))
    fig.legend(handles=signs, loc="outside upper center", ncols=len(signs), fontsize=12, frameon=False)


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
        labels: {model: label} in the order to draw, of `entries.labels_of`.
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


CELL = 0.56  # inches
MATRICES_A_ROW = 2  # matrices beside each other: their names must be read


def confusion_matrices(
    table, model: str, *, setting: str = "open_world", genera: Optional[Sequence[tuple[str, str]]] = None,
    labels: Optional[Mapping[str, str]] = None,
):
    """Shares of the answers about each sub-category (rows), in percent; an outline marks the right ones.

    Args:
        table: of `confusions.count_confusions`.
        model: whose answers.
        setting: "open_world" or another of the table.
        genera: (super_category, genus) pairs; those of `confusions.most_confused` by default.
        labels: {model: label}, of `entries.labels_of`.

    Returns:
        The figure; without any error inside a genus it says so.
    """
    import matplotlib.pyplot as plt

    genera = most_confused(table, model, setting) if genera is None else genera
    matrices = [confusion_matrix(table, model, setting, *key) for key in genera]
    where = SETTING_LABELS.get(setting, setting.replace("_", " "))
    title = f"{label_of(model, labels)}, {where}: percent of the answers about each sub-category"
    lines = [matrices[start : start + MATRICES_A_ROW] for start in range(0, len(matrices), MATRICES_A_ROW)]
    columns = min(MATRICES_A_ROW, max(1, len(matrices)))
    widest = max((len(shares.columns) for shares in matrices), default=8)
    width = min(WIDEST, max(8, columns * (CELL * widest + 2.9)))
    cell = min(CELL, (width / columns - 2.9) / widest)
    heights = [cell * max(map(len, line)) + 1.7 for line in lines] or [1]
    fig, axes = plt.subplots(len(heights), columns, figsize=(width, sum(heights) + 0.4), squeeze=False,
                             height_ratios=heights, layout="constrained")  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, key, shares in zip(axes.flat, genera, matrices):
        _draw(axis, shares, colour_of(model))
        axis.set_title(f"{key[1]} ({key[0]})", fontsize=14)
    if not matrices:
        axes[0][0].text(0, 0.5, "no sub-category was taken for a neighbour of its genus", fontsize=13)
    fig.suptitle(title, fontsize=14)
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig


def _draw(axis, shares, colour: str) -> None:
    """One matrix: white is 0 %, the model's colour 100 %."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    ramp = LinearSegmentedColormap.from_list("share", ["#FFFFFF", colour])
    axis.set_axis_on()
    axis.imshow(shares.to_numpy(), cmap=ramp, vmin=0, vmax=1, aspect="equal")
    for row, name in enumerate(shares.index):
        for column, answered in enumerate(shares.columns):
            share = shares.iat[row, column]
            if share > 0:
                axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=12,
                          color=_ink(ramp(share)))  # fmt: skip
            if name == answered:
                axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black",
                                         linewidth=1.6, zorder=3))  # fmt: skip
    known = shares.attrs
    axis.set_yticks(range(len(shares)), [
        f"{name}{', unseen' if known['categories'][name] == 'unseen' else ''} (n = {known['n'][name]})"
        for name in shares.index], fontsize=12)  # fmt: skip
    axis.set_xticks(range(len(shares.columns)), shares.columns, rotation=40, ha="right",
                    rotation_mode="anchor", fontsize=12)  # fmt: skip
    apart = next(place for place, name in enumerate(shares.columns) if name in (OTHERS, ELSEWHERE, UNKNOWN))
    axis.axvline(apart - 0.5, color="black", linewidth=1)
    axis.tick_params(length=0)
    axis.set_xticks([place - 0.5 for place in range(1, len(shares.columns))], minor=True)
    axis.set_yticks([place - 0.5 for place in range(1, len(shares))], minor=True)
    axis.grid(which="minor", color="#DDDDDD", linewidth=0.8)
    axis.tick_params(which="minor", length=0)


def _ink(background) -> str:
    """Black on light cells, white on dark ones."""
    red, green, blue, _ = background
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
