"""The run's report: one HTML page without external files, in the order in which a reader asks.

Only finished stages that belong together are shown, the others are listed; a table whose file is missing is
left out. Everything that a run can contain (names, parameters, labels, completions) is escaped, figures are
embedded, and the page forbids itself every script and every address (Content-Security-Policy). That is why it
is Jinja2 and not nbconvert, whose template loads scripts. A figure is whatever PNG a finished stage left in
its figures/; one without a caption in figures.yaml gets its name and follows the others of its stage.
"""

import base64
import csv
import functools
import io
import json
import math
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_write_text, read_json, read_jsonl
from finer1_lib.evaluation import summary
from finer1_lib.evaluation.requests import coverage_of
from finer1_lib.evaluation.summary import CATEGORIES, KEYS, MAIN_SETTINGS, fault_table, labels_in, main_table
from finer1_lib.paper import comparison
from finer1_lib.paper.orderings import COLUMNS, findings
from finer1_lib.runs.chain import STAGES
from finer1_lib.runs.fingerprints import is_current, read_record
from finer1_lib.traces.sheet import STYLE, card, choose_examples, image_bytes, legend
from finer1_lib.training.methods import label_of

SIGNS = {"higher": " ▲", "lower": " ▼"}
PROBES = {"h1_probe_accuracy": "H1: sub-category read from image states",
          "h2_genus_gap": "H2: similarity within a genus", "h3_auc": "H3: does the name fit the image (AUC)",
          "attribute_image_accuracy": "attributes, image tokens",
          "attribute_prompt_accuracy": "attributes, last prompt token",
          "name_prompt_accuracy": "sub-category, last prompt token"}
EXAMPLES = 8  # traces, two a pair
SECTIONS = {"run": "What this run is", "results": "Results", "differences": "Which differences hold",
            "traces": "Reasoning traces", "probing": "Probing", "training": "Training by reinforcement (03)",
            "stage1": "Stage 1 and forgetting (02)", "data": "Data (01)", "world": "World (00)",
            "parameters": "Parameters", "cost": "Times, memory and versions", "rows": "All rows"}
_TABLES = {"results": ("main", "faults"), "differences": ("differences", "orderings", "paper"),
           "traces": ("traces",), "probing": ("probing",)}  # a section without any is left out
_OF_STAGE = dict(zip(STAGES, ("world", "data", "stage1", "training", "results", "probing")))
_RECORDED = ("parameters", "seed", "seconds", "opened", "peak_memory_gb", "device", "versions", "written")
_ANSWER = {"model", "setting", "prompt_name", "completion", "item_id", "image_id", "sub_category"}
_PIXELS = 76 / 150  # of the page, for each of a file: 13 inches at 150 dpi fill the text's width
_VISIBLE = 0.5  # mean change of a colour value (of 255) beyond which a palette is not used


def finish_run(run_dir: Path, stages: Sequence[str], say: Callable[[str], None]) -> Optional[Path]:
    """Write summary.json and report.html if a stage with rows was run; returns the report's path or None."""
    if not set(stages) & set(summary.SOURCES):
        say(f"stopped after {stages[-1]} (--to)")
        return None
    report = run_dir / "report.html"
    if report.is_file() and not os.access(run_dir, os.W_OK):
        say("nothing is due, and the folder may not be written: summary and report stay as they are")
        return report
    rows = summary.join_summary(run_dir)
    return None if rows is None else write_report(run_dir, rows)


