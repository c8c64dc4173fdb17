"""The run's report: one HTML page that needs nothing but itself, in the order in which a reader asks.

What this run is, the main table, which differences hold, traces, probes, training, data, world, then
parameters, times and all rows. Only finished stages that belong together are shown, the others are named.
Everything that a run can contain (names, parameters, labels, completions) is escaped, figures are embedded,
and the page forbids itself every script and every address (Content-Security-Policy).

Source: our choice (DESIGN 6, "nbconvert + Jinja2 (report)"; here Jinja2 alone).

The report's tables: titles and rows of text, from the files that finished stages left.

    differences(run_dir, labels) -> {"titles": ["first minus second", ...], "rows": [["CoT SFT minus base",
                                     "+12.5 [+3.0, +22.0] ▲", ...]], "told": "12 of 24 are told from zero."}

A stage whose folder lacks a file gives None, and the report leaves that table out.

Source: our choice; which differences count as real, `scoring.reading`.
"""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.commands.report.figures import figures_of
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_write_text, read_json, read_jsonl
from finer1_lib.evaluation.items import coverage_of
from finer1_lib.evaluation.summary import CATEGORIES, KEYS, MAIN_SETTINGS, fault_table, labels_in, main_table
from finer1_lib.runs.chain import STAGES
from finer1_lib.runs.fingerprints import is_current, read_record
from finer1_lib.training.methods import label_of

SIGNS = {"higher": " ▲", "lower": " ▼"}
PROBES = {
    "h1_probe_accuracy": "H1: sub-category read from image states",
    "h2_genus_gap": "H2: nearness within a genus",
    "h3_auc": "H3: does the name fit the picture (AUC)",
    "attribute_image_accuracy": "attributes, image tokens",
    "attribute_prompt_accuracy": "attributes, last prompt token",
    "name_prompt_accuracy": "sub-category, last prompt token",
}
_PROBE_TITLES = ["probe", "model", "seen", "unseen", "all", "n"]


def read_table(path: Path, needed: Iterable[str]) -> Optional[list[dict[str, Any]]]:
    """The rows of a CSV file, numbers as numbers and empty cells as None; None where there is no file.

    Raises:
        UserError: the file lacks a column, or is no text.
    """
    if not path.is_file():
        return None
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: delete its folder and run again") from error
    if rows and (missing := set(needed) - set(rows[0])):
        told = f"{path} has no column {', '.join(sorted(missing))}"
        raise UserError(f"{told}: delete its folder and run again")
    return [{key: _value(text) for key, text in row.items() if key is not None} for row in rows]


def _value(text: Optional[str]) -> Any:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return text or None
    return number if math.isfinite(number) else None


def points(row: Mapping[str, Any], scale: float = 100, form: str = "+.1f") -> str:
    """A difference with its interval and, where it is told from zero, its sign: "+12.5 [+3.0, +22.0] ▲"."""
    if row["difference"] is None:
        return "-"
    text = f"{scale * row['difference']:{form}}"
    if row["low"] is not None and row["high"] is not None:
        text += f" [{scale * row['low']:{form}}, {scale * row['high']:{form}}]"
    return text + SIGNS.get(row["reading"], "")


def half(table: tuple[list[str], list[list[str]]], setting: str, kind: str) -> tuple[str, list[str], list]:
    """The seen or the unseen columns of `summary.fault_table`, with a caption: all of them are too wide."""
    titles, rows = table
    chosen = [0, *(place for place, title in enumerate(titles) if title.endswith(f", {kind}"))]
    caption = f"How answers go wrong in form, {_plain(setting)}, {kind} sub-categories (%), strict scorer"
    picked = [[row[place] for place in chosen] for row in rows]
    return caption, [titles[place].removesuffix(f", {kind}") for place in chosen], picked


def differences(run_dir: Path, labels: Mapping[str, str]) -> Optional[dict[str, Any]]:
    """Each pair of models of 04's comparisons.csv by the columns of the main table."""
    keys = ("first", "second", "setting", "metric", "categories")
    found = read_table(run_dir / "04_evaluation" / "comparisons.csv",
                       (*keys, "difference", "low", "high", "reading"))  # fmt: skip
    if not found:
        return None
    cells = {tuple(row[key] for key in keys): row for row in found}
    columns = {f"{words}, {kind}": (setting, metric, kind)
               for setting, metric, words in MAIN_SETTINGS for kind in CATEGORIES}  # fmt: skip
    pairs = list(dict.fromkeys((row["first"], row["second"]) for row in found))
    shown = [[cells.get((*pair, *column)) for column in columns.values()] for pair in pairs]
    asked = [row for line in shown for row in line if row]
    clear = sum(row["reading"] in SIGNS for row in asked)
    return {
        "titles": ["first minus second", *columns],
        "rows": [[" minus ".join(label_of(model, labels) for model in pair),
                  *(points(row) if row else "-" for row in line)] for pair, line in zip(pairs, shown)],
        "told": f"{clear} of {len(asked)} are told from zero; asked so often, a few would be by luck.",
    }  # fmt: skip


