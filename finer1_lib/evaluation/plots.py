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
from itertools import product
from typing import Mapping, Optional, Sequence

from finer1_lib.core.plots import CATEGORY_LABELS, SETTING_LABELS, WIDEST, panels as grid, percent_axis, plain_axis
from finer1_lib.core.statistics import has_interval
from finer1_lib.evaluation.scores.hierarchy import ELSEWHERE, OTHERS, confusion_matrix, most_confused
from finer1_lib.training.methods import CONTROLS, colour_of, in_order, label_of

KINDS = {**CATEGORY_LABELS, "all": "all sub-categories"}
SHARE = "right answers (%), 95 % intervals"
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
    fig, panels, models = _main_panels(df, labels)
    for axis, part in panels:
        for model, row in part.set_index("model").iterrows():
            value_bar(axis, models.index(model), row)
        _guessing(axis, part)
    _legend(fig, [], _chance(df))
    return fig


def seed_dots(df, labels: Optional[Mapping[str, str]] = None):
    """Several runs: a dot for each seed, a bar of ink at their mean, and the 95 % interval; panels as above.

    df: `rows` of `seeds.pool`: model, setting, categories, value, low, high, per_seed.
    """
    fig, panels, models = _main_panels(df, labels)
    for axis, part in panels:
        for row in part.itertuples():
            place, each = models.index(row.model), [100 * value for value in row.per_seed]
            _band(axis, row, place)
            axis.plot([100 * row.value] * 2, [place - 0.3, place + 0.3], color="black", linewidth=2.4)
            spread = [place + 0.11 * (k - (len(each) - 1) / 2) for k in range(len(each))]
            axis.plot(each, spread, "o", color=colour_of(row.model), markeredgecolor="black", markersize=7,
                      zorder=3)
            _number(axis, row, place, 13)
    return fig


def _main_panels(df, labels):
    """(figure, [(axis, its rows)], models): a row of panels a setting, a line of each a model."""
    settings = [name for name in SETTING_LABELS if name in set(df["setting"])]
    models = in_order(df["model"], labels)
    fig, panels = _panels(df, 5.7, 1.5, (0.5 * len(models) + 0.7) * len(settings) + 0.3, settings)
    for axis, part in panels:
        if "n" in df and len(part):
            axis.set_title(f"{axis.get_title()} (n = {part['n'].max():.0f})", fontsize=14)
        _model_lines(axis, models, labels, 13)
        if axis.get_subplotspec().is_last_row():
            axis.set_xlabel(SHARE, fontsize=14)
    return fig, panels, models


def _panels(df, wide: float, more: float, height: float, settings: Sequence[str] = ("",)):
    """(figure, [(axis, its rows)]): a row of panels a setting (or one), seen left; inches."""
    kinds = [kind for kind in KINDS if kind in set(df["categories"])]
    size = (min(WIDEST, wide * len(kinds) + more), height)
    fig, axes = grid(len(settings), len(kinds), size, sharex=True, sharey=True)
    panels = []
    for axis, (setting, kind) in zip(axes.flat, product(settings, kinds)):
        axis.set_title((f"{SETTING_LABELS[setting]}, " if setting else "") + KINDS[kind], fontsize=14)
        part = df[df["categories"] == kind]
        panels.append((axis, part[part["setting"] == setting] if setting else part))
    return fig, panels


def _model_lines(axis, models, labels, size: int) -> None:
    """A line a model, the first at the top, and percent below."""
    axis.set_yticks(range(len(models)), [label_of(model, labels) for model in models], fontsize=size)
    axis.set_ylim(len(models) - 0.45, -0.55)
    percent_axis(axis, -1, 114, labelsize=size)


def _chance(df) -> Optional[float]:
    """The fraction right of a guess, where the table states one."""
    known = df["chance"].dropna() if "chance" in df else ()
    return float(known.iloc[0]) if len(known) else None


def _guessing(axis, df) -> None:
    if (chance := _chance(df)) is not None:
        axis.axvline(100 * chance, **GUESSING)


def _legend(fig, signs: list, chance: Optional[float], columns: int = 9) -> None:
    """Signs above the panels, that of guessing last."""
    signs = signs + ([] if chance is None else [_line(label=f"guessing ({100 * chance:.0f} %)", **GUESSING)])
    if signs:
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


def _number(axis, row, place: float, size: int) -> None:
    """The value in percent, right of it and of its interval."""
    end = max(row.value, row.high) if has_interval(row.low) else row.value
    axis.text(100 * end + 1.8, place, f"{100 * row.value:.0f}", va="center", fontsize=size, zorder=4,
              path_effects=_white(3))


