"""A real vLLM beside the kit: the same answers, the same policy, noticed failures. Skipped where it is not installed.

Not covered, because it needs a GPU: sleep and waking up, CUDA graphs, half precision, chunked prefill.
"""

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
import torch
import training_cases as cases

from finer1_lib.core.errors import UserError
from finer1_lib.miniature.base import WEIGHTS
from finer1_lib.models.vllm_engine import (
    GAPS, check_engine, check_gap, collapsed, engine_version, merged_weights)

HERE = Path(__file__).parents[1]
real = pytest.mark.skipif(util.find_spec("vllm") is None, reason="vLLM is not installed here (README, Tests)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = cases.prepare(tmp_path_factory.mktemp("vllm"))
    cases.prepare_adapter(WEIGHTS, folder / "start_miniature")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    paths = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    job = subprocess.run([sys.executable, str(HERE / "vllm_job.py"), str(folder)], env=env, cwd=folder, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=540)
    lines = [line for line in job.stdout.splitlines() if line.startswith("FOUND ")]
    assert job.returncode == 0 and lines, job.stdout[-4000:]
    return json.loads(lines[-1][6:])


@real
@pytest.mark.parametrize("name", ["base", "adapter"])
def test_greedy_answers_are_the_kits_own_token_for_token(found, name):
    assert len(found[f"greedy_{name}"]) == 18 and all(found[f"greedy_{name}"])
    assert found[f"distinct_{name}"] > 4  # or equality would be cheap


@real
def test_draws_have_the_trainers_log_probabilities_and_repeat_in_any_order(found):
    assert found["gap"] < 1e-4 and found["same_in_another_order"]


@real
def test_new_weights_count_once_they_are_pushed(found):
    assert found["gap_stale"] > 0.1 and found["gap_pushed"] < 1e-4


@real
def test_no_step_of_tapo_is_sampled_from_another_policy(found):
    assert len(found["gaps"]) == 6 and max(found["gaps"]) < 1e-4
    assert found["ratios"] == pytest.approx([1, 1, 1], abs=1e-6)


@real
def test_a_stopped_training_resumes_to_the_same_weights_and_log(found):
    assert found["resumed"] and found["resumed_rows"]


@real
def test_a_push_that_is_left_out_stops_the_training(found):
    assert found["push_left_out"].startswith("engine vllm samples another policy than the one trained")


@real
def test_failures_are_one_line_each(found):
    assert "EngineCore died;" in found["died"] and "\n" not in found["died"] and found["closed"]
    assert found["too_long"].startswith("engine vllm: a prompt of 40000 tokens")
    assert found["other_prompt"].startswith("engine vllm reads another prompt than the trainer")


# Without vLLM ------------------------------------------------


@pytest.mark.parametrize("ids, wanted", [([], []), ([9], [9]), ([9, 9, 1, 9], [9, 1, 9]), ([1, 1, 9], [1, 1, 9])])
def test_runs_of_placeholders_collapse_and_nothing_else(ids, wanted):
    assert collapsed(ids, 9) == wanted


def test_merged_weights_are_pefts_under_the_checkpoints_names(folder):
    model = cases.start(folder).model
    ours = {name: weight.clone() for name, weight in merged_weights(model)}
    merged = dict(model.merge_and_unload().named_parameters())
    assert set(ours) == set(merged) and all(torch.allclose(ours[name], merged[name], atol=1e-6) for name in ours)
    before = dict(cases.start(folder).model.get_base_model().named_parameters())
    changed = [name for name in ours if name.endswith("q_proj.weight")]
    assert changed and all(not torch.equal(ours[n], before[n.replace("q_proj.", "q_proj.base_layer.")])
                           for n in changed)


def test_an_engine_is_named_installed_and_fed_whole_weights(monkeypatch):
    check_engine("transformers", load_in_4bit=True)
    with pytest.raises(UserError, match="'vlm': one of transformers, vllm"):
        check_engine("vlm")
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="vLLM is not installed"):
        check_engine("vllm")
    monkeypatch.setattr(util, "find_spec", lambda name: name)
    with pytest.raises(UserError, match="load_in_4bit to false"):
        check_engine("vllm", load_in_4bit=True)
    assert engine_version("transformers").startswith("transformers 5.")


@pytest.mark.parametrize("dtype, limit", GAPS.items())
def test_a_gap_beyond_rounding_stops_and_nan_does_too(dtype, limit):
    assert check_gap(limit, 1.0, dtype) == {"engine_gap": limit, "engine_gap_max": 1.0}
    for mean in (limit * 1.01, float("nan")):
        with pytest.raises(UserError, match="another policy"):
            check_gap(mean, mean, dtype)
