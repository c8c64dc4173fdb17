"""Figures of notebook 05: a DataFrame in, a matplotlib figure out; nothing is shown or saved here.

Colours are the models' own. A probe is a bar or a full line with filled dots, a control a hollow mark or a
dashed line, so that a grey print reads the same; a dotted line is guessing. Drawn with matplotlib: seaborn
takes no ready intervals, and would compute its own.
"""

from typing import Mapping, Optional

from finer1_lib.core.plots import plain_axis
from finer1_lib.core.statistics import has_interval
from finer1_lib.training.methods import colour_of, in_order, label_of

Labels = Optional[Mapping[str, str]]  # {model: label} in the order to draw, of `entries.labels_of`
CONTROL_MARKERS = {"majority": "v", "shuffled_labels": "D", "epithet_only": "P", "text_only": "s",
                   "swapped_image": "^"}  # what else has a variant is in tables alone
CONTROL_LABELS = {"majority": "always the commonest class", "shuffled_labels": "labels shuffled in training",
                  "epithet_only": "names without their last word",
                  "text_only": "question without the image", "swapped_image": "question over another image"}


def _two_lines(model: str, labels: Labels) -> str:
    return label_of(model, labels).replace(" + ", "\n+ ")


def probe_bars(df, label: str, start: float = 0.0, labels: Labels = None):
    """One bar per model with its 95 % interval, controls as hollow markers; seen, unseen, all side by side.

    Args:
        df: summary rows of one metric and one data set: model, categories, variant (None for the probe, else
            the control's name), value, low, high (fractions, low and high may be missing).
        label: of the y axis, e.g. "H1: accuracy of the linear probe (%)".
        start: fraction at which the bars start, with a dotted line: 0.5, guessing, for an AUC.
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

    `df`: columns model, super_category, name, gap (difference of cosines).
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


def right_wrong_images(df, labels: Labels = None):
    """H3 as the paper shows it: last states of right and wrong questions in two principal components.

    `df`: columns model, x, y, right (bool), auc (the number that goes with the image, one per model).
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


TITLES = {  # metric: (title of its panel, what 1 is drawn as)
    "h1_probe_accuracy": ("H1: sub-category,\nimage tokens (%)", 100),
    "h2_genus_gap": ("H2: genus gap of names\n(cosine)", 1),
    "h3_auc": ("H3: right or wrong name,\nAUC (%)", 100),
    "attribute_image_accuracy": ("attributes,\nimage tokens (%)", 100),
    "attribute_prompt_accuracy": ("attributes,\nlast prompt token (%)", 100),
    "name_prompt_accuracy": ("sub-category,\nlast prompt token (%)", 100),
}


def layer_curves(df, labels: Labels = None):
    """One panel per metric: value by layer for every model, with 95 % intervals; controls dashed and hollow.

    `df`: rows of layers.csv of one data set and categories: metric (of `TITLES`), model, layer, variant
    (None or NaN for the probe), value, low, high.
    """
    import matplotlib.pyplot as plt

    metrics = [metric for metric in TITLES if metric in set(df["metric"])]
    models = in_order(df["model"], labels)
    fig, axes = plt.subplots(1, len(metrics), figsize=(min(13, 4.2 * len(metrics) + 0.4), 4.9), squeeze=False,
                             layout="constrained")
    for axis, metric in zip(axes[0], metrics):
        title, unit = TITLES[metric]
        here = df[(df["metric"] == metric) & (df["variant"].isna() | df["variant"].isin(CONTROL_MARKERS))]
        gap = 0.024 * max(5, here["layer"].max() - here["layer"].min())  # between the models' dots
        for place, model in enumerate(models):
            part = here[here["model"] == model]
            for variant, line in part.groupby(part["variant"].fillna(""), sort=False):
                _line(axis, line, model, variant, unit, gap * (place - (len(models) - 1) / 2))
        if metric == "h3_auc":
            axis.axhline(50, color="black", linestyle=":", linewidth=1)
        _by_layer(axis, here["layer"], title)
        if unit == 100:
            axis.set_ylim(min(0, axis.get_ylim()[0]), 104)
    _legend(fig, models, [name for name in CONTROL_LABELS if name in set(df["variant"])], labels)
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig


