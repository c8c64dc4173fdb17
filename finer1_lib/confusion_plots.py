"""Figure: which neighbour a model answers for which, a matrix for each genus with the most such errors.

Source: issue 6; the figure is our choice.
"""

from typing import Mapping, Optional, Sequence

from finer1_lib.contenders import colour_of, label_of
from finer1_lib.plots import SETTING_LABELS, WIDEST
from finer1_lib.scores.confusions import ELSEWHERE, OTHERS, UNKNOWN, confusion_matrix, most_confused

CELL = 0.56  # inches
A_ROW = 2  # matrices beside each other: their names must be read


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
        labels: {model: label}, of `contenders.labels_of`.

    Returns:
        The figure; without any error inside a genus it says so.
    """
    import matplotlib.pyplot as plt

    genera = most_confused(table, model, setting) if genera is None else genera
    matrices = [confusion_matrix(table, model, setting, *key) for key in genera]
    where = SETTING_LABELS.get(setting, setting.replace("_", " "))
    title = f"{label_of(model, labels)}, {where}: percent of the answers about each sub-category"
    lines = [matrices[start : start + A_ROW] for start in range(0, len(matrices), A_ROW)]
    columns = min(A_ROW, max(1, len(matrices)))
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
