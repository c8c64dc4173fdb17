"""How good the rationales are, and what each step of making them prevents.

`quality_report`, `concept_report`, `misread` and `text_report` count; precision and recall need a guide.
`measure_steps` switches each step off. Attempts have fixed seeds, so with fewer filters the texts of an image
are a prefix of those in its record and need no new query. Other concepts do, and sixty images say little
about a rare mistake: the guide's teacher is queried again under other seeds and reports which flaws it
planted.
"""

import re
from collections import Counter, defaultdict
from typing import (
    TYPE_CHECKING, Any, Callable, Hashable, Iterable, Mapping, NamedTuple, Optional, Protocol, Sequence,
)  # fmt: skip

from finer1_lib.core.completions import normalise
from finer1_lib.core.errors import UserError
from finer1_lib.core.statistics import clustered_mean
from finer1_lib.data.names import cut_labels, meanings, same_name, table_for
from finer1_lib.data.rationales.filters import flaws, reasons_of
from finer1_lib.data.rationales.making import attempt_seed, kept_concepts, own_and_foreign, query_until_good
from finer1_lib.data.rationales.parsing import (
    CANDIDATE_MARKER, MAX_CANDIDATES, candidate_lines, check_claims, parse, predicts, release_layout,
    thinking,
)  # fmt: skip
from finer1_lib.data.rationales.teachers import Row, Teacher

if TYPE_CHECKING:
    import pandas

PLACES = ("first", "second", "third", "fourth")
TEXT_COUNTS = ("tags", "single", "headings", "double", "none", "listed", "four", "label_listed",
               "label_exact", *PLACES, "label_before", "leaks", "answered")


def quality_report(records: Sequence[Mapping]) -> tuple[dict, list[dict]]:
    """What the filters did to `records`: counts, and a row {reason, texts, images_dropped} per reason.

    The counts: images, kept, kept_at_once, resampled, dropped, texts, mended, and label_first (kept ones that
    list the label first, which a quarter should).
    """
    kept = _kept(records)
    texts = Counter(reason for record in records for reason in record["rejections"])
    dropped = Counter(record["dropped_because"] for record in records if not record["kept"])
    counts = {"images": len(records), "kept": len(kept),
              "kept_at_once": sum(record["attempts"] == 1 for record in kept),
              "resampled": sum(record["attempts"] > 1 for record in kept),
              "dropped": len(records) - len(kept), "texts": sum(record["attempts"] for record in records),
              "mended": sum(record["mended"] for record in records),
              "label_first": sum(_leads(record["candidates"], record) for record in kept)}
    rows = [{"reason": name, "texts": texts[name], "images_dropped": dropped[name]}
            for name in reasons_of(records)]  # fmt: skip
    return counts, rows


def is_true(concept: str, sub_category: str, guide: Mapping) -> Optional[bool]:
    """Whether the guide bears a concept out; None where it names no attribute in the guide's words."""
    found = {state for state in check_claims(concept, sub_category, guide).values() if state != "missing"}
    return "wrong" not in found if found else None


