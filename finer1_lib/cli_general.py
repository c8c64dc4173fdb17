"""`finer1 export-lmms`: general abilities are measured by lmms-eval, on a checkpoint that this writes.

Source: paper Table 8; our choice to leave it to lmms-eval.
"""

from typing import Annotated

import typer

from finer1_lib.terminal import OutputRoot


def export_lmms(
    run_name: Annotated[str, typer.Argument(help="A run that trained the model.")],
    model: Annotated[str, typer.Argument(help="Its name in the records, e.g. cot_sft_tapo.")],
    target: Annotated[str, typer.Argument(help="The folder to write; it must not exist.")],
    output_root: OutputRoot = None,
) -> None:
    """Write a trained model as a checkpoint of its own, and print how lmms-eval and vLLM take it.

    Example: finer1 export-lmms paper_3b cot_sft_tapo tapo-checkpoint
    """
    from finer1_lib.chain import find_run
    from finer1_lib.systems.general import JUDGE, TASKS, WITHOUT_TASK, export_checkpoint, lmms_command

    run_dir = find_run(output_root, run_name)
    folder = export_checkpoint(run_dir, model, target)
    print(f"checkpoint: {folder}")
    print(f"{', '.join(TASKS)} (lmms-eval is installed apart: pip install lmms_eval qwen-vl-utils):")
    print(f"  {lmms_command(run_dir, folder)}")
    print(JUDGE)
    print(f"{', '.join(WITHOUT_TASK)}: lmms-eval has no task for it")
    print(f"to serve it:\n  vllm serve {folder} --generation-config vllm")