def orderings(run_dir: Path, labels: Mapping[str, str]) -> Optional[dict[str, Any]]:
    """The paper's orderings as 04 judged them: of the paper's numbers only the direction is here."""
    from finer1_lib.paper.orderings import COLUMNS, findings

    found = read_table(run_dir / "04_evaluation" / "orderings.csv", COLUMNS)
    if not found:
        return None
    import pandas as pd

    titles = ["claim of the paper", "its figure", "categories", "here", "here, points", "remark"]
    rows = [[row["claim"], row["figure"], row["categories"], row["holds"], points(row), row["remark"] or ""]
            for row in found]  # fmt: skip
    frame = pd.DataFrame(found).assign(remark=[row["remark"] or "" for row in found])
    return {"titles": titles, "rows": rows, "told": findings(frame, labels)}


def probing(run_dir: Path, rows: Iterable[Mapping], labels: Mapping[str, str]) -> dict[str, Any]:
    """Probes by model: the plain ones, the controls and variants, and what 05 says of their differences."""
    cells: dict[tuple, dict[str, Mapping]] = {}
    for row in rows:
        if row["setting"] == "probing" and row["dataset"] == "average":
            cells.setdefault((row["metric"], row["variant"], row["model"]), {})[row["categories"]] = row
    lines = {
        key: [_probe(*key[:2]), label_of(key[2], labels),
              *(_number(found.get(kind)) for kind in (*CATEGORIES, "all")),
              max(row["n"] for row in found.values())]
        for key, found in cells.items()
    }  # fmt: skip
    found = read_table(run_dir / "05_probing" / "comparisons.csv",
                       ("metric", "variant", "model", "reference", "difference", "low", "high", "reading"))
    judged = [[_probe(row["metric"], row["variant"]), label_of(row["model"], labels),
               label_of(row["reference"], labels), points(row, 1, "+.3f"),
               "-" if row.get("margin") is None else f"{row['margin']:.3g}", row["reading"]]
              for row in found or []]  # fmt: skip
    return {
        "titles": _PROBE_TITLES,
        "rows": [line for key, line in lines.items() if key[0] in PROBES and key[1] is None],
        "more": [line for key, line in lines.items() if key[0] not in PROBES or key[1] is not None],
        "judged_titles": ["probe", "model", "reference", "difference", "margin", "reading"],
        "judged": judged,
    }


def _probe(metric: str, variant: Optional[str]) -> str:
    return PROBES.get(metric, _plain(metric)) + (f", {_plain(variant)}" if variant else "")


def _plain(name: Optional[str]) -> str:
    return (name or "").replace("_", " ")


def _number(row: Optional[Mapping]) -> str:
    if row is None or row["value"] is None:
        return "-"
    missing = row["low"] is None or row["high"] is None
    return f"{row['value']:.3f}" + ("" if missing else f" [{row['low']:.3f}, {row['high']:.3f}]")


def paper(run_dir: Path) -> dict[str, Any]:
    """The averages beside the paper's numbers, or the line that says why they do not stand there."""
    from finer1_lib.paper.comparison import NotComparable, comparison_table, lines_of, notes

    try:
        found = comparison_table(run_dir)
    except NotComparable as refused:
        said = str(refused)
        return {"refused": f"{said[:1].upper()}{said[1:]}."}
    titles, rows = lines_of(found)
    return {"refused": "", "titles": titles, "rows": rows, "notes": notes(found)}


def short(value: Any) -> Any:
    """A cell of summary.json: nothing for None, four decimals of a float."""
    return "" if value is None else round(value, 4) if isinstance(value, float) else value


