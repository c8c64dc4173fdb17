"""A run's triplets in the release's form: `finer1 export-stage2 RUN FOLDER`."""

from typing import Annotated

import typer

from finer1_lib.commands.terminal import OutputRoot, new_app, run_app
from finer1_lib.core.files import read_json
from tools.export_release import data_of, write_stage2

app = new_app()


@app.command()
def main(run_name: Annotated[str, typer.Argument(help="A run that finished 01_data.")],
         target: Annotated[str, typer.Argument(help="The folder to write; it must not exist.")],
         output_root: OutputRoot = None,
         resize: Annotated[bool, typer.Option(
             "--resize", help="Stretch positive and negative to the anchor's size.")] = False) -> None:
    """Write a run's triplets, images inside, as the parquet files that the release trains Stage 2 on.

    Example: finer1 export-stage2 miniature stage2
    """
    import pandas

    folder = data_of(run_name, output_root)
    root = folder.parent / read_json(folder / "data.json")["image_root"]
    triplets = pandas.read_parquet(folder / "triplets.parquet")
    print(f"triplets: {write_stage2(triplets, root, target, resize=resize)} in {target}/data")


if __name__ == "__main__":
    run_app(app)
