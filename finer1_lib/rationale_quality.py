"""How good the rationales are: what the filters did, how true the concepts are, what is misread.

Precision and recall need a truth: the guide's attributes. Without one, only the filters' work can be counted.
What each step prevents is measured in `rationale_ablation`.

Source: our choice.
"""

import re
from collections import Counter
from typing import Any, Hashable, Iterable, Mapping, Optional, Sequence

from finer1_lib.rationale_filters import flaws, reasons_of
from finer1_lib.rationales import kept_concepts
from finer1_lib.rewards import normalise
from finer1_lib.scores.aliases import meanings, same_name, table_for
from finer1_lib.scores.cars import cut_labels
from finer1_lib.statistics import clustered_mean
from finer1_lib.teaching import Row
from finer1_lib.traces.parsing import (
    CANDIDATE_MARKER, MAX_CANDIDATES, candidate_lines, check_claims, parse, predicts, release_layout, thinking,
)  # fmt: skip

PLACES = ("first", "second", "third", "fourth")
TEXT_COUNTS = (
    "tags", "single", "headings", "double", "none", "listed", "four", "label_listed", "label_exact", *PLACES,
    "label_before", "leaks", "answered",
)  # fmt: skip


def quality_report(records: Sequence[Mapping]) -> tuple[dict, list[dict]]:
    """What the filters did.

    Args:
        records: from `rationales.make_rationales`.

    Returns:
        Counts (images, kept, kept_at_once, resampled, dropped, texts, mended, label_first: how many kept ones
        list the label first, which a quarter should) and a row {reason, texts, images_dropped} per reason.
    """
    kept = [record for record in records if record["kept"]]
    texts = Counter(reason for record in records for reason in record["rejections"])
    dropped = Counter(record["dropped_because"] for record in records if not record["kept"])
    counts = {
        "images": len(records), "kept": len(kept),
        "kept_at_once": sum(record["attempts"] == 1 for record in kept),
        "resampled": sum(record["attempts"] > 1 for record in kept),
        "dropped": len(records) - len(kept), "texts": sum(record["attempts"] for record in records),
        "mended": sum(record["mended"] for record in records),
        "label_first": sum(_leads(record["candidates"], record) for record in kept),
    }  # fmt: skip
    rows = [{"reason": name, "texts": texts[name], "images_dropped": dropped[name]}
            for name in reasons_of(records)]  # fmt: skip
    return counts, rows


def is_true(concept: str, sub_category: str, guide: Mapping) -> Optional[bool]:
    """Whether the guide bears a concept out; None where it names no attribute in the guide's words."""
    found = {state for state in check_claims(concept, sub_category, guide).values() if state != "missing"}
    return "wrong" not in found if found else None


def concept_report(
    rows: Sequence[Row], chosen: Mapping[str, Sequence[Mapping]], guide: Mapping
) -> list[dict]:
    """Precision and recall of the concepts against the guide: all that the teacher named, and those kept.

    Args:
        chosen: from `rationales.choose_concepts`.

    Returns:
        For "all named" and "kept" a row of each metric: concepts, metric, value, low, high, n, unjudged.
        precision: share of true ones among the n judged (unjudged: named no attribute). recall: share of the
        n attributes of the sub-categories that a true concept names. Intervals by whole sub-categories.
    """
    report = []
    for which in ("all named", "kept"):
        true, owners, found, attributes, unjudged = [], [], [], [], 0
        for row in rows:
            name, entries = row["sub_category"], chosen[row["image_id"]]
            texts = kept_concepts(entries) if which == "kept" else [entry["concept"] for entry in entries]
            judged = {text: is_true(text, name, guide) for text in texts}
            unjudged += sum(verdict is None for verdict in judged.values())
            true += [verdict for verdict in judged.values() if verdict is not None]
            owners += [name] * (len(true) - len(owners))
            named = [check_claims(text, name, guide) for text, verdict in judged.items() if verdict]
            truth = guide["sub_categories"][name]["attributes"]
            found += [any(states[attribute] == "right" for states in named) for attribute in truth]
            attributes += [name] * len(truth)
        report += [
            {"concepts": which, "metric": "precision", **share(true, owners), "unjudged": unjudged},
            {"concepts": which, "metric": "recall", **share(found, attributes), "unjudged": unjudged},
        ]
    return report


def misread(record: Mapping, guide: Mapping) -> bool:
    """The analysis says of some attribute what the guide does not."""
    states = check_claims(parse(record["text"]).analysis, record["sub_category"], guide)
    return "wrong" in states.values()


def misread_share(records: Sequence[Mapping], guide: Mapping) -> dict[str, Any]:
    """Kept rationales that misread an attribute: value, low, high, n."""
    kept = [record for record in records if record["kept"]]
    return share([misread(record, guide) for record in kept], [record["sub_category"] for record in kept])


