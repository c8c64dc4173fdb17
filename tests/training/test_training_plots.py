"""Figures of training: they show the numbers that they are given."""

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from finer1_lib.training.methods import colour_of
from finer1_lib.training.plots import curves, failure_findings, seconds_of_a_step, wrong_turns


def log(steps=6, **columns):
    base = dict(accuracy=0.5, accuracy_strict=0.5, length=100.0, entropy=0.1, divergence=0.3,
                truncated_share=0.0, format_rate=1.0, kept_share=0.5, seconds_rollout=2.0,
                seconds_scoring=0.5, seconds_update=1.5)
    return pd.DataFrame([{"step": step, **base, **{name: value(step) for name, value in columns.items()}}
                         for step in range(1, steps + 1)])


def test_curves_draw_single_steps_and_their_trailing_mean():
    df = log(entropy=lambda step: float(step)).assign(model="cot_sft_tapo")
    figure = curves(df, [("entropy", "entropy")], smooth=2)
    single, mean = (line.get_ydata().tolist() for line in figure.axes[0].lines)
    assert single == [1, 2, 3, 4, 5, 6] and mean == [1, 1.5, 2.5, 3.5, 4.5, 5.5]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown[0] == "CoT SFT + TAPO" and "mean of the last 2" in shown[1]


def test_seconds_are_means_over_steps_and_add_up():
    logs = {"a": log(2, seconds_rollout=lambda step: 4.0 * (step % 2)), "b": log(2)}
    figure, parts = seconds_of_a_step(logs)
    assert parts.set_index("model")["seconds"].to_dict() == {"a": 4.0, "b": 4.0}
    bars = [bar for container in figure.axes[0].containers for bar in container]
    assert [bar.get_width() for bar in bars] == [2.0, 0.5, 1.5] * 2
    assert bars[2].get_x() + bars[2].get_width() == pytest.approx(4.0), "stacked to the total"
    assert "mean of 2 steps" in figure.axes[0].get_xlabel()


def test_each_models_seconds_have_its_colour():
    figure, _ = seconds_of_a_step({"cot_sft_tapo": log(2), "cot_sft_dapo": log(2)})
    solid = [container[0].get_facecolor() for container in figure.axes[0].containers][::3]
    models = ("cot_sft_tapo", "cot_sft_dapo")
    assert [to_hex(colour).upper() for colour in solid] == [colour_of(model) for model in models]


def test_a_failure_mode_is_drawn_and_described_by_its_own_numbers():
    hacked = log(accuracy=lambda step: 0.5 + 0.08 * step, accuracy_strict=lambda step: 0.5,
                 length=lambda step: 100 + 20 * step, truncated_share=lambda step: step / 10)
    figure = wrong_turns({"containment": hacked}, {"cot_sft_dapo": log()})
    own = colour_of("cot_sft_containment")
    lines = {(line.get_linestyle(), line.get_color()): line.get_ydata()[-1] for line in figure.axes[0].lines}
    assert lines == {("-", "#999999"): 0.5, ("-", own): pytest.approx(0.98), (":", own): 0.5}
    assert failure_findings(hacked, 256) == (
        "entropy 0.10 to 0.10, divergence 0.30 to 0.30, length 140 to 200 of 256 tokens, 50% cut off,"
        " in the required form 100% to 100%, groups kept 50% to 50%; rewarded accuracy 66% to 90%, strict 50% to"
        " 50% (a gap of 40 points)")
