"""Figures of notebook 05: a DataFrame in, a matplotlib figure out; nothing is shown or saved here.

Colours are the models' own. A probe is a bar or a full line with filled dots, a control a hollow mark or a
dashed line, so that a grey print reads the same; a dotted line is guessing. Drawn with matplotlib: seaborn
takes no ready intervals, and would compute its own.
"""

from typing import Any, Mapping, Optional, Sequence

import numpy as np

from finer1_lib.core.plots import WIDEST, panels, plain_axis, whisker
from finer1_lib.training.methods import colour_of, in_order, label_of

Labels = Optional[Mapping[str, str]]  # {model: label} in the order to draw, of `entries.labels_of`
CONTROL_MARKERS = {"majority": "v", "shuffled_labels": "D", "epithet_only": "P", "text_only": "s",
                   "swapped_image": "^"}  # what else has a variant is in tables alone
CONTROL_LABELS = {"majority": "always the commonest class", "shuffled_labels": "labels shuffled in training",
                  "epithet_only": "names without their last word",
                  "text_only": "question without the image", "swapped_image": "question over another image"}
TITLES = {  # metric: (title of its panel, what 1 is drawn as)
    "h1_probe_accuracy": ("H1: sub-category,\nimage tokens (%)", 100),
    "h2_genus_gap": ("H2: genus gap of names\n(cosine)", 1),
    "h3_auc": ("H3: right or wrong name,\nAUC (%)", 100),
    "attribute_image_accuracy": ("attributes,\nimage tokens (%)", 100),
    "attribute_prompt_accuracy": ("attributes,\nlast prompt token (%)", 100),
    "name_prompt_accuracy": ("sub-category,\nlast prompt token (%)", 100),
}
GUESSING = {"color": "black", "linestyle": ":", "linewidth": 1}


def _columns(names: Sequence[str], models: Sequence[str], labels: Labels, least: float, each: float,
             height: float) -> tuple[Any, Any]:
    """(figure, axes): a panel for each name, with the models side by side."""
    width = min(WIDEST, max(least, each * len(models)) * len(names) + 0.6)
    fig, axes = panels(1, len(names), (width, height), sharey=True)
    for axis, name in zip(axes[0], names):
        axis.set_xticks(range(len(models)), [label_of(m, labels).replace(" + ", "\n+ ") for m in models])
        axis.set_title(name, fontsize=12)
        plain_axis(axis)
    return fig, axes[0]


def probe_bars(df: Any, label: str, start: float = 0.0, labels: Labels = None) -> Any:
    """One bar per model with its 95 % interval, controls as hollow markers; seen, unseen, all side by side.

    `df`: summary rows of one metric and one data set: model, categories, variant (None for the probe, else
    the control's name), value, low, high (fractions, low and high may be missing). `label` is of the y axis.
    Bars start at the fraction `start`, with a dotted line: 0.5, guessing, for an AUC.
    """
    kinds = [kind for kind in ("seen", "unseen", "all") if kind in set(df["categories"])]
    models, handles = in_order(df["model"], labels), {}
    fig, axes = _columns([f"{kind} sub-categories" for kind in kinds], models, labels, 3.8, 1.25, 4.6)
    for axis, kind in zip(axes, kinds):
        for place, model in enumerate(models):
            rows = df[(df["categories"] == kind) & (df["model"] == model)]
            for row in rows[rows["variant"].isna()].itertuples():
                axis.bar(place - 0.18, 100 * (row.value - start), bottom=100 * start, width=0.4,
                         color=colour_of(model), edgecolor="black")
                top = whisker(axis, place - 0.18, row, 100, True, color="black", linewidth=1.4, zorder=3)
                axis.text(place - 0.18, max(top, 100 * start) + 1.5, f"{100 * row.value:.1f}", ha="center",
                          fontsize=11)
            for shift, row in enumerate(rows[rows["variant"].isin(CONTROL_MARKERS)].itertuples()):
                spot = place + 0.14 + 0.18 * shift
                whisker(axis, spot, row, 100, True, color="#777777", linewidth=1.4, zorder=3)
                handles[row.variant] = axis.plot(spot, 100 * row.value, CONTROL_MARKERS[row.variant], ms=7,
                                                 mfc="white", mec="black", zorder=4)[0]
        axis.axhline(100 * start, **GUESSING)
    axes[0].set_ylim(0 if start == 0 else None, 108)
    axes[0].set_ylabel(label, fontsize=12)
    if handles:
        fig.legend(handles.values(), [CONTROL_LABELS[name] for name in handles], loc="outside lower center",
                   ncol=len(handles), frameon=False, fontsize=11, title="controls")
    return fig


