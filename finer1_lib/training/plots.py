"""Figures of training: forgetting in stage 1, curves of stage 2, seconds of a step, failure modes.

DataFrames in, figures out; nothing is shown or saved here. A trained model has its colour of `methods`.
"""

from typing import Any, Mapping, Sequence

from finer1_lib.core.plots import INK, SEEN, UNSEEN, WIDEST, panels, percent_axis
from finer1_lib.core.statistics import has_interval
from finer1_lib.training.forgetting import METRICS, OPEN_WORLD
from finer1_lib.training.methods import colour_of, label_of, model_name

# of a step's seconds: (column of the metrics file, name, how the model's colour is laid on, hatch)
PARTS = (("seconds_rollout", "rollouts", 1.0, ""),
         ("seconds_scoring", "scoring under the old policy", 0.0, "///"),
         ("seconds_update", "update", 0.35, ""))
SOUND = "#999999"


def curves(df: Any, columns: Sequence[tuple[str, str]], smooth: int = 1, log_scale: bool = False) -> Any:
    """One panel a (column, title), one line a model, over optimizer steps; `df` has model, step and the columns.
    With `smooth` > 1 a trailing mean of so many steps is drawn over the pale single steps.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogFormatter
    fig, axes = _panels(len(columns))
    for axis, (column, title) in zip(axes, columns):
        for model, part in df.groupby("model", sort=False):
            _line(axis, part, column, smooth, color=colour_of(model), label=label_of(model))
        if log_scale:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(LogFormatter())  # the usual one writes formulas
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        axis.set_title(title, fontsize=15)
        axis.set_xlabel("optimizer step", fontsize=13)
    lines, labels = axes[0].get_legend_handles_labels()
    if smooth > 1:
        lines.append(Line2D([], [], color="black", alpha=0.35, linewidth=1))
        labels.append(f"pale: single steps; strong: mean of the last {smooth}")
    fig.legend(lines, labels, loc="outside lower center", ncols=4, fontsize=13, frameon=False)
    return fig


def seconds_of_a_step(logs: Mapping[str, Any]) -> tuple[Any, Any]:
    """A stacked bar a model (-> DataFrame of its metrics file): mean seconds of an optimizer step by what they
    were spent on. Returns (figure, DataFrame: model, a column a part, steps, seconds).
    """
    import pandas
    from matplotlib.patches import Patch
    names = [column for column, *_ in PARTS]
    parts = pandas.DataFrame([{"model": model, **log[names].mean(), "steps": len(log)}
                              for model, log in logs.items()])
    parts["seconds"] = parts[names].sum(axis=1)
    fig, (axis,) = _panels(1, width=9.0, height=0.7 * len(parts) + 1.9)
    for place, row in enumerate(parts.to_dict("records")):
        left = 0.0
        for column, _, strength, hatch in PARTS:
            axis.barh(place, row[column], left=left, height=0.7, **_face(colour_of(row["model"]), strength, hatch))
            left += row[column]
        axis.text(1.01 * left, place, f"{left:.1f} s", va="center", fontsize=13)
    axis.set_yticks(range(len(parts)), map(label_of, parts["model"]), fontsize=13)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.15 * parts["seconds"].max())
    steps = "/".join(map(str, parts["steps"].unique()))
    axis.set_xlabel(f"seconds of an optimizer step (mean of {steps} steps)", fontsize=13)
    keys = [Patch(label=name, **_face("#555555", strength, hatch)) for _, name, strength, hatch in PARTS]
    fig.legend(handles=keys, fontsize=12, frameon=False, ncols=3, loc="outside upper center")
    return fig, parts


def _face(colour: str, strength: float, hatch: str) -> dict[str, Any]:
    """A model's colour at full strength, paler, or as a hatch on white."""
    from matplotlib.colors import to_rgb
    face = tuple(1 - strength * (1 - part) for part in to_rgb(colour))
    return {"facecolor": face, "edgecolor": colour if hatch else "black", "hatch": hatch, "linewidth": 0.8}


def wrong_turns(turns: Mapping[str, Any], beside: Mapping[str, Any]) -> Any:
    """Rewarded and strict accuracy, entropy, divergence and length of failed runs, over optimizer steps: title
    (a method's name, with ", mended" for the run with the remedy, dashed) -> DataFrame of its metrics file.
    `beside` is model -> the same of sound runs, in grey.
    """
    from matplotlib.lines import Line2D
    shown = (("accuracy", "accuracy: rewarded (line), strict (dots)"), ("length", "length (tokens)"),
              ("entropy", "entropy per token (nats)"), ("divergence", "divergence from the negative"))
    fig, axes = _panels(4, width=5.6, height=3.5, across=2)
    for axis, (column, title) in zip(axes, shown):
        for part in beside.values():
            _line(axis, part, column, color=SOUND, linewidth=1.6)
        for name, part in turns.items():
            colour = colour_of(model_name(name.partition(",")[0]))
            _line(axis, part, column, color=colour, label=name.replace("_", " "),
                  linestyle="--" if "," in name else "-")
            if column == "accuracy":
                axis.plot(part["step"], part["accuracy_strict"], ":", color=colour, linewidth=2.4)
        axis.set_title(title, fontsize=14)
        axis.set_ylim(0, 1 if column == "accuracy" else None)
    for axis in axes[-2:]:
        axis.set_xlabel("optimizer step", fontsize=13)
    handles = axes[0].get_legend_handles_labels()[0]
    if beside:
        names = ", ".join(label_of(name) for name in beside)
        handles.append(Line2D([], [], color=SOUND, linewidth=1.6, label=names))
    fig.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=13, frameon=False)
    return fig


