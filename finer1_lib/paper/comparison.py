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
from finer1_lib.core.faces import Later
from finer1_lib.core.files import read_json, read_jsonl
from finer1_lib.core.statistics import has_interval
from finer1_lib.evaluation.systems.registry import known_systems
from finer1_lib.paper import facts as paper_facts
from finer1_lib.paper.facts import AVERAGE, evaluation_sets
from finer1_lib.paper.orderings import BARS
from finer1_lib.paper.rows import markdown_table
from finer1_lib.runs.fingerprints import is_current, recorded_file

pd = Later("pandas")

STAGE = "04_evaluation"
METRICS = ("accuracy", "text_inclusion", "relative_semantic_similarity")
ORDERS = (None, "shuffled", "release")  # of the options; the open world has none
SHAPES = {"3B": (2048, 36), "7B": (3584, 28)}  # size -> (width, layers) of the language model
BASE, RELEASED = "Qwen2.5-VL-", "Fine-R1-"  # how the names of the checkpoints begin
STAGE1 = "Stage1"  # the released checkpoints after CoT SFT end in it
TABLES = ("Table 1", "Table 2", "Table 6")  # closed world; open world: similarity, text inclusion
ASKED = "base_cot_prompt"  # a released checkpoint gets the prompt with thinking, as in its training
SIMILARITY = "siglip"
COLUMNS = (
    "source", "setting", "metric", "paper_row", "model", "categories", "dataset", "option_order", "paper",
    "released", "run", "difference", "low", "high", "n", "n_paper", "reading", "run_strict")


class NotComparable(UserError):
    """A run whose numbers must not stand beside the paper's; the message says why in one line."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"run {name!r} is not put beside the paper's numbers: {why}")


class Admitted(NamedTuple):
    """A run on the paper's data."""

    name: str
    rows: Sequence[Mapping[str, Any]]  # the scored rows of its summary
    size: str  # "3B" or "7B"
    released: str  # "" for the plain base, else which released checkpoint: "Fine-R1" or "Stage1"
    systems: frozenset = frozenset()  # evaluated systems that have the registry's weights


def admit(run_dir: "str | Path") -> Admitted:
    """Check a run that has finished 04 (else UserError).

    Raises: NotComparable: not the paper's data or model, or files that its stages did not record.
    """
    run = Path(run_dir)
    if not is_current(run, STAGE, outputs=False):
        raise UserError(f"run {run.name!r} has not finished {STAGE}: run it to the end first")
    if not (run / "summary.json").is_file():
        raise NotComparable(run.name, "it has no summary.json, which finer1 run writes when it ends")

    def recorded(path: str) -> Path:
        try:
            return recorded_file(run, path)
        except UserError:
            stage = path.partition("/")[0]
            raise NotComparable(run.name, f"{path} is not the file that {stage} recorded") from None

    rows = read_json(recorded(f"{STAGE}/summary_rows.json"), list)
    scored = [row for row in read_json(run / "summary.json", list) if row.get("scorer")]
    if scored != [row for row in rows if row.get("scorer")]:
        raise NotComparable(run.name, f"the scored rows of its summary.json are not those that {STAGE} recorded")
    data = read_json(recorded("01_data/data.json"))
    return look_over(
        run.name, guide=data.get("guide"), data_sets=data.get("data_sets") or {},
        records=read_jsonl(recorded(f"{STAGE}/records.jsonl")), rows=scored,
        checkpoint=read_json(recorded("00_miniature_world/base.json")).get("checkpoint", ""),
        systems=read_json(recorded(f"{STAGE}/systems.json"), list))


def look_over(name: str, *, guide: Any, records: Iterable[Mapping], rows: Sequence[Mapping], checkpoint: str,
              data_sets: Mapping[str, Mapping] = {}, systems: Iterable[Mapping] = ()) -> Admitted:
    """The same for what a notebook has in memory; NotComparable as the module says.

    `guide` is the field guide or its place, empty for none; `rows` are of `summary_rows`; `checkpoint` is a
    folder or a Hub id; `data_sets` is {word: {"split": "release" or "seeded"}}; a system with other weights
    than the registry's under its name is not a row of the paper.
    """
    if guide:
        raise NotComparable(name, "it has a field guide of attributes, as a drawn world has, and the paper's "
                                  "photographs have none")
    if own := sorted(word for word, one in data_sets.items() if one["split"] != "release"):
        raise NotComparable(name, f"its seen and unseen sub-categories of {', '.join(own)} are not the release's "
                                  "(01's parameter release)")
    counts = _counts(name, records)
    size, released = _model(name, checkpoint)
    for row in rows:
        of = counts.get((row["dataset"].capitalize(), row["categories"]), 0)
        if row["metric"] in METRICS and row["option_order"] in ORDERS and row["n"] != of:
            raise NotComparable(name, f"the row of {row['model']} on {row['dataset']}, {row['categories']}, has "
                                      f"n = {row['n']}, its records are of {of} images")
    known = known_systems()
    own = {one["name"] for one in systems if one["name"] in known
           and (known[one["name"]].checkpoint, known[one["name"]].kind) == (one["checkpoint"], one["kind"])}
    return Admitted(name, rows, size, released, frozenset(own))


