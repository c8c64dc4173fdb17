"""Paper | released checkpoint here | our run, in one table, for runs on the paper's own data alone.

    finer1 compare RUN [--released RUN] [--to FILE]

Values are in percent, with two digits as printed. Ours come from the official scorer, the release's and so
the paper's, over shuffled options, and over the release's order where a run has it; the strict score beside.
`difference` is ours minus the paper's, with our interval moved along: the paper gives none.

    inside   the paper's value lies in our 95 % interval; no proof that the two are equal
    below    our interval ends below the paper's value
    above    our interval begins above it

A run enters by what it was evaluated on, not by a flag: no field guide (the paper's photographs have none),
the release's seen and unseen sub-categories of all six data sets, no more images than their test sets,
Qwen2.5-VL-3B or 7B or a released checkpoint of either as the base, scored rows with the n of these records.
Each file is the one that its stage recorded. The first thing that differs refuses the run in one line.

Source: Fine-R1 (arXiv 2602.07605), Tables 1, 2, 6 and Figure 3; counts of the release's eval/data/*.jsonl.
"""

from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.escaping import csv_text
from finer1_lib.core.files import read_json, read_jsonl
from finer1_lib.core.statistics import has_interval
from finer1_lib.evaluation.systems.registry import known_systems
from finer1_lib.paper import facts as paper_facts
from finer1_lib.paper.facts import AVERAGE, evaluation_sets
from finer1_lib.paper.orderings import BARS
from finer1_lib.runs.fingerprints import is_current, recorded_file

STAGE = "04_evaluation"
METRICS = ("accuracy", "text_inclusion", "relative_semantic_similarity")
ORDERS = (None, "shuffled", "release")  # of the options; the open world has none
SHAPES = {"3B": (2048, 36), "7B": (3584, 28)}  # size -> (width, layers) of the language model
BASE, RELEASED = "Qwen2.5-VL-", "Fine-R1-"  # how the names of the checkpoints begin
STAGE1 = "Stage1"  # the released checkpoints after CoT SFT end in it


class NotComparable(UserError):
    """A run whose numbers must not stand beside the paper's; the message says why in one line."""


class Admitted(NamedTuple):
    """A run on the paper's data."""

    name: str
    rows: Sequence[Mapping[str, Any]]  # the scored rows of its summary
    size: str  # "3B" or "7B"
    released: str  # "" for the plain base, else which released checkpoint: "Fine-R1" or "Stage1"
    systems: frozenset = frozenset()  # evaluated systems that have the registry's weights


def admit(run_dir: "str | Path") -> Admitted:
    """Check a run that has finished 04.

    Raises: NotComparable: not the paper's data or model, or files that its stages did not record.
        UserError: 04 has not finished.
    """
    run = Path(run_dir)
    if not is_current(run, STAGE, outputs=False):
        raise UserError(f"run {run.name!r} has not finished {STAGE}: run it to the end first")
    if not (run / "summary.json").is_file():
        raise _refusal(run.name, "it has no summary.json, which finer1 run writes when it ends")
    rows = read_json(_recorded(run, f"{STAGE}/summary_rows.json"), list)
    scored = [row for row in read_json(run / "summary.json", list) if row.get("scorer")]
    if scored != [row for row in rows if row.get("scorer")]:
        raise _refusal(run.name, f"the scored rows of its summary.json are not those that {STAGE} recorded")
    data = read_json(_recorded(run, "01_data/data.json"))
    return look_over(
        run.name, guide=data.get("guide"), data_sets=data.get("data_sets") or {},
        records=read_jsonl(_recorded(run, f"{STAGE}/records.jsonl")), rows=scored,
        checkpoint=read_json(_recorded(run, "00_miniature_world/base.json")).get("checkpoint", ""),
        systems=read_json(_recorded(run, f"{STAGE}/systems.json"), list),
    )


