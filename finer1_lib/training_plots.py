"""Figures of training: what fell in stage 1, what rose in stage 2. DataFrame in, figure out.

Source: our choice.
"""

from typing import Any, Sequence

from finer1_lib.plots import MODEL_COLOURS, MODEL_LABELS


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
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(columns), figsize=(5.2 * len(columns), 3.9), squeeze=False, layout="constrained")
    for axis, (column, title) in zip(axes[0], columns):
        for model, part in df.groupby("model", sort=False):
            part = part.sort_values("step")
            colour = MODEL_COLOURS[model]
            if smooth > 1:
                axis.plot(part["step"], part[column], color=colour, alpha=0.25, linewidth=1)
            axis.plot(part["step"], part[column].rolling(smooth, min_periods=1).mean(), color=colour, linewidth=2.4,
                      label=MODEL_LABELS[model])
        if log_scale:
            axis.set_yscale("log")
        axis.set_title(title, fontsize=15)
        axis.set_xlabel("optimizer step", fontsize=13)
        axis.tick_params(labelsize=12)
    axes[0][0].legend(fontsize=12, frameon=False)
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig
