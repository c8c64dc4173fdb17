"""Figures: a DataFrame in, a matplotlib figure out; nothing is shown or saved here.

Every model has one fixed colour in all notebooks, from the palette of Okabe and Ito, which the colour-blind
can tell apart; bars also carry their model's name and their value, so that a grey print reads the same.

Source: our choice.
"""

MODEL_COLOURS = {
    "base": "#999999",
    "base_cot_prompt": "#56B4E9",
    "sft_answer_only": "#E69F00",
    "cot_sft": "#0072B2",
    "cot_sft_dapo": "#009E73",
    "cot_sft_tapo": "#D55E00",
}
MODEL_LABELS = {
    "base": "base",
    "base_cot_prompt": "base + prompt",
    "sft_answer_only": "answer-only SFT",
    "cot_sft": "CoT SFT",
    "cot_sft_dapo": "CoT SFT + DAPO",
    "cot_sft_tapo": "CoT SFT + TAPO",
}
SETTING_LABELS = {"closed_world": "closed world", "open_world": "open world"}
CATEGORY_LABELS = {"seen": "seen sub-categories", "unseen": "unseen sub-categories"}


def accuracy_bars(df):
    """Horizontal bars with 95 % intervals: a row of panels a setting, seen on the left, unseen on the right.

    Args:
        df: columns model, setting, categories, value, low, high (fractions; low and high may be missing) and
            n; an optional column chance (fraction) draws a dotted line where guessing lands.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt

    settings = [name for name in SETTING_LABELS if name in set(df["setting"])]
    kinds = [name for name in CATEGORY_LABELS if name in set(df["categories"])]
    models = [name for name in MODEL_LABELS if name in set(df["model"])]
    fig, axes = plt.subplots(
        len(settings),
        len(kinds),
        figsize=(6.2 * len(kinds) + 1.4, 3.4 * len(settings) + 0.4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for row, setting in enumerate(settings):
        for column, kind in enumerate(kinds):
            part = df[(df["setting"] == setting) & (df["categories"] == kind)].set_index("model")
            _panel(axes[row][column], part, models)
            axes[row][column].set_title(f"{SETTING_LABELS[setting]}, {CATEGORY_LABELS[kind]}", fontsize=15)
    for axis in axes[-1]:
        axis.set_xlabel("right answers (%)", fontsize=14)
    plt.close(fig)  # the notebook shows the returned figure; without this it would be drawn twice
    return fig


def _panel(axis, part, models) -> None:
    """One panel: bars from the top in the models' order, whiskers, and the value beside its whisker."""
    for place, model in enumerate(models):
        if model not in part.index:
            continue
        row = part.loc[model]
        axis.barh(
            place,
            100 * row["value"],
            color=MODEL_COLOURS[model],
            height=0.72,
            edgecolor="black",
            linewidth=0.6,
        )
        end = row["value"]
        if row["low"] == row["low"] and row["low"] is not None:  # a NaN is not equal to itself
            axis.plot(
                [100 * row["low"], 100 * row["high"]],
                [place, place],
                color="black",
                linewidth=1.8,
                solid_capstyle="butt",
                marker="|",
                markersize=9,
            )
            end = max(end, row["high"])
        axis.text(100 * end + 1.5, place, f"{100 * row['value']:.0f}", va="center", fontsize=13)
    if "chance" in part and part["chance"].notna().any():
        axis.axvline(100 * part["chance"].iloc[0], color="black", linestyle=":", linewidth=1.5)
        axis.text(100 * part["chance"].iloc[0] + 0.8, -0.62, "guessing", fontsize=11, va="center")
    axis.set_yticks(range(len(models)), [MODEL_LABELS[model] for model in models], fontsize=14)
    axis.set_ylim(len(models) - 0.4, -0.95)  # the first model at the top
    axis.set_xlim(0, 110)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.tick_params(axis="x", labelsize=13)
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
