"""Figures of reasoning traces: a DataFrame in, a matplotlib figure out; nothing is shown or saved here.

Steps and changes have colours that are distinct for the colour-blind, and hatches, so that a grey print reads
the same; models keep their own colour and get a marker each. `flow_figure` is an alluvial diagram: on each
side the steps are blocks as high as they have items, and a band joins the two blocks of the same items. It
and the stacked bars are drawn with matplotlib: seaborn has neither.
"""

import textwrap
from typing import Mapping, Optional, Sequence

from finer1_lib.core.plots import plain_axis
from finer1_lib.core.statistics import has_interval
from finer1_lib.traces.changes import PARTS, turns
from finer1_lib.traces.statistics import CATEGORIES, STEPS
from finer1_lib.traces.steps import STEP_LABELS
from finer1_lib.training.methods import colour_of, in_order, label_of

Labels = Optional[Mapping[str, str]]  # {model: label} in the order to draw, of `entries.labels_of`
STEP_COLOURS = {"right": "#009E73", "unparsable": "#999999", "misread_attribute": "#E69F00",
                "candidate_missing": "#56B4E9", "comparison_contradicts": "#F0E442",
                "prediction_differs": "#0072B2", "answer_differs": "#CC79A7"}
STEP_HATCHES = {"right": "", "unparsable": "", "misread_attribute": "//", "candidate_missing": "..",
                "comparison_contradicts": "oo", "prediction_differs": "\\\\", "answer_differs": "xx"}
PART_HATCHES = {"gain": "", "reading": "..", "use": "//"}
_MARKERS = "osD^vP*X"


def _kinds(df) -> list[str]:
    return [kind for kind in CATEGORIES if kind in set(df["categories"])]


def _span(row, scale: float) -> Optional[tuple[float, float]]:
    """The interval to draw, or None where the data allow none."""
    return (scale * row.low, scale * row.high) if has_interval(row.low) else None


def wrong_steps(df, labels: Labels = None):
    """Stacked bars: at which step the wrong answers of each model first went wrong, seen and unseen.

    `df`: of `traces.statistics.tally_steps`: columns model, categories, step, share (of all traces), low,
    high; the whisker is that of all wrong answers together.
    """
    import matplotlib.pyplot as plt

    kinds, models = _kinds(df), in_order(df["model"], labels)
    fig, axes = plt.subplots(1, len(kinds), figsize=(5.4 * len(kinds) + 1.8, 2.2 + 0.7 * len(models)),
                             sharey=True, sharex=True, squeeze=False, layout="constrained")
    for axis, kind in zip(axes[0], kinds):
        for place, model in enumerate(models):
            part, left = df[(df["model"] == model) & (df["categories"] == kind)].set_index("step"), 0.0
            for step, label in STEP_LABELS.items():
                share = 100 * float(part["share"].get(step, 0.0))
                axis.barh(place, share, left=left, color=STEP_COLOURS[step], edgecolor="black", height=0.66,
                          hatch=STEP_HATCHES[step], label=label if place == 0 else None)
                left += share
            if "right" in part.index and (span := _span(part.loc["right"], 100)):
                axis.plot([100 - span[1], 100 - span[0]], [place + 0.41] * 2, color="black", linewidth=2,
                          marker="|")
            axis.text(left + 1.5, place, f"{left:.0f}", va="center", fontsize=12)
        axis.set_yticks(range(len(models)), [label_of(model, labels) for model in models])
        axis.set_ylim(len(models) - 0.4, -0.5)
        axis.set_xlim(0, 108)
        axis.set_title(f"{kind} sub-categories", fontsize=13)
        axis.set_xlabel("wrong answers, % of all traces", fontsize=12)
        plain_axis(axis, 12)
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncol=3, frameon=False,
               fontsize=12)
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig


