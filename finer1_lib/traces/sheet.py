"""Traces to read, with every claim marked, and a self-contained HTML page of them.

    examples = choose_examples(records, guide=guide, labels=labels, number=6, seed=0)
    html = [card(example, image_bytes(image_root, example["image_id"])) for example in examples]

An example is a plain dictionary: model, label, colour, role ("before", "after", "right", "wrong"), pair, the
item's keys, step, raw (the whole completion where a part cannot be read) and

    "parts": {"analysis": [("red crown", "right", ""), (", ", "", ""),
                           ("plain wings", "wrong", "guide: barred")],
              "options": .., "comparison": .., "prediction": .., "answer": ..}

Examples are chosen in turn from every kind, so rare kinds are seen; they are not a sample, and shares must be
read from the tables. Marks are signs as well as colours. sheet.html (jinja2, autoescape) holds the markup:
all text of models is escaped, and the page's Content-Security-Policy forbids any script but its own.
"""

import base64
import hashlib
import io
import random
from functools import cache
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.core.completions import normalise
from finer1_lib.core.files import atomic_write_text
from finer1_lib.data.names import meanings, same_name, table_for
from finer1_lib.data.rationales.parsing import MAX_CANDIDATES, Trace, parse, predicts
from finer1_lib.traces.changes import before_and_after, pair_of
from finer1_lib.traces.statistics import trace_table
from finer1_lib.traces.steps import (
    STEP_LABELS, analysis_claims, attributes_of, comparison_claims, unknown_names,
)  # fmt: skip
from finer1_lib.training.methods import colour_of, in_order, label_of

PARTS = ("analysis", "options", "comparison", "prediction", "answer")
Segment = tuple[str, str, str]  # text, mark ("", "right", "wrong", "doubt" or "missing"), note


def choose_examples(
    records: Iterable[Mapping], *, guide: Optional[Mapping], labels: Mapping[str, str], number: int, seed: int
) -> list[dict[str, Any]]:
    """A few examples in pairs, for a page: the same image before and after, then a right and a wrong trace.

    Half of the pairs are of one image under the two models of `before_and_after`, those that changed sides
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
    """Many examples for a sheet: every kind of change between two models in turn, each image under both.

    With one thinking model: every step in turn, one trace an image. Arguments as in `choose_examples`.
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
                verdict = "doubt", "listed twice"
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
SIGNS = {"right": "\u00a0✓", "wrong": "\u00a0✗", "doubt": "\u00a0?"}  # kept on one line with what they mark
STYLE, _SCRIPT = (Path(__file__).with_name(f"sheet.{kind}").read_text(encoding="utf-8")
                  for kind in ("css", "js"))


@cache
def _templates():
    """The macros of sheet.html; model text in them is escaped."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined, finalize=_valid)
    return environment.from_string(Path(__file__).with_name("sheet.html").read_text(encoding="utf-8")).module


def _valid(value: Any) -> Any:
    """Text without lone surrogates, which no file can hold; what is HTML already stays as it is."""
    return value.encode("utf-8", "replace").decode("utf-8") if type(value) is str else value


def card(example: Mapping[str, Any], image: Optional[bytes]) -> str:
    """One trace of `choose_examples` as HTML, with an image of `image_bytes`; its page needs `STYLE`."""
    source = None
    if image:
        kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
        source = f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
    return str(_templates().card(example, source, PARTS, STEP_LABELS, SIGNS))


def legend(guide: Optional[Mapping]) -> str:
    """What the signs mean, as a paragraph."""
    return str(_templates().legend(guide))


def image_bytes(image_root, image_id: str, side: int = SIDE) -> bytes:
    """An image to embed: as PNG if it is small, else shrunk to `side` pixels as JPEG.

    Raises: UserError: the image is missing, broken or outside the folder.
    """
    from finer1_lib.core.images import load_image

    image, buffer = load_image(image_root, image_id), io.BytesIO()
    if max(image.size) <= side:
        image.save(buffer, format="PNG")
    else:
        image.thumbnail((side, side))
        image.save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def write_sheet(
    path: Path, records: Sequence[Mapping], image_root, guide: Optional[Mapping], labels: Mapping[str, str],
    *, seed: int, max_cards: int = MAX_CARDS, max_bytes: int = MAX_BYTES,
) -> dict[str, int]:
    """Write the sheet; arguments as in `choose_examples`.

    Args:
        max_cards: at most, two for each image.
        max_bytes: length of the file at most, about; pairs beyond it are left out, and the page says so.

    Returns:
        {"cards": how many the page has, "left_out": how many more were chosen, "bytes": its length}.
    """
    examples = choose_for_sheet(records, guide=guide, labels=labels, number=max_cards, seed=seed)
    pairs, shown, size = [], [], 0
    for number in dict.fromkeys(example["pair"] for example in examples):
        here = [example for example in examples if example["pair"] == number]
        image = image_bytes(image_root, here[0]["image_id"])
        text = '<div class="trace-pair">' + "".join(card(example, image) for example in here) + "</div>"
        if size + len(text.encode("utf-8")) > max_bytes:
            continue  # a smaller pair may still find room
        size += len(text.encode("utf-8"))
        pairs.append(text)
        shown += here
    left_out = len(examples) - len(shown)
    page = _page(pairs, shown, left_out, guide, seed)
    atomic_write_text(path, page)
    return {"cards": len(shown), "left_out": left_out, "bytes": len(page.encode("utf-8"))}


def _page(pairs: Sequence[str], shown: Sequence[Mapping], left_out: int, guide, seed: int) -> str:
    from markupsafe import Markup

    steps = {"right": "right", **STEP_LABELS}
    filters = {
        "model": {example["model"]: example["label"] for example in shown},
        "step": {step: label for step, label in steps.items() if step in {e["step"] for e in shown}},
        "categories": {e["categories"]: e["categories"] for e in shown},
    }
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return str(_templates().page(len(shown), left_out, [Markup(pair) for pair in pairs], filters, guide, seed,
                                 policy, Markup(STYLE), Markup(_SCRIPT)))