def text_report(records: Sequence[Mapping]) -> list[dict]:
    """The kept texts themselves, whoever wrote them: the release's teacher, an imported file, or our own.

    Args:
        records: lines of rationales.jsonl.

    Returns:
        A row for each super_category and one for "all": n; words (mean), shortest and longest of the
        thinking; tags, single, headings, double, none (the layout); listed (texts with candidates that can
        be read, in one list) and of these four (with all four), label_listed (the label stands in one of them; of
        a car without body and year), label_exact (as its whole name), first to fourth (its place); label_before
        (named before the candidates); leaks (the hidden prompt shows); answered (the prediction names the label, by whatever
        name). Brackets and punctuation are folded.

    Source: our choice; cars are cut as the release's open-world score does, eval/evaluation.py.
    """
    rows: dict[str, Counter] = {}
    lengths: dict[str, list[int]] = {}
    for record in records:
        if record["kept"]:
            counts, words = _count(record)
            for group in (record["super_category"], "all"):
                rows.setdefault(group, Counter(dict.fromkeys(TEXT_COUNTS, 0))).update(counts)
                lengths.setdefault(group, []).append(words)
    order = [*sorted(set(rows) - {"all"}), *(["all"] if rows else [])]
    return [
        {"super_category": group, "n": len(lengths[group]),
         "words": sum(lengths[group]) / len(lengths[group]), "shortest": min(lengths[group]),
         "longest": max(lengths[group]), **rows[group]}
        for group in order
    ]  # fmt: skip


def label_order(records: Sequence[Mapping]) -> list[dict]:
    """How often the label leads the candidates: in the teacher's own order, and after the shuffle.

    Returns:
        A row {order, value, low, high, n} each, over kept rationales.
    """
    kept = [record for record in records if record["kept"]]
    owners = [(record["super_category"], record["sub_category"]) for record in kept]
    own = [_leads(parse(record["texts"][-1]).candidates, record) for record in kept]
    shuffled = [_leads(record["candidates"], record) for record in kept]
    return [{"order": "teacher's", **share(own, owners)}, {"order": "shuffled", **share(shuffled, owners)}]


def longest(records: Sequence[Mapping], tokenizer: Any) -> tuple[int, str]:
    """(tokens, image_id) of the longest kept rationale; the token that ends it counts, as for every limit.

    Raises:
        ValueError: none was kept.
    """
    sizes = [
        (len(tokenizer(record["text"], add_special_tokens=False)["input_ids"]) + 1, record["image_id"])
        for record in records if record["kept"]
    ]  # fmt: skip
    return max(sizes)


def share(hits: Sequence[bool], owners: Sequence[Hashable]) -> dict[str, Any]:
    """value, low, high, n of a share, by whole sub-categories; all None and n 0 where there is nothing."""
    if not hits:
        return {"value": None, "low": None, "high": None, "n": 0}
    return clustered_mean([float(hit) for hit in hits], owners).as_row()


def _leads(candidates: Sequence[str], record: Mapping) -> bool:
    label = record["sub_category"]
    return bool(candidates) and same_name(table_for(record["super_category"], label), candidates[0], label)


def _count(record: Mapping) -> tuple[Counter, int]:
    """(what `text_report` counts in one text, words of the thinking)."""
    text, label = record["text"], record["sub_category"]
    data_set = table_for(record["super_category"], label)
    trace = parse(text, meanings(data_set))
    layout = "tags" if trace.layout == "tags" else release_layout(text)
    lists = 1 if layout == "tags" else thinking(text).count(CANDIDATE_MARKER)
    lines = candidate_lines(trace) if lists < 2 else ()  # of two lists neither is the one
    short = {_folded(name) for name in (cut_labels(label) if data_set == "car" else [label])}
    named = [_holds(line, short) for line in lines]
    counts = Counter({
        layout: 1, "listed": bool(named), "four": len(named) == MAX_CANDIDATES, "label_listed": any(named),
        "label_exact": _folded(label) in map(_folded, (*trace.candidates, *lines)),
        "label_before": lists == 1 and _holds(trace.analysis, short),
        "leaks": "prompt_leak" in flaws(text, label),
        "answered": _holds(trace.prediction, short) or predicts(trace, label, data_set),
    })  # fmt: skip
    if any(named):
        counts[PLACES[named.index(True)]] += 1
    return counts, len(thinking(text).split())


def _folded(text: str) -> str:
    """Normalised, and every sign that is no letter and no number a space."""
    return " ".join(re.findall(r"\w+", normalise(text)))


def _holds(text: Optional[str], names: Iterable[str]) -> bool:
    folded = _folded(text or "")
    return any(name in folded for name in names)
