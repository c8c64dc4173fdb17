"""How good the rationales are, and what each step of making them prevents.

The reports count; precision and recall need a guide. `measure_steps` switches each step off. Attempts have
fixed seeds, so with fewer filters the texts of an image are a prefix of those in its record and need no new
query. Other concepts do, and sixty images say little about a rare mistake: the guide's teacher is queried
again under other seeds and reports which flaws it planted.
"""

import re
from collections import Counter
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.completions import normalise
from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.statistics import clustered_mean
from finer1_lib.data.names import cut_labels, meanings, same_name, table_for
from finer1_lib.data.rationales.filters import flaws, reasons_of
from finer1_lib.data.rationales.making import kept_concepts, own_and_foreign, query_until_good
from finer1_lib.data.rationales.parsing import (CANDIDATE_MARKER, MAX_CANDIDATES, candidate_lines,
                                                check_claims, parse, predicts, release_layout, thinking)
from finer1_lib.data.rationales.teachers import Row, Teacher, draw_seed

pandas, pd = Later("pandas"), Later("pandas")

PLACES = ("first", "second", "third", "fourth")
TEXT_COUNTS = ("tags", "single", "headings", "double", "none", "listed", "four", "label_listed",
               "label_exact", *PLACES, "label_before", "leaks", "answered")


def _kept(records: Sequence[Mapping]) -> list[Mapping]:
    return [record for record in records if record["kept"]]


def share(pairs: Sequence[tuple]) -> dict[str, Any]:
    """value, low, high, n of the hits among (hit, sub-category) pairs, the interval by whole sub-categories;
    all None and n 0 where there is nothing.
    """
    if not pairs:
        return {"value": None, "low": None, "high": None, "n": 0}
    return clustered_mean([float(hit) for hit, _ in pairs], [owner for _, owner in pairs]).as_row()


def quality_report(records: Sequence[Mapping]) -> tuple[dict, list[dict]]:
    """What the filters did: counts of images and texts (label_first: kept ones that list the label first, which
    a quarter should), and a row {reason, texts, images_dropped} per reason.
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
    return counts, [{"reason": name, "texts": texts[name], "images_dropped": dropped[name]}
                    for name in reasons_of(records)]


def kept_or_error(records: Sequence[Mapping], advice: Callable[[], str] = str) -> list[Mapping]:
    """The kept records. Raises: UserError: none passed the filters, with `advice()` on what to change."""
    if not (kept := _kept(records)):
        reason = max(quality_report(records)[1], key=lambda row: row["texts"])["reason"]
        raise UserError(f"none of {len(records)} rationales passed the filters (most often: {reason}); "
                        + (advice() or "raise attempts or take another teacher"))
    return kept


def is_true(concept: str, sub_category: str, guide: Mapping) -> Optional[bool]:
    """Whether the guide bears a concept out; None where it names no attribute in the guide's words."""
    return _borne_out(check_claims(concept, sub_category, guide))


def _borne_out(states: Mapping[str, str]) -> Optional[bool]:
    found = set(states.values()) - {"missing"}
    return "wrong" not in found if found else None


def concept_report(rows: Sequence[Row], chosen: Mapping[str, Sequence[Mapping]],
                   guide: Mapping) -> list[dict]:
    """Precision and recall of "all named" and of the "kept" concepts (of `choose_concepts`) against the guide:
    {concepts, metric, value, low, high, n, unjudged}. precision: share of true ones among the n judged
    (unjudged: named no attribute). recall: share of the sub-categories' n attributes that a true one names.
    """
    report = []
    for which in ("all named", "kept"):
        verdicts, found = [], []
        for row in rows:
            name = row["sub_category"]
            claims = [check_claims(entry["concept"], name, guide) for entry in chosen[row["image_id"]]
                      if entry["kept"] or which == "all named"]
            verdicts += [(_borne_out(states), name) for states in claims]
            found += [(any(states[attribute] == "right" for states in claims if _borne_out(states)), name)
                      for attribute in guide["sub_categories"][name]["attributes"]]
        judged = [pair for pair in verdicts if pair[0] is not None]
        report += [{"concepts": which, "metric": metric, **share(pairs), "unjudged": len(verdicts) - len(judged)}
                   for metric, pairs in (("precision", judged), ("recall", found))]
    return report