def failure_findings(log: Any, max_new_tokens: int) -> str:
    """What a metrics file says went wrong, in a line: means of the first and last three steps (of entropy and
    divergence, three that had tokens). `max_new_tokens` is the limit of the rollouts.
    """
    numbers = log.select_dtypes("number")
    first = numbers.apply(lambda column: column.dropna().head(3).mean())
    last = numbers.apply(lambda column: column.dropna().tail(3).mean())
    told = {name: f"{first[name]:{form}} to {last[name]:{form}}" for name, form in (
        ("entropy", ".2f"), ("divergence", ".2f"), ("length", ".0f"), ("format_rate", ".0%"),
        ("kept_share", ".0%"), ("accuracy", ".0%"), ("accuracy_strict", ".0%"))}
    gap = last["accuracy"] - last["accuracy_strict"]
    return (f"entropy {told['entropy']}, divergence {told['divergence']}, length {told['length']} of"
            f" {max_new_tokens} tokens, {last['truncated_share']:.0%} cut off, in the required form"
            f" {told['format_rate']}, groups kept {told['kept_share']}; rewarded accuracy {told['accuracy']},"
            f" strict {told['accuracy_strict']} (a gap of {100 * gap:.0f} points)")


def held(log: Any, share: float = 0.8) -> bool:
    """Whether a run ends with at least this share of the strict accuracy that it began with (three steps)."""
    return bool(log["accuracy_strict"].tail(3).mean() >= share * log["accuracy_strict"].head(3).mean())


def _line(axis: Any, part: Any, column: str, smooth: int = 1, **look: Any) -> None:
    part = part.sort_values("step")
    if smooth > 1:
        axis.plot(part["step"], part[column], color=look["color"], alpha=0.35, linewidth=1)
    axis.plot(part["step"], part[column].rolling(smooth, min_periods=1).mean(), **{"linewidth": 2.4, **look})


def _panels(count: int, width: float = 5.2, height: float = 3.9, across: int = 0, side: float = 0.0,
            **how: Any) -> tuple[Any, Any]:
    """(figure, its axes); `across` a row, all by default, and never wider than a projector shows well."""
    across = across or count
    down = -(-count // across)
    fig, axes = panels(down, across, (min(WIDEST, width * across + side), height * down), **how)
    for axis in axes.flat:
        axis.tick_params(labelsize=12)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.spines[["top", "right"]].set_visible(False)
    return fig, axes.flat


def before_and_after(df: Any) -> Any:
    """Hollow: the base. Filled, with its 95 % interval: after training. A pale line joins the two.

    A panel a metric of `df` (of `forgetting.summarise`): first what may be forgotten, then what was learnt.
    """
    from matplotlib.lines import Line2D
    shown = [(metric, "all", title, INK, "o") for metric, title in METRICS.items()]
    shown += [(OPEN_WORLD, kind, f"learnt: open world, {kind}", colour, "s")
               for kind, colour in (("seen", SEEN), ("unseen", UNSEEN))]
    shown = [(part, *look) for metric, kind, *look in shown
              if len(part := df[(df["gauge"] == metric) & (df["categories"] == kind)])]
    labels, across = list(dict.fromkeys(df["label"])), min(3, len(shown))
    fig, axes = _panels(len(shown), 3.5, 0.42 * len(labels) + 1.4, across, side=2.4, sharey=True, sharex=True)
    for axis, (part, *look) in zip(axes, shown):
        _panel(axis, part, labels, *look)
    for axis in axes[len(shown):]:
        axis.set_visible(False)
    for axis in axes[-across:]:
        axis.set_xlabel("right (%)", fontsize=13)
    hollow, filled = (Line2D([], [], marker="o", linestyle="", markersize=11, color="black", mfc=fill)
                      for fill in ("none", "black"))
    fig.legend([hollow, filled], ["before (base)", "after, 95 % interval"], loc="outside lower center",
               ncols=2, fontsize=13, frameon=False)
    return fig


def _panel(axis: Any, part: Any, labels: list[str], title: str, colour: str, marker: str) -> None:
    """One metric: settings from the top, and the number of questions of each point."""
    for row in part.itertuples():
        place = labels.index(row.label)
        axis.plot([100 * row.before, 100 * row.value], [place, place], color=colour, alpha=0.45, linewidth=3)
        if has_interval(row.low):
            axis.plot([100 * row.low, 100 * row.high], [place, place], color="black", linewidth=1.5,
                      marker="|", markersize=8, zorder=3)
        axis.plot(100 * row.value, place, marker=marker, color=colour, markersize=9, zorder=4)
        axis.plot(100 * row.before, place, marker=marker, markerfacecolor="none", markeredgecolor="black",
                  markeredgewidth=1.4, markersize=12, zorder=5)
    shown = " to ".join(str(size) for size in sorted({part["n"].min(), part["n"].max()}))
    axis.set_title(f"{title}\n(n = {shown})", fontsize=13)
    axis.set_yticks(range(len(labels)), labels, fontsize=13)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    percent_axis(axis, -4, 104)
