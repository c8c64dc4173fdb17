"""Which runs may stand beside the paper's numbers: those on the paper's data, by what they were asked.

No flag says "miniature". A run is looked at file by file, each held against the hash that its stage recorded:

    01_data/data.json               no field guide: the paper's photographs have none, a drawn world has; the
                                    release's seen and unseen sub-categories
    04_evaluation/records.jsonl     the six data sets, each with the release's number of seen and of unseen
                                    sub-categories and no more pictures than its test set; fewer: a sample
    00_miniature_world/base.json    Qwen2.5-VL-3B or 7B, or a released Fine-R1 checkpoint of either
    04_evaluation/summary_rows.json the scored rows of summary.json, with the n of these records

The first thing that is otherwise refuses the run in one line.

Source: DESIGN 7 ("Miniature runs are never printed in a column of the paper's numbers"); counts of the
release's evaluation files (data.md 2.1); shapes of the two models (data.md 4.1).
"""

from pathlib import Path
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.errors import UserError
from finer1_lib.files import read_json, read_jsonl
from finer1_lib.paper.facts import AVERAGE, evaluation_sets
from finer1_lib.signatures import is_current, recorded_file
from finer1_lib.systems.registry import known_systems

STAGE = "04_evaluation"
METRICS = ("accuracy", "text_inclusion", "relative_semantic_similarity")
ORDERS = (None, "shuffled", "release")  # of the options; the open world has none
SHAPES = {"3B": (2048, 36), "7B": (3584, 28)}  # size -> (width, layers) of the language model
BASE, RELEASED = "Qwen2.5-VL-", "Fine-R1-"  # how the names of the checkpoints begin
STAGE1 = "Stage1"  # the released checkpoints after CoT SFT end in it


class NotComparable(UserError):
    """A run whose numbers must not stand beside the paper's; the message says why in one line."""


class Admitted(NamedTuple):
    """A run on the paper's data.

    Attributes:
        name: of its folder.
        rows: the scored rows of its summary.
        size: "3B" or "7B".
        released: "" for the plain base, else "Fine-R1" or "Stage1": which released checkpoint it asks.
        systems: names of the systems it asked that are the registry's own, by their weights.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    size: str
    released: str
    systems: frozenset = frozenset()


def admit(run_dir: "str | Path") -> Admitted:
    """Look over a run that has finished 04.

    Raises:
        NotComparable: it is not of the paper's data or model, or its files are not what its stages recorded.
        UserError: 04 has not finished.
    """
    run = Path(run_dir)
    if not is_current(run, STAGE, outputs=False):
        raise UserError(f"run {run.name!r} has not finished {STAGE}: run it to the end first")
    if not (run / "summary.json").is_file():
        raise _refusal(run.name, "it has no summary.json, which finer1 run writes when it ends")
    rows = read_json(_recorded(run, f"{STAGE}/summary_rows.json"), list)
    told = [row for row in read_json(run / "summary.json", list) if row.get("scorer")]
    if told != [row for row in rows if row.get("scorer")]:
        raise _refusal(run.name, f"the scored rows of its summary.json are not those that {STAGE} recorded")
    data = read_json(_recorded(run, "01_data/data.json"))
    return look_over(
        run.name, guide=data.get("guide"), data_sets=data.get("data_sets") or {},
        records=read_jsonl(_recorded(run, f"{STAGE}/records.jsonl")), rows=told,
        checkpoint=read_json(_recorded(run, "00_miniature_world/base.json")).get("checkpoint", ""),
        systems=read_json(_recorded(run, f"{STAGE}/systems.json"), list),
    )


def look_over(
    name: str, *, guide: Any, records: Iterable[Mapping], rows: Sequence[Mapping], checkpoint: str,
    data_sets: Mapping[str, Mapping] = {}, systems: Iterable[Mapping] = (),
) -> Admitted:
    """The same for what a notebook holds in its hands.

    Args:
        name: of the run, for the message.
        guide: the field guide, or where it lies; None or empty for none.
        records: all lines of records.jsonl.
        rows: of `scoring.summary_rows`.
        checkpoint: of the base model, a folder or a Hub id.
        data_sets: {word: {"split": "release" or "seeded"}} of data.json, where 01 read the paper's data sets.
        systems: entries of systems.json; one of other weights than the registry's under its name is no row of
            the paper.

    Raises:
        NotComparable: as the module says.
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
                                 f"n = {row['n']}, its records are of {of} pictures")
    known = known_systems()
    own = {one["name"] for one in systems if one["name"] in known
           and (known[one["name"]].checkpoint, known[one["name"]].kind) == (one["checkpoint"], one["kind"])}
    return Admitted(name, rows, size, released, frozenset(own))


def _refusal(name: str, why: str) -> NotComparable:
    return NotComparable(f"run {name!r} is not put beside the paper's numbers: {why}")


def _recorded(run: Path, path: str) -> Path:
    """A stage's file, if it is the one that the stage recorded."""
    try:
        return recorded_file(run, path)
    except UserError:
        raise _refusal(run.name, f"{path} is not the file that {path.partition('/')[0]} recorded") from None


def _counts(name: str, records: Iterable[Mapping]) -> dict[tuple[str, str], int]:
    """Pictures asked about, if sub-categories and pictures are those of the release's evaluation sets."""
    classes, pictures = {}, {}
    for record in records:
        key = record["super_category"].capitalize(), record["categories"]
        classes.setdefault(key, set()).add(record["sub_category"])
        pictures.setdefault(key, set()).add(record["item_id"])
    sets = evaluation_sets()
    found, wanted = (sorted({data for data, _ in keys}) for keys in (classes, sets))
    if found != wanted:
        told, theirs = ", ".join(found) or "none", ", ".join(wanted)
        raise _refusal(name, f"its data sets are {told}, the paper's {theirs}")
    for (data, kind), (names, items) in sets.items():
        here = len(classes.get((data, kind), ()))
        if here != names:
            raise _refusal(name, f"{data} has {here} {kind} sub-categories, in the paper {names}")
        here = len(pictures[data, kind])
        if here > items:
            raise _refusal(name, f"{data} has {here} pictures of {kind} sub-categories, in the paper {items}")
    counts = {key: len(asked) for key, asked in pictures.items()}
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
    told = Path(checkpoint).name or "unknown"
    told += f" ({shape[1]} layers of width {shape[0]})" if shape else ""
    raise _refusal(name, f"its base model is {told}, the paper's are Qwen2.5-VL-3B and 7B")


def _shape(config: Path) -> Optional[tuple[Any, Any]]:
    """(width, layers) of the language model, None where the checkpoint does not lie here."""
    if not config.is_file():
        return None
    found = read_json(config)
    text = found.get("text_config", found)
    return text.get("hidden_size"), text.get("num_hidden_layers")