def concept_report(rows: Sequence[Row], chosen: Mapping[str, Sequence[Mapping]],
                   guide: Mapping) -> list[dict]:
    """Precision and recall of the concepts (from `choose_concepts`) against the guide.

    A row {concepts, metric, value, low, high, n, unjudged} per metric for "all named" and "kept". precision:
    share of true ones among the n judged (unjudged: named no attribute). recall: share of the n attributes of
    the sub-categories that a true concept names. Intervals by sub-category.
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
        report += [{"concepts": which, "metric": "precision", **share(true, owners), "unjudged": unjudged},
                   {"concepts": which, "metric": "recall", **share(found, attributes), "unjudged": unjudged}]
    return report


def misread(record: Mapping, guide: Mapping) -> bool:
    """The analysis says of some attribute what the guide does not."""
    return "wrong" in check_claims(parse(record["text"]).analysis, record["sub_category"], guide).values()


def misread_share(records: Sequence[Mapping], guide: Mapping) -> dict[str, Any]:
    """Kept rationales that misread an attribute: value, low, high, n."""
    kept = _kept(records)
    return share([misread(record, guide) for record in kept], [record["sub_category"] for record in kept])


def text_report(records: Sequence[Mapping]) -> list[dict]:
    """What the kept texts look like: a row for each super_category and one for "all".

    n; words (mean), shortest and longest of the thinking; tags, single, headings, double, none (the layout);
    listed (one readable candidate list), of these four (all four), label_listed (of a car without body and
    year), label_exact (its whole name), first to fourth (its place); label_before (named before the
    candidates); leaks (the hidden prompt shows); answered (the prediction names the label).
    """
    counts = defaultdict(lambda: Counter(dict.fromkeys(TEXT_COUNTS, 0)))
    lengths = defaultdict(list)
    for record in _kept(records):
        found, words = _count(record)
        for group in (record["super_category"], "all"):
            counts[group].update(found)
            lengths[group].append(words)
    return [{"super_category": group, "n": len(own), "words": sum(own) / len(own), "shortest": min(own),
             "longest": max(own), **counts[group]}
            for group, own in sorted(lengths.items(), key=lambda item: (item[0] == "all", item[0]))]


def label_order(records: Sequence[Mapping]) -> list[dict]:
    """How often the label is first, in the teacher's order and after the shuffle: {order, value, low, high,
    n}.
    """
    kept = _kept(records)
    owners = [(record["super_category"], record["sub_category"]) for record in kept]
    own = [_leads(parse(record["texts"][-1]).candidates, record) for record in kept]
    shuffled = [_leads(record["candidates"], record) for record in kept]
    return [{"order": "teacher's", **share(own, owners)}, {"order": "shuffled", **share(shuffled, owners)}]


def longest(records: Sequence[Mapping], tokenizer: Any) -> tuple[int, str]:
    """(tokens, image_id) of the longest kept rationale, its end token included.
    Raises: ValueError: none was kept.
    """
    sizes = [(len(tokenizer(record["text"], add_special_tokens=False)["input_ids"]) + 1, record["image_id"])
             for record in records if record["kept"]]
    return max(sizes)


def share(hits: Sequence[bool], owners: Sequence[Hashable]) -> dict[str, Any]:
    """value, low, high, n of a share, by whole sub-categories; all None and n 0 where there is nothing."""
    if not hits:
        return {"value": None, "low": None, "high": None, "n": 0}
    return clustered_mean([float(hit) for hit in hits], owners).as_row()


def _leads(candidates: Sequence[str], record: Mapping) -> bool:
    """Whether the label is the first candidate."""
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
    counts = Counter({layout: 1, "listed": bool(named), "four": len(named) == MAX_CANDIDATES,
                      "label_listed": any(named),
                      "label_exact": _folded(label) in map(_folded, (*trace.candidates, *lines)),
                      "label_before": lists == 1 and _holds(trace.analysis, short),
                      "leaks": "prompt_leak" in flaws(text, label),
                      "answered": _holds(trace.prediction, short) or predicts(trace, label, data_set)})
    if any(named):
        counts[PLACES[named.index(True)]] += 1
    return counts, len(thinking(text).split())


def _folded(text: str) -> str:
    """Normalised, and every sign that is no letter and no number a space."""
    return " ".join(re.findall(r"\w+", normalise(text)))


def _holds(text: Optional[str], names: Iterable[str]) -> bool:
    folded = _folded(text or "")
    return any(name in folded for name in names)


_WORDS = {"cut_off": "cut off", "not_well_formed": "not well-formed", "mixed_language": "mixed language",
          "prompt_leak": "gives the prompt away", "label_not_a_candidate": "label not a candidate",
          "foreign_candidate": "foreign candidate", "wrong_prediction": "wrong prediction",
          "too_long": "too long", "all": "any of these"}


def _kept(records: Sequence[Mapping]) -> list[Mapping]:
    return [record for record in records if record["kept"]]


class PlantingTeacher(Teacher, Protocol):
    """A teacher that reports which flaws it planted (`miniature.teacher.GuideTeacher`)."""

    def planted(self, row: Row, concepts: Sequence[str], seed: int) -> frozenset[str]:
        """The flaws, names of `REASONS`, of the rationale that these arguments give."""


def query_again(teacher: PlantingTeacher, rows: Sequence[Row], concepts: Mapping[str, Sequence[str]], *,
                seeds: Sequence[int], attempts: int, names: Mapping[str, Sequence[str]]) -> list[dict]:
    """Records of one draw of a teacher per seed, all filters on, with `planted`: the flaws of each text.

    `concepts` maps image_id to the concepts given to the teacher. Raises: UserError: no seed.
    """
    if not seeds:
        raise UserError("quality_draws is 0: the table of what each step prevents needs at least one draw")
    records = []
    for seed in seeds:
        made = query_until_good(teacher, rows, concepts, seed=seed, attempts=attempts, names=names)
        for row, record in zip(rows, made):
            tries = range(len(record["texts"]))
            planted = [teacher.planted(row, record["concepts"], attempt_seed(seed, row, k)) for k in tries]
            records.append(record | {"planted": planted})
    return records


def compare_concepts(teacher: PlantingTeacher, rows: Sequence[Row], asked: Mapping[str, Mapping],
                     chosen: Mapping[str, Sequence[Mapping]], guide: Mapping, **how: Any) -> list[dict]:
    """The share of kept rationales that misread an attribute, a row {concepts, value, low, high, n} each,
    with the chosen concepts, with none, and with all named; `how` as for `query_again`.
    """
    given = {"chosen": {image_id: kept_concepts(entries) for image_id, entries in chosen.items()},
             "none": dict.fromkeys(chosen, ()),
             "all named": {image_id: line["concepts"] for image_id, line in asked.items()}}
    return [{"concepts": which, **misread_share(query_again(teacher, rows, concepts, **how), guide)}
            for which, concepts in given.items()]


def switched_off(records: Sequence[Mapping], names: Mapping[str, Sequence[str]]) -> list[dict]:
    """What would have been kept with one filter off, and with all of them off; `records` had every filter on.

    A kept text is judged by what was planted (`query_again`), where known, else by the filters themselves. A
    row per filter and one for "all": off; kept (images), texts (requested) and flawed (kept ones with the
    flaw that the filter stops) while it is off; value, low, high, n of their share; and on_value, on_low,
    on_high, on_n of the same share while every filter is on.
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
    """Each filter against what was planted, over every text of `query_again`.

    A row {reason, texts, planted, found (of those planted), false_alarms (found, with nothing planted)} each.
    """
    pairs = [pair for record in records for pair in zip(record["planted"], _flaws_of_all(record, names))]
    return [{"reason": name, "texts": len(pairs), "planted": sum(name in known for known, _ in pairs),
             "found": sum(name in known and name in seen for known, seen in pairs),
             "false_alarms": sum(not known and name in seen for known, seen in pairs)}
            for name in reasons_of(records)]


