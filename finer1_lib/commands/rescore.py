"""`finer1 rescore`: every score of a record file again, without a model, so that a metric can change later."""

from pathlib import Path
from typing import Annotated, Any, Mapping, NamedTuple, Optional, Sequence

import typer

from finer1_lib.commands.terminal import Json, OutputRoot, show_table, write_json
from finer1_lib.core.errors import UserError, first_line


class Source(NamedTuple):
    """What the word that the user gave stands for."""

    path: Path  # the record file
    guide: Optional[Mapping[str, Any]] = None  # field guide of a drawn world
    taxonomy: Mapping[str, Mapping[str, str]] = {}  # {sub_category: {rank: value}} of a run
    names: Optional[Mapping[str, Sequence[str]]] = None  # {super_category: its sub-categories} of a run
    labels: Optional[Mapping[str, str]] = None  # {model: label} of a run
    similarities: tuple[str, ...] = ("auto",)  # names of Sim, the main one first
    coverage: str = ""  # lines above the tables


def find_source(records: str, output_root: Optional[str]) -> Source:
    """A record file by its path, or that of a run by the run's name, with all that the run knows.

    Raises: UserError: neither exists, or the run's folders do not hold what they should.
    """
    import pandas as pd

    from finer1_lib.core.files import is_file, read_json
    from finer1_lib.data.guide import read_guide
    from finer1_lib.evaluation.requests import coverage_of
    from finer1_lib.evaluation.summary import labels_in
    from finer1_lib.runs.chain import find_run
    from finer1_lib.runs.fingerprints import parameters_of
    if is_file(records) or records.endswith((".jsonl", ".gz")) or len(Path(records).parts) != 1:
        return Source(Path(records))
    run = find_run(output_root, records)
    path = run / "04_evaluation" / "records.jsonl"
    if not path.is_file():
        raise UserError(f"{records!r} is no file, and no run with answers: there is no {path}")
    images, tree, guide = (run / "01_data" / name for name in ("images.parquet", "taxonomy.json", "guide.json"))
    again = f"run 01_data again, or give {path} itself"
    try:
        table = pd.read_parquet(images, columns=["super_category", "sub_category"])
    except (OSError, ValueError) as error:
        raise UserError(f"{images} cannot be read ({first_line(error)}): {again}") from None
    names = {word: sorted(set(part["sub_category"])) for word, part in table.groupby("super_category")}
    taxonomy, known = read_json(tree), parameters_of(path.parent)
    if not all(isinstance(ranks, dict) and all(isinstance(value, str) for value in ranks.values())
               for ranks in taxonomy.values()):
        raise UserError(f"{tree} holds no taxonomy: {again}")
    main, more = known.get("text_similarity", "auto"), known.get("more_similarities", [])
    if not isinstance(more, list) or not all(isinstance(name, str) for name in (main, *more)):
        raise UserError(f"{path.with_name('stage.json')} does not say how it was scored: give {path} itself,"
                        " and --similarity")
    return Source(path, read_guide(guide) if guide.is_file() else None, taxonomy, names, labels_in(run),
                  (main, *more), coverage_of(run))


def rescore(
    records: Annotated[str, typer.Argument(help="A records.jsonl or .jsonl.gz, or the name of a run.")],
    guide: Annotated[Optional[str], typer.Option(
        help="guide.json of a drawn world.", show_default="the run's")] = None,
    taxonomy: Annotated[Optional[str], typer.Option(
        help="Genera and further ranks, .csv or .json.", show_default="the run's, the guide's")] = None,
    similarity: Annotated[Optional[list[str]], typer.Option(
        help="Sim of the open world, the main one first; may be repeated.",
        show_default="the run's, else auto")] = None,
    json_file: Json = None,
    csv_file: Annotated[Optional[str], typer.Option("--csv", help="The same as a table.")] = None,
    set_aside: Annotated[bool, typer.Option(
        "--set-aside", help="First move lines that are no records into a file beside.")] = False,
    output_root: OutputRoot = None) -> None:
    """Compute every score again from the records alone, line by line: no model, and files of any length.

    Example: finer1 rescore outputs/miniature/04_evaluation/records.jsonl --json rows.json
    """
    import pandas as pd

    from finer1_lib.core.escaping import write_csv
    from finer1_lib.core.files import check_targets, is_file
    from finer1_lib.data.guide import read_guide
    from finer1_lib.data.taxonomy import find_taxonomy
    from finer1_lib.evaluation.records import RecordFile, names_in, set_aside as set_lines_aside
    from finer1_lib.evaluation.scores.rescore import paths_of, rescore as rescored
    from finer1_lib.evaluation.scores.scoring import make_scorer
    from finer1_lib.evaluation.scores.similarity import make_similarity
    from finer1_lib.evaluation.summary import KEYS, main_table

    check_targets(json_file, csv_file)
    source = find_source(records, output_root)
    taken = {Path(name).resolve() for name in (source.path, guide, taxonomy) if name is not None}
    for target in filter(None, (csv_file, json_file)):  # also one that is named twice
        if Path(target).resolve() in taken:
            raise UserError(f"{target} is read or written already: give --json and --csv files of their own")
        taken.add(Path(target).resolve())
    known = source.guide
    if guide is not None:
        if not is_file(guide):
            raise UserError(f"--guide: {guide} is no file")
        known = read_guide(guide)
    if set_aside:
        print(set_lines_aside(source.path))
    file = RecordFile(source.path)
    found_names, tree = names_in(file), dict(source.taxonomy)
    names = source.names or found_names
    if guide is not None or taxonomy is not None or not tree:
        table = pd.DataFrame([(word, name) for word, group in found_names.items() for name in group],
                             columns=["super_category", "sub_category"])
        tree |= find_taxonomy(table, guide=known, path=taxonomy or "",
                              data_sets=() if source.labels else list(found_names))  # a run says what it has
    main, *more = [make_similarity(name, known) for name in similarity or source.similarities]
    scorers = [make_scorer(name, similarity=main, guide=known, names=names, more=more)
               for name in ("strict", "official")]
    both = {word: [*group, *names.get(word, ())] for word, group in found_names.items()}
    found = rescored(file, scorers, similarity=main.name, paths=paths_of(both, tree) if tree else None)
    labels = source.labels or {row["model"]: row["model"] for row in found.rows}
    for scorer in scorers:
        title = f"{found.records:,} records, {scorer.name} scorer, similarity {main.name}: percent [95 % interval]"
        show_table(title, *main_table(found.rows, scorer.name, labels), source.coverage)
    if found.torn is not None:
        print(f"line {found.torn}, the last one, is torn: left out")
    if found.doubled:
        print(f"{found.doubled} lines stand twice: counted once")
    write_json(json_file, found.rows)
    if csv_file is not None:
        write_csv(csv_file, pd.DataFrame(found.rows, columns=list(KEYS)))
