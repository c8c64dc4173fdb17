"""What each step of making rationales prevents, measured by switching it off.

A filter is switched off without asking the teacher again. The seeds of the attempts are fixed, so with fewer
filters an image's texts are a prefix of those asked for with all of them, and every one is in its record
(`texts`): it is enough to go through them once more. Other concepts are another question, and must be asked.

Sixty images say little of a mistake made in one text of fifty. A teacher that costs nothing, the guide's, is
therefore asked again under other seeds (`ask_again`); and it says which mistakes it planted, so that a filter
is not judged by itself.

Source: METHOD 2.1-2.3 (the steps); measuring them is our choice.
"""

from typing import Any, Mapping, Protocol, Sequence

from finer1_lib.errors import UserError
from finer1_lib.rationale_filters import flaws, reasons_of
from finer1_lib.rationale_quality import misread_share, share
from finer1_lib.rationales import ask_until_good, attempt_seed, kept_concepts, own_and_foreign
from finer1_lib.scores.aliases import table_for
from finer1_lib.teaching import Row, Teacher

_WORDS = {
    "cut_off": "cut off", "not_well_formed": "not well-formed", "mixed_language": "mixed language",
    "prompt_leak": "gives the prompt away", "label_not_a_candidate": "label not a candidate",
    "foreign_candidate": "foreign candidate", "wrong_prediction": "wrong prediction", "too_long": "too long",
    "all": "any of these",
}  # fmt: skip


class Confessing(Teacher, Protocol):
    """A teacher that says which flaws it planted (`miniature.teacher.GuideTeacher`)."""

    def planted(self, row: Row, concepts: Sequence[str], seed: int) -> frozenset[str]:
        """The flaws, names of `REASONS`, of the rationale that these arguments give."""


def ask_again(
    teacher: Confessing, rows: Sequence[Row], concepts: Mapping[str, Sequence[str]], *, seeds: Sequence[int],
    attempts: int, names: Mapping[str, Sequence[str]],
) -> list[dict]:
    """Records of several draws of one teacher, all filters on; nothing is written.

    Args:
        concepts: image_id -> the concepts given to it.
        seeds: one draw each.
        attempts, names: as for `rationales.make_rationales`.

    Returns:
        Records as in `rationales.jsonl`, and in each the key planted: the flaws of each of its texts.

    Raises:
        UserError: no draw is asked for.
    """
    if not seeds:
        raise UserError("quality_draws is 0: the table of what each step prevents needs at least one draw")
    records = []
    for seed in seeds:
        made = ask_until_good(teacher, rows, concepts, seed=seed, attempts=attempts, names=names)
        for row, record in zip(rows, made):
            tries = range(len(record["texts"]))
            planted = [teacher.planted(row, record["concepts"], attempt_seed(seed, row, k)) for k in tries]
            records.append(record | {"planted": planted})
    return records


def compare_concepts(
    teacher: Confessing, rows: Sequence[Row], asked: Mapping[str, Mapping],
    chosen: Mapping[str, Sequence[Mapping]], guide: Mapping, *, seeds: Sequence[int], attempts: int,
    names: Mapping[str, Sequence[str]],
) -> list[dict]:
    """How many rationales misread an attribute with the chosen concepts, with none, and with all named.

    Args:
        teacher, seeds, attempts, names: as for `ask_again`.
        asked: from `rationales.ask_all`: all that the teacher named, in its own order.
        chosen: from `rationales.choose_concepts`.

    Returns:
        A row {concepts, value, low, high, n} each: the share of the n kept ones.
    """
    given = {
        "chosen": {image_id: kept_concepts(entries) for image_id, entries in chosen.items()},
        "none": dict.fromkeys(chosen, ()),
        "all named": {image_id: line["concepts"] for image_id, line in asked.items()},
    }
    report = []
    for which, concepts in given.items():
        records = ask_again(teacher, rows, concepts, seeds=seeds, attempts=attempts, names=names)
        report.append({"concepts": which, **misread_share(records, guide)})
    return report


