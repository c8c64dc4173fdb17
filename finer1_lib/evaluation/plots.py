"""Figures of notebook 04, each from a table of fractions (`low` and `high` may be missing).

    accuracy_bars, seed_dots   the main table; several training seeds
    data_set_bars              each data set separately: an average may hide one that went the other way
    order_dots                 the effect of the option order: without a position bias the markers coincide
    breakdown_dots             accuracy by position of the truth or length of the answer
    confusion_matrices         which name of a genus is answered for which

Every figure takes `labels`, {model: label} in the order to draw (`entries.labels_of`), and is closed before
it is returned, so that a notebook shows it once.
"""

import re
from typing import Mapping, Optional, Sequence

from finer1_lib.core.plots import CATEGORY_LABELS, SETTING_LABELS, WIDEST, percent_axis
from finer1_lib.core.statistics import has_interval
from finer1_lib.evaluation.scores.hierarchy import ELSEWHERE, OTHERS, UNKNOWN, confusion_matrix, most_confused
from finer1_lib.training.methods import CONTROLS, colour_of, in_order, label_of

GUESSING = dict(color="black", linestyle=":", linewidth=1.5)
A_ROW = 3  # data sets beside each other
HALVES = {"seen": (-0.21, ""), "unseen": (0.21, "////")}  # place in the model's row, and hatching
ORDERS = {"shuffled": ("o", "shuffled for each item"), "release": ("D", "the release's: the truth first"),
          "rotations": ("s", "right under all four rotations")}  # order -> (marker, name in the legend)
PITCH = 0.27  # inches between two orders of one model
SPREAD = 0.72  # of a level's width that the models share
FEW = 20  # below so many answers a marker is hollow
MARKERS = "osD^vP*Xhd<>p8"  # beside the colour, for a grey print
CELL = 0.56  # inches
MATRICES_A_ROW = 2  # matrices beside each other: their names must be readable


def accuracy_bars(df, labels: Optional[Mapping[str, str]] = None):
    """Horizontal bars with 95 % intervals: a row of panels a setting, seen on the left, unseen on the right.

    df: columns model, setting, categories, value, low, high; optional n (for the titles) and chance (a dotted
    line at guessing).
    """
    fig, panels = _grid(df, labels)
    for axis, part, models in panels:
        part = part.set_index("model")
        for place, model in enumerate(models):
            if model in part.index:
                value_bar(axis, place, part.loc[model])
        if (chance := _guessing(axis, part)) is not None:
            axis.text(chance + 0.8, -0.62, "guessing", fontsize=12, va="center")
        axis.set_ylim(len(models) - 0.4, -0.95)  # the first model at the top
    return fig


def seed_dots(df, labels: Optional[Mapping[str, str]] = None):
    """Several runs: a dot for each seed, a bar of ink at their mean, and the 95 % interval; panels as above.

    df: `rows` of `seeds.pool`: model, setting, categories, value, low, high, per_seed.
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
    settings = [name for name in SETTING_LABELS if name in set(df["setting"])]
    kinds = [name for name in CATEGORY_LABELS if name in set(df["categories"])]
    models = in_order(df["model"], labels)
    size = (min(WIDEST, 5.7 * len(kinds) + 1.5), (0.5 * len(models) + 0.7) * len(settings) + 0.3)
    fig, axes = _figure(len(settings), len(kinds), size, sharex=True, sharey=True)
    panels = []
    for line, setting in zip(axes, settings):
        for axis, kind in zip(line, kinds):
            part = df[(df["setting"] == setting) & (df["categories"] == kind)]
            number = f" (n = {part['n'].max():.0f})" if "n" in df and len(part) else ""
            axis.set_title(f"{SETTING_LABELS[setting]}, {CATEGORY_LABELS[kind]}{number}", fontsize=14)
            _model_ticks(axis, models, labels, 14)
            percent_axis(axis, 0, 110, labelsize=13)
            panels.append((axis, part, models))
    for axis in axes[-1]:
        axis.set_xlabel("right answers (%), 95 % intervals", fontsize=14)
    return fig, panels


def _figure(rows: int, columns: int, size: tuple[float, float], **how):
    """(figure, array of axes); closed, so that the notebook draws the returned figure only once."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **how)
    plt.close(fig)
    return fig, axes


def _model_ticks(axis, models, labels, size: int) -> None:
    axis.set_yticks(range(len(models)), [label_of(model, labels) for model in models], fontsize=size)


def _guessing(axis, part) -> Optional[float]:
    """Draw the dotted line of the column `chance`, if there is one; where it is, in percent."""
    known = part["chance"].dropna() if "chance" in part else ()
    if not len(known):
        return None
    axis.axvline(100 * known.iloc[0], **GUESSING)
    return 100 * known.iloc[0]