def _counts(name: str, records: Iterable[Mapping]) -> dict[tuple[str, str], int]:
    """Images a cell, if sub-categories and images are those of the release's evaluation sets."""
    seen = pd.DataFrame(
        [(one["super_category"].capitalize(), one["categories"], one["sub_category"], one["item_id"])
         for one in records], columns=["data", "kind", "names", "items"])
    sets = evaluation_sets()
    ours, wanted = sorted(set(seen["data"])), sorted({data for data, _ in sets})
    if ours != wanted:
        found = ", ".join(ours) or "none"
        raise NotComparable(name, f"its data sets are {found}, the paper's {', '.join(wanted)}")
    found = seen.groupby(["data", "kind"]).nunique().reindex(list(sets), fill_value=0)
    for ((data, kind), (names, items)), here in zip(sets.items(), found.itertuples()):
        if here.names != names:
            raise NotComparable(name, f"{data} has {here.names} {kind} sub-categories, in the paper {names}")
        if here.items > items:
            raise NotComparable(name, f"{data} has {here.items} images of {kind} sub-categories, in the paper "
                                      f"{items}")
    counts = found["items"].to_dict()
    return counts | {(AVERAGE, kind): _whole(counts, kind) for kind in ("seen", "unseen")}


def _whole(counts: Mapping[tuple[str, str], int], kind: str) -> int:
    return sum(count for (_, of), count in counts.items() if of == kind)


def _model(name: str, checkpoint: str) -> tuple[str, str]:
    """(size, which released checkpoint or "") by the checkpoint's name and, where it lies here, its shape."""
    place, shape = Path(checkpoint), None
    if (place / "config.json").is_file():
        found = read_json(place / "config.json")
        text = found.get("text_config", found)
        shape = text.get("hidden_size"), text.get("num_hidden_layers")
    for part in reversed(place.parts):  # a folder of the Hub's cache has the name further up
        for size, known in SHAPES.items():
            released = RELEASED + size in part
            if (released or BASE + size in part) and shape in (None, known):
                return size, (STAGE1 if STAGE1 in part else "Fine-R1") if released else ""
    known_as = place.name or "unknown"
    known_as += f" ({shape[1]} layers of width {shape[0]})" if shape else ""
    raise NotComparable(name, f"its base model is {known_as}, the paper's are Qwen2.5-VL-3B and 7B")


def comparison_table(run_dir: "str | Path", released_run: "str | Path | None" = None) -> "pd.DataFrame":
    """`table_of` two runs' folders; NotComparable or UserError as `admit` and `table_of`."""
    return table_of(admit(run_dir), None if released_run is None else admit(released_run))


def table_of(run: Optional[Admitted], released: Optional[Admitted] = None) -> "pd.DataFrame":
    """Every value of the paper for which the runs have one too: a DataFrame of `COLUMNS`, in percent.

    A run of a released checkpoint alone fills the column `released`. Difference, interval, n and reading are
    of the run, or of the released checkpoint where there is none. `n_paper` is the release's test set.
    UserError if `released` is not of a released checkpoint, `run` is of one too, or the sizes differ.
    """
    if released is None and run.released:
        run, released = None, run
    if released and not released.released:
        raise UserError(f"run {released.name!r} is of a plain base: --released takes a Fine-R1 checkpoint's")
    if run and run.released:
        raise UserError(f"run {run.name!r} is of a released checkpoint: give it with --released")
    if run and released and run.size != released.size:
        raise UserError(f"{run.name!r} is of {run.size}, {released.name!r} of {released.size}: compare runs of "
                        "one size")
    lines = [_line(fact, model, order, run, released)
             for fact, model in _facts((run or released).size) for order in ("shuffled", "release")]
    return pd.DataFrame([line for line in lines if line], columns=list(COLUMNS))


def compare_lines(table: "pd.DataFrame") -> str:
    """What `finer1 compare` prints: the averages of `comparison_table` as Markdown, and how to read them."""
    return "\n".join([to_markdown(table), "", *notes(table)])


def notes(table: "pd.DataFrame") -> list[str]:
    """What a reader of the table must know, a line each."""
    there = set(zip(table["source"], table["paper_row"]))
    remarks = {row[1]: text for row, text in paper_facts.remarks().items() if row in there}
    remarks |= {one.label: one.ambiguous for one in known_systems().values()
                if one.ambiguous and one.name in set(table["model"])}
    return ["Percent; ours by the official scorer (the paper's), in the last column by the strict one.",
            "Intervals are ours alone, over sub-categories. inside: the paper's value lies in our interval.",
            *(f"{row}: {text}." for row, text in remarks.items())]