def concept_lines(concepts: Sequence[Mapping]) -> list[str]:
    """Precision and recall before and after the selection, a sentence each; from `concept_report`."""
    if not concepts:
        return ["no guide, or no concepts: no one can say which are true"]
    value = {(row["concepts"], row["metric"]): "{value:.0%} ({low:.0%} to {high:.0%}, n {n})".format(**row)
             if row["n"] else "not measurable" for row in concepts}
    return [f"{metric}: {value['all named', metric]} of all named, {value['kept', metric]} of those kept"
            for metric in ("precision", "recall")]


def misread(record: Mapping, guide: Mapping) -> bool:
    """The analysis says of some attribute what the guide does not."""
    return "wrong" in check_claims(parse(record["text"]).analysis, record["sub_category"], guide).values()


def misread_share(records: Sequence[Mapping], guide: Mapping) -> dict[str, Any]:
    """Kept rationales that misread an attribute: value, low, high, n."""
    return share([(misread(record, guide), record["sub_category"]) for record in _kept(records)])


def misread_lines(records: Sequence[Mapping], guide: Optional[Mapping],
                  given: Sequence[Mapping] = ()) -> tuple[Optional[int], list[str]]:
    """(kept rationales that misread an attribute, None without a guide; sentences on them and on `given`)."""
    kept = _kept(records)
    wrong = sum(misread(record, guide) for record in kept) if guide else None
    lines = ["no guide: the analyses cannot be checked"] if wrong is None else [
        f"{wrong} of {len(kept)} kept rationales misread at least one attribute (95 % interval "
        "{low:.0%} to {high:.0%})".format(**misread_share(records, guide))]
    return wrong, lines + ["concepts given: {concepts:>9}: {value:.0%} misread one ({low:.0%} to {high:.0%}, n {n})"
                           .format(**row) for row in given]


def text_report(records: Sequence[Mapping]) -> list[dict]:
    """What the kept texts look like: a row for each super_category and one for "all".

    n; words (mean), shortest and longest of the thinking; tags, single, headings, double, none (the layout);
    listed (one readable candidate list), of these four (all four), label_listed (of a car without body and
    year), label_exact (its whole name), first to fourth (its place); label_before (named before the
    candidates); leaks (the hidden prompt shows); answered (the prediction names the label).
    """
    found = pandas.DataFrame([_look(record) for record in _kept(records)],
                             columns=["super_category", "words", *TEXT_COUNTS])
    return [{"super_category": group, "n": len(part), "words": float(part["words"].mean()),
             "shortest": int(part["words"].min()), "longest": int(part["words"].max()),
             **{name: int(part[name].sum()) for name in TEXT_COUNTS}}
            for group, part in [*found.groupby("super_category"), ("all", found)] if len(part)]


def _look(record: Mapping) -> dict[str, Any]:
    """What `text_report` counts in one text."""
    text, label = record["text"], record["sub_category"]
    data_set = table_for(record["super_category"], label)
    trace, thought = parse(text, meanings(data_set)), thinking(text)
    layout = "tags" if trace.layout == "tags" else release_layout(text)
    lists = 1 if layout == "tags" else thought.count(CANDIDATE_MARKER)
    lines = candidate_lines(trace) if lists < 2 else ()  # of two lists neither is the one
    short = {_folded(name) for name in (cut_labels(label) if data_set == "car" else [label])}
    named = [_holds(line, short) for line in lines]
    return {**dict.fromkeys(TEXT_COUNTS, 0), "super_category": record["super_category"],
            "words": len(thought.split()), layout: 1, "listed": bool(named), "four": len(named) == MAX_CANDIDATES,
            "label_listed": any(named),
            "label_exact": _folded(label) in map(_folded, (*trace.candidates, *lines)),
            "label_before": lists == 1 and _holds(trace.analysis, short),
            "leaks": "prompt_leak" in flaws(text, label),
            "answered": _holds(trace.prediction, short) or predicts(trace, label, data_set),
            **({PLACES[named.index(True)]: 1} if any(named) else {})}