def switched_off(records: Sequence[Mapping], names: Mapping[str, Sequence[str]]) -> list[dict]:
    """What would have been kept with one filter off, and with all of them off.

    Args:
        records: made with every filter on. Where they hold what was planted (`ask_again`), a kept text is
            judged by that; else by the filters themselves, which call what they do not see no flaw.
        names: super_category -> its sub-categories.

    Returns:
        A row per filter, and one for "all": off; kept (images), texts (asked for) and flawed (kept ones with
        the flaw that the filter is to stop, for "all" with any) while it is off; value, low, high, n of their
        share; and on_value, on_low, on_high, on_n of the same share while every filter is on.
    """
    found = [_flaws_of_all(record, names) for record in records]
    reasons, report = reasons_of(records), []
    for off in (*reasons, "all"):
        row: dict[str, Any] = {"off": off}
        for prefix, on in (("", set(reasons) - {off} if off != "all" else set()), ("on_", set(reasons))):
            hits, owners, texts = [], [], 0
            for record, sets in zip(records, found):
                place = next((k for k, one in enumerate(sets) if not one & on), None)
                texts += len(sets) if place is None else place + 1
                if place is not None:
                    carried = record["planted"][place] if "planted" in record else sets[place]
                    hits.append(bool(carried) if off == "all" else off in carried)
                    owners.append((record["super_category"], record["sub_category"]))
            if not prefix:
                row |= {"kept": len(hits), "texts": texts, "flawed": sum(hits)}
            row |= {prefix + key: value for key, value in share(hits, owners).items()}
        report.append(row)
    return report


def found_and_missed(records: Sequence[Mapping], names: Mapping[str, Sequence[str]]) -> list[dict]:
    """Each filter against what was planted, over every text asked for.

    Args:
        records: from `ask_again`.

    Returns:
        A row {reason, texts, planted, found, false_alarms} each: texts with the flaw, those of them in which
        the filter sees it, and texts in which it sees one though none of any kind was planted.
    """
    pairs = [
        (known, seen)
        for record in records
        for known, seen in zip(record["planted"], _flaws_of_all(record, names))
    ]
    return [
        {
            "reason": name, "texts": len(pairs), "planted": sum(name in known for known, _ in pairs),
            "found": sum(name in known and name in seen for known, seen in pairs),
            "false_alarms": sum(not known and name in seen for known, seen in pairs),
        }
        for name in reasons_of(records)
    ]  # fmt: skip


def steps(
    filters: Sequence[Mapping], orders: Sequence[Mapping], concepts: Sequence[Mapping] = ()
) -> list[dict]:
    """Every step of the making beside itself switched off, as `data_plots.prevented` draws it.

    Args:
        filters: from `switched_off`.
        orders: from `rationale_quality.label_order`.
        concepts: from `compare_concepts`, where the teacher could be asked again.

    Returns:
        A row {step, flaw, on, on_low, on_high, n_on, off, off_low, off_high, n_off} each.
    """
    order, given = {row["order"]: row for row in orders}, {row["concepts"]: row for row in concepts}
    pairs = [
        ("all filters" if row["off"] == "all" else "its filter", _WORDS[row["off"]],
         {key: row["on_" + key] for key in ("value", "low", "high", "n")}, row)
        for row in filters
    ]  # fmt: skip
    pairs.append(("shuffled candidates", "label stands first", order["shuffled"], order["teacher's"]))
    for other in ("none", "all named") if concepts else ():
        step = f"concepts chosen; off: {other}"
        pairs.append((step, "an attribute misread", given["chosen"], given[other]))
    names = {"value": "", "low": "_low", "high": "_high"}
    return [
        {"step": step, "flaw": flaw}
        | {"on" + end: on[key] for key, end in names.items()} | {"n_on": on["n"]}
        | {"off" + end: off[key] for key, end in names.items()} | {"n_off": off["n"]}
        for step, flaw, on, off in pairs
    ]  # fmt: skip


def _flaws_of_all(record: Mapping, names: Mapping[str, Sequence[str]]) -> list[set[str]]:
    """The flaws that the filters see in each text of a record."""
    own, foreign = own_and_foreign(names, record["super_category"])
    label, limit = record["sub_category"], record.get("max_words", 0)
    data_set = table_for(record["super_category"], label)
    return [set(flaws(text, label, own, foreign, limit, data_set)) for text in record["texts"]]
