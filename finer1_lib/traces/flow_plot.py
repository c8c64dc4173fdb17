"""The flow of traces between two models: which step each item left the truth at, before and after.

On each side stand the steps as blocks, as high as they have items; a band joins the two blocks an item lies
in. What was mended, what was broken and what stayed are told apart by colour and hatch.

Source: our choice (an alluvial diagram, drawn with matplotlib's paths).
"""

from finer1_lib.contenders import colour_of, label_of
from finer1_lib.traces.changes import turns
from finer1_lib.traces.plots import STEP_COLOURS, STEP_HATCHES, Labels, _kinds, spread, wrapped
from finer1_lib.traces.statistics import STEPS
from finer1_lib.traces.steps import STEP_LABELS

TURNS = {  # (was right, is right) -> label, colour, hatch
    (True, True): ("right both times", "#D5E8E0", ""),
    (False, True): ("mended", "#009E73", ""),
    (True, False): ("broken", "#D55E00", "////"),
    (False, False): ("wrong both times", "#BBBBBB", "...."),
}
_WIDTH = 0.1  # of a block, where the two sides are 1 apart


def flow_figure(df, first: str, second: str, labels: Labels = None):
    """Blocks and bands: seen on the left, unseen on the right.

    Args:
        df: of `traces.changes.flow`: categories, from_step, to_step, count.
        first, second: the models, for the heads of the columns.
        labels: what to call them.
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