def _folded(text: str) -> str:
    """Normalised, and every sign that is no letter and no number a space."""
    return " ".join(re.findall(r"\w+", normalise(text)))


def _holds(text: Optional[str], names: Iterable[str]) -> bool:
    folded = _folded(text or "")
    return any(name in folded for name in names)


def label_order(records: Sequence[Mapping]) -> list[dict]:
    """How often the label is first, in the teacher's order and shuffled: {order, value, low, high, n}."""
    orders = {"teacher's": lambda record: parse(record["texts"][-1]).candidates,
              "shuffled": lambda record: record["candidates"]}
    return [{"order": order, **share([(_leads(of(record), record), _owner(record)) for record in _kept(records)])}
            for order, of in orders.items()]


def _owner(record: Mapping) -> tuple[str, str]:
    return record["super_category"], record["sub_category"]


def _leads(candidates: Sequence[str], record: Mapping) -> bool:
    """Whether the label is the first candidate."""
    label = record["sub_category"]
    return bool(candidates) and same_name(table_for(record["super_category"], label), candidates[0], label)


def longest(records: Sequence[Mapping], tokenizer: Any) -> tuple[int, str]:
    """(tokens with the end token, image_id) of the longest kept rationale. Raises: ValueError: none."""
    return max((len(tokenizer(record["text"], add_special_tokens=False)["input_ids"]) + 1, record["image_id"])
               for record in _kept(records))


def query_again(teacher: Any, rows: Sequence[Row], concepts: Mapping[str, Sequence[str]], *,
                seeds: Sequence[int], attempts: int, names: Mapping[str, Sequence[str]]) -> list[dict]:
    """Records of one draw of a teacher per seed, all filters on, with `planted`: the flaws of each text, which
    the teacher must report (as `miniature.teacher.GuideTeacher` does). `concepts` maps image_id to those given.
    Raises: UserError: no seed.
    """
    if not seeds:
        raise UserError("quality_draws is 0: the table of what each step prevents needs at least one draw")
    made = [(seed, *pair) for seed in seeds for pair in zip(rows, query_until_good(
        teacher, rows, concepts, seed=seed, attempts=attempts, names=names))]
    return [record | {"planted": [teacher.planted(row, record["concepts"], draw_seed(seed, row["image_id"], k))
                                  for k in range(record["attempts"])]} for seed, row, record in made]


