"""Figures of notebook 05: a DataFrame in, a matplotlib figure out; nothing is shown or saved here.

Colours are the models' own (`contenders.ROWS`); controls are hollow, so that a grey print reads the same.

Source: paper section 5.4 and Table 4 (what is probed); the drawing is our choice.
"""

from typing import Mapping, Optional

from finer1_lib.contenders import colour_of, in_order, label_of
from finer1_lib.statistics import has_interval

Labels = Optional[Mapping[str, str]]  # {model: label} in the order to draw, of `contenders.labels_of`

CONTROL_MARKERS = {"majority": "v", "shuffled_labels": "D", "epithet_only": "P", "text_only": "s",
                   "swapped_image": "^"}  # what else has a variant stands in tables alone
CONTROL_LABELS = {"majority": "always the commonest class", "shuffled_labels": "labels shuffled in training",
                  "epithet_only": "names without their last word",
                  "text_only": "question without the image", "swapped_image": "question over another image"}


def _two_lines(model: str, labels: Labels) -> str:
    return label_of(model, labels).replace(" + ", "\n+ ")


def plain_axis(axis, size: int = 11) -> None:
    """No frame above and right, ticks that can be read from the back row."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=size)


def probe_bars(df, label: str, start: float = 0.0, labels: Labels = None):
    """One bar per model with its 95 % interval, controls as hollow markers; seen, unseen, all side by side.

    Args:
        df: summary rows of one metric and one data set: model, categories, variant (None for the probe, else
            the control's name), value, low, high (fractions, low and high may be missing).
        label: of the y axis, e.g. "H1: accuracy of the linear probe (%)".
        start: fraction at which the bars start, with a dotted line: 0.5, guessing, for an AUC.
        labels: what to write below the bars.
    """
    import matplotlib.pyplot as plt

    kinds = [kind for kind in ("seen", "unseen", "all") if kind in set(df["categories"])]
    models = in_order(df["model"], labels)
    width = min(13, max(3.8, 1.25 * len(models)) * len(kinds) + 0.6)
    fig, axes = plt.subplots(1, len(kinds), figsize=(width, 4.6), sharey=True, squeeze=False,
                             layout="constrained")
    handles = {}
    for axis, kind in zip(axes[0], kinds):
        part = df[df["categories"] == kind]
        for place, model in enumerate(models):
            rows = part[part["model"] == model]
            for row in rows[rows["variant"].isna()].itertuples():
                axis.bar(place - 0.18, 100 * (row.value - start), bottom=100 * start, width=0.4,
                         color=colour_of(model), edgecolor="black")
                top = max(_whisker(axis, place - 0.18, row, "black"), 100 * start)
                axis.text(place - 0.18, top + 1.5, f"{100 * row.value:.1f}", ha="center", fontsize=11)
            for shift, row in enumerate(rows[rows["variant"].isin(CONTROL_MARKERS)].itertuples()):
                spot = place + 0.14 + 0.18 * shift
                _whisker(axis, spot, row, "#777777")
                handles[row.variant] = axis.plot(spot, 100 * row.value, CONTROL_MARKERS[row.variant], ms=7,
                                                 mfc="white", mec="black", zorder=4)[0]
        axis.axhline(100 * start, color="black", linestyle=":", linewidth=1)
        names = [_two_lines(model, labels) for model in models]
        axis.set_xticks(range(len(names)), names)
        axis.set_title(f"{kind} sub-categories", fontsize=12)
        plain_axis(axis)
    axes[0][0].set_ylim(0 if start == 0 else None, 108)
    axes[0][0].set_ylabel(label, fontsize=12)
    if handles:
        fig.legend(handles.values(), [CONTROL_LABELS[name] for name in handles], loc="outside lower center",
                   ncol=len(handles), frameon=False, fontsize=11, title="controls")
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig


def _whisker(axis, place: float, row, colour: str) -> float:
    """Draw the interval if there is one; return the top of what is drawn, in percent."""
    if not has_interval(row.low):
        return 100 * row.value
    axis.plot([place, place], [100 * row.low, 100 * row.high], color=colour, linewidth=1.4, zorder=3)
    return 100 * row.high


def gap_distribution(df, labels: Labels = None):
    """H2: every name's gap as a dot, the quartiles as a box, one column per model and super-category.

    Args:
        df: columns model, super_category, name, gap (difference of cosines).
        labels: what to write below the columns.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    groups, models = sorted(df["super_category"].unique()), in_order(df["model"], labels)
    width = min(13, max(4.2, 1.3 * len(models)) * len(groups) + 0.6)
    fig, axes = plt.subplots(1, len(groups), figsize=(width, 4.2), sharey=True, squeeze=False,
                             layout="constrained")
    for axis, group in zip(axes[0], groups):
        part, rng = df[df["super_category"] == group], np.random.default_rng(0)
        for place, model in enumerate(models):
            gaps = part.loc[part["model"] == model, "gap"].to_numpy()
            axis.scatter(place + rng.uniform(-0.28, 0.28, len(gaps)), gaps, s=14, alpha=0.7,
                         color=colour_of(model))
            axis.boxplot(gaps, positions=[place], widths=0.6, showfliers=False,
                         medianprops={"color": "black"})
        names = [_two_lines(model, labels) for model in models]
        axis.set_xticks(range(len(names)), names)
        axis.axhline(0, color="black", linestyle=":", linewidth=1)
        axis.set_title(group, fontsize=12)
        plain_axis(axis)
    axes[0][0].set_ylabel("H2: cosine within the genus\nminus cosine to other genera", fontsize=12)
    plt.close(fig)
    return fig


def right_wrong_pictures(df, labels: Labels = None):
    """H3 as the paper shows it: last states of right and wrong questions in two principal components.

    Args:
        df: columns model, x, y, right (bool), auc (the number that goes with the picture, one per model).
        labels: what to write above the pictures, four of which stand in a row.
    """
    import matplotlib.pyplot as plt

    models = in_order(df["model"], labels)
    columns, lines = min(4, len(models)), -(-len(models) // 4)
    fig, axes = plt.subplots(lines, columns, figsize=(min(13, 4 * columns), 4.2 * lines), squeeze=False,
                             layout="constrained")
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    wrong = {"facecolors": "none", "edgecolors": "#444444", "marker": "o"}
    for axis, model in zip(axes.flat, models):
        part = df[df["model"] == model]
        for right, style in ((False, wrong), (True, {"color": colour_of(model), "marker": "x"})):
            dots = part[part["right"] == right]
            marks = axis.scatter(dots["x"], dots["y"], s=22, linewidths=1.2, **style)
            if model == models[0]:
                marks.set_label("right name (the model's colour)" if right else "wrong name")
        axis.set_title(f"{label_of(model, labels)}\nAUC {part['auc'].iloc[0]:.2f}", fontsize=12)
        axis.set_xlabel("first component", fontsize=11)
        axis.set_xticks([])
        axis.set_yticks([])
        plain_axis(axis)
    fig.legend(loc="outside lower center", ncol=2, frameon=False, fontsize=11)
    for line in axes:
        line[0].set_ylabel("second component", fontsize=11)
    plt.close(fig)
    return fig
