"""Figures of training: they show the numbers that they are given."""

import pandas as pd
import pytest

from finer1_lib.training_plots import curves, seconds_of_a_step, tell_wrong_turn, wrong_turns


def log(steps=6, **columns):
    base = dict(accuracy=0.5, accuracy_strict=0.5, length=100.0, entropy=0.1, divergence=0.3,
                truncated_share=0.0, format_rate=1.0, kept_share=0.5, seconds_rollout=2.0, seconds_scoring=0.5, seconds_update=1.5)
    return pd.DataFrame([{"step": step, **base, **{name: value(step) for name, value in columns.items()}}
                         for step in range(1, steps + 1)])


def test_curves_draw_single_steps_and_their_trailing_mean():
    df = log(entropy=lambda step: float(step)).assign(model="cot_sft_tapo")
    figure = curves(df, [("entropy", "entropy")], smooth=2)
    single, mean = (line.get_ydata().tolist() for line in figure.axes[0].lines)
    assert single == [1, 2, 3, 4, 5, 6] and mean == [1, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert figure.axes[0].get_legend_handles_labels()[1] == ["CoT SFT + TAPO"]


def test_seconds_are_means_over_steps_and_add_up():
    logs = {"a": log(2, seconds_rollout=lambda step: 4.0 * (step % 2)), "b": log(2)}
    figure, parts = seconds_of_a_step(logs)
    assert parts.set_index("model")["seconds"].to_dict() == {"a": 4.0, "b": 4.0}
    bars = figure.axes[0].containers
    assert [bar.get_width() for bar in bars[0]] == [2.0, 2.0]
    assert bars[2][0].get_x() + bars[2][0].get_width() == pytest.approx(4.0), "stacked to the total"


def test_a_wrong_turn_is_drawn_and_told_by_its_own_numbers():
    gamed = log(accuracy=lambda step: 0.5 + 0.08 * step, accuracy_strict=lambda step: 0.5,
                length=lambda step: 100 + 20 * step, truncated_share=lambda step: step / 10)
    figure = wrong_turns({"containment": gamed}, {"cot_sft_dapo": log()})
    lines = {(line.get_linestyle(), line.get_color()): line.get_ydata()[-1] for line in figure.axes[0].lines}
    assert lines == {("-", "#999999"): 0.5, ("-", "#D55E00"): pytest.approx(0.98), (":", "#D55E00"): 0.5}
    assert tell_wrong_turn(gamed, 256) == (
        "entropy 0.10 to 0.10, divergence 0.30 to 0.30, length 140 to 200 of 256 tokens, 50% cut off,"
        " in form 100% to 100%, groups kept 50% to 50%; paid accuracy 66% to 90%, strict 50% to 50% (40 points apart)")
