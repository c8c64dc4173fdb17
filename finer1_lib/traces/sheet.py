"""A sheet of traces to leaf through: pictures, the four parts with every claim marked, filters, one file.

The HTML file needs nothing but itself: pictures are data URIs, a dozen lines of script filter the cards and
without them all are shown. All text of models and all names are escaped, and the page forbids itself any
other script and any address (Content-Security-Policy), should an escape ever be forgotten.

    examples = choose_examples(records, guide=guide, labels=labels, number=6, seed=0)
    html = [card(example, picture_bytes(image_root, example["image_id"])) for example in examples]

Marks are signs and not only colours, so that a grey print reads the same.

Source: our choice.

Traces chosen to be read, with every claim marked: right, wrong, or not fitting the trace's own analysis.

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

import base64
import hashlib
import io
import random
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.core.completions import normalise
from finer1_lib.core.escaping import escape
from finer1_lib.core.files import atomic_write_text
from finer1_lib.data.names import meanings, same_name, table_for
from finer1_lib.data.rationales.parsing import MAX_CANDIDATES, Trace, parse, predicts
from finer1_lib.traces.changes import before_and_after, pair_of
from finer1_lib.traces.statistics import trace_table
from finer1_lib.traces.steps import (
    STEP_LABELS,
    analysis_claims,
    attributes_of,
    comparison_claims,
    unknown_names,
)
from finer1_lib.training.methods import colour_of, in_order, label_of

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


MAX_CARDS, MAX_BYTES, SIDE = 60, 3_000_000, 224
SIGNS = {"right": "\u00a0✓", "wrong": "\u00a0✗", "doubt": "\u00a0?"}  # never parted from what they mark
STYLE = """\
.trace-pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1rem; margin: 0 0 1.5rem }
.trace-card { border: 1px solid #bbb; border-top: .4rem solid #888; border-radius: .3rem; padding: .8rem 1rem;
  background: #fff; color: #222; break-inside: avoid; min-width: 0;
  overflow-wrap: anywhere }