def dots(df, labels: Labels = None, unit: str = "share"):
    """Averages of the traces: a row per quantity, a dot with its interval per model, seen and unseen.

    Args:
        df: of `traces.statistics.statistics`: model, categories, label, unit, value, low, high.
        unit: which rows to draw; "share" is drawn in percent.
    """
    import matplotlib.pyplot as plt

    df, scale = df[df["unit"] == unit], 100 if unit == "share" else 1
    kinds, models, names = _kinds(df), in_order(df["model"], labels), list(dict.fromkeys(df["label"]))
    pitch = len(models) + 0.9
    fig, axes = plt.subplots(1, len(kinds), figsize=(4.8 * len(kinds) + 3, 1.4 + 0.25 * pitch * len(names)),
                             sharey=True, sharex=True, squeeze=False, layout="constrained")
    for axis, kind in zip(axes[0], kinds):
        for row in df[df["categories"] == kind].itertuples():
            number = models.index(row.model)
            place, span = pitch * names.index(row.label) + number, _span(row, scale)
            axis.plot(scale * row.value, place, _MARKERS[number % len(_MARKERS)], color=colour_of(row.model),
                      markeredgecolor="black", markersize=9, zorder=3)
            if span:
                axis.plot(span, [place, place], color=colour_of(row.model), linewidth=3, zorder=2)
            end = span[1] if span else scale * row.value
            axis.annotate(f"{scale * row.value:.{0 if unit == 'share' else 1}f}", (end, place), (8, 0),
                          textcoords="offset points", va="center", fontsize=11)
        for edge in range(1, len(names)):
            axis.axhline(pitch * edge - 0.95, color="#DDDDDD", linewidth=0.8, zorder=0)
        axis.set_yticks([pitch * k + (len(models) - 1) / 2 for k in range(len(names))], names)
        axis.set_ylim(pitch * len(names) - 0.9, -0.9)
        axis.set_title(f"{kind} sub-categories", fontsize=13)
        axis.set_xlabel("%" if unit == "share" else unit, fontsize=12)
        plain_axis(axis, 12)
    axes[0][0].set_xlim(0, 1.12 * (100 if unit == "share" else df[["value", "high"]].max().max()))
    handles = [plt.Line2D([], [], marker=_MARKERS[k % len(_MARKERS)], color=colour_of(model), linewidth=3,
                          markeredgecolor="black", markersize=9) for k, model in enumerate(models)]
    fig.legend(handles, [label_of(model, labels) for model in models], loc="outside lower center",
               ncol=min(4, len(models)), frameon=False, fontsize=12)
    plt.close(fig)
    return fig


def parts_of_gain(df, labels: Labels = None):
    """Bars: each model's gain over the first one, and what of it is reading and what use.

    `df`: the gains of `traces.changes.reading_and_use`.
    """
    import matplotlib.pyplot as plt

    kinds, models = _kinds(df), in_order(df["second"], labels)
    pitch, parts = len(PARTS) + 0.8, list(PARTS)
    fig, axes = plt.subplots(1, len(kinds), figsize=(4.9 * len(kinds) + 3, 1.7 + 0.36 * pitch * len(models)),
                             sharey=True, sharex=True, squeeze=False, layout="constrained")
    for axis, kind in zip(axes[0], kinds):
        for row in df[df["categories"] == kind].itertuples():
            place, span = pitch * models.index(row.second) + parts.index(row.part), _span(row, 100)
            axis.barh(place, 100 * row.value, height=0.8, edgecolor="black", hatch=PART_HATCHES[row.part],
                      color=colour_of(row.second) if row.part == "gain" else "white")
            if span:
                axis.plot(span, [place, place], color="black", linewidth=1.8, marker="|", markersize=9)
            axis.annotate(f"{100 * row.value:+.1f}", (max(span[1] if span else 0, 100 * row.value, 0), place),
                          (7, 0), textcoords="offset points", va="center", fontsize=11)
        axis.axvline(0, color="black", linewidth=1)
        ticks = [pitch * m + p for m in range(len(models)) for p in range(len(parts))]
        heads = [(f"{label_of(model, labels)}:\n" if part == "gain" else "") + PARTS[part]
                 for model in models for part in parts]
        axis.set_yticks(ticks, heads)
        axis.set_ylim(pitch * len(models) - 0.9, -0.9)
        axis.margins(x=0.2)
        axis.set_title(f"{kind} sub-categories", fontsize=13)
        axis.set_xlabel(f"points over {label_of(df['first'].iloc[0], labels)}", fontsize=12)
        plain_axis(axis)
    plt.close(fig)
    return fig