def gap_distribution(df: Any, labels: Labels = None) -> Any:
    """H2: every name's gap as a dot, the quartiles as a box, one column per model and super-category.

    `df`: columns model, super_category, name, gap (difference of cosines).
    """
    groups, models = sorted(df["super_category"].unique()), in_order(df["model"], labels)
    fig, axes = _columns(groups, models, labels, 4.2, 1.3, 4.2)
    for axis, group in zip(axes, groups):
        rng = np.random.default_rng(0)
        for place, model in enumerate(models):
            gaps = df.loc[(df["super_category"] == group) & (df["model"] == model), "gap"].to_numpy()
            axis.scatter(place + rng.uniform(-0.28, 0.28, len(gaps)), gaps, s=14, alpha=0.7,
                         color=colour_of(model))
            axis.boxplot(gaps, positions=[place], widths=0.6, showfliers=False, manage_ticks=False,
                         medianprops={"color": "black"})
        axis.axhline(0, **GUESSING)
    axes[0].set_ylabel("H2: cosine within the genus\nminus cosine to other genera", fontsize=12)
    return fig


def right_wrong_images(df: Any, labels: Labels = None) -> Any:
    """H3 as the paper shows it: last states of right and wrong questions in two principal components.

    `df`: columns model, x, y, right (bool), auc (the number that goes with the image, one per model).
    """
    models = in_order(df["model"], labels)
    columns, lines = min(4, len(models)), -(-len(models) // 4)
    fig, axes = panels(lines, columns, (min(WIDEST, 4 * columns), 4.2 * lines))
    for axis in axes.flat[len(models) :]:
        axis.set_axis_off()
    for axis, model in zip(axes.flat, models):
        part = df[df["model"] == model]
        for right, label, style in (
                (False, "wrong name", {"facecolors": "none", "edgecolors": "#444444", "marker": "o"}),
                (True, "right name (the model's colour)", {"color": colour_of(model), "marker": "x"})):
            dots = part[part["right"] == right]
            axis.scatter(dots["x"], dots["y"], s=22, linewidths=1.2, **style,
                         label=label if model == models[0] else None)
        axis.set_title(f"{label_of(model, labels)}\nAUC {part['auc'].iloc[0]:.2f}", fontsize=12)
        axis.set_xlabel("first component", fontsize=11)
        axis.set(xticks=[], yticks=[])
        plain_axis(axis)
    fig.legend(loc="outside lower center", ncol=2, frameon=False, fontsize=11)
    for axis in axes[:, 0]:
        axis.set_ylabel("second component", fontsize=11)
    return fig


def layer_curves(df: Any, labels: Labels = None) -> Any:
    """One panel per metric: value by layer for every model, with 95 % intervals; controls dashed and hollow.

    `df`: rows of layers.csv of one data set and categories: metric (of `TITLES`), model, layer, variant
    (None or NaN for the probe), value, low, high.
    """
    metrics = [metric for metric in TITLES if metric in set(df["metric"])]
    models = in_order(df["model"], labels)
    fig, axes = panels(1, len(metrics), (min(WIDEST, 4.2 * len(metrics) + 0.4), 4.9))
    for axis, metric in zip(axes[0], metrics):
        title, unit = TITLES[metric]
        here = df[(df["metric"] == metric) & (df["variant"].isna() | df["variant"].isin(CONTROL_MARKERS))]
        gap = 0.024 * max(5, here["layer"].max() - here["layer"].min())
        _curves(axis, here, models, title, unit, gap)
        if metric == "h3_auc":
            axis.axhline(50, **GUESSING)
        if unit == 100:
            axis.set_ylim(min(0, axis.get_ylim()[0]), 104)
    _legend(fig, models, set(df["variant"]), labels)
    return fig


def attribute_curves(df: Any, labels: Labels = None) -> Any:
    """A small panel per attribute: balanced accuracy by layer; the dotted line is guessing, 1 of the values.

    `df`: rows of `attribute_table` of one place: super_category, attribute, values, held_out, model, layer,
    variant, value, low, high.
    """
    names = {kind: list(dict.fromkeys(part["attribute"])) for kind, part in df.groupby("super_category")}
    columns = min(6, max(map(len, names.values())))
    lines = [(kind, found[start : start + columns]) for kind, found in names.items()
             for start in range(0, len(found), columns)]
    models = in_order(df["model"], labels)
    fig, axes = panels(len(lines), columns, (2.05 * columns + 0.7, 2.5 * len(lines) + 1.1), sharex=True,
                       sharey=True)
    for row, (kind, found) in zip(axes, lines):
        for axis in row[len(found) :]:
            axis.set_axis_off()
        for axis, name in zip(row, found):
            here = df[(df["super_category"] == kind) & (df["attribute"] == name)]
            star = " *" if here["held_out"].iloc[0] == "genus" else ""
            _curves(axis, here, models, f"{name}{star}", 100, size=4)
            axis.axhline(100 / here["values"].iloc[0], **GUESSING)
            axis.set_ylim(-2, 104)
        row[0].set_ylabel(f"{kind}: read right (%)", fontsize=12)
        row[0].set_yticks([0, 25, 50, 75, 100])
    for axis in axes[:-1].flat:
        axis.set_xlabel("")
    _legend(fig, models, set(df["variant"]), labels,
            "* whole genera held out" if (df["held_out"] == "genus").any() else None)
    return fig


def _curves(axis: Any, here: Any, models: Sequence[str], title: str, unit: float, gap: float = 0.0,
            size: float = 6) -> None:
    """A curve with whiskers for each model and control, `gap` apart."""
    for place, model in enumerate(models):
        part, colour = here[here["model"] == model], colour_of(model)
        for variant, rows in part.groupby(part["variant"].fillna(""), sort=False):
            rows = rows.sort_values("layer")
            x = rows["layer"] + gap * (place - (len(models) - 1) / 2)
            style = {"mfc": "white", "mec": colour, "linestyle": "--", "linewidth": 1,
                     "marker": CONTROL_MARKERS[variant]} if variant else {
                "mfc": colour, "mec": "black", "linestyle": "-", "linewidth": 1.8, "marker": "o", "zorder": 3}
            axis.plot(x, unit * rows["value"], color=colour, ms=size, **style)
            for spot, row in zip(x, rows.itertuples()):
                whisker(axis, spot, row, unit, True, color=colour, linewidth=1.2, zorder=1)
    depths = sorted(set(here["layer"]))
    axis.set_xticks(depths[:: -(-len(depths) // 8)])
    axis.set_xlabel("layer (0: embeddings)", fontsize=11)
    axis.set_title(title, fontsize=12)
    plain_axis(axis)


def _legend(fig: Any, models: Sequence[str], variants: set, labels: Labels, note: Optional[str] = None):
    from matplotlib.lines import Line2D
    marks = [Line2D([], [], color=colour_of(model), marker="o", mec="black", label=label_of(model, labels))
             for model in models]
    marks += [Line2D([], [], color="black", linestyle="--", marker=CONTROL_MARKERS[name], mfc="white",
                     label=f"control: {label}") for name, label in CONTROL_LABELS.items() if name in variants]
    fig.legend(handles=marks, loc="outside lower center", ncol=min(3, len(marks)), frameon=False, fontsize=11,
               title=note)


def change_dots(df: Any, labels: Labels = None) -> Any:
    """What changed between checkpoints: a panel per pair, a dot and its 95 % interval per measure.

    `df`: of `probing.study.changes`: first, second, kind, label, difference, low, high, reading.
    """
    pairs = list(dict.fromkeys(zip(df["first"], df["second"])))
    measures = list(dict.fromkeys(zip(df["kind"], df["label"])))
    size = (min(WIDEST, 3.1 * len(pairs) + 3.6), 0.62 * len(measures) + 1.6)
    fig, axes = panels(1, len(pairs), size, sharex=True, sharey=True)
    for axis, (first, second) in zip(axes[0], pairs):
        part = df[(df["first"] == first) & (df["second"] == second)].rename(columns={"difference": "value"})
        for row in part.itertuples():
            place = measures.index((row.kind, row.label))
            whisker(axis, place, row, 100, color="black", linewidth=1.6)
            axis.plot(100 * row.value, place, "o", ms=10, color=colour_of(first), mec="black", zorder=3)
            word = "" if row.reading == "cannot tell" else f" {row.reading}"
            axis.text(100 * row.value, place - 0.27, f"{100 * row.value:+.1f}{word}", ha="center",
                      fontsize=11, zorder=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        axis.axvline(0, **GUESSING)
        axis.axhline(sum(kind == "reading" for kind, _ in measures) - 0.5, color="#BBBBBB", linewidth=1)
        axis.set_title(f"{label_of(first, labels)}\nminus {label_of(second, labels)}", fontsize=12)
        axis.set_xlabel("points", fontsize=12)
        plain_axis(axis)
    axes[0][0].set_yticks(range(len(measures)), [f"{kind}: {label}" for kind, label in measures])
    axes[0][0].set_ylim(len(measures) - 0.4, -0.7)
    return fig
