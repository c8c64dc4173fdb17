"""A run's kept rationales in the release's form: `finer1 export-stage1 RUN FILE`."""

from typing import Annotated

import typer

from finer1_lib.commands.terminal import OutputRoot, new_app, run_app
from finer1_lib.core.files import check_targets, read_jsonl
from tools.export_release import data_of, write_stage1

app = new_app()


@app.command()
def main(run_name: Annotated[str, typer.Argument(help="A run that finished 01_data.")],
         target: Annotated[str, typer.Argument(help="The JSON file to write.")],
         output_root: OutputRoot = None) -> None:
    """Write a run's kept rationales as the JSON list that the release trains Stage 1 on.

    Example: finer1 export-stage1 miniature stage1.json
    """
    check_targets(target)
    rationales = read_jsonl(data_of(run_name, output_root) / "rationales.jsonl")
    print(f"rationales: {write_stage1(rationales, target)} in {target}")


if __name__ == "__main__":
    run_app(app)