def wrapped(text: str, width: int) -> str:
    """A label in several lines."""
    return "\n".join(textwrap.wrap(text, width))


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


TURNS = {  # (was right, is right) -> label, colour, hatch
    (True, True): ("right both times", "#D5E8E0", ""),
    (False, True): ("mended", "#009E73", ""),
    (True, False): ("broken", "#D55E00", "////"),
    (False, False): ("wrong both times", "#BBBBBB", "...."),
}
_WIDTH = 0.1  # of a block, where the two sides are 1 apart


def flow_figure(df, first: str, second: str, labels: Labels = None):
    """Blocks and bands: seen on the left, unseen on the right.

    `df`: of `traces.changes.flow`: categories, from_step, to_step, count.
    `first`, `second`: the models, for the heads of the columns.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    kinds = _kinds(df)
    fig, axes = plt.subplots(1, len(kinds), figsize=(6.5 * len(kinds), 5.8), squeeze=False,
                             layout="constrained")
    for axis, kind in zip(axes[0], kinds):
        part, found = df[df["categories"] == kind], turns(df, kind)
        total = int(part["count"].sum())
        _panel(axis, part, total)
        for x, model in ((_WIDTH / 2, first), (1 - _WIDTH / 2, second)):
            axis.text(x, -0.045 * total, wrapped(label_of(model, labels), 18), ha="center", va="bottom",
                      fontsize=12, fontweight="bold")
            axis.plot([x - 0.11, x + 0.11], [-0.028 * total] * 2, color=colour_of(model), linewidth=5)
        turned = f"{found['mended']} mended, {found['broken']} broken of {total}"
        axis.set_title(f"{kind} sub-categories: {turned}", fontsize=13, pad=4)
        axis.set_xlim(-0.52, 1.52)
        axis.set_axis_off()
    handles = [Patch(facecolor=colour, hatch=hatch, edgecolor="black", label=label)
               for label, colour, hatch in TURNS.values()]
    fig.legend(handles=handles, loc="outside lower center", ncol=4, frameon=False, fontsize=12)
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig


def _panel(axis, part, total: int) -> None:
    """Blocks, bands and labels of one panel; heights are numbers of items."""
    from matplotlib.patches import Rectangle

    gap, sides, bottom = 0.025 * total, {}, total
    for column in ("from_step", "to_step"):
        sizes, top, sides[column] = part.groupby(column)["count"].sum(), 0.0, {}
        for step in (step for step in STEPS if step in sizes.index):
            sides[column][step] = [top, int(sizes[step]), top]  # top, size, where the next band begins
            top += sizes[step] + gap
        bottom = max(bottom, top - gap)
    for a in STEPS:
        for b in STEPS:
            here = part[(part["from_step"] == a) & (part["to_step"] == b)]
            if len(here):
                count, ends = int(here["count"].sum()), (sides["from_step"][a], sides["to_step"][b])
                _band(axis, ends[0][2], ends[1][2], count, *TURNS[a == "right", b == "right"][1:])
                for end in ends:
                    end[2] += count
    for column, left in (("from_step", True), ("to_step", False)):
        blocks = sides[column]
        texts = [f"{size}  " + wrapped(STEP_LABELS.get(step, "right"), 19)
                 for step, (_, size, _) in blocks.items()]
        heights = [0.05 * bottom * (1 + text.count("\n")) + 0.012 * bottom for text in texts]
        middles = [top + size / 2 for top, size, _ in blocks.values()]
        places = spread(middles, heights)
        for (step, (top, size, _)), text, place, middle in zip(blocks.items(), texts, places, middles):
            axis.add_patch(Rectangle((0 if left else 1 - _WIDTH, top), _WIDTH, size, edgecolor="black",
                                     facecolor=STEP_COLOURS[step], hatch=STEP_HATCHES[step], zorder=3))
            edge, side = (0, -1) if left else (1, 1)
            axis.plot([edge, edge + 0.03 * side, edge + 0.06 * side], [middle, place, place], color="#777777",
                      linewidth=0.8)
            axis.text(edge + 0.07 * side, place, text, ha="right" if left else "left", va="center",
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