def value_bar(axis, place: float, row, *, height: float = 0.72, hatch: str = "", size: int = 13) -> None:
    """A model's horizontal bar, its interval, and its value in percent.

    row: a Series named after the model: value, low, high (fractions; low and high may be missing).
    """
    value = 100 * row["value"]
    axis.barh(place, value, height, color=colour_of(row.name), hatch=hatch,
              edgecolor="white" if hatch else "black", linewidth=0 if hatch else 0.6)
    if hatch:  # its lines are white, the frame is ink
        axis.barh(place, value, height, color="none", edgecolor="black", linewidth=0.6)
    if has_interval(row["low"]):
        axis.plot([100 * row["low"], 100 * row["high"]], [place] * 2, color="black", linewidth=2.5 * height,
                  marker="|", markersize=12 * height, solid_capstyle="butt", path_effects=_white(3.5))
    _number(axis, row, place, size)


def _band(axis, row, place: float, width: float = 7, upright: bool = False) -> None:
    """The interval, if there is one: pale in the model's colour, and ink, as a pale one is lost on a wall."""
    if not has_interval(row.low):
        return
    span = [100 * row.low, 100 * row.high], [place, place]
    for colour, thick, alpha in ((colour_of(row.model), width, 0.5), ("black", 1, 1)):
        axis.plot(*(span[::-1] if upright else span), color=colour, linewidth=thick, alpha=alpha,
                  solid_capstyle="butt")


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
    fig, axes = grid(rows * len(settings), columns, size, sharex=True, sharey=True)
    for axis, (setting, place) in zip(axes.flat, product(settings, range(rows * columns))):
        axis.set_visible(place < len(data_sets))
        if place >= len(data_sets):
            continue
        part = df[(df["setting"] == setting) & (df["dataset"] == data_sets[place])]
        for model, row in part.set_index("model").iterrows():
            shift, hatch = HALVES[row["categories"]]
            value_bar(axis, models.index(model) + shift, row, height=0.4, hatch=hatch, size=11)
        _guessing(axis, part)
        most = part.groupby("categories")["n"].max()
        counts = ", ".join(f"{most[kind]:.0f} {kind}" for kind in HALVES if kind in most)
        where = f"{data_sets[place]}, {SETTING_LABELS.get(setting, setting)}"
        axis.set_title(f"{where}\nn = {counts}", fontsize=13)
        _model_lines(axis, models, labels, 12)
        lowest = place + columns >= len(data_sets)
        axis.tick_params(labelbottom=lowest)
        axis.set_xlabel(SHARE if lowest else "", fontsize=12)
    _legend(fig, [Patch(facecolor="#999999", edgecolor="black", label="seen sub-categories"),
                  Patch(facecolor="#999999", edgecolor="white", hatch=HALVES["unseen"][1], label="unseen")],
            _chance(df))
    return fig


def order_dots(df, labels: Optional[Mapping[str, str]] = None):
    """Closed-world accuracy of each model under each order of the options; controls hollow, at the bottom.

    df: columns model, categories, option_order, value, low, high; optional chance. Seen on the left, unseen
    on the right, a marker for each order.
    """
    orders = [order for order in ORDERS if order in set(df["option_order"])]
    models = sorted(in_order(df["model"], labels), key=lambda model: model in CONTROLS)  # else in their order
    fig, panels = _panels(df, 5, 2.6, PITCH * (len(orders) + 0.9) * len(models) + 1.5)
    for axis, part in panels:
        for row in part.itertuples():
            shift = (orders.index(row.option_order) - (len(orders) - 1) / 2) / (len(orders) + 0.9)
            place, colour = models.index(row.model) + shift, colour_of(row.model)
            fill, edge, width = ("white", colour, 1.6) if row.model in CONTROLS else (colour, "black", 0.8)
            _band(axis, row, place)
            axis.plot(100 * row.value, place, ORDERS[row.option_order][0], color=fill, markeredgecolor=edge,
                      markeredgewidth=width, markersize=8, zorder=3)
            _number(axis, row, place, 12)
        _model_lines(axis, models, labels, 13)
        axis.set_xlabel("closed world, right answers (%)", fontsize=13)
        for place in range(1, len(models)):
            axis.axhline(place - 0.5, color="#DDDDDD", linewidth=0.8)
        _guessing(axis, df)
    _legend(fig, [_line(marker=marker, color="none", markerfacecolor="#BBBBBB", markersize=9,
                        markeredgecolor="black", label=words)
                  for marker, words in map(ORDERS.get, orders)], _chance(df))
    return fig


