"""Figures of training: what fell in stage 1, what rose in stage 2, where the seconds go, how it goes wrong.

DataFrames in, figures out; nothing is shown or saved here. A trained model has its colour of `contenders`.

Source: our choice.
"""

from typing import Any, Mapping, Sequence

from finer1_lib.contenders import colour_of, label_of

# of a step's seconds: (column of the metrics file, name, colour)
PARTS = (("seconds_rollout", "rollouts", "#0072B2"), ("seconds_scoring", "scoring pi_old", "#56B4E9"),
         ("seconds_update", "update", "#D55E00"))


def curves(df: Any, columns: Sequence[tuple[str, str]], smooth: int = 1, log_scale: bool = False) -> Any:
    """One panel a column, one line a model, over optimizer steps.

    Args:
        df: columns model, step and the ones to draw.
        columns: [(column, title)].
        smooth: steps of a trailing mean drawn over the single steps, which then stand pale behind it.
        log_scale: logarithmic values, for curves that differ by orders of magnitude.

    Returns:
        The figure.
    """
    fig, axes = _panels(len(columns))
    for axis, (column, title) in zip(axes, columns):
        for model, part in df.groupby("model", sort=False):
            _line(axis, part, column, smooth, color=colour_of(model), label=label_of(model))
        if log_scale:
            axis.set_yscale("log")
        axis.set_title(title, fontsize=15)
    axes[0].legend(fontsize=12, frameon=False)
    return fig


def seconds_of_a_step(logs: Mapping[str, Any]) -> tuple[Any, Any]:
    """A stacked bar a model: mean seconds of an optimizer step, by what they were spent on.

    Args:
        logs: model -> DataFrame of its metrics file.

    Returns:
        (figure, DataFrame: model, a column a part, seconds; means over the steps).
    """
    import pandas

    rows = [{"model": model, **{column: part[column].mean() for column, *_ in PARTS}}
            for model, part in logs.items()]
    parts = pandas.DataFrame(rows)
    parts["seconds"] = parts[[column for column, *_ in PARTS]].sum(axis=1)
    fig, (axis,) = _panels(1, width=8.0, height=0.7 * len(rows) + 1.7)
    left = 0 * parts["seconds"]
    for column, name, colour in PARTS:
        axis.barh(range(len(rows)), parts[column], left=left, color=colour, label=name, edgecolor="black",
                  linewidth=0.6, height=0.7)
        left = left + parts[column]
    for place, total in enumerate(parts["seconds"]):
        axis.text(1.01 * total, place, f"{total:.1f} s", va="center", fontsize=13)
    axis.set_yticks(range(len(rows)), [label_of(model) for model in parts["model"]], fontsize=13)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.15 * parts["seconds"].max())
    axis.set_xlabel("seconds of an optimizer step (mean)", fontsize=13)
    axis.legend(fontsize=12, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return fig, parts


def wrong_turns(turns: Mapping[str, Any], beside: Mapping[str, Any]) -> Any:
    """Paid and strict accuracy, entropy, divergence and length of runs that went wrong, over optimizer steps.

    Args:
        turns: method -> DataFrame of its metrics file.
        beside: name -> the same of sound runs, drawn in grey.

    Returns:
        The figure.
    """
    palette = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
    colours = {name: palette[i % len(palette)] for i, name in enumerate(turns)}
    panels = (("accuracy", "accuracy: paid (line), strict (dots)"), ("length", "length (tokens)"),
              ("entropy", "entropy per token (nats)"), ("divergence", "divergence from the negative"))
    fig, axes = _panels(4, width=4.6)
    for axis, (column, title) in zip(axes, panels):
        for name, part in beside.items():
            _line(axis, part, column, 1, color="#999999", label=label_of(name), width=1.6)
        for name, part in turns.items():
            _line(axis, part, column, 1, color=colours[name], label=name)
            if column == "accuracy":
                axis.plot(part["step"], part["accuracy_strict"], ":", color=colours[name], linewidth=2.4)
        axis.set_title(title, fontsize=14)
        axis.set_ylim(bottom=0)
    axes[0].set_ylim(0, 1)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=13,
               frameon=False)
    return fig


def tell_wrong_turn(log: Any, max_new_tokens: int) -> str:
    """What a run's gauges say went wrong, in a line; numbers are means of the first and last three steps.

    An update that no group was left for has no tokens: entropy and divergence are of the last steps that had.

    Args:
        log: DataFrame of a metrics file.
        max_new_tokens: the limit of its rollouts.
    """
    first = {name: log[name].dropna().head(3).mean() for name in log.select_dtypes("number")}
    last = {name: log[name].dropna().tail(3).mean() for name in log.select_dtypes("number")}
    gap = last["accuracy"] - last["accuracy_strict"]

    def course(name: str, form: str) -> str:
        return f"{first[name]:{form}} to {last[name]:{form}}"

    return (f"entropy {course('entropy', '.2f')}, divergence {course('divergence', '.2f')}, length"
            f" {course('length', '.0f')} of {max_new_tokens} tokens, {last['truncated_share']:.0%} cut off, in form"
            f" {course('format_rate', '.0%')}, groups kept {course('kept_share', '.0%')};"
            f" paid accuracy {course('accuracy', '.0%')}, strict {course('accuracy_strict', '.0%')}"
            f" ({100 * gap:.0f} points apart)")


def held(log: Any, share: float = 0.8) -> bool:
    """Whether a run ends with at least this share of the strict accuracy that it began with (three steps)."""
    return bool(log["accuracy_strict"].tail(3).mean() >= share * log["accuracy_strict"].head(3).mean())


def _line(
    axis: Any, part: Any, column: str, smooth: int, *, color: str, label: str, width: float = 2.4
) -> None:
    part = part.sort_values("step")
    if smooth > 1:
        axis.plot(part["step"], part[column], color=color, alpha=0.25, linewidth=1)
    axis.plot(part["step"], part[column].rolling(smooth, min_periods=1).mean(), color=color, linewidth=width,
              label=label)
    axis.set_xlabel("optimizer step", fontsize=13)


def _panels(count: int, width: float = 5.2, height: float = 3.9) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, count, figsize=(width * count, height), squeeze=False, layout="constrained")
    for axis in axes[0]:
        axis.tick_params(labelsize=12)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig, axes[0]
