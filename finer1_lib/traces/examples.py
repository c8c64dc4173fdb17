"""Traces chosen to be read, with every claim marked: right, wrong, or not fitting the trace's own analysis.

An example is a plain dictionary, made to be drawn by `traces.sheet.card`:

    {"model": "cot_sft", "label": "CoT SFT", "colour": "#0061B2", "role": "before", "pair": 0,
     "item_id": .., "image_id": .., "sub_category": "Dunen Wren", "super_category": "bird",
     "categories": "seen",
     "step": "prediction_differs", "raw": None or the whole completion where a part cannot be read,
     "parts": {"analysis": [("red crown", "right", ""), (", ", "", ""),
                            ("plain wings", "wrong", "guide: barred")],
               "options": .., "comparison": .., "prediction": .., "answer": ..}}

Examples are chosen in turn from every kind there is, so that the rare ones are seen; they are no sample, and
shares must be read from the tables. The same seed chooses the same ones.

Source: our choice.
"""

import random
from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.contenders import colour_of, in_order, label_of
from finer1_lib.rewards import normalise
from finer1_lib.scores.aliases import meanings, same_name, table_for
from finer1_lib.traces.changes import before_and_after, pair_of
from finer1_lib.traces.statistics import trace_table
from finer1_lib.traces.steps import analysis_claims, attributes_of, comparison_claims, unknown_names
from finer1_lib.traces.parsing import MAX_CANDIDATES, Trace, parse, predicts

PARTS = ("analysis", "options", "comparison", "prediction", "answer")
Segment = tuple[str, str, str]  # text, mark ("", "right", "wrong", "doubt" or "missing"), note


