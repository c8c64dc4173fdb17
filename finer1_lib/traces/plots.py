"""Figures of reasoning traces: a DataFrame in, a matplotlib figure out; nothing is shown or saved here.

Steps and changes have colours that are distinct for the colour-blind, and hatches, so that a grey print reads
the same; models keep their own colour and get a marker each. `flow_figure` is an alluvial diagram: on each
side the steps are blocks as high as they have items, and a band joins the two blocks of the same items. It
and the stacked bars are drawn with matplotlib: seaborn has neither.
"""

import textwrap
from typing import Any, Mapping, Optional, Sequence

from finer1_lib.core.plots import panels, plain_axis, whisker
from finer1_lib.traces.changes import PARTS, turns
from finer1_lib.traces.statistics import CATEGORIES, STEPS
from finer1_lib.traces.steps import STEP_LABELS
from finer1_lib.training.methods import colour_of, in_order, label_of

Labels = Optional[Mapping[str, str]]  # {model: label} in the order to draw, of `entries.labels_of`
STEP_COLOURS = dict(zip(STEPS, ("#009E73", "#999999", "#E69F00", "#56B4E9", "#F0E442", "#0072B2", "#CC79A7")))
STEP_HATCHES = dict(zip(STEPS, ("", "", "//", "..", "oo", "\\\\", "xx")))
PART_HATCHES = {"gain": "", "reading": "..", "use": "//"}
_MARKERS = "osD^vP*X"
TURNS = {  # (was right, is right) -> label, colour, hatch
    (True, True): ("right both times", "#D5E8E0", ""),
    (False, True): ("mended", "#009E73", ""),
    (True, False): ("broken", "#D55E00", "////"),
    (False, False): ("wrong both times", "#BBBBBB", "...."),
}
_WIDTH = 0.1  # of a block, where the two sides are 1 apart


def _kinds(df: Any) -> list[str]:
    return [kind for kind in CATEGORIES if kind in set(df["categories"])]


def _panels(df: Any, wide: float, more: float, height: float, xlabel: str) -> tuple[Any, list]:
    """(figure, [(axis, its rows)]): a panel of horizontal marks for seen, and one for unseen names."""
    kinds = _kinds(df)
    fig, axes = panels(1, len(kinds), (wide * len(kinds) + more, height), sharey=True, sharex=True)
    for axis, kind in zip(axes[0], kinds):
        axis.set_title(f"{kind} sub-categories", fontsize=13)
        axis.set_xlabel(xlabel, fontsize=12)
        plain_axis(axis, 12)
    return fig, [(axis, df[df["categories"] == kind]) for axis, kind in zip(axes[0], kinds)]


def _number(axis: Any, text: str, end: float, place: float) -> None:
    """A number right of what is drawn."""
    axis.annotate(text, (end, place), (8, 0), textcoords="offset points", va="center", fontsize=11)


def wrong_steps(df: Any, labels: Labels = None) -> Any:
    """Stacked bars: at which step the wrong answers of each model first went wrong, seen and unseen.

    `df`: of `traces.statistics.tally_steps`: columns model, categories, step, share (of all traces), low,
    high; the whisker is that of all wrong answers together.
    """
    models = in_order(df["model"], labels)
    fig, shown = _panels(df, 5.4, 1.8, 2.2 + 0.7 * len(models), "wrong answers, % of all traces")
    for axis, rows in shown:
        for place, model in enumerate(models):
            part, left = rows[rows["model"] == model].set_index("step"), 0.0
            for step, label in STEP_LABELS.items():
                share = 100 * float(part["share"].get(step, 0.0))
                axis.barh(place, share, left=left, color=STEP_COLOURS[step], edgecolor="black", height=0.66,
                          hatch=STEP_HATCHES[step], label=label if place == 0 else None)
                left += share
            if "right" in part.index:
                wrong = 1 - part.loc["right", ["share", "low", "high"]].astype(float)
                wrong.index = ["value", "low", "high"]
                whisker(axis, place + 0.41, wrong, 100, color="black", linewidth=2, marker="|")
            axis.text(left + 1.5, place, f"{left:.0f}", va="center", fontsize=12)
        axis.set_yticks(range(len(models)), [label_of(model, labels) for model in models])
        axis.set_ylim(len(models) - 0.4, -0.5)
        axis.set_xlim(0, 108)
    fig.legend(*shown[0][0].get_legend_handles_labels(), loc="outside lower center", ncol=3, frameon=False,
               fontsize=12)
    return fig