def parameters(record: Mapping[str, Any]) -> list[list[str]]:
    """Names and values of a stage's parameters, as text."""
    return [[name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
            for name, value in record["parameters"].items()]  # fmt: skip


def cost(stage: str, record: Mapping[str, Any]) -> list[Any]:
    """What a stage took, as the cells of one line."""
    memory = ", ".join(f"{name} {value:.2f}" for name, value in record["peak_memory_gb"].items())
    minutes = f"{record['seconds'] / 60:.1f}"
    return [stage, minutes, record["opened"], memory, record["device"], record["written"]]


def versions(record: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Packages and commit behind a stage."""
    return [*record.get("versions", {}).items(), ("git commit", record.get("git_commit") or "no checkout")]


EXAMPLES = 8  # traces, two a pair
_TOLD = ("parameters", "seed", "seconds", "opened", "peak_memory_gb", "device", "versions", "written")
_ANSWER = {"model", "setting", "prompt_name", "completion", "item_id", "image_id", "sub_category"}
_FIRST = (("run", "What this run is"), ("results", "Results"), ("differences", "Which differences hold"),
          ("traces", "Reasoning traces"), ("probing", "Probing"))  # fmt: skip
_LATER = (("training", "Training by reinforcement (03)"), ("stage1", "Stage 1 and forgetting (02)"),
          ("data", "Data (01)"), ("world", "World (00)"))  # fmt: skip
_LAST = (("parameters", "Parameters"), ("cost", "Times, memory and versions"))


def write_report(run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write report.html from summary.json's rows and the records of the finished stages.

    Args:
        run_dir: folder of the run.
        rows: of summary.json.

    Raises:
        UserError: a file of a finished stage is damaged or not what the stage recorded.
    """
    import jinja2

    run_dir = Path(run_dir)
    records = {stage: read_record(run_dir / stage, *_TOLD) for stage in STAGES if is_current(run_dir, stage)}
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = Path(__file__).with_name("template.html").read_text(encoding="utf-8")
    text = environment.from_string(template).render(_content(run_dir, records, rows))
    # a lone surrogate, which JSON can hold, is no text that a file can
    atomic_write_text(run_dir / "report.html", text.encode("utf-8", "replace").decode("utf-8"))
    return run_dir / "report.html"


def _content(run_dir: Path, records: Mapping[str, Mapping], rows: Sequence[Mapping]) -> dict[str, Any]:
    """All that the template shows."""
    from finer1_lib.traces.sheet import STYLE

    labels = labels_in(run_dir)
    evaluated = "04_evaluation" in records
    pictures = figures_of(run_dir, records)
    main = [(f"Right answers (%), {scorer} scorer", *main_table(rows, scorer, labels))
            for scorer in ("strict", "official")]  # fmt: skip
    faults = [half(fault_table(rows, setting, labels), setting, kind)
              for setting in ("closed_world", "open_world") for kind in CATEGORIES]  # fmt: skip
    main, faults = ([table for table in tables if table[2]] for tables in (main, faults))
    probed = probing(run_dir, rows, labels) if "05_probing" in records else {}
    content = {
        "main": main,
        "faults": faults,
        "differences": differences(run_dir, labels) if evaluated else None,
        "orderings": orderings(run_dir, labels) if evaluated else None,
        "paper": paper(run_dir) if evaluated else None,
        "traces": _traces(run_dir, labels) if evaluated else None,
        "probing": probed,
    }
    told = {
        "results": main or faults,
        "differences": any(content[key] for key in ("differences", "orderings", "paper")),
        "traces": content["traces"],
        "probing": any(probed.get(key) for key in ("rows", "more", "judged")),
    }
    shown = {key: bool(told.get(key) or pictures[key]) for key in pictures}
    contents = [*_FIRST, *_LATER, *_LAST, *([("rows", "All rows")] if rows else [])]
    asked = {(setting, metric) for setting, metric, _ in MAIN_SETTINGS}
    counts = {row["categories"]: row["n"] for row in rows
              if row["dataset"] == "average" and (row["setting"], row["metric"]) in asked}  # fmt: skip
    return {
        **content,
        "run": run_dir.name,
        "partial": coverage_of(run_dir),
        "facts": _facts(run_dir, records, labels),
        "reading": _reading(run_dir, content["paper"]),
        "absent": [stage for stage in STAGES if stage not in records],
        "contents": [entry for entry in contents if shown.get(entry[0], True)],
        "shown": shown,
        "pictures": pictures,
        "counted": " and ".join(f"{counts[kind]} {kind}" for kind in CATEGORIES if kind in counts),
        "later": [entry for entry in _LATER if shown[entry[0]]],
        "parameters": [(stage, parameters(record)) for stage, record in records.items()],
        "costs": [cost(stage, record) for stage, record in records.items()],
        "versions": versions(list(records.values())[-1]) if records else [],
        "keys": KEYS,
        "rows": [[short(row[key]) for key in KEYS] for row in rows],
        "trace_style": STYLE,
    }


def _guide(run_dir: Path) -> Mapping[str, Any]:
    """The field guide of the run's data; {} where they have none or are not here."""
    if not is_current(run_dir, "01_data") or not read_json(run_dir / "01_data" / "data.json").get("guide"):
        return {}
    return read_json(run_dir / "01_data" / "guide.json")


def _facts(run_dir: Path, records: Mapping[str, Mapping], labels: Mapping[str, str]) -> list[tuple[str, Any]]:
    """Names and values for the page's top; what no finished stage tells is left out."""
    if not records:
        return [("stages finished", "none")]
    numbers = {stage: read_json(run_dir / stage / "metrics.json") for stage in records}
    data, last = numbers.get("01_data", {}), list(records.values())[-1]
    kinds = read_json(run_dir / "01_data" / "data.json").get("super_categories", []) if data else []
    seeds = dict.fromkeys(str(record["seed"]) for record in records.values())
    own = {stage: record for stage, record in records.items() if "imported_from" not in record}
    minutes = sum(record["seconds"] for record in own.values()) / 60
    memory = max((max(record["peak_memory_gb"].values(), default=0) for record in own.values()), default=0)
    facts = [("run", run_dir.name), ("seed", ", ".join(seeds))]
    if "01_data" in records:
        drawn = not records["01_data"]["parameters"].get("image_root")
        world = "drawn by notebook 00" if drawn else "the user's own pictures"
        told = "with a field guide, so that what a trace claims can be judged"
        told = told if _guide(run_dir) else "without a field guide"
        facts.append(("world", f"{world}, {told}"))
    if kinds:
        facts.append(("super-categories", ", ".join(map(str, kinds))))
    if {"seen", "unseen"} <= set(data):
        facts.append(("sub-categories", f"{data['seen']} seen in training, {data['unseen']} unseen"))
    if numbers.get("04_evaluation"):
        facts.append(("models", "; ".join(labels.values())))
        facts.append(("similarity of names", numbers["04_evaluation"].get("similarity", "-")))
    taken = {stage: record["imported_from"] for stage, record in records.items() if stage not in own}
    answers = read_json(run_dir / "04_evaluation" / "imported.json").get("imported_from")
    taken |= {"the answers of 04_evaluation": answers} if answers else {}
    if taken:
        told, origins = ", ".join(taken), ", ".join(dict.fromkeys(taken.values()))
        facts.append(("not of this machine", f"{told}: taken over from {origins}"))
    facts.append(("time and memory", f"{minutes:.0f} min, at most {memory:.1f} GB, {last['device']}"))
    return [*facts, ("finished", last["written"]), ("commit", last.get("git_commit") or "no checkout")]


def _reading(run_dir: Path, paper: Any) -> list[str]:
    """Two sentences: what can be read off this run, and what cannot."""
    can = ("What can be read here: which of this run's models answers better on the same pictures, where the"
           " interval of the difference says so")  # fmt: skip
    judged = "; and, against the field guide, at which step a wrong answer leaves the truth"
    can += f"{judged if _guide(run_dir) else ''}."
    cannot = ("What cannot: what another training seed would give, for every model was trained once"
              " (the command finer1 seeds pools several runs)")  # fmt: skip
    beside = "" if paper and not paper["refused"] else (
        ", and nothing about the heights of the paper's numbers, which belong to other models and pictures")
    return [can, f"{cannot}{beside}."]


def _traces(run_dir: Path, labels: Mapping[str, str]) -> Any:
    """Pairs of traces as HTML, before and after first; None where the run has no records.

    Cards come escaped from `traces.sheet`.
    """
    from finer1_lib.traces.sheet import card, choose_examples, image_bytes, legend

    records = [record for record in read_jsonl(run_dir / "04_evaluation" / "records.jsonl")
               if isinstance(record, dict) and all(isinstance(record.get(key), str) for key in _ANSWER)]  # whoever writes notebooks of their own may keep other records
    if not records:
        return None
    guide = _guide(run_dir)
    root = run_dir / read_json(run_dir / "01_data" / "data.json").get("image_root", "")
    examples = choose_examples(records, guide=guide, labels=labels, number=EXAMPLES,
                               seed=read_json(run_dir / "04_evaluation" / "stage.json")["seed"])  # fmt: skip
    missing, pairs = set(), {}
    for example in examples:
        try:
            picture = image_bytes(root, example["image_id"])
        except UserError:
            picture = None
            missing.add(example["image_id"])
        pairs.setdefault(example["pair"], []).append((example["role"], card(example, picture)))
    if not examples:
        return {"legend": "", "note": "No two open-world traces of this run make a pair.", "groups": []}
    told = (f"{len(examples)} open-world traces, chosen in turn from every kind: shares must be read from the"
            " figures.")  # fmt: skip
    if is_current(run_dir, "05_probing") and (run_dir / "05_probing" / "traces.html").is_file():
        told += " More of them, with filters: 05_probing/traces.html."
    if missing:
        told += f" {len(missing)} of the pictures are not where this run found them, so they are not shown."
    groups: dict[str, list[str]] = {}
    for cards in pairs.values():
        before = cards[0][0] == "before"
        heading = "The same picture before and after training" if before else "Wrong and right, side by side"
        groups.setdefault(heading, []).append("".join(text for _, text in cards))
    return {"legend": legend(guide), "note": told, "groups": list(groups.items())}