def breakdown_dots(df, labels: Optional[Mapping[str, str]] = None, *, xlabel: str = "",
                   chance: Optional[float] = None):
    """A marker for each model and level with its 95 % interval; the markers of a model are joined by a line.

    df: columns model, categories, level, value, low, high, n, of one setting, scorer, metric and breakdown.
    Levels that begin with a number are sorted by it, others keep their order (a model may lack some). A panel
    for each kind of sub-categories; a marker of fewer than `FEW` answers is hollow; `chance` (a fraction)
    draws a dotted line.
    """
    models, levels = in_order(df["model"], labels), _levels(df["level"])
    marks = dict(zip(models, MARKERS * len(models)))
    fig, panels = _panels(df, max(3.4, len(levels) * (0.1 * len(models) + 0.5)), 1,
                          4.6 + 0.28 * -(-(len(models) + 2) // 4))
    for axis, part in panels:
        for number, model in enumerate(models):
            own = part[part["model"] == model].sort_values("level", key=lambda level: level.map(levels.index))
            shift = SPREAD * ((number + 0.5) / len(models) - 0.5)
            places, colour = [levels.index(level) + shift for level in own["level"]], colour_of(model)
            axis.plot(places, 100 * own["value"].astype(float), color=colour, linewidth=1.2, alpha=0.8)
            for place, row in zip(places, own.itertuples()):
                _band(axis, row, place, 4, upright=True)
                fill, edge = ("white", colour) if row.n < FEW else (colour, "black")
                axis.plot(place, 100 * row.value, marks[model], markerfacecolor=fill, markeredgecolor=edge,
                          markersize=7, zorder=3)
        axis.set_xticks(range(len(levels)), [str(level) for level in levels])
        axis.set_yticks([0, 25, 50, 75, 100])
        axis.set(xlim=(-0.55, len(levels) - 0.45), ylim=(-3, 103))
        axis.set_xlabel(xlabel, fontsize=13)
        axis.grid(axis="y", color="#DDDDDD", linewidth=0.8)
        plain_axis(axis, 12)
        for border in range(1, len(levels)):
            axis.axvline(border - 0.5, color="#DDDDDD", linewidth=0.8)
        if chance is not None:
            axis.axhline(100 * chance, **GUESSING)
    panels[0][0].set_ylabel(SHARE, fontsize=13)
    signs = [_line(color=colour_of(model), marker=marks[model], markersize=8, markeredgecolor="black",
                   label=label_of(model, labels)) for model in models]
    if (df["n"] < FEW).any():
        signs.append(_line(color="none", marker="o", markerfacecolor="white", markersize=8,
                           markeredgecolor="#555555", label=f"fewer than {FEW} answers"))
    _legend(fig, signs, chance, columns=4)
    return fig


def _levels(found) -> list:
    """Each level once; sorted by its leading number where all have one."""
    levels = list(dict.fromkeys(found))
    starts = {level: re.match(r"\d+", str(level)) for level in levels}
    return sorted(levels, key=lambda level: int(starts[level][0])) if all(starts.values()) else levels


def confusion_matrices(table, model: str, *, setting: str = "open_world",
                       genera: Optional[Sequence[tuple[str, str]]] = None,
                       labels: Optional[Mapping[str, str]] = None):
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
    fig, axes = grid(len(heights), columns, (width, sum(heights) + 0.4), height_ratios=heights)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, key, shares in zip(axes.flat, genera, matrices):
        _draw(axis, shares, colour_of(model))
        axis.set_title(f"{key[1]} ({key[0]})", fontsize=14)
    if not matrices:
        axes[0][0].text(0, 0.5, "no sub-category was taken for a neighbour of its genus", fontsize=13)
    where = f"{label_of(model, labels)}, {SETTING_LABELS.get(setting, setting.replace('_', ' '))}"
    fig.suptitle(f"{where}: percent of the answers about each sub-category", fontsize=14)
    return fig


def _draw(axis, shares, colour: str) -> None:
    """One matrix: white is 0 %, the model's colour 100 %."""
    import seaborn
    from matplotlib.patches import Rectangle
    names, answers, known = list(shares.index), list(shares.columns), shares.attrs
    told = shares.map(lambda share: f"{100 * share:.0f}" if share else "")
    axis.set_axis_on()
    ramp = seaborn.blend_palette(["white", colour], as_cmap=True)
    seaborn.heatmap(shares, ax=axis, cmap=ramp, vmin=0, vmax=1, annot=told, fmt="", cbar=False, square=True,
                    linewidths=0.8, linecolor="#DDDDDD",
                    annot_kws=dict(fontsize=12, color="black", path_effects=_white(2.5)))
    for place, name in enumerate(names):
        axis.add_patch(Rectangle((answers.index(name), place), 1, 1, fill=False, linewidth=1.6, zorder=3))
    unseen = {name: ", unseen" if known["categories"][name] == "unseen" else "" for name in names}
    axis.set_yticks(axis.get_yticks(), [f"{name}{unseen[name]} (n = {known['n'][name]})" for name in names],
                    fontsize=12, rotation=0)
    axis.set_xticks(axis.get_xticks(), answers, rotation=40, ha="right", rotation_mode="anchor", fontsize=12)
    axis.axvline(answers.index(next(name for name in answers if name in (OTHERS, ELSEWHERE))), color="black",
                 linewidth=1)
    axis.tick_params(length=0)
