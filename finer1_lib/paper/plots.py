"""Figure 3 of the paper, drawn with a run's own numbers: its bars, and which of its orderings hold.

The paper's values are not in these figures: from the paper come the choice of the bars, their order and, in
`ordering_lines`, the sign of its difference.

Source: Fine-R1 (arXiv 2602.07605), Figures 3a to 3c.
"""

from typing import Mapping, Optional

from finer1_lib.core.plots import CATEGORY_LABELS, SETTING_LABELS, panels, percent_axis
from finer1_lib.core.statistics import has_interval
from finer1_lib.evaluation.plots import value_bar
from finer1_lib.paper.orderings import TINY
from finer1_lib.training.methods import label_of

VERDICTS = {  # (colour, marker, filled, words): no model's colours, distinct in grey too
    "holds": ("#1A1A1A", "o", True, "the paper's ordering holds"),
    "reversed": ("#C2185B", "s", True, "reversed"),
    "cannot tell": ("#777777", "D", False, "cannot tell"),
}
_SIDE = "#E4E4E4"  # the half of a line on which the paper has the difference


def figure_bars(df, labels: Optional[Mapping[str, str]] = None):
    """One figure of the paper in our run: bars with 95 % intervals, seen on the left and unseen on the right.

    `df` is of `orderings.bars_of` (fractions; low and high may be missing), `labels` is {model: label}; the
    paper's name of a bar is below ours. Raises: ValueError: no bars.
    """
    if df.empty:
        raise ValueError("no bars: none of the figure's models was evaluated")
    first = df.iloc[0]
    names = {row.model: f"{label_of(row.model, labels)}\n({row.bar})" for row in df.itertuples()}
    fig, (axes,) = panels(1, 2, (12.6, 0.66 * len(names) + 2.0), sharey=True)
    for axis, (kind, words) in zip(axes, CATEGORY_LABELS.items()):
        part = df[df["categories"] == kind].set_index("model")
        counts = " to ".join(str(n) for n in dict.fromkeys((part["n"].min(), part["n"].max())))
        axis.set_title(f"{words}, n = {counts}", fontsize=14)
        for place, model in enumerate(names):
            if model in part.index:
                value_bar(axis, place, part.loc[model])
        axis.set_yticks(range(len(names)), names.values(), fontsize=12)
        axis.set_ylim(len(names) - 0.4, -0.6)  # the first bar at the top
        percent_axis(axis, 0, 112, labelsize=12)
        axis.set_xlabel(f"{first['metric'].replace('_', ' ')} (%)", fontsize=13)
    scorer = f"{first['scorer']} scorer" + (f", similarity {first['variant']}" if first["variant"] else "")
    how = f"{SETTING_LABELS[first['setting']]}, {scorer}, seed {first['seed']}, 95 % intervals over sub-categories"
    fig.suptitle(f"The bars of the paper's {first['figure']} in this run\n{how}", fontsize=15)
    return fig


def ordering_lines(df, told: str = ""):
    """One line an ordering: our difference with its interval, and the side on which the paper has it.

    `df` is of `orderings.table` or `finer1 seeds`; of paper_difference only the sign is drawn, and whether it
    is below a point. `told` is the second line of the title: scorer, seeds. Seen is on the left, unseen on
    the right. Raises: ValueError: no orderings.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if df.empty:
        raise ValueError("no orderings: fewer than two models of a figure were evaluated")
    rows = df.drop_duplicates(["figure", "first", "second"])
    pairs = list(zip(rows["figure"], rows["first"], rows["second"]))
    versus = rows["claim"].str.replace(" above | below ", " vs ", regex=True)  # "SFT vs Zero-shot   3a"
    names = versus + "   " + rows["figure"].str.removeprefix("Figure ")
    fig, (axes,) = panels(1, 2, (12.6, 0.37 * len(pairs) + 2.2), sharey=True)
    for axis, (kind, words) in zip(axes, CATEGORY_LABELS.items()):
        for row in df[df["categories"] == kind].itertuples():
            _line(axis, pairs.index((row.figure, row.first, row.second)), row)
        for place in range(1, len(pairs)):
            if pairs[place][0] != pairs[place - 1][0]:  # another figure begins
                axis.axhline(place - 0.5, color="black", linewidth=1.0)
        axis.axvline(0, color="black", linewidth=1.2)
        axis.set_title(words, fontsize=14)
        axis.set_xlim(-118, 118)
        axis.set_xticks([-100, -50, 0, 50, 100])
        axis.set_ylim(len(pairs) - 0.5, -0.5)
        axis.tick_params(axis="x", labelsize=12)
        axis.set_xlabel("our difference, first minus second, in points", fontsize=13)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(pairs)), names, fontsize=12)
    marks = [Line2D([], [], color=colour, marker=marker, markersize=9, linewidth=3, label=words,
                    markerfacecolor=colour if filled else "white")
             for colour, marker, filled, words in VERDICTS.values()]
    sides = [Patch(facecolor=_SIDE, label="the paper's side"),
             Patch(facecolor="white", edgecolor="#999999", hatch="///", label="the same, by less than 1 point")]
    title = "The paper's orderings in this world: accuracy (3a, 3b), relative semantic similarity (3c)"
    fig.suptitle(f"{title}\n{told}".strip(), fontsize=15)
    fig.legend(handles=[*marks, *sides], loc="outside lower center", ncols=5, fontsize=12, frameon=False)
    return fig


def _line(axis, place: int, row) -> None:
    from matplotlib.patheffects import withStroke
    left = -118 if row.paper_difference < 0 else 0
    tiny = abs(row.paper_difference) < TINY
    axis.barh(place, 118, left=left, height=0.86, color="white" if tiny else _SIDE, zorder=0,
              hatch="///" if tiny else None, edgecolor="#CCCCCC" if tiny else _SIDE, linewidth=0)
    colour, marker, filled, _ = VERDICTS[row.holds]
    value = 100 * row.difference
    ends = [100 * row.low, 100 * row.high] if has_interval(row.low) else [value, value]
    axis.plot(ends, [place] * 2, color=colour, linewidth=3, solid_capstyle="butt")
    axis.plot(value, place, marker=marker, color=colour, markersize=6, markeredgewidth=1.8,
              markerfacecolor=colour if filled else "white", zorder=3)
    low, high = min(*ends, value), max(*ends, value)
    right = value >= 0 and high < 90 or low < -90
    axis.text(high + 4 if right else low - 4, place, f"{value:+.0f}" if round(value) else "0", fontsize=12,
              va="center", ha="left" if right else "right",
              path_effects=[withStroke(linewidth=3, foreground="white")])
