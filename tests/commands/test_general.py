"""What lmms-eval gets: the very model that the run evaluated, in one folder, and a command that fits it."""

import json
import shlex
import shutil

import pytest
import tiny_checkpoint
import torch
import typer
from typer.testing import CliRunner

from finer1_lib import models
from finer1_lib.commands import export as general
from finer1_lib.commands.cli import export_lmms
from finer1_lib.core.errors import UserError
from finer1_lib.models.trainable import Trainable, make_trainable, save_trained

PIXELS = {"min_pixels": 0, "max_pixels": 3136}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run with a base and one trained adapter whose weights are not zero."""
    folder = tmp_path_factory.mktemp("outputs") / "tiny"
    base = tiny_checkpoint.build(folder / "base")
    for stage, content in (("00_miniature_world/base.json", {"checkpoint": str(base)}),
                           ("03_tapo/models.json", []),
                           ("04_evaluation/stage.json", {"parameters": PIXELS})):
        (folder / stage).parent.mkdir(parents=True, exist_ok=True)
        (folder / stage).write_text(json.dumps(content))
    loaded = make_trainable(models.load(base), Trainable("lora", rank=4, alpha=8), seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in loaded.model.named_parameters():
            if "lora_" in name:
                tensor.normal_(std=0.3)
    save_trained(loaded, folder / "02_cot_sft" / "cot_sft")
    return folder


def logits(loaded):
    ids = torch.tensor([loaded.processor.tokenizer("What species is this bird?")["input_ids"]])
    with torch.no_grad():
        return loaded.model(input_ids=ids).logits


def test_the_exported_checkpoint_is_the_models_merged(run_dir, tmp_path):
    target = general.export_checkpoint(run_dir, "cot_sft", tmp_path / "out")
    exported, base = models.load(target), models.load(run_dir / "base")
    trained = models.load(run_dir / "base", run_dir / "02_cot_sft" / "cot_sft")
    assert not hasattr(exported.model, "peft_config") and not list(target.glob("*.bin"))
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"
    far = (logits(base) - logits(trained)).abs().max()
    assert (logits(exported) - logits(trained)).abs().max() < 0.1 * far  # bfloat16 keeps three digits
    assert exported.processor.tokenizer.chat_template


def test_an_adapter_from_elsewhere_is_merged_into_its_base(run_dir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    mine = run / "02_cot_sft" / "cot_sft"
    (run / "04_evaluation/stage.json").write_text(json.dumps({"parameters": {"more_models": [f"mine={mine}"]}}))
    first, second = (general.export_checkpoint(run, name, tmp_path / name) for name in ("cot_sft", "mine"))
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_a_row_that_only_prompts_otherwise_is_the_base(run_dir, tmp_path):
    target = general.export_checkpoint(run_dir, "base_cot_prompt", tmp_path / "out")
    weights = [dict(models.load(folder, dtype="bfloat16").model.named_parameters())
               for folder in (target, run_dir / "base")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_command_carries_the_runs_pixels_and_the_tables_tasks(run_dir, tmp_path):
    words = shlex.split(general.lmms_command(run_dir, tmp_path / "a folder"))
    given = dict(pair.split("=", 1) for pair in words[words.index("--model_args") + 1].split(","))
    bounds = {"max_pixels": "3136", "attn_implementation": "sdpa"}
    assert given == {"pretrained": str(tmp_path / "a folder"), **bounds}
    assert words[words.index("--tasks") + 1] == "mme,mmbench_en_dev,seedbench"
    from finer1_lib.paper.facts import facts

    columns = {*general.TASKS, *general.WITHOUT_TASK}
    assert columns == set(facts("Table 8")["dataset"])


@pytest.mark.parametrize("model, message", [
    ("cot_sft_tapo", "run 'tiny' has no model 'cot_sft_tapo': there are base, base_cot_prompt"),
    ("sft_answer_only", "adapter folder .*sft_answer_only does not exist"),
])
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(run_dir, tmp_path, model, message):
    with pytest.raises(UserError, match=message):
        general.export_checkpoint(run_dir, model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_target_that_exists_is_left_alone(run_dir, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists: name a folder"):
        general.export_checkpoint(run_dir, "cot_sft", tmp_path / "out")


def test_the_command_line_writes_and_reports(run_dir, tmp_path):
    app = typer.Typer()
    app.command()(export_lmms)
    target, root = tmp_path / "out", str(run_dir.parent)
    result = CliRunner().invoke(app, [run_dir.name, "cot_sft", str(target), "--output-root", root])
    assert result.exit_code == 0 and (target / "model.safetensors").is_file()
    for told in (f"vllm serve {target}", "ImageWikiQA: lmms-eval has no task", "OPENAI_API_KEY"):
        assert told in result.output
    assert general.lmms_command(run_dir, target) in result.output


def test_a_comma_would_split_the_arguments(run_dir, tmp_path):
    with pytest.raises(UserError, match="commas"):
        general.lmms_command(run_dir, tmp_path / "a,b")