def choose_examples(
    records: Iterable[Mapping], *, guide: Optional[Mapping], labels: Mapping[str, str], number: int, seed: int
) -> list[dict[str, Any]]:
    """A few examples in pairs, for a page: the same picture before and after, then a right and a wrong trace.

    Half of the pairs are of one picture under the two models of `before_and_after`, those that changed sides
    first; the other half are of the later model, a wrong trace (steps in turn) and a right one of the same
    sub-category, or else super-category. With one thinking model all are of the second kind.

    Args:
        records: lines of 04's records.jsonl.
        guide: guide.json, or nothing: then no claim is marked, only names.
        labels: {model: label} in the order of the tables.
        number: of examples, two a pair.
        seed: of the draw.

    Returns:
        Examples; those of one pair follow each other and share `pair`. Fewer where there are fewer.
    """
    table, models, pair = _read(records, guide, labels)
    if not models:
        return []
    found = []
    if pair:
        found = _turned(table, pair, guide, labels, (number + 2) // 4, seed, changed_only=True)
    for wrong, right in _right_and_wrong(table[table["model"] == (pair or models)[-1]], seed):
        if len(found) + 2 > number:
            break
        found += _pair(found, [(wrong, "wrong"), (right, "right")], guide, labels)
    return found


def choose_for_sheet(
    records: Iterable[Mapping], *, guide: Optional[Mapping], labels: Mapping[str, str], number: int, seed: int
) -> list[dict[str, Any]]:
    """Many examples for a sheet: every kind of change between two models in turn, each picture under both.

    With one thinking model: every step in turn, one trace a picture. Arguments as in `choose_examples`.
    """
    table, models, pair = _read(records, guide, labels)
    if pair:
        return _turned(table, pair, guide, labels, number // 2, seed)
    found: list[dict] = []
    rows = [row for model in models for row in table[table["model"] == model].to_dict("records")]
    for row in _in_turn(rows, lambda row: (False, row["step"]), seed)[:number]:
        found += _pair(found, [(row, "")], guide, labels)
    return found


def mark(
    trace: Trace, sub_category: str, guide: Optional[Mapping], data_set: str = ""
) -> dict[str, list[Segment]]:
    """The parts of a trace cut into segments that together are the part's text, letter for letter.

    Args:
        sub_category: the true name.
        guide: guide.json, or nothing: then only the names are marked.
        data_set: whose other names count as well.
    """
    guide = guide or {}
    both = analysis_claims(trace, sub_category, guide), comparison_claims(trace, guide)
    analysis, comparison = ([(claim.start, claim.end, *_judged(claim, guide)) for claim in claims]
                            for claims in both)
    options, place, met, missed = [], 0, set(), 0
    unknown = set(unknown_names(trace, guide)) if guide else set()
    for name in trace.candidates:
        start = (trace.options or "").find(name, place)
        if start >= 0:
            place, key = start + len(name), normalise(name)
            verdict = ("right", "") if same_name(data_set, name, sub_category) else ("", "")
            if key in met:
                verdict = "doubt", "stands twice"
            elif name in unknown:
                verdict = "wrong", "not in the guide"
            options.append((start, place, *verdict))
            met.add(key)
        elif (missed := missed + 1) > MAX_CANDIDATES:  # each costs a look through all that is left
            break
    cut = {"analysis": _cut(trace.analysis, analysis), "options": _cut(trace.options, options),
           "comparison": _cut(trace.comparison, comparison)}
    right = {"prediction": predicts(trace, sub_category, data_set),
             "answer": trace.answer is not None and same_name(data_set, trace.answer, sub_category)}
    for part, verdict in right.items():
        text = getattr(trace, part)
        cut[part] = _cut(text, [(0, len(text or ""), "right" if verdict else "wrong", "")])
    return cut


def _judged(claim, guide: Mapping) -> tuple[str, str]:
    """(mark, note) of a claim; what the guide says weighs more than a mark that does not fit."""
    if claim.true is False:
        return "wrong", f"guide: {attributes_of(guide, claim.name)[claim.attribute]}"
    return ("doubt", "mark does not fit") if claim.consistent is False else ("right", "")


_WORST = ("wrong", "missing", "doubt", "right", "")


def _cut(text: Optional[str], spans: Sequence[tuple[int, int, str, str]]) -> list[Segment]:
    """The text as segments; spans that overlap an earlier one are passed over."""
    if text is None:
        return [("(cannot be read)", "missing", "")]
    found, place = [], 0
    # of several claims in one place (prose: "red crown and barred wings") the worst one is shown
    for start, end, verdict, note in sorted(spans, key=lambda span: (span[0], _WORST.index(span[2]))):
        if start >= place and end > start:
            found += [(text[place:start], "", "")] if start > place else []
            found.append((text[start:end], verdict, note))
            place = end
    return found + ([(text[place:], "", "")] if place < len(text) else [])


def _read(records, guide, labels):
    """(table of traces, thinking models in order, the two models before and after or None)."""
    table = trace_table(records, guide)
    models = in_order(table["model"], labels)
    return table, models, before_and_after(models)


def _turned(table, pair, guide, labels, number: int, seed: int, changed_only: bool = False) -> list[dict]:
    """Examples of the same items under both models, each kind of change in turn, changes of verdict first."""
    before, after = (side.to_dict("records") for side in pair_of(table, *pair))
    items = list(zip(before, after))
    if changed_only:
        items = [(a, b) for a, b in items if (a["step"] == "right") != (b["step"] == "right")]

    def kind(item):
        was, is_ = item[0]["step"], item[1]["step"]
        if changed_only:  # mended and broken in turn, whatever the steps
            return (was == "right",)
        return (was == "right") == (is_ == "right"), was, is_

    found: list[dict] = []
    for a, b in _in_turn(items, kind, seed)[:number]:
        found += _pair(found, [(a, "before"), (b, "after")], guide, labels)
    return found


def _right_and_wrong(table, seed: int):
    """(wrong row, right row) pairs of one model: steps in turn, the nearest kind of right trace."""
    rows = table.sort_values("item_id").to_dict("records")
    right = [row for row in rows if row["step"] == "right"]
    random.Random(f"{seed}/right").shuffle(right)
    for wrong in _in_turn([row for row in rows if row["step"] != "right"],
                          lambda row: (False, row["step"]), seed):
        for key in ("sub_category", "super_category"):
            mates = [row for row in right if row[key] == wrong[key]]
            if mates:
                yield wrong, mates[0]
                right.remove(mates[0])
                break


def _in_turn(rows: Sequence, kind, seed: int) -> list:
    """All rows, shuffled by seed, one of each kind in turn; a kind is a tuple whose first part says which are
    served first, and among those the commonest come first."""
    groups: dict[Any, list] = {}
    for row in rows:
        groups.setdefault(kind(row), []).append(row)
    for key, members in groups.items():
        random.Random(f"{seed}/{key}").shuffle(members)
    lists = [groups[key] for key in sorted(groups, key=lambda key: (key[0], -len(groups[key]), key))]
    return [members[turn] for turn in range(max(map(len, lists), default=0)) for members in lists
            if turn < len(members)]


def _pair(found: Sequence[Mapping], rows, guide, labels) -> list[dict[str, Any]]:
    """Rows of `trace_table` with their roles as examples of one new pair."""
    number = found[-1]["pair"] + 1 if found else 0
    copied = ("model", "item_id", "image_id", "super_category", "sub_category", "categories", "step")
    examples = []
    for row, role in rows:
        data_set = table_for(row["super_category"], row["sub_category"])
        trace = parse(row["completion"], meanings(data_set))
        examples.append({
            **{key: row[key] for key in copied}, "label": label_of(row["model"], labels),
            "colour": colour_of(row["model"]), "role": role, "pair": number,
            "raw": None if trace.complete else row["completion"],
            "parts": mark(trace, row["sub_category"], guide, data_set),
        })
    return examples