def dots(df: Any, labels: Labels = None, unit: str = "share") -> Any:
    """Averages of the traces: a row per quantity, a dot with its interval per model, seen and unseen.

    `df`: of `traces.statistics.statistics`: model, categories, label, unit, value, low, high. The rows of one
    unit are drawn, "share" in percent.
    """
    from matplotlib.lines import Line2D
    df, scale, word = df[df["unit"] == unit], *((100, "%") if unit == "share" else (1, unit))
    models, names = in_order(df["model"], labels), list(dict.fromkeys(df["label"]))
    pitch = len(models) + 0.9
    fig, shown = _panels(df, 4.8, 3, 1.4 + 0.25 * pitch * len(names), word)
    styles = {model: {"marker": _MARKERS[k % len(_MARKERS)], "color": colour_of(model), "markersize": 9,
                      "markeredgecolor": "black"} for k, model in enumerate(models)}
    for axis, rows in shown:
        for row in rows.itertuples():
            place = pitch * names.index(row.label) + models.index(row.model)
            axis.plot(scale * row.value, place, linestyle="", zorder=3, **styles[row.model])
            end = whisker(axis, place, row, scale, color=colour_of(row.model), linewidth=3, zorder=2)
            _number(axis, f"{scale * row.value:.{0 if unit == 'share' else 1}f}", end, place)
        for edge in range(1, len(names)):
            axis.axhline(pitch * edge - 0.95, color="#DDDDDD", linewidth=0.8, zorder=0)
        axis.set_yticks([pitch * k + (len(models) - 1) / 2 for k in range(len(names))], names)
        axis.set_ylim(pitch * len(names) - 0.9, -0.9)
    shown[0][0].set_xlim(0, 1.12 * (100 if unit == "share" else df[["value", "high"]].max().max()))
    _legend(fig, [Line2D([], [], linewidth=3, label=label_of(model, labels), **style)
                  for model, style in styles.items()])
    return fig


def parts_of_gain(df: Any, labels: Labels = None) -> Any:
    """Bars: each model's gain over the first one, and what of it is reading and what use.

    `df`: the gains of `traces.changes.reading_and_use`.
    """
    models, parts = in_order(df["second"], labels), list(PARTS)
    pitch = len(parts) + 0.8
    fig, shown = _panels(df, 4.9, 3, 1.7 + 0.36 * pitch * len(models),
                         f"points over {label_of(df['first'].iloc[0], labels)}")
    for axis, rows in shown:
        for row in rows.itertuples():
            place = pitch * models.index(row.second) + parts.index(row.part)
            axis.barh(place, 100 * row.value, height=0.8, edgecolor="black", hatch=PART_HATCHES[row.part],
                      color=colour_of(row.second) if row.part == "gain" else "white")
            end = whisker(axis, place, row, 100, color="black", linewidth=1.8, marker="|", markersize=9)
            _number(axis, f"{100 * row.value:+.1f}", max(end, 0), place)
        axis.axvline(0, color="black", linewidth=1)
        axis.set_yticks([pitch * m + p for m in range(len(models)) for p in range(len(parts))],
                        [(f"{label_of(model, labels)}:\n" if part == "gain" else "") + PARTS[part]
                         for model in models for part in parts])
        axis.set_ylim(pitch * len(models) - 0.9, -0.9)
        axis.margins(x=0.2)
        axis.tick_params(labelsize=11)
    return fig


def _legend(fig: Any, signs: list) -> None:
    fig.legend(handles=signs, loc="outside lower center", ncol=min(4, len(signs)), frameon=False, fontsize=12)


