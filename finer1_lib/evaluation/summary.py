"""The run's summary: the rows of stages 04 and 05 in one list, and the main table made from it.

Every later table reads `OUTPUT_ROOT/RUN/summary.json`, a list of rows with the keys `KEYS`; values and their
95 % interval (low, high) are fractions.
"""

from pathlib import Path
from typing import Any, Iterable, Mapping, Optional

from finer1_lib.core.errors import UserError, first_line
from finer1_lib.core.files import atomic_write_json, read_json
from finer1_lib.evaluation import entries
from finer1_lib.evaluation.entries import MODELS_FILE, Entry, all_entries, labels_of
from finer1_lib.evaluation.systems.registry import System
from finer1_lib.runs.fingerprints import is_current, parameters_of, recorded_file
from finer1_lib.training.methods import CONTROLS, ROWS, in_order, label_of

KEYS = ("model", "dataset", "setting", "scorer", "metric", "categories", "option_order", "variant", "value",
        "low", "high", "n", "seed")
SOURCES = ("04_evaluation", "05_probing")
MAIN_SETTINGS = (("closed_world", "accuracy", "closed world"), ("open_world", "text_inclusion", "open world"))
ALL_LABELS = ("all_labels", "accuracy", "among all names")  # of encoders; a column only where one was asked
CATEGORIES = ("seen", "unseen")
FAULTS = {"format_failure": "no single answer", "multiple_answers": "several names",
          "answer_differs_from_prediction": "answer is not the prediction",
          "think_answer_differs": "answer is not the last name thought of",
          "genus_right_epithet_wrong": "right genus, wrong name", "chose_first": "the first option"}


def entries_in(run_dir: Path) -> tuple[Entry, ...]:
    """The rows of a run's tables: `more_models` of 04 and 05, `systems` and `strategies` of 04 included.

    Before 03 the four fixed ones alone. UserError: models.json, or the record of 04 or 05, is damaged.
    """
    run_dir = Path(run_dir)
    found = all_entries(read_json(run_dir / MODELS_FILE, list))
    evaluated, probed = (parameters_of(run_dir / stage) for stage in SOURCES)
    try:
        more = dict.fromkeys(entry for one in (evaluated, probed) for entry in one.get("more_models", ()))
        found = entries.with_more(found, list(more))
        # as 04 queried them, whatever the registry or the user's file say by now
        systems = [System(**entry) for entry in read_json(run_dir / "04_evaluation" / "systems.json", list)]
        found = entries.with_systems(found, systems)
        if evaluated.get("strategies"):
            found = entries.with_strategies(found, evaluated["strategies"], evaluated["samples"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{run_dir}: stage.json or systems.json of 04_evaluation or 05_probing does not "
                        f"state which models were queried ({first_line(error)}): delete that stage's folder "
                        "and run it again") from None
    return found


def labels_in(run_dir: Path) -> dict[str, str]:
    """{model: label} of `entries_in`."""
    return labels_of(entries_in(run_dir))


def check_rows(rows: list[Any], where: str, models: Iterable[str] = ROWS) -> list[dict[str, Any]]:
    """The rows of one stage's summary_rows.json, checked: keys, models (the controls included), categories.

    Raises: ValueError: naming the row in `where` and what is wrong with it.
    """
    models = {*models, *CONTROLS}
    for number, row in enumerate(rows):
        if wrong := set(row) ^ set(KEYS) if isinstance(row, dict) else {"not an object"}:
            raise ValueError(f"{where}, row {number}: keys missing or unknown: {', '.join(sorted(wrong))}")
        if row["model"] not in models or row["categories"] not in (*CATEGORIES, "all"):
            raise ValueError(f"{where}, row {number}: model {row['model']!r}, categories {row['categories']!r}")
    return rows


def join_summary(run_dir: Path) -> Optional[list[dict[str, Any]]]:
    """Write summary.json from the stages that finished and belong together; None if neither has.

    Raises: UserError: a stage's rows differ from the recorded ones.
    """
    rows: list[dict[str, Any]] = []
    models = {*ROWS, *labels_in(run_dir)}
    sources = [stage for stage in SOURCES if is_current(run_dir, stage)]
    for stage in sources:
        where = f"{stage}/summary_rows.json"
        if not (run_dir / where).is_file():
            raise ValueError(f"notebook {stage} finished without writing {where}")
        rows += check_rows(read_json(recorded_file(run_dir, where), list), where, models)
    if not sources:
        return None
    atomic_write_json(run_dir / "summary.json", rows)
    return rows


def percent(row: Optional[dict[str, Any]]) -> str:
    """A value and its interval in percent, "71.2 [66.0, 76.1]"; "-" where there is none."""
    if row is None or row["value"] is None:
        return "-"
    value, low, high = (None if row[key] is None else f"{100 * row[key]:.1f}" for key in ("value", "low", "high"))
    return value if low is None or high is None else f"{value} [{low}, {high}]"


def main_table(rows: list[dict[str, Any]], scorer: str = "strict",
               labels: Optional[Mapping[str, str]] = None) -> tuple[list[str], list[list[str]]]:
    """(titles, lines): models by setting and categories, the unweighted average over super-categories.

    One line for each model that has any value; controls are left out. labels: {model: label} in the order of
    the lines, else `methods.ROWS` gives both. Encoders' choice among all names has its own columns.
    """
    settings = [*MAIN_SETTINGS, *([ALL_LABELS] if any(row["setting"] == ALL_LABELS[0] for row in rows) else [])]
    columns = {f"{words}, {kind}": (setting, metric, kind)
               for setting, metric, words in settings for kind in CATEGORIES}
    return _table(rows, scorer, columns, labels, leave_out=CONTROLS)


def fault_table(rows: list[dict[str, Any]], setting: str,
                labels: Optional[Mapping[str, str]] = None) -> tuple[list[str], list[list[str]]]:
    """Format failures, percent with intervals, laid out as `main_table`; strict scorer.

    The closed world has a line for each control.
    """
    found = {row["metric"] for row in rows if row["setting"] == setting}
    columns = {f"{words}, {kind}": (setting, metric, kind)
               for metric, words in FAULTS.items() if metric in found for kind in CATEGORIES}
    return _table(rows, "strict", columns, labels)


def _table(rows, scorer, columns, labels, leave_out=()) -> tuple[list[str], list[list[str]]]:
    """Lines of the models that have any value; a column is (setting, metric, categories) under its title.
    A cell is of the average and no variant, of the closed world in the shuffled order.
    """
    keys = ("model", "setting", "metric", "categories")
    found = {tuple(row[key] for key in keys): row for row in reversed(rows)
             if (row["scorer"], row["dataset"], row["variant"]) == (scorer, "average", None)
             and row["option_order"] in ("shuffled", None)}
    lines = []
    for model in in_order((row["model"] for row in rows if row["model"] not in leave_out), labels):
        cells = [percent(found.get((model, *column))) for column in columns.values()]
        if any(cell != "-" for cell in cells):
            lines.append([label_of(model, labels), *cells])
    return ["model", *columns], lines