def compare_concepts(teacher: Any, rows: Sequence[Row], asked: Mapping[str, Mapping],
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
    """What would have been kept with one filter off, and with "all" of them; `records` had every filter on.

    A kept text is judged by what was planted, where known, else by the filters themselves. A row each: off;
    kept (images), texts (requested), flawed (kept ones with the flaw that the filter stops) and value, low,
    high, n of their share while it is off; on_value, on_low, on_high, on_n of that share while all are on.
    """
    found, reasons = [_flaws_of_all(record, names) for record in records], reasons_of(records)

    def run(on: set[str]) -> tuple[list[tuple], int]:
        """((flaws, owner) of each kept text, texts requested) where only these filters are on."""
        kept, texts = [], 0
        for record, sets in zip(records, found):
            place = next((k for k, one in enumerate(sets) if not one & on), None)
            texts += len(sets) if place is None else place + 1
            if place is not None:
                kept.append((record.get("planted", sets)[place], _owner(record)))
        return kept, texts

    report, (all_on, _) = [], run(set(reasons))
    for off in (*reasons, "all"):
        kept, texts = run(set() if off == "all" else set(reasons) - {off})
        pairs, on_pairs = ([(bool(carried) if off == "all" else off in carried, owner) for carried, owner in part]
                           for part in (kept, all_on))
        report.append({"off": off, "kept": len(kept), "texts": texts, "flawed": sum(hit for hit, _ in pairs),
                       **share(pairs), **{f"on_{key}": value for key, value in share(on_pairs).items()}})
    return report


def found_and_missed(records: Sequence[Mapping], names: Mapping[str, Sequence[str]]) -> list[dict]:
    """Each filter against what was planted, over every text of `query_again`: a row {reason, texts, planted,
    found (of those planted), false_alarms (found, with nothing planted)} each.
    """
    pairs = [pair for record in records for pair in zip(record["planted"], _flaws_of_all(record, names))]
    return [{"reason": name, "texts": len(pairs), "planted": sum(name in known for known, _ in pairs),
             "found": sum(name in known and name in seen for known, seen in pairs),
             "false_alarms": sum(not known and name in seen for known, seen in pairs)}
            for name in reasons_of(records)]


def steps(filters: Sequence[Mapping], orders: Sequence[Mapping],
          concepts: Sequence[Mapping] = ()) -> list[dict]:
    """Every step beside itself switched off, from `switched_off`, `label_order` and `compare_concepts` (empty
    where no teacher was queried again): {step, flaw, on, on_low, on_high, n_on, off, off_low, off_high, n_off}.
    """
    order, given = {row["order"]: row for row in orders}, {row["concepts"]: row for row in concepts}
    flaw = {"not_well_formed": "not well-formed", "prompt_leak": "gives the prompt away", "all": "any of these"}
    pairs = [("all filters" if off == "all" else "its filter", flaw.get(off, off.replace("_", " ")),
              {key: row[f"on_{key}"] for key in ("value", "low", "high", "n")}, row)
             for row in filters for off in [row["off"]]]
    pairs.append(("shuffled candidates", "label stands first", order["shuffled"], order["teacher's"]))
    pairs += [(f"concepts chosen; off: {other}", "an attribute misread", given["chosen"], given[other])
              for other in ("none", "all named") if concepts]
    return [{"step": step, "flaw": flaw, "on": on["value"], "on_low": on["low"], "on_high": on["high"],
             "n_on": on["n"], "off": off["value"], "off_low": off["low"], "off_high": off["high"],
             "n_off": off["n"]} for step, flaw, on, off in pairs]


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

    @property
    def all_off(self) -> "pandas.Series":
        """The row of `without` in which every filter is off."""
        return self.without[self.without["off"] == "all"].iloc[0]

    def summary(self) -> str:
        """The strongest step, the filters without effect, and the share of flawed texts without filters."""
        if not self.records:
            return "no rationale was filtered here"
        effects, off = self.effects, self.all_off
        best = effects.loc[(effects["off"] - effects["on"]).idxmax()]
        idle = effects.loc[(effects["step"] == "its filter") & (effects["off"] == effects["on"]), "flaw"]
        return (f"without any filter {off.flawed} of {off.kept} kept rationales would be flawed, with all of them "
                f"{off.on_value:.0%}. Most is prevented by: {best['step']} ({best['flaw']}). Filters "
                f"whose absence changed nothing: {', '.join(idle) or 'none'} (other filters stop the same texts, "
                "or there were none).")


def measure_steps(teacher: Optional[Teacher], kind: str, records: Sequence[Mapping], rows: Sequence[Row],
                  asked: Mapping[str, Mapping], chosen: Mapping[str, Sequence[Mapping]],
                  guide: Optional[Mapping], **how: Any) -> Prevention:
    """Every step switched off; `how` holds `seeds`, `attempts` and `names`, as for `query_again`.

    Only a guide's teacher (`kind` "guide") is queried again and judged by what it planted.
    """
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