def write_report(run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write report.html from the rows of summary.json and the records of the finished stages.

    Raises: UserError: a file of a finished stage is damaged or not what the stage recorded.
    """
    import jinja2
    run_dir = Path(run_dir)
    records = {stage: read_record(run_dir / stage, *_RECORDED)
               for stage in STAGES if is_current(run_dir, stage)}
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = Path(__file__).with_name("template.html").read_text(encoding="utf-8")
    text = environment.from_string(template).render(_content(run_dir, records, rows))
    # JSON can hold a lone surrogate, a text file cannot
    atomic_write_text(run_dir / "report.html", text.encode("utf-8", "replace").decode("utf-8"))
    return run_dir / "report.html"


def _content(run_dir: Path, records: Mapping[str, Mapping], rows: Sequence[Mapping]) -> dict[str, Any]:
    """All that the template shows."""
    labels, images = labels_in(run_dir), figures_of(run_dir, records)
    data = read_json(run_dir / "01_data" / "data.json") if "01_data" in records else {}
    guide = read_json(run_dir / "01_data" / "guide.json") if data.get("guide") else {}
    main = [(f"Right answers (%), {scorer} scorer", *main_table(rows, scorer, labels))
            for scorer in ("strict", "official")]
    faults = [_half(fault_table(rows, setting, labels), setting, kind)
              for setting, *_ in MAIN_SETTINGS for kind in CATEGORIES]
    evaluated = "04_evaluation" in records
    tables = {
        "main": [table for table in main if table[2]], "faults": [table for table in faults if table[2]],
        "differences": _differences(run_dir, labels) if evaluated else None,
        "orderings": _orderings(run_dir, labels) if evaluated else None,
        "paper": _paper(run_dir) if evaluated else None,
        "traces": _traces(run_dir, labels, guide) if evaluated else None,
        "probing": _probing(run_dir, rows, labels) if "05_probing" in records else None}
    shown = {key: found or any(tables[name] for name in _TABLES.get(key, ())) for key, found in images.items()}
    shown |= {"run": True, "parameters": True, "cost": True, "rows": bool(rows)}
    counts = {row["categories"]: row["n"] for row in rows if row["dataset"] == "average"
              and (row["setting"], row["metric"]) in {column[:2] for column in MAIN_SETTINGS}}
    last = list(records.values())[-1] if records else {}
    commit = last.get("git_commit") or "no checkout"
    return {
        **tables, "run": run_dir.name, "partial": coverage_of(run_dir), "guided": bool(guide),
        "images": images, "stages": list(records), "last": last, "commit": commit, "trace_style": STYLE,
        "facts": _facts(run_dir, records, labels, data),
        "absent": [stage for stage in STAGES if stage not in records],
        "sections": {key: title for key, title in SECTIONS.items() if shown[key]},
        "counted": " and ".join(f"{counts[kind]} {kind}" for kind in CATEGORIES if kind in counts),
        "parameters": {stage: [[key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
                               for key, value in record["parameters"].items()]
                       for stage, record in records.items()},
        "costs": [[stage, f"{record['seconds'] / 60:.1f}", record["opened"],
                   ", ".join(f"{name} {value:.2f}" for name, value in record["peak_memory_gb"].items()),
                   record["device"], record["written"]] for stage, record in records.items()],
        "versions": [*last["versions"].items(), ("git commit", commit)] if last else [],
        "keys": KEYS,
        "rows": [["" if row[key] is None else round(row[key], 4) if isinstance(row[key], float) else row[key]
                  for key in KEYS] for row in rows]}


def read_table(path: Path, needed: Iterable[str]) -> Optional[list[dict[str, Any]]]:
    """The rows of a CSV file, numbers as numbers and empty cells as None; None where there is no file.

    pandas would give a column one type, so that a damaged cell makes texts of all its numbers.
    Raises: UserError: the file lacks a column, or is not text.
    """
    if not path.is_file():
        return None
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: delete its folder and run again") from error
    if rows and (missing := set(needed) - set(rows[0])):
        raise UserError(f"{path} has no column {', '.join(sorted(missing))}: delete its folder and run again")
    return [{key: _value(text) for key, text in row.items() if key is not None} for row in rows]


def _value(text: Optional[str]) -> Any:
    try:
        return float(text) if math.isfinite(float(text)) else None
    except (TypeError, ValueError):
        return text or None


def points(row: Optional[Mapping[str, Any]], scale: float = 100, form: str = "+.1f") -> str:
    """A difference with its interval and, where it differs from zero, its sign: "+12.5 [+3.0, +22.0] ▲"."""
    text = _number(row, "difference", scale, form)
    return text if text == "-" else text + SIGNS.get(row["reading"], "")


def _number(row: Optional[Mapping], key: str = "value", scale: float = 1, form: str = ".3f") -> str:
    """A value with its interval; "-" where there is none."""
    if row is None or row[key] is None:
        return "-"
    text, *ends = (f"{scale * row[name]:{form}}" for name in (key, "low", "high") if row[name] is not None)
    return f"{text} [{', '.join(ends)}]" if len(ends) == 2 else text


def _plain(name: Optional[str]) -> str:
    return (name or "").replace("_", " ")


def _half(table: tuple[list[str], list[list[str]]], setting: str, kind: str) -> tuple[str, list[str], list]:
    """The seen or the unseen columns of `summary.fault_table`, with a caption: all of them are too wide."""
    titles, rows = table
    chosen = [0, *(place for place, title in enumerate(titles) if title.endswith(f", {kind}"))]
    caption = f"How answers go wrong in form, {_plain(setting)}, {kind} sub-categories (%), strict scorer"
    return (caption, [titles[place].removesuffix(f", {kind}") for place in chosen],
            [[row[place] for place in chosen] for row in rows])


def _differences(run_dir: Path, labels: Mapping[str, str]) -> Optional[dict[str, Any]]:
    """Each pair of models of 04's comparisons.csv by the columns of the main table."""
    keys = ("first", "second", "setting", "metric", "categories")
    found = read_table(run_dir / "04_evaluation" / "comparisons.csv",
                       (*keys, "difference", "low", "high", "reading"))
    if not found:
        return None
    cells = {tuple(row[key] for key in keys): row for row in found}
    columns = {f"{words}, {kind}": (setting, metric, kind)
               for setting, metric, words in MAIN_SETTINGS for kind in CATEGORIES}
    shown = {pair: [cells.get((*pair, *column)) for column in columns.values()]
             for pair in dict.fromkeys(key[:2] for key in cells)}
    readings = [row["reading"] for line in shown.values() for row in line if row]
    clear = sum(reading in SIGNS for reading in readings)
    return {
        "titles": ["first minus second", *columns],
        "rows": [[" minus ".join(label_of(model, labels) for model in pair), *map(points, line)]
                 for pair, line in shown.items()],
        "summary": f"{clear} of {len(readings)} differ from zero; among so many tests, a few would by chance.",
    }


def _orderings(run_dir: Path, labels: Mapping[str, str]) -> Optional[dict[str, Any]]:
    """The paper's orderings as 04 judged them: of the paper's numbers only the direction is shown."""
    import pandas as pd
    found = read_table(run_dir / "04_evaluation" / "orderings.csv", COLUMNS)
    if not found:
        return None
    found = [{**row, "remark": row["remark"] or ""} for row in found]
    return {"titles": ["claim of the paper", "its figure", "categories", "here", "here, points", "remark"],
            "rows": [[row["claim"], row["figure"], row["categories"], row["holds"], points(row),
                      row["remark"]] for row in found],
            "summary": findings(pd.DataFrame(found), labels)}


def _probing(run_dir: Path, rows: Iterable[Mapping], labels: Mapping[str, str]) -> Optional[dict[str, Any]]:
    """Probes by model: the plain ones, the controls and variants, and what 05 says of their differences."""
    def named(metric: str, variant: Optional[str], model: str) -> list[str]:
        probe = PROBES.get(metric, _plain(metric)) + (f", {_plain(variant)}" if variant else "")
        return [probe, label_of(model, labels)]

    cells: dict[tuple, dict[str, Mapping]] = defaultdict(dict)
    for row in rows:
        if row["setting"] == "probing" and row["dataset"] == "average":
            cells[row["metric"], row["variant"], row["model"]][row["categories"]] = row
    lines = {key: [*named(*key), *(_number(found.get(kind)) for kind in (*CATEGORIES, "all")),
                   max(row["n"] for row in found.values())] for key, found in cells.items()}
    compared = read_table(run_dir / "05_probing" / "comparisons.csv",
                          ("metric", "variant", "model", "reference", "difference", "low", "high", "reading"))
    plain = [key for key in lines if key[0] in PROBES and key[1] is None]
    return {
        "titles": ["probe", "model", "seen", "unseen", "all", "n"],
        "rows": [lines[key] for key in plain],
        "more": [line for key, line in lines.items() if key not in plain],
        "judged_titles": ["probe", "model", "reference", "difference", "margin", "reading"],
        "judged": [[*named(row["metric"], row["variant"], row["model"]), label_of(row["reference"], labels),
                    points(row, 1, "+.3f"), "-" if row.get("margin") is None else f"{row['margin']:.3g}",
                    row["reading"]] for row in compared or []],
    } if lines or compared else None


def _paper(run_dir: Path) -> dict[str, Any]:
    """The averages beside the paper's numbers, or the reason why they are not shown."""
    try:
        found = comparison.comparison_table(run_dir)
    except comparison.NotComparable as error:
        reason = str(error)
        return {"refused": f"{reason[:1].upper()}{reason[1:]}."}
    titles, rows = comparison.lines_of(found)
    return {"refused": "", "titles": titles, "rows": rows, "notes": comparison.notes(found)}


def _facts(run_dir: Path, records: Mapping[str, Mapping], labels: Mapping[str, str],
           data: Mapping[str, Any]) -> dict[str, Any]:
    """What the top of the page says, as far as the finished stages have it; false where they have not."""
    numbers = {stage: read_json(run_dir / stage / "metrics.json") for stage in records}
    counts, scores = numbers.get("01_data", {}), numbers.get("04_evaluation", {})
    taken = {stage: record["imported_from"] for stage, record in records.items() if "imported_from" in record}
    own = [record for stage, record in records.items() if stage not in taken]
    if records and (answers := read_json(run_dir / "04_evaluation" / "imported.json").get("imported_from")):
        taken["the answers of 04_evaluation"] = answers
    return {
        "seeds": dict.fromkeys(record["seed"] for record in records.values()),
        "own_images": "01_data" in records and records["01_data"]["parameters"].get("image_root"),
        "kinds": data.get("super_categories", []) if counts else [],
        "counts": counts if {"seen", "unseen"} <= set(counts) else {},
        "models": labels.values() if scores else [], "similarity": scores.get("similarity", "-"),
        "taken": taken, "origins": dict.fromkeys(taken.values()),
        "minutes": f"{sum(record['seconds'] for record in own) / 60:.0f}",
        "memory": f"{max((most for one in own for most in one['peak_memory_gb'].values()), default=0):.1f}",
    }


def _traces(run_dir: Path, labels: Mapping[str, str], guide: Mapping[str, Any]) -> Any:
    """Pairs of traces as HTML (escaped by `traces.sheet`), before and after first; None without records."""
    lines = read_jsonl(run_dir / "04_evaluation" / "records.jsonl")  # a user's notebook may write others
    records = [record for record in lines
               if isinstance(record, dict) and all(isinstance(record.get(key), str) for key in _ANSWER)]
    if not records:
        return None
    root = run_dir / read_json(run_dir / "01_data" / "data.json").get("image_root", "")
    examples = choose_examples(records, guide=guide, labels=labels, number=EXAMPLES,
                               seed=read_json(run_dir / "04_evaluation" / "stage.json")["seed"])
    missing, pairs, groups = set(), defaultdict(list), defaultdict(list)
    for example in examples:
        try:
            image = image_bytes(root, example["image_id"])
        except UserError:
            image = None
            missing.add(example["image_id"])
        pairs[example["pair"]].append((example["role"], card(example, image)))
    for cards in pairs.values():
        heading = ("The same image before and after training" if cards[0][0] == "before"
                   else "Wrong and right, side by side")
        groups[heading].append("".join(text for _, text in cards))
    more = is_current(run_dir, "05_probing") and (run_dir / "05_probing" / "traces.html").is_file()
    return {"legend": legend(guide), "number": len(examples), "missing": len(missing), "more": more,
            "groups": groups}


@functools.cache
def captions() -> dict[str, tuple[str, str]]:
    """{figure: (title, also its alternative text; what to see in it)} of figures.yaml, in its order."""
    import yaml
    text = Path(__file__).with_name("figures.yaml").read_text(encoding="utf-8")
    return {name: tuple(texts) for name, texts in yaml.safe_load(text).items()}


def figures_of(run_dir: Path, stages: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Every figure of the finished stages, by the section that can have one, in the order of `captions`.

    {section: [{name, title, see, csv, source, width, height}]}: `source` is a data URI, width and height are
    pixels of the page, csv is "" where there is none. Raises: UserError: a figure that cannot be read.
    """
    found: dict[str, list] = {section: [] for section in ("differences", "traces", *_OF_STAGE.values())}
    known, order = captions(), list(captions())
    files = [(stage, file) for stage in stages for file in (run_dir / stage / "figures").glob("*.png")]
    for stage, file in sorted(files, key=lambda one: (
            order.index(one[1].stem) if one[1].stem in known else len(order), one[0], one[1].stem)):
        title, see = known.get(file.stem, (_plain(file.stem), ""))
        section, table = _OF_STAGE[stage], f"{stage}/figures/{file.stem}.csv"
        if file.stem in ("wrong_steps", "reading_and_use") or file.stem.startswith("trace_"):
            section = "traces"
        elif (stage, file.stem) == ("04_evaluation", "orderings"):
            section = "differences"
        found[section].append({"name": f"{stage}/{file.stem}", "title": title, "see": see, **pack(file),
                               "csv": table if (run_dir / table).is_file() else ""})
    return found


def pack(file: Path) -> dict[str, Any]:
    """A PNG as a data URI: {source, width, height}, in pixels of the page.

    With a palette of 256 colours where that cannot be seen (lines and text, about a third of the size), as
    WebP where it could (photographs). Raises: UserError: the file is not an image.
    """
    from PIL import Image, ImageChops, ImageStat
    try:
        with Image.open(file) as opened:
            image = Image.new("RGB", opened.size, "white")
            image.paste(opened, mask=opened.getchannel("A") if "A" in opened.getbands() else None)
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG chunk a SyntaxError
        raise UserError(f"{file} is not a readable image: delete its folder and run again") from error
    few = image.quantize(256, dither=Image.Dither.NONE)
    change, buffer = ImageStat.Stat(ImageChops.difference(image, few.convert("RGB"))).mean, io.BytesIO()
    if max(change) <= _VISIBLE:
        kind = "png"
        few.save(buffer, format=kind, optimize=True)
    else:
        kind = "webp"
        image.save(buffer, format=kind, quality=90, method=6)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = (round(_PIXELS * side) for side in image.size)
    return {"source": f"data:image/{kind};base64,{data}", "width": width, "height": height}