def look_over(
    name: str, *, guide: Any, records: Iterable[Mapping], rows: Sequence[Mapping], checkpoint: str,
    data_sets: Mapping[str, Mapping] = {}, systems: Iterable[Mapping] = (),
) -> Admitted:
    """The same for what a notebook has in memory.

    `guide` is the field guide or its place, empty for none; `rows` are of `summary_rows`; `checkpoint` is a
    folder or a Hub id; `data_sets` is {word: {"split": "release" or "seeded"}}; a system with other weights
    than the registry's under its name is not a row of the paper.

    Raises: NotComparable: as the module says.
    """
    if guide:
        raise _refusal(name, "it has a field guide of attributes, as a drawn world has, and the paper's "
                             "photographs have none")
    if own := sorted(word for word, one in data_sets.items() if one["split"] != "release"):
        raise _refusal(name, f"its seen and unseen sub-categories of {', '.join(own)} are not the release's "
                             "(01's parameter release)")
    counts = _counts(name, records)
    size, released = _model(name, checkpoint)
    for row in rows:
        of = counts.get((row["dataset"].capitalize(), row["categories"]), 0)
        if row["metric"] in METRICS and row["option_order"] in ORDERS and row["n"] != of:
            raise _refusal(name, f"the row of {row['model']} on {row['dataset']}, {row['categories']}, has "
                                 f"n = {row['n']}, its records are of {of} images")
    known = known_systems()
    own = {one["name"] for one in systems if one["name"] in known
           and (known[one["name"]].checkpoint, known[one["name"]].kind) == (one["checkpoint"], one["kind"])}
    return Admitted(name, rows, size, released, frozenset(own))


def _refusal(name: str, why: str) -> NotComparable:
    return NotComparable(f"run {name!r} is not put beside the paper's numbers: {why}")


def _recorded(run: Path, path: str) -> Path:
    try:
        return recorded_file(run, path)
    except UserError:
        raise _refusal(run.name, f"{path} is not the file that {path.partition('/')[0]} recorded") from None


def _counts(name: str, records: Iterable[Mapping]) -> dict[tuple[str, str], int]:
    """Images a cell, if sub-categories and images are those of the release's evaluation sets."""
    classes, images = {}, {}
    for record in records:
        key = record["super_category"].capitalize(), record["categories"]
        classes.setdefault(key, set()).add(record["sub_category"])
        images.setdefault(key, set()).add(record["item_id"])
    sets = evaluation_sets()
    found, wanted = (sorted({data for data, _ in keys}) for keys in (classes, sets))
    if found != wanted:
        ours = ", ".join(found) or "none"
        raise _refusal(name, f"its data sets are {ours}, the paper's {', '.join(wanted)}")
    for (data, kind), (names, items) in sets.items():
        here = len(classes.get((data, kind), ()))
        if here != names:
            raise _refusal(name, f"{data} has {here} {kind} sub-categories, in the paper {names}")
        here = len(images[data, kind])
        if here > items:
            raise _refusal(name, f"{data} has {here} images of {kind} sub-categories, in the paper {items}")
    counts = {key: len(ids) for key, ids in images.items()}
    for kind in ("seen", "unseen"):
        counts[AVERAGE, kind] = sum(n for (_, of), n in counts.items() if of == kind)
    return counts


def _model(name: str, checkpoint: str) -> tuple[str, str]:
    """(size, which released checkpoint or "") by the checkpoint's name and, where it lies here, its shape."""
    shape = _shape(Path(checkpoint) / "config.json")
    for part in reversed(Path(checkpoint).parts):  # a folder of the Hub's cache has the name further up
        for size, known in SHAPES.items():
            released = RELEASED + size in part
            if (released or BASE + size in part) and shape in (None, known):
                return size, (STAGE1 if STAGE1 in part else "Fine-R1") if released else ""
    known_as = Path(checkpoint).name or "unknown"
    known_as += f" ({shape[1]} layers of width {shape[0]})" if shape else ""
    raise _refusal(name, f"its base model is {known_as}, the paper's are Qwen2.5-VL-3B and 7B")


def _shape(config: Path) -> Optional[tuple[Any, Any]]:
    """(width, layers) of the language model, None where the checkpoint is not on this machine."""
    if not config.is_file():
        return None
    found = read_json(config)
    text = found.get("text_config", found)
    return text.get("hidden_size"), text.get("num_hidden_layers")


COLUMNS = (
    "source", "setting", "metric", "paper_row", "model", "categories", "dataset", "option_order", "paper",
    "released", "run", "difference", "low", "high", "n", "n_paper", "reading", "run_strict",
)  # fmt: skip
TABLES = ("Table 1", "Table 2", "Table 6")  # closed world; open world: similarity, text inclusion
ASKED = "base_cot_prompt"  # a released checkpoint gets the prompt with thinking, as in its training
SIMILARITY = "siglip"