def spread(places: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Places for labels of these sizes, in order and without overlap, each as near to its own as can be.

    Labels that would overlap are put together in a pile about the middle of what they want.
    """
    piles = []  # (number of labels, where the pile would best start, its size)
    for place, size in zip(places, sizes):
        piles.append((1, place - size / 2, size))
        while len(piles) > 1 and piles[-2][1] + piles[-2][2] > piles[-1][1]:
            (n1, start1, size1), (n2, start2, size2) = piles[-2:]
            start = (n1 * start1 + n2 * (start2 - size1)) / (n1 + n2)
            piles[-2:] = [(n1 + n2, start, size1 + size2)]
    found, sizes = [], list(sizes)
    for count, start, _ in piles:
        for size in sizes[len(found) : len(found) + count]:
            found.append(start + size / 2)
            start += size
    return found


def flow_figure(df: Any, first: str, second: str, labels: Labels = None) -> Any:
    """Blocks and bands: seen on the left, unseen on the right.

    `df`: of `traces.changes.flow`: categories, from_step, to_step, count; the models head the columns.
    """
    from matplotlib.patches import Patch
    kinds = _kinds(df)
    fig, axes = panels(1, len(kinds), (6.5 * len(kinds), 5.8))
    for axis, kind in zip(axes[0], kinds):
        part, found = df[df["categories"] == kind], turns(df, kind)
        total = int(part["count"].sum())
        _flows(axis, part, total)
        for x, model in ((_WIDTH / 2, first), (1 - _WIDTH / 2, second)):
            axis.text(x, -0.045 * total, textwrap.fill(label_of(model, labels), 18), ha="center", va="bottom",
                      fontsize=12, fontweight="bold")
            axis.plot([x - 0.11, x + 0.11], [-0.028 * total] * 2, color=colour_of(model), linewidth=5)
        turned = f"{found['mended']} mended, {found['broken']} broken of {total}"
        axis.set_title(f"{kind} sub-categories: {turned}", fontsize=13, pad=4)
        axis.set_xlim(-0.52, 1.52)
        axis.set_axis_off()
    _legend(fig, [Patch(facecolor=colour, hatch=hatch, edgecolor="black", label=label)
                  for label, colour, hatch in TURNS.values()])
    return fig


def _flows(axis: Any, part: Any, total: int) -> None:
    """Blocks, bands and labels of one panel; heights are numbers of items."""
    from matplotlib.patches import Rectangle
    gap, sides, bottom = 0.025 * total, {}, total
    for column in ("from_step", "to_step"):
        sizes, top, sides[column] = part.groupby(column)["count"].sum(), 0.0, {}
        for step in (step for step in STEPS if step in sizes.index):
            sides[column][step] = [top, int(sizes[step]), top]  # top, size, where the next band begins
            top += sizes[step] + gap
        bottom = max(bottom, top - gap)
    for row in part.itertuples():  # in the order of the steps
        ends = (sides["from_step"][row.from_step], sides["to_step"][row.to_step])
        turn = TURNS[row.from_step == "right", row.to_step == "right"]
        _band(axis, ends[0][2], ends[1][2], row.count, *turn[1:])
        for end in ends:
            end[2] += row.count
    for blocks, x, edge, side in ((sides["from_step"], 0, 0, -1), (sides["to_step"], 1 - _WIDTH, 1, 1)):
        texts = [f"{size}  " + textwrap.fill(STEP_LABELS.get(step, "right"), 19)
                 for step, (_, size, _) in blocks.items()]
        heights = [0.05 * bottom * (1 + text.count("\n")) + 0.012 * bottom for text in texts]
        middles = [top + size / 2 for top, size, _ in blocks.values()]
        for (step, (top, size, _)), text, place, middle in zip(
                blocks.items(), texts, spread(middles, heights), middles):
            axis.add_patch(Rectangle((x, top), _WIDTH, size, edgecolor="black", facecolor=STEP_COLOURS[step],
                                     hatch=STEP_HATCHES[step], zorder=3))
            axis.plot([edge, edge + 0.03 * side, edge + 0.06 * side], [middle, place, place], color="#777777",
                      linewidth=0.8)
            axis.text(edge + 0.07 * side, place, text, ha="right" if side < 0 else "left", va="center",
                      fontsize=11)
    axis.set_ylim(bottom * 1.04, -0.14 * bottom)


def _band(axis, start: float, end: float, count: int, colour: str, hatch: str) -> None:
    """A band of this height from the left block at `start` to the right one at `end`: its upper edges."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    x0, x1, half = _WIDTH, 1 - _WIDTH, 0.5
    points = [(x0, start), (half, start), (half, end), (x1, end), (x1, end + count), (half, end + count),
              (half, start + count), (x0, start + count), (x0, start)]
    codes = [Path.MOVETO] + 3 * [Path.CURVE4] + [Path.LINETO] + 3 * [Path.CURVE4] + [Path.CLOSEPOLY]
    axis.add_patch(PathPatch(Path(points, codes), facecolor=colour, hatch=hatch, edgecolor="#444444",
                             linewidth=0.5, alpha=0.9, zorder=2))