.trace-card[hidden], .trace-pair[hidden] { display: none }
.trace-head { display: flex; gap: 1rem; align-items: flex-start }
.trace-head img { width: 7rem; height: 7rem; object-fit: contain; flex: none; border: 1px solid #ddd }
.trace-head div { min-width: 0 } .trace-head p { margin: 0 0 .2rem }
.trace-name { font-weight: 700; font-size: 1.1em }
.trace-card dl { margin: .6rem 0 0 } .trace-card dt { color: #555; font-size: .85em; margin-top: .4rem }
.trace-card dd { margin: 0; white-space: pre-line; unicode-bidi: isolate }
.trace-card details { margin-top: .6rem } .trace-card pre { white-space: pre-wrap }
.trace-right { color: #00694c } .trace-missing { color: #666; font-style: italic }
.trace-wrong { color: #a33a00; font-weight: 700; text-decoration: underline }
.trace-doubt { color: #6a2c70; text-decoration: underline dotted }
.trace-note { font-size: .85em; font-weight: 400; font-style: italic }
@media print { .trace-card { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""
_PAGE_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 1.5rem auto; padding: 0 1rem;
  color: #222 }
.trace-filter { position: sticky; top: 0; background: #fff; padding: .6rem 0; border-bottom: 1px solid #bbb;
  margin-bottom: 1rem; display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; align-items: center }
.trace-filter[hidden] { display: none } .trace-filter label { max-width: 100% }
select { font: inherit; max-width: min(100%, 24rem) }
@media (max-width: 40rem) { .trace-filter { position: static } }
@media print { .trace-filter { display: none } body { max-width: none; font-size: 11pt } }
"""
# values come from the page's own attributes and are only compared, never written into it
_SCRIPT = """\
const bar = document.querySelector(".trace-filter"), picks = [...bar.querySelectorAll("select")];
function show() {
  for (const pair of document.querySelectorAll(".trace-pair")) {
    for (const card of pair.children)
      card.hidden = picks.some(pick => pick.value && card.dataset[pick.name] !== pick.value);
    pair.hidden = [...pair.children].every(card => card.hidden);
  }
  document.getElementById("shown").textContent =
    document.querySelectorAll(".trace-card:not([hidden])").length + " cards shown";
}
bar.addEventListener("change", show); bar.hidden = false; show();
"""


def card(example: Mapping[str, Any], picture: Optional[bytes]) -> str:
    """One trace as HTML; the page that takes it needs `STYLE`.

    Args:
        example: of `choose_examples`.
        picture: PNG or JPEG bytes (see `image_bytes`), or None to leave the picture out.
    """
    image = ""
    if picture:
        kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
        data = base64.b64encode(picture).decode("ascii")
        image = f'<img alt="{escape(example["sub_category"])}" src="data:image/{kind};base64,{data}">'
    step = example["step"]
    verdict = ('<span class="trace-right">right ✓</span>' if step == "right" else
               f'<span class="trace-wrong">wrong ✗</span> first wrong step: {escape(STEP_LABELS[step])}')
    role = f"{escape(example['role'])}: " if example["role"] in ("before", "after") else ""
    parts = "".join(f"<dt>{part}</dt><dd>{_marked(example['parts'][part])}</dd>" for part in PARTS)
    raw = "" if example["raw"] is None else (
        f"<details><summary>as it was written</summary><pre>{escape(example['raw'])}</pre></details>")
    return (
        f'<article class="trace-card" style="border-top-color: {escape(example["colour"])}" '
        f'data-model="{escape(example["model"])}" data-step="{escape(step)}" '
        f'data-categories="{escape(example["categories"])}">'
        f'<div class="trace-head">{image}<div><p class="trace-name">{escape(example["sub_category"])}</p>'
        f'<p>{escape(example["super_category"])}, {escape(example["categories"])}</p>'
        f'<p>{role}<strong>{escape(example["label"])}</strong></p><p>{verdict}</p></div></div>'
        f"<dl>{parts}</dl>{raw}</article>"
    )


def _marked(segments: Iterable[Segment]) -> str:
    """Segments with their signs and notes."""
    found = []
    for text, verdict, note in segments:
        more = f' <span class="trace-note">({escape(note)})</span>' if note else ""
        found.append(f'<span class="trace-{verdict}">{escape(text)}{SIGNS.get(verdict, "")}{more}</span>'
                     if verdict else escape(text))
    return "".join(found)


def legend(guide: Optional[Mapping]) -> str:
    """What the signs mean, as a paragraph."""
    if not guide:
        return ("<p>✓ and ✗ mark names that are the true one or not. There is no field guide here, so claims "
                "about attributes are not judged.</p>")
    return ("<p>✓ as the field guide has it; ✗ against the field guide, with what the guide says; ? a claim "
            "that is true, but whose mark \"(differs)\", or the lack of it, does not fit the trace's own "
            "analysis, or a candidate that stands twice.</p>")


def image_bytes(image_root, image_id: str, side: int = SIDE) -> bytes:
    """A picture to embed: as PNG if it is small, else shrunk to `side` pixels as JPEG.

    Raises:
        UserError: the picture is missing, broken or outside the folder.
    """
    from finer1_lib.core.images import load_image

    picture, buffer = load_image(image_root, image_id), io.BytesIO()
    if max(picture.size) <= side:
        picture.save(buffer, format="PNG")
    else:
        picture.thumbnail((side, side))
        picture.save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def write_sheet(
    path: Path, records: Sequence[Mapping], image_root, guide: Optional[Mapping], labels: Mapping[str, str],
    *, seed: int, max_cards: int = MAX_CARDS, max_bytes: int = MAX_BYTES,
) -> dict[str, int]:
    """Write the sheet.

    Args:
        path: of the HTML file.
        records: lines of 04's records.jsonl.
        image_root: folder that image ids are relative to.
        guide: guide.json, or nothing: then claims about attributes are not marked.
        labels: {model: label} in the order of the tables.
        seed: of the choice.
        max_cards: cards at most, two for each picture.
        max_bytes: length of the file at most, about; pairs beyond it are left out, and the page says so.

    Returns:
        {"cards": how many stand in it, "left_out": how many more were chosen, "bytes": its length}.
    """
    examples = choose_for_sheet(records, guide=guide, labels=labels, number=max_cards, seed=seed)
    pairs, shown, size = [], [], 0
    for number in dict.fromkeys(example["pair"] for example in examples):
        here = [example for example in examples if example["pair"] == number]
        picture = image_bytes(image_root, here[0]["image_id"])
        text = '<div class="trace-pair">' + "".join(card(example, picture) for example in here) + "</div>"
        if size + len(text.encode("utf-8")) > max_bytes:
            continue  # a smaller pair may still find room
        size += len(text.encode("utf-8"))
        pairs.append(text)
        shown += here
    page = _page(pairs, shown, len(examples) - len(shown), guide, seed)
    atomic_write_text(path, page)
    return {"cards": len(shown), "left_out": len(examples) - len(shown), "bytes": len(page.encode("utf-8"))}


def _page(pairs: Sequence[str], shown: Sequence[Mapping], left_out: int, guide, seed: int) -> str:
    steps = {"right": "right", **STEP_LABELS}
    filters = (
        ("model", {example["model"]: example["label"] for example in shown}),
        ("step", {step: label for step, label in steps.items() if step in {e["step"] for e in shown}}),
        ("categories", {e["categories"]: e["categories"] for e in shown}),
    )
    selects = "".join(
        f'<label>{name} <select name="{name}"><option value="">all</option>'
        + "".join(f'<option value="{escape(key)}">{escape(label)}</option>' for key, label in values.items())
        + "</select></label>" for name, values in filters
    )
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    room = f" {left_out} more were chosen and left out, to keep the file small." if left_out else ""
    nothing = "" if shown else "<p>No model of this run thinks before it answers: no trace to show.</p>"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Reasoning traces</title>
<style>
{STYLE}{_PAGE_STYLE}</style></head><body>
<h1>Reasoning traces</h1>
<p>{len(shown)} open-world traces, chosen in turn from every kind of change (seed {seed}): the rare kinds
stand here as often as the common ones, so shares must be read from the tables.{room}</p>
{legend(guide)}{nothing}
<form class="trace-filter" hidden>{selects}<span id="shown"></span></form>
<main>
{"".join(pairs)}
</main>
<script>{_SCRIPT}</script>
</body></html>
"""
