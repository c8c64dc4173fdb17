"""`finer1 systems`: whom notebook 04 can ask beside a run's own models.

Source: our choice (the paper's tables name models, not checkpoints).
"""

from typing import Annotated

import typer

from finer1_lib.terminal import show_table


def systems(
    systems_from: Annotated[str, typer.Option("--from", help="A YAML file with entries of your own.")] = "",
) -> None:
    """List what would run for each row of the paper's tables, or the entries of a file of yours.

    Example: finer1 run single_gpu_80gb --set "04_evaluation.systems=[qwen2.5-vl-7b,siglip-l]"
    """
    from finer1_lib.systems.paper_rows import notes, systems_table
    from finer1_lib.systems.registry import read_systems

    if systems_from:
        entries = read_systems(systems_from).values()
        lines = [[one.name, one.label, one.kind, one.checkpoint, one.prompts] for one in entries]
        show_table(f"systems of {systems_from}", ["name", "label", "kind", "checkpoint", "prompts"], lines)
        return
    titles, lines = systems_table()
    show_table("systems for the rows of the paper's tables", titles, lines)
    for label, why in notes().items():
        print(f"{label}: {why}.")
