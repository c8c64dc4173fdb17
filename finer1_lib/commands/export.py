"""General abilities (Table 8) by lmms-eval: a merged checkpoint, and the command that measures it.

The kit does not score MME, MMBench or SEED-Bench itself: lmms-eval is the common tool, and a second scorer
would only add a second number. lmms-eval, vLLM and transformers read the same folder. ImageWikiQA, the fourth
column of the table, has no task in lmms-eval. Which split of MMBench and which part of MME the paper reports
is not stated.

Source: Fine-R1 (arXiv 2602.07605), Table 8; lmms-eval's model qwen2_5_vl and its tasks.
"""

import shlex
from pathlib import Path

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_directory, read_json
from finer1_lib.evaluation.entries import weights_at
from finer1_lib.evaluation.summary import entries_in
from finer1_lib.models import loading as models
from finer1_lib.runs.fingerprints import parameters_of

TASKS = {"MME": "mme", "MMBench": "mmbench_en_dev", "SEED-Bench": "seedbench"}  # the paper's name -> lmms-eval's
WITHOUT_TASK = ("ImageWikiQA",)
JUDGE = ("MMBench: answers that name no option go to a judge (OPENAI_API_KEY); without its key lmms-eval "
         "draws a random letter, so count them in its samples")


def export_checkpoint(run_dir: "str | Path", model: str, target: "str | Path") -> Path:
    """Write a model of a run (a name of `entries_in`) as one checkpoint in bfloat16, with its processor.

    Merged on the CPU in float32 and rounded once; a 7B model takes about 50 GB of memory.
    Raises: UserError: no such model, a target that exists, a model whose weights are not of this run, or
    weights that cannot be loaded.
    """
    run_dir, target = Path(run_dir), Path(target)
    if target.exists():
        raise UserError(f"{target} exists: name a folder that does not, or move it away")
    _check_commas(target)
    known = {entry.model: entry for entry in entries_in(run_dir)}
    entry, base = known.get(model), read_json(run_dir / "00_miniature_world" / "base.json").get("checkpoint")
    if entry is None:
        raise UserError(f"run {run_dir.name!r} has no model {model!r}: there are {', '.join(known)}")
    base, adapter = weights_at(entry, base, entry.adapter and run_dir / entry.adapter)
    if entry.checkpoint and adapter is None:
        raise UserError(f"{model} is {entry.checkpoint}, not trained by this run: lmms-eval takes a chat "
                        "checkpoint as it is")
    if not base:
        raise UserError(f"run {run_dir.name!r} has no base model yet: run 00_miniature_world first")
    loaded = models.load(base, adapter, device="cpu", dtype="bfloat16")
    with atomic_directory(target) as folder:
        models.save_merged(loaded, folder)
    return target


def _check_commas(folder: Path) -> None:
    if "," in str(folder):
        raise UserError(f"{folder}: lmms-eval splits its arguments at commas; choose a folder without one")


def lmms_command(run_dir: "str | Path", checkpoint: "str | Path") -> str:
    """The command that measures a checkpoint of `export_checkpoint` on MME, MMBench and SEED-Bench.

    The pixel bounds are those of the run's 04, where it set any: a model is not the same model under others.
    """
    parameters, folder = parameters_of(Path(run_dir) / "04_evaluation"), Path(checkpoint)
    bounds = [f"{name}={parameters[name]}" for name in ("min_pixels", "max_pixels") if parameters.get(name)]
    _check_commas(folder)
    arguments = ",".join([f"pretrained={folder}", *bounds, "attn_implementation=sdpa"])
    return shlex.join(["python", "-m", "lmms_eval", "--model", "qwen2_5_vl", "--model_args", arguments, "--tasks",
                       ",".join(TASKS.values()), "--batch_size", "1", "--log_samples", "--output_path",
                       str(folder.with_name(folder.name + "-lmms"))])