def attribute_curves(df, labels: Labels = None):
    """A small panel per attribute: balanced accuracy by layer; the dotted line is guessing, 1 of the values.

    `df`: rows of `attribute_table` of one place: super_category, attribute, values, held_out, model, layer,
    variant, value, low, high.
    """
    import matplotlib.pyplot as plt

    panels = [(kind, list(dict.fromkeys(part["attribute"]))) for kind, part in df.groupby("super_category")]
    columns = min(6, max(len(names) for _, names in panels))
    lines = [(kind, names[start : start + columns]) for kind, names in panels
             for start in range(0, len(names), columns)]
    models = in_order(df["model"], labels)
    fig, axes = plt.subplots(len(lines), columns, figsize=(2.05 * columns + 0.7, 2.5 * len(lines) + 1.1),
                             sharex=True, sharey=True, squeeze=False, layout="constrained")
    for row, (kind, names) in zip(axes, lines):
        for axis in row[len(names) :]:
            axis.set_axis_off()
        for axis, name in zip(row, names):
            here = df[(df["super_category"] == kind) & (df["attribute"] == name)]
            for model in models:
                part = here[here["model"] == model]
                for variant, line in part.groupby(part["variant"].fillna(""), sort=False):
                    _line(axis, line, model, variant, 100, 0.0, size=4)
            axis.axhline(100 / here["values"].iloc[0], color="black", linestyle=":", linewidth=1)
            _by_layer(axis, here["layer"], f"{name}{' *' if here['held_out'].iloc[0] == 'genus' else ''}")
            axis.set_ylim(-2, 104)
        row[0].set_ylabel(f"{kind}: read right (%)", fontsize=12)
        row[0].set_yticks([0, 25, 50, 75, 100])
    for row in axes[:-1]:
        for axis in row:
            axis.set_xlabel("")
    _legend(fig, models, [name for name in CONTROL_LABELS if name in set(df["variant"])], labels,
            "* whole genera held out" if (df["held_out"] == "genus").any() else None)
    plt.close(fig)
    return fig


def change_dots(df, labels: Labels = None):
    """What changed between checkpoints: a panel per pair, a dot and its 95 % interval per measure.

    `df`: of `probing.study.changes`: first, second, kind, label, difference, low, high, reading.
    """
    import matplotlib.pyplot as plt

    pairs = list(dict.fromkeys(zip(df["first"], df["second"])))
    measures = list(dict.fromkeys(zip(df["kind"], df["label"])))
    reading = sum(kind == "reading" for kind, _ in measures)
    size = (min(13, 3.1 * len(pairs) + 3.6), 0.62 * len(measures) + 1.6)
    fig, axes = plt.subplots(1, len(pairs), figsize=size, sharex=True, sharey=True, squeeze=False,
                             layout="constrained")
    for axis, (first, second) in zip(axes[0], pairs):
        part = df[(df["first"] == first) & (df["second"] == second)]
        for row in part.itertuples():
            place = measures.index((row.kind, row.label))
            if has_interval(row.low):
                axis.plot([100 * row.low, 100 * row.high], [place, place], color="black", linewidth=1.6)
            axis.plot(100 * row.difference, place, "o", ms=10, color=colour_of(first), mec="black", zorder=3)
            word = "" if row.reading == "cannot tell" else f" {row.reading}"
            axis.text(100 * row.difference, place - 0.27, f"{100 * row.difference:+.1f}{word}", ha="center",
                      fontsize=11, zorder=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        axis.axvline(0, color="black", linestyle=":", linewidth=1)
        axis.axhline(reading - 0.5, color="#BBBBBB", linewidth=1)
        names = "\n".join((label_of(first, labels), "minus " + label_of(second, labels)))
        axis.set_title(names, fontsize=12)
        axis.set_xlabel("points", fontsize=12)
        plain_axis(axis)
    axes[0][0].set_yticks(range(len(measures)), [f"{kind}: {label}" for kind, label in measures])
    axes[0][0].set_ylim(len(measures) - 0.4, -0.7)
    plt.close(fig)
    return fig


def _line(axis, rows, model: str, variant: str, unit: float, shift: float, size: float = 6) -> None:
    """One curve with whiskers; `variant` "" is the probe itself."""
    rows = rows.sort_values("layer")
    x, colour = rows["layer"] + shift, colour_of(model)
    style = {"mfc": colour, "linestyle": "-", "marker": "o", "linewidth": 1.8, "zorder": 3}
    if variant:
        style = {"mfc": "white", "linestyle": "--", "marker": CONTROL_MARKERS[variant], "linewidth": 1}
    axis.plot(x, unit * rows["value"], color=colour, mec=colour if variant else "black", ms=size, **style)
    for place, low, high in zip(x, rows["low"], rows["high"]):
        if low is not None and low == low:
            axis.plot([place, place], [unit * low, unit * high], color=colour, linewidth=1.2, zorder=1)


def _by_layer(axis, layers, title: str) -> None:
    depths = sorted(set(layers))
    axis.set_xticks(depths[:: -(-len(depths) // 8)])
    axis.set_xlabel("layer (0: embeddings)", fontsize=11)
    axis.set_title(title, fontsize=12)
    plain_axis(axis)


def _legend(fig, models, controls, labels: Labels, note: str = "") -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], color=colour_of(model), marker="o", mec="black", label=label_of(model, labels))
             for model in models]
    marks += [Line2D([], [], color="black", linestyle="--", marker=CONTROL_MARKERS[name], mfc="white",
                     label=f"control: {CONTROL_LABELS[name]}") for name in controls]
    fig.legend(handles=marks, loc="outside lower center", ncol=min(3, len(marks)), frameon=False, fontsize=11,
               title=note or None)