def to_markdown(table: "pd.DataFrame", every_dataset: bool = False) -> str:
    """`lines_of` as Markdown."""
    return markdown_table(*lines_of(table, every_dataset))


def lines_of(table: "pd.DataFrame", every_dataset: bool = False) -> tuple[list[str], list[list[str]]]:
    """(column titles, lines of cells) as text: the averages, with `every_dataset` the six data sets too."""
    from finer1_lib.training.methods import ROWS, label_of
    titles = ["table", "metric", "row of the paper", "our row", "categories", "paper", "released here",
              "our run", "difference [95 %]", "n", "reading", "strict"]
    labels = {name: system.label for name, system in known_systems().items()}
    labels |= {model: label_of(model) for model in ROWS}
    lines = []
    for row in (table if every_dataset else table[table["dataset"] == AVERAGE]).to_dict("records"):
        kind = row["categories"] + ("" if row["dataset"] == AVERAGE else f", {row['dataset']}")
        kind += ", release's order" if row["option_order"] == "release" else ""
        gap = _text(row["difference"], "+.2f")
        if gap != "-" and has_interval(row["low"]):
            gap += f" [{row['low']:+.2f}, {row['high']:+.2f}]"
        lines.append([
            row["source"], row["metric"].replace("_", " "), row["paper_row"], label_of(row["model"], labels), kind,
            *(_text(row[key]) for key in ("paper", "released", "run")), gap,
            f"{row['n']:,} of {row['n_paper']:,}", row["reading"], _text(row["run_strict"])])
    return titles, lines


def to_csv(table: "pd.DataFrame") -> str:
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


def _line(fact: Mapping[str, Any], model: str, order: str, run: Optional[Admitted],
          released: Optional[Admitted]) -> Optional[dict[str, Any]]:
    """One line, or None where neither run has the value."""
    def run_with(system: str) -> Optional[Admitted]:  # None: no row of this name is of the registry's weights
        return next((one for one in (run, released) if one and system in one.systems), None)

    beside = fact["model"].lower()  # a released checkpoint is named so among a run's systems
    mine, other = (run_with(model) if model in known_systems() else run, model), (None, "")
    if released and model == ("cot_sft" if released.released == STAGE1 else "cot_sft_tapo"):
        other = released, ASKED
    elif fact["model"].startswith(RELEASED) and model in ("cot_sft_tapo", beside):
        other = run_with(beside), beside
    theirs = _row(*other, fact, order)
    ours = None if other == mine else _row(*mine, fact, order)
    if (row := ours or theirs) is None:
        return None
    strict = _row(*(mine if ours else other), fact, order, "strict")
    gaps = {key: None if row[column] is None else 100 * row[column] - fact["value"]
            for key, column in (("difference", "value"), ("low", "low"), ("high", "high"))}
    sizes = {key: items for key, (_, items) in evaluation_sets().items()}
    kind, dataset = fact["categories"], fact["dataset"]
    return {
        **{key: fact[key] for key in ("source", "setting", "metric", "categories", "dataset")},
        "paper_row": fact["model"], "model": model, "option_order": row["option_order"],
        "paper": fact["value"], "released": _percent(theirs), "run": _percent(ours), **gaps,
        "n": row["n"], "n_paper": sizes.get((dataset, kind)) or _whole(sizes, kind),
        "reading": _reading(row, gaps), "run_strict": _percent(strict)}


def _row(run: Optional[Admitted], model: str, fact: Mapping[str, Any], order: str,
         scorer: str = "official") -> Optional[Mapping[str, Any]]:
    """The run's row of a value; the open world, where no options are shown, counts as "shuffled"."""
    wanted = {key: fact[key] for key in ("setting", "metric", "categories")} | {"model": model, "scorer": scorer}
    found = [row for row in (run.rows if run else ()) if row["dataset"].capitalize() == fact["dataset"]
             and (row["option_order"] or "shuffled") == order and wanted.items() <= row.items()]
    return min(found, key=lambda row: row["variant"] not in (None, SIMILARITY), default=None)


def _percent(row: Optional[Mapping[str, Any]]) -> Optional[float]:
    return None if row is None or row["value"] is None else 100 * row["value"]


def _reading(row: Mapping[str, Any], gaps: Mapping[str, Optional[float]]) -> str:
    if row["metric"] == "relative_semantic_similarity" and row["variant"] != SIMILARITY:
        return f"not comparable because its similarity is {row['variant']}, the paper's {SIMILARITY}"
    if gaps["low"] is None or gaps["high"] is None:
        return "not comparable because it has no interval"
    return "below" if gaps["high"] < 0 else "above" if gaps["low"] > 0 else "inside"