def comparison_table(run_dir: "str | Path", released_run: "str | Path | None" = None):
    """Every value of the paper for which the run has one too: a DataFrame of `COLUMNS`, in percent.

    A run of a released checkpoint alone fills the column `released`. Difference, interval, n and reading are
    of the run, or of the released checkpoint where there is none. `n_paper` is the release's test set.

    Raises: NotComparable: data or model that are not the paper's. UserError: a run that has not finished, or
        a `released_run` of another base.
    """
    return table_of(admit(run_dir), None if released_run is None else admit(released_run))


def table_of(run: Optional[Admitted], released: Optional[Admitted] = None):
    """`comparison_table` of admitted runs.

    Raises: UserError: `released` is not of a released checkpoint, `run` is of one too, or the sizes differ.
    """
    import pandas as pd

    if released is None and run.released:
        run, released = None, run
    if released is not None and not released.released:
        raise UserError(f"run {released.name!r} is of a plain base: --released takes a Fine-R1 checkpoint's")
    if run is not None and run.released:
        raise UserError(f"run {run.name!r} is of a released checkpoint: give it with --released")
    if run is not None and released is not None and run.size != released.size:
        sizes = f"{run.name!r} is of {run.size}, {released.name!r} of {released.size}"
        raise UserError(f"{sizes}: compare runs of one size")
    lines = [_line(fact, model, order, run, released)
             for fact, model in _facts((run or released).size) for order in ("shuffled", "release")]
    return pd.DataFrame([line for line in lines if line], columns=list(COLUMNS))


def compare_lines(table) -> str:
    """What `finer1 compare` prints: the averages of `comparison_table` as Markdown, and how to read them."""
    return "\n".join([to_markdown(table), "", *notes(table)])


def notes(table) -> list[str]:
    """What a reader of the table must know, a line each."""
    lines = ["Percent; ours by the official scorer (the paper's), in the last column by the strict one.",
             "Intervals are ours alone, over sub-categories. inside: the paper's value lies in our interval."]
    remarks = {row: text for (source, row), text in paper_facts.remarks().items()
            if not table[(table["source"] == source) & (table["paper_row"] == row)].empty}
    unsure = {one.label: one.ambiguous for one in known_systems().values()
              if one.ambiguous and one.name in set(table["model"])}
    return [*lines, *(f"{row}: {text}." for row, text in {**remarks, **unsure}.items())]


def to_markdown(table, every_dataset: bool = False) -> str:
    """`lines_of` as Markdown."""
    titles, lines = lines_of(table, every_dataset)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [titles, ["---"] * len(titles), *lines])


def lines_of(table, every_dataset: bool = False) -> tuple[list[str], list[list[str]]]:
    """(column titles, lines of cells) as text: the averages, with `every_dataset` the six data sets too."""
    from finer1_lib.training.methods import ROWS, label_of

    titles = ["table", "metric", "row of the paper", "our row", "categories", "paper", "released here",
              "our run", "difference [95 %]", "n", "reading", "strict"]
    labels = {**{name: system.label for name, system in known_systems().items()},
              **{model: label_of(model) for model in ROWS}}
    shown = table if every_dataset else table[table["dataset"] == paper_facts.AVERAGE]
    lines = []
    for row in shown.to_dict("records"):
        kind = row["categories"] + ("" if row["dataset"] == paper_facts.AVERAGE else f", {row['dataset']}")
        kind += ", release's order" if row["option_order"] == "release" else ""
        gap = _text(row["difference"], "+.2f")
        if gap != "-" and has_interval(row["low"]):
            gap += f" [{row['low']:+.2f}, {row['high']:+.2f}]"
        lines.append([
            row["source"], row["metric"].replace("_", " "), row["paper_row"],
            label_of(row["model"], labels), kind,
            *(_text(row[key]) for key in ("paper", "released", "run")), gap,
            f"{row['n']:,} of {row['n_paper']:,}", row["reading"], _text(row["run_strict"]),
        ])  # fmt: skip
    return titles, lines


def to_csv(table) -> str:
    """Every line of `comparison_table`, those of the six data sets too, as CSV, its numbers as printed."""
    shown = {key: [_text(value, none="") for value in table[key]]
             for key in ("paper", "released", "run", "difference", "low", "high", "run_strict")}
    return csv_text(table.assign(**shown))