def steps(filters: Sequence[Mapping], orders: Sequence[Mapping],
          concepts: Sequence[Mapping] = ()) -> list[dict]:
    """Every step beside itself switched off, as `plots.prevented` draws it.

    Rows {step, flaw, on, on_low, on_high, n_on, off, off_low, off_high, n_off} from `switched_off`,
    `label_order` and, where the teacher could be queried again, `compare_concepts`.
    """
    order, given = {row["order"]: row for row in orders}, {row["concepts"]: row for row in concepts}
    pairs = [("all filters" if row["off"] == "all" else "its filter", _WORDS[row["off"]],
              {key: row["on_" + key] for key in ("value", "low", "high", "n")}, row) for row in filters]
    pairs.append(("shuffled candidates", "label stands first", order["shuffled"], order["teacher's"]))
    pairs += [(f"concepts chosen; off: {other}", "an attribute misread", given["chosen"], given[other])
              for other in ("none", "all named") if concepts]
    keys = {"value": "{}", "low": "{}_low", "high": "{}_high", "n": "n_{}"}
    return [{"step": step, "flaw": flaw} | {name.format("on"): on[key] for key, name in keys.items()}
            | {name.format("off"): off[key] for key, name in keys.items()} for step, flaw, on, off in pairs]


def _flaws_of_all(record: Mapping, names: Mapping[str, Sequence[str]]) -> list[set[str]]:
    """The flaws that the filters see in each text of a record."""
    own, foreign = own_and_foreign(names, record["super_category"])
    label, limit = record["sub_category"], record.get("max_words", 0)
    data_set = table_for(record["super_category"], label)
    return [set(flaws(text, label, own, foreign, limit, data_set)) for text in record["texts"]]