def _legend(fig, signs: list, columns: int = 9) -> None:
    fig.legend(handles=signs, loc="outside upper center", ncols=min(columns, len(signs)), fontsize=12,
               frameon=False)


def _line(**how):
    """A sign of the legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **how)


def _white(width: float) -> list:
    """White around a line or a text, so that it is visible on a dark bar."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]


def value_bar(axis, place: int, row) -> None:
    """A model's horizontal bar, its interval, and its value in percent.

    row: a Series named after the model: value, low, high (fractions; low and high may be missing).
    """
    axis.barh(place, 100 * row["value"], color=colour_of(row.name), height=0.72, edgecolor="black",
              linewidth=0.6)
    end = _interval(axis, row["value"], row["low"], row["high"], place, linewidth=1.8, markersize=9,
                    path_effects=_white(3.6))
    axis.text(100 * end + 1.5, place, f"{100 * row['value']:.0f}", va="center", fontsize=13)


def _interval(axis, value: float, low, high, place: float, **how) -> float:
    """Draw a horizontal interval with caps, if there is one; the right end of what is drawn."""
    if not has_interval(low):
        return value
    axis.plot([100 * low, 100 * high], [place] * 2, color="black", marker="|", solid_capstyle="butt", **how)
    return max(value, high)


def data_set_bars(df, labels: Optional[Mapping[str, str]] = None):
    """A panel a data set and setting, two bars a model: seen sub-categories plain, unseen ones hatched below.

    df: columns model, dataset, setting, categories, value, low, high, n; optional chance.
    """
    from matplotlib.patches import Patch

    models, data_sets = in_order(df["model"], labels), list(dict.fromkeys(df["dataset"]))
    settings = sorted(set(df["setting"]), key=[*SETTING_LABELS, *df["setting"]].index)
    columns = min(A_ROW, len(data_sets))
    rows = -(-len(data_sets) // columns)
    size = (min(WIDEST, 4.1 * columns + 2.7), (0.56 * len(models) + 1.0) * rows * len(settings) + 0.7)
    fig, axes = _figure(rows * len(settings), columns, size, sharex=True, sharey=True)
    for axis in axes.flat:
        axis.set_visible(False)
    for number, setting in enumerate(settings):
        for place, data_set in enumerate(data_sets):
            axis = axes[number * rows + place // columns][place % columns]
            axis.set_visible(True)
            part = df[(df["setting"] == setting) & (df["dataset"] == data_set)]
            for row in part.itertuples():
                _half_bar(axis, models.index(row.model), row)
            _guessing(axis, part)
            counts = ", ".join(f"{part[part['categories'] == kind]['n'].max():.0f} {kind}" for kind in HALVES
                               if kind in set(part["categories"]))
            axis.set_title(f"{data_set}, {SETTING_LABELS.get(setting, setting)}\nn = {counts}", fontsize=13)
            _model_ticks(axis, models, labels, 12)
            axis.set_ylim(len(models) - 0.45, -0.55)  # the first model at the top
            percent_axis(axis, 0, 116, labelsize=12)
            below = place + columns >= len(data_sets)
            axis.tick_params(labelbottom=below)
            axis.set_xlabel("right answers (%), 95 % intervals" if below else "", fontsize=12)
    signs = [Patch(facecolor="#999999", edgecolor="black", label="seen sub-categories"),
             Patch(facecolor="#999999", edgecolor="white", hatch=HALVES["unseen"][1], label="unseen")]
    if "chance" in df and df["chance"].notna().any():
        signs.append(_line(label="guessing one of four", **GUESSING))
    _legend(fig, signs)
    return fig


def _half_bar(axis, place: int, row) -> None:
    """One of a model's two bars: plain above, hatched below."""
    (shift, hatch), value = HALVES[row.categories], 100 * row.value
    axis.barh(place + shift, value, height=0.4, color=colour_of(row.model), hatch=hatch,
              edgecolor="white" if hatch else "black", linewidth=0 if hatch else 0.6)
    axis.barh(place + shift, value, height=0.4, color="none", edgecolor="black", linewidth=0.6)
    end = _interval(axis, row.value, row.low, row.high, place + shift, linewidth=1.6, markersize=6,
                    path_effects=_white(3.4))
    axis.text(100 * end + 1.5, place + shift, f"{value:.0f}", va="center", fontsize=11,
              path_effects=_white(3.4))


def order_dots(df, labels: Optional[Mapping[str, str]] = None):
    """Closed-world accuracy of each model under each order of the options; controls hollow, at the bottom.

    df: columns model, categories, option_order, value, low, high; optional chance. Seen on the left, unseen
    on the right, a marker for each order.
    """
    orders = [order for order in ORDERS if order in set(df["option_order"])]
    kinds = [kind for kind in CATEGORY_LABELS if kind in set(df["categories"])]
    models = in_order(df["model"], labels)
    models.sort(key=lambda model: model in CONTROLS)  # stable: entries keep their order
    height = PITCH * (len(orders) + 0.9) * len(models) + 1.5
    fig, axes = _figure(1, len(kinds), (5 * len(kinds) + 2.6, height), sharey=True)
    for axis, kind in zip(axes[0], kinds):
        for row in df[df["categories"] == kind].itertuples():
            shift = (orders.index(row.option_order) - (len(orders) - 1) / 2) / (len(orders) + 0.9)
            _dot(axis, row, models.index(row.model) + shift)
        axis.set_title(CATEGORY_LABELS[kind], fontsize=15)
        _model_ticks(axis, models, labels, 13)
        percent_axis(axis, -2, 112, labelsize=13)
        axis.set_xlabel("closed world, right answers (%)", fontsize=13)
        for place in range(1, len(models)):
            axis.axhline(place - 0.5, color="#DDDDDD", linewidth=0.8)
        chance = _guessing(axis, df)
        axis.set_ylim(len(models) - 0.5, -0.5)  # the first model at the top
    signs = [_line(marker=ORDERS[order][0], color="none", markerfacecolor="#BBBBBB", markersize=9,
                   markeredgecolor="black", label=ORDERS[order][1]) for order in orders]
    _legend(fig, signs + ([] if chance is None else [_line(label="guessing one of four", **GUESSING)]))
    return fig


def _dot(axis, row, place: float) -> None:
    """One value: its interval, its marker, and the number right of both."""
    colour, control, end = colour_of(row.model), row.model in CONTROLS, row.value
    if has_interval(row.low):
        span = [100 * row.low, 100 * row.high]
        axis.plot(span, [place, place], color=colour, linewidth=7, alpha=0.5, solid_capstyle="butt")
        axis.plot(span, [place, place], color="black", linewidth=1)  # a pale colour alone is lost on a wall
        end = max(end, row.high)
    axis.plot(100 * row.value, place, ORDERS[row.option_order][0], color="white" if control else colour,
              markeredgecolor=colour if control else "black", markeredgewidth=1.6 if control else 0.8,
              markersize=8, zorder=3)
    axis.text(100 * end + 2.2, place, f"{100 * row.value:.0f}", va="center", fontsize=12, zorder=4,
              path_effects=_white(3))


def breakdown_dots(
    df, labels: Optional[Mapping[str, str]] = None, *, xlabel: str = "", chance: Optional[float] = None
):
    """A marker for each model and level with its 95 % interval; the markers of a model are joined by a line.

    df: columns model, categories, level, value, low, high, n, of one setting, scorer, metric and breakdown.
    Levels that begin with a number are sorted by it, others keep their order (a model may lack some). A panel
    for each kind of sub-categories; a marker of fewer than `FEW` answers is hollow; `chance` (a fraction)
    draws a dotted line.
    """
    kinds = [kind for kind in [*CATEGORY_LABELS, "all"] if kind in set(df["categories"])]
    models, levels = in_order(df["model"], labels), _levels(df["level"])
    marks = dict(zip(models, MARKERS * len(models)))
    width = min(WIDEST, len(kinds) * max(3.4, len(levels) * (0.1 * len(models) + 0.5)) + 1)
    fig, axes = _figure(1, len(kinds), (width, 4.6 + 0.28 * -(-(len(models) + 2) // 4)), sharey=True)
    for axis, kind in zip(axes[0], kinds):
        for number, model in enumerate(models):
            part = df[(df["categories"] == kind) & (df["model"] == model)]
            part = part.sort_values("level", key=lambda column: column.map(levels.index))
            shift = SPREAD * ((number + 0.5) / len(models) - 0.5)
            _series(axis, part, [levels.index(level) + shift for level in part["level"]], model, marks[model])
        _frame(axis, levels, CATEGORY_LABELS.get(kind, "all sub-categories"), xlabel)
        if chance is not None:
            axis.axhline(100 * chance, **GUESSING)
    axes[0][0].set_ylabel("right answers (%), 95 % intervals", fontsize=13)
    signs = [_line(color=colour_of(model), marker=marks[model], markersize=8, markeredgecolor="black",
                   label=label_of(model, labels)) for model in models]
    if (df["n"] < FEW).any():
        signs.append(_line(color="none", marker="o", markerfacecolor="white", markersize=8,
                           markeredgecolor="#555555", label=f"fewer than {FEW} answers"))
    _legend(fig, signs + ([] if chance is None else [_line(label="guessing", **GUESSING)]), columns=4)
    return fig


def _levels(found) -> list:
    """Each level once; sorted by its leading number where all have one."""
    levels = list(dict.fromkeys(found))
    starts = {level: re.match(r"\d+", str(level)) for level in levels}
    return sorted(levels, key=lambda level: int(starts[level][0])) if all(starts.values()) else levels


def _series(axis, part, places, model: str, marker: str) -> None:
    """A model's line of markers and vertical intervals."""
    colour = colour_of(model)
    for place, row in zip(places, part.itertuples()):
        if has_interval(row.low):
            span = [100 * row.low, 100 * row.high]
            axis.plot([place] * 2, span, color=colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
            axis.plot([place] * 2, span, color="black", linewidth=0.8)
    values = 100 * part["value"].to_numpy(dtype=float)
    axis.plot(places, values, color=colour, linewidth=1.2, alpha=0.8)
    for place, value, n in zip(places, values, part["n"]):
        axis.plot(place, value, marker, markerfacecolor="white" if n < FEW else colour,
                  markeredgecolor=colour if n < FEW else "black", markersize=7, zorder=3)


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


def confusion_matrices(
    table, model: str, *, setting: str = "open_world", genera: Optional[Sequence[tuple[str, str]]] = None,
    labels: Optional[Mapping[str, str]] = None,
):
    """Shares of the answers about each sub-category (rows), in percent; an outline marks the right ones.

    table: of `hierarchy.count_confusions`; genera: (super_category, genus) pairs, those of
    `hierarchy.most_confused` by default. Without any error inside a genus the figure says so.
    """
    genera = most_confused(table, model, setting) if genera is None else genera
    matrices = [confusion_matrix(table, model, setting, *key) for key in genera]
    lines = [matrices[start : start + MATRICES_A_ROW] for start in range(0, len(matrices), MATRICES_A_ROW)]
    columns = min(MATRICES_A_ROW, max(1, len(matrices)))
    widest = max((len(shares.columns) for shares in matrices), default=8)
    width = min(WIDEST, max(8, columns * (CELL * widest + 2.9)))
    cell = min(CELL, (width / columns - 2.9) / widest)
    heights = [cell * max(map(len, line)) + 1.7 for line in lines] or [1]
    fig, axes = _figure(len(heights), columns, (width, sum(heights) + 0.4), height_ratios=heights)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, key, shares in zip(axes.flat, genera, matrices):
        _draw(axis, shares, colour_of(model))
        axis.set_title(f"{key[1]} ({key[0]})", fontsize=14)
    if not matrices:
        axes[0][0].text(0, 0.5, "no sub-category was taken for a neighbour of its genus", fontsize=13)
    where = SETTING_LABELS.get(setting, setting.replace("_", " "))
    title = f"{label_of(model, labels)}, {where}: percent of the answers about each sub-category"
    fig.suptitle(title, fontsize=14)
    return fig


def _draw(axis, shares, colour: str) -> None:
    """One matrix: white is 0 %, the model's colour 100 %."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    ramp = LinearSegmentedColormap.from_list("share", ["#FFFFFF", colour])
    names, answers, known = list(shares.index), list(shares.columns), shares.attrs
    axis.set_axis_on()
    axis.imshow(shares.to_numpy(), cmap=ramp, vmin=0, vmax=1, aspect="equal")
    for row, name in enumerate(names):
        for column, answered in enumerate(answers):
            share = shares.iat[row, column]
            if share > 0:
                axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=12,
                          color=_ink(ramp(share)))
            if name == answered:
                axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black",
                                         linewidth=1.6, zorder=3))
    unseen = {name: ", unseen" if known["categories"][name] == "unseen" else "" for name in names}
    axis.set_yticks(range(len(names)), [f"{name}{unseen[name]} (n = {known['n'][name]})" for name in names],
                    fontsize=12)
    axis.set_xticks(range(len(answers)), answers, rotation=40, ha="right", rotation_mode="anchor",
                    fontsize=12)
    apart = next(place for place, name in enumerate(answers) if name in (OTHERS, ELSEWHERE, UNKNOWN))
    axis.axvline(apart - 0.5, color="black", linewidth=1)
    axis.tick_params(length=0)
    axis.set_xticks([place - 0.5 for place in range(1, len(answers))], minor=True)
    axis.set_yticks([place - 0.5 for place in range(1, len(names))], minor=True)
    axis.grid(which="minor", color="#DDDDDD", linewidth=0.8)
    axis.tick_params(which="minor", length=0)


def _ink(background) -> str:
    """Black on light cells, white on dark ones."""
    red, green, blue, _ = background
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
