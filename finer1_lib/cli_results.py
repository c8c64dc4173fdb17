"""Commands that read finished runs: `finer1 seeds`, `finer1 benchmark`, `finer1 compare`.

Source: our choice (DESIGN 7: many seeds pooled, the paper's numbers beside a run's).
"""

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from finer1_lib.terminal import OutputRoot, show_table


def seeds(
    runs: Annotated[list[str], typer.Argument(help="Finished runs that differ in their seed alone.")],
    output_root: OutputRoot = None,
    json_file: Annotated[Optional[str], typer.Option("--json", help="Also write all numbers here.")] = None,
    figure: Annotated[Optional[str], typer.Option(help="Also draw them, as .png, .pdf or .svg.")] = None,
) -> None:
    """Pool runs of one preset under several seeds: means and differences, with 95 % intervals.

    Example: finer1 seeds miniature seed1 seed2 --figure seeds.png
    """
    from finer1_lib.chain import find_run
    from finer1_lib.coverage import coverage_of
    from finer1_lib.files import atomic_write_json, check_targets
    from finer1_lib.seeds import draw, pool, read_runs, tables

    check_targets(json_file, figure)
    pooled = pool(read_runs(runs, output_root))
    partial = sorted({coverage_of(find_run(output_root, name)) for name in runs} - {""})
    for title, (titles, rows) in tables(pooled).items():
        show_table("\n".join([title, *partial]), titles, rows)
    if json_file is not None:
        atomic_write_json(Path(json_file), pooled)
    if figure is not None:
        draw(pooled, Path(figure))


def benchmark(
    run_name: Annotated[str, typer.Argument(help="A run that finished 03_tapo: its triplets and settings.")],
    output_root: OutputRoot = None,
    checkpoint: Annotated[Optional[str], typer.Option(help="Another base.", show_default="the run's")] = None,
    adapter: Annotated[
        Optional[str], typer.Option(help="Another start.", show_default="the run's CoT SFT")
    ] = None,
    backend: Annotated[str, typer.Option(help="transformers or unsloth.")] = "transformers",
    repeats: Annotated[int, typer.Option(min=1, help="Turns that count.")] = 5,
    json_file: Annotated[Optional[str], typer.Option("--json", help="Also write every turn here.")] = None,
) -> None:
    """Time a step of TAPO against one of DAPO with as many rollouts, and what shared prompts save.

    Example: finer1 benchmark miniature --repeats 3 --json cost.json
    """
    from finer1_lib.benchmark import measure_run, tables
    from finer1_lib.files import atomic_write_json, check_targets

    check_targets(json_file)
    result = measure_run(run_name, output_root, checkpoint, adapter, backend, repeats, say=print)
    for title, (titles, rows) in tables(result).items():
        show_table(title, titles, rows)
    if json_file is not None:
        atomic_write_json(Path(json_file), result)


def compare(
    run_name: Annotated[str, typer.Argument(help="A finished run on the paper's data.")],
    released: Annotated[Optional[str], typer.Option(help="A run of the released checkpoint.")] = None,
    to: Annotated[
        Optional[str], typer.Option(help="All lines as CSV.", show_default="comparison.csv in the run")
    ] = None,
    output_root: OutputRoot = None,
) -> None:
    """The paper's numbers beside a run's; a run on other data (the miniature's) is refused."""
    from finer1_lib.chain import find_run
    from finer1_lib.files import atomic_write_text, check_targets
    from finer1_lib.paper.comparison import compare_lines, comparison_table, to_csv

    run = find_run(output_root, run_name)
    check_targets(to)
    table = comparison_table(run, released and find_run(output_root, released))
    print(compare_lines(table))
    target = Path(to or run / "comparison.csv")
    if to or os.access(run, os.W_OK):  # a finished run of somebody else's can be compared too
        atomic_write_text(target, to_csv(table))
        print(f"all {len(table)} lines, those of each data set too: {target}")
    else:
        print(f"{target} cannot be written: name a file with --to")