class Prevention(NamedTuple):
    """Section 7 of notebook 01: the records it rests on, a note, and its tables."""

    records: Sequence[Mapping]
    note: str
    planted: "pandas.DataFrame"  # found_and_missed
    without: "pandas.DataFrame"  # switched_off
    effects: "pandas.DataFrame"  # steps
    given: list[dict]  # compare_concepts

    def summary(self) -> str:
        """The strongest step, the filters without effect, and the share of flawed texts without filters."""
        if not self.records:
            return "no rationale was filtered here"
        effect = self.effects.assign(less=self.effects["off"] - self.effects["on"])
        effect = effect.set_index(["flaw", "step"])["less"]
        idle = [row.flaw for row in self.effects[self.effects["step"] == "its filter"].itertuples()
                if row.off == row.on]
        off = self.all_off
        return (f"without any filter {off.flawed} of {off.kept} kept rationales would be flawed, with all of them "
                f"{off.on_value:.0%}. Most is prevented by: {effect.idxmax()[1]} ({effect.idxmax()[0]}). Filters "
                f"whose absence changed nothing: {', '.join(idle) or 'none'} (other filters stop the same texts, "
                "or there were none).")

    @property
    def all_off(self) -> "pandas.Series":
        """The row of `without` in which every filter is off."""
        return self.without[self.without["off"] == "all"].iloc[0]


def measure_steps(teacher: Optional[Teacher], kind: str, records: Sequence[Mapping], rows: Sequence[Row],
                  asked: Mapping[str, Mapping], chosen: Mapping[str, Sequence[Mapping]],
                  guide: Optional[Mapping], **how: Any) -> Prevention:
    """Every step switched off; `how` holds `seeds`, `attempts` and `names`, as for `query_again`.

    Only a guide's teacher (`kind` "guide") is queried again and judged by what it planted.
    """
    import pandas as pd

    again, planted, given = list(records), pd.DataFrame(), []
    if kind == "guide":
        again = query_again(teacher, rows, {key: kept_concepts(value) for key, value in chosen.items()}, **how)
        planted = pd.DataFrame(found_and_missed(again, how["names"]))
        given = compare_concepts(teacher, rows, asked, chosen, guide, **how)
        note = (f"of {planted['planted'].sum()} planted flaws the filters found {planted['found'].sum()}, with "
                f"{planted['false_alarms'].sum()} false alarms in {planted['texts'].max()} texts")
    elif teacher is None:
        again = []  # a file shows what some filters let through, not what they stopped
        note = "the rationales come from a file: nothing was filtered here, and this section has nothing to show"
    else:
        note = "only the guide's teacher reports what it planted: below, the filters are judged by themselves"
    without = switched_off(again, how["names"]) if again else []
    effects = steps(without, label_order(again), given) if again else []
    return Prevention(again, note, planted, pd.DataFrame(without), pd.DataFrame(effects), given)


def kept_or_error(records: Sequence[Mapping], advice: Callable[[], str] = str) -> list[Mapping]:
    """The kept records. Raises: UserError: none passed the filters, with `advice()` on what to change."""
    if not (kept := _kept(records)):
        counts = Counter(reason for record in records for reason in record["rejections"])
        reason = max(reasons_of(records), key=counts.__getitem__)
        raise UserError(f"none of {len(records)} rationales passed the filters (most often: {reason}); "
                        + (advice() or "raise attempts or take another teacher"))
    return kept


def concept_lines(concepts: Sequence[Mapping]) -> list[str]:
    """Precision and recall before and after the selection, a sentence each; from `concept_report`."""
    if not concepts:
        return ["no guide, or no concepts: no one can say which are true"]
    value = {(row["concepts"], row["metric"]): "{value:.0%} ({low:.0%} to {high:.0%}, n {n})".format(**row)
             if row["n"] else "not measurable" for row in concepts}  # fmt: skip
    return [f"{metric}: {value['all named', metric]} of all named, {value['kept', metric]} of those kept"
            for metric in ("precision", "recall")]  # fmt: skip


def misread_lines(records: Sequence[Mapping], guide: Optional[Mapping],
                  given: Sequence[Mapping] = ()) -> tuple[Optional[int], list[str]]:
    """(kept rationales that misread an attribute, None without a guide; sentences on them and on `given`)."""
    kept = _kept(records)
    wrong = sum(misread(record, guide) for record in kept) if guide else None
    lines = ["no guide: the analyses cannot be checked"] if wrong is None else [
        f"{wrong} of {len(kept)} kept rationales misread at least one attribute (95 % interval "
        "{low:.0%} to {high:.0%})".format(**misread_share(records, guide))]  # fmt: skip
    return wrong, lines + ["concepts given: {concepts:>9}: {value:.0%} misread one ({low:.0%} to {high:.0%}, n {n})"
                           .format(**row) for row in given]  # fmt: skip
