"""The commands of `finer1` that write a run's training data in the release's own forms.

Source: our choice; the forms are those of the release's Fine-R1-Stage1-data.json and Stage-2 parquet.
"""

from pathlib import Path
from typing import Annotated, Optional

import typer

from finer1_lib.terminal import OutputRoot

_RUN = Annotated[str, typer.Argument(help="A run that finished 01_data.")]


def export_stage1(
    run_name: _RUN, target: Annotated[str, typer.Argument(help="The JSON file to write.")],
    output_root: OutputRoot = None,
) -> None:
    """Write a run's kept rationales as the JSON list that the release trains Stage 1 on.

    Example: finer1 export-stage1 miniature stage1.json
    """
    from finer1_lib.files import check_targets, read_jsonl
    from finer1_lib.release.stage1 import write_stage1

    check_targets(target)
    count = write_stage1(read_jsonl(_data(run_name, output_root) / "rationales.jsonl"), target)
    print(f"rationales: {count} in {target}")


def export_stage2(
    run_name: _RUN, target: Annotated[str, typer.Argument(help="The folder to write; it must not exist.")],
    output_root: OutputRoot = None,
    resize: Annotated[
        bool, typer.Option("--resize", help="Stretch positive and negative to the anchor's size.")
    ] = False,
) -> None:
    """Write a run's triplets, pictures inside, as the parquet files that the release trains Stage 2 on.

    Example: finer1 export-stage2 miniature stage2
    """
    import pandas

    from finer1_lib.files import read_json
    from finer1_lib.release.stage2 import write_stage2

    folder = _data(run_name, output_root)
    root = folder.parent / read_json(folder / "data.json")["image_root"]
    count = write_stage2(pandas.read_parquet(folder / "triplets.parquet"), root, target, resize=resize)
    print(f"triplets: {count} in {target}/data")


def _data(run_name: str, output_root: Optional[str]) -> Path:
    """The folder of a run's 01_data; an error if it was not finished."""
    from finer1_lib.chain import find_run
    from finer1_lib.errors import UserError

    folder = find_run(output_root, run_name) / "01_data"
    if not (folder / "stage.json").is_file():
        raise UserError(f"{folder}: 01_data is not finished; run it first: finer1 run ... --to 01_data")
    return folder