def _text(value: Optional[float], form: str = ".2f", none: str = "-") -> str:
    return none if value is None or value != value else f"{value:{form}}"


def _facts(size: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The paper's values that have a row of ours, with that row's name."""
    rows = [(source, row, model) for source in TABLES
            for row, model in ((f"Qwen2.5-VL-{size}", "base"), (f"Fine-R1-{size}", "cot_sft_tapo"))]
    if size == "3B":  # Figure 3 repeats these two rows and adds the others
        rows += [(figure, bar, model) for figure, bars in BARS.items() for bar, models in bars.items()
                 for model in models if model not in ("base", "cot_sft_tapo")]
    rows += [(source, row, system.name) for system in known_systems().values() for row in system.paper
             for source in TABLES if row != f"{RELEASED}{size}"]  # that one fills the column `released`
    for source, row, model in rows:
        found = paper_facts.facts(source, model=row)
        for fact in found[found["categories"] != "all"].to_dict("records"):
            yield fact, model


def _line(
    fact: Mapping[str, Any], model: str, order: str, run: Optional[Admitted], released: Optional[Admitted]
) -> Optional[dict[str, Any]]:
    """One line, or None where neither run has the value."""
    def run_with(system: str) -> Optional[Admitted]:  # None: no row of this name is of the registry's weights
        return next((one for one in (run, released) if one and system in one.systems), None)

    stands_for = "cot_sft" if released and released.released == STAGE1 else "cot_sft_tapo"
    beside = fact["model"].lower()  # a released checkpoint is named so among a run's systems
    mine = (run_with(model) if model in known_systems() else run), model
    other: tuple[Optional[Admitted], str] = (None, "")
    if released and model == stands_for:
        other = released, ASKED
    elif fact["model"].startswith(RELEASED) and model in ("cot_sft_tapo", beside):
        other = run_with(beside), beside
    theirs = _row(*other, fact, order)
    ours = None if other == mine else _row(*mine, fact, order)
    row = ours or theirs
    if row is None:
        return None
    strict = _row(*(mine if ours else other), fact, order, "strict")
    gaps = {key: None if row[column] is None else 100 * row[column] - fact["value"]
            for key, column in (("difference", "value"), ("low", "low"), ("high", "high"))}
    sizes = {key: items for key, (_, items) in paper_facts.evaluation_sets().items()}
    kind, dataset = fact["categories"], fact["dataset"]
    whole = sizes.get((dataset, kind)) or sum(items for (_, of), items in sizes.items() if of == kind)
    return {
        **{key: fact[key] for key in ("source", "setting", "metric", "categories", "dataset")},
        "paper_row": fact["model"], "model": model, "option_order": row["option_order"],
        "paper": fact["value"], "released": _percent(theirs), "run": _percent(ours), **gaps,
        "n": row["n"], "n_paper": whole, "reading": _reading(row, gaps), "run_strict": _percent(strict),
    }  # fmt: skip


def _row(
    run: Optional[Admitted], model: str, fact: Mapping[str, Any], order: str, scorer: str = "official"
) -> Optional[Mapping[str, Any]]:
    """The run's row of a value; the open world, where no options are shown, counts as "shuffled"."""
    wanted = {key: fact[key] for key in ("setting", "metric", "categories")}
    wanted |= {"model": model, "scorer": scorer}
    found = [row for row in (run.rows if run else ()) if row["dataset"].capitalize() == fact["dataset"]
             and (row["option_order"] or "shuffled") == order
             and all(row[key] == value for key, value in wanted.items())]
    return min(found, key=lambda row: row["variant"] not in (None, SIMILARITY), default=None)


def _percent(row: Optional[Mapping[str, Any]]) -> Optional[float]:
    return None if row is None or row["value"] is None else 100 * row["value"]


def _reading(row: Mapping[str, Any], gaps: Mapping[str, Optional[float]]) -> str:
    if row["metric"] == "relative_semantic_similarity" and row["variant"] != SIMILARITY:
        return f"not comparable because its similarity is {row['variant']}, the paper's {SIMILARITY}"
    if gaps["low"] is None or gaps["high"] is None:
        return "not comparable because it has no interval"
    return "below" if gaps["high"] < 0 else "above" if gaps["low"] > 0 else "inside"
