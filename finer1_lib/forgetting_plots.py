"""The figure of forgetting: every gauge before and after, one line a setting. DataFrame in, figure out.

Source: our choice.
"""

from typing import Any

from finer1_lib.forgetting import GAUGES, OPEN_WORLD
from finer1_lib.plots import INK, SEEN, UNSEEN, percent_axis
from finer1_lib.statistics import has_interval


def before_and_after(df: Any) -> Any:
    """Hollow: the base. Filled, with its 95 % interval: after training. A pale line joins the two.

    Args:
        df: of `forgetting_summary.summarise`; gauges that it lacks get no panel.

    Returns:
        The figure, a panel a gauge: first what may be forgotten, then what was learnt.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    panels = [(gauge, "all", title, INK, "o") for gauge, title in GAUGES.items()]
    panels += [(OPEN_WORLD, kind, f"learnt: open world, {kind}", colour, "s")
               for kind, colour in (("seen", SEEN), ("unseen", UNSEEN))]
    panels = [panel for panel in panels if ((df["gauge"] == panel[0]) & (df["categories"] == panel[1])).any()]
    labels = list(dict.fromkeys(df["label"]))
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    fig, axes = plt.subplots(down, across, figsize=(3.5 * across + 2.4, (0.42 * len(labels) + 1.4) * down),
                             sharey=True, sharex=True, squeeze=False, layout="constrained")
    for axis, panel in zip(axes.flat, panels):
        _panel(axis, df[(df["gauge"] == panel[0]) & (df["categories"] == panel[1])], labels, *panel[2:])
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("right (%)", fontsize=13)
    hollow, filled = (Line2D([], [], marker="o", linestyle="", markersize=11, color="black", mfc=fill)
                      for fill in ("none", "black"))
    fig.legend([hollow, filled], ["before (base)", "after, 95 % interval"], loc="outside lower center",
               ncols=2, fontsize=13, frameon=False)
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig


def _panel(axis: Any, part: Any, labels: list[str], title: str, colour: str, marker: str) -> None:
    """One gauge: settings from the top, and how many questions stand behind each point."""
    for row in part.itertuples():
        place = labels.index(row.label)
        axis.plot([100 * row.before, 100 * row.value], [place, place], color=colour, alpha=0.45, linewidth=3)
        if has_interval(row.low):
            axis.plot([100 * row.low, 100 * row.high], [place, place], color="black", linewidth=1.5,
                      marker="|", markersize=8, zorder=3)
        axis.plot(100 * row.value, place, marker=marker, color=colour, markersize=9, zorder=4)
        axis.plot(100 * row.before, place, marker=marker, markerfacecolor="none", markeredgecolor="black",
                  markeredgewidth=1.4, markersize=12, zorder=5)
    sizes = sorted(set(part["n"]))
    shown = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    axis.set_title(f"{title}\n(n = {shown})", fontsize=13)
    axis.set_yticks(range(len(labels)), labels, fontsize=13)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    percent_axis(axis, -4, 104)
