"""Traces to read, with every claim marked, and a self-contained HTML page of them.

An example is a plain dictionary: model, label, colour, role ("before", "after", "right", "wrong"), pair, the
item's keys, step, raw (the whole completion where a part cannot be read) and

    "parts": {"analysis": [("red crown", "right", ""), (", ", "", ""), ("plain wings", "wrong", "guide: ..")],
              "options": .., "comparison": .., "prediction": .., "answer": ..}

Marks are signs as well as colours. sheet.html (jinja2, autoescape) holds the markup: all text of models is
escaped, and the page's Content-Security-Policy forbids any script but its own.
"""

import base64
import hashlib
import io
import random
from functools import cache
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence

from finer1_lib.core.completions import normalise
from finer1_lib.core.files import atomic_write_text
from finer1_lib.data.names import meanings, same_name, table_for
from finer1_lib.data.rationales.parsing import MAX_CANDIDATES, Trace, parse, predicts
from finer1_lib.traces.changes import before_and_after, pair_of
from finer1_lib.traces.statistics import trace_table
from finer1_lib.traces.steps import (
    STEP_LABELS, analysis_claims, attributes_of, comparison_claims, unknown_names)
from finer1_lib.training.methods import colour_of, in_order, label_of

PARTS = ("analysis", "options", "comparison", "prediction", "answer")
MAX_CARDS, MAX_BYTES, SIDE = 60, 3_000_000, 224
SIGNS = {"right": "\u00a0✓", "wrong": "\u00a0✗", "doubt": "\u00a0?"}  # kept on a line with what they mark
STYLE, _SCRIPT = (Path(__file__).with_name(f"sheet.{kind}").read_text(encoding="utf-8")
                  for kind in ("css", "js"))
_WORST = ("wrong", "missing", "doubt", "right", "")
Segment = tuple[str, str, str]  # text, mark ("", "right", "wrong", "doubt" or "missing"), note
Pair = list[tuple[dict, str]]  # rows of `trace_table` with their roles


def choose_examples(records: Iterable[Mapping], *, guide: Optional[Mapping], labels: Mapping[str, str],
                    number: int, seed: int) -> list[dict[str, Any]]:
    """A few examples in pairs, for a page: the same image before and after, then a right and a wrong trace.

    Half of the pairs are of one image under the two models of `before_and_after`, those that changed sides
    first; the other half are of the later model, a wrong trace (steps in turn) and a right one of the same
    sub-category, or else super-category. With one thinking model all are of the second kind. Those of one
    pair follow each other and share `pair`. They are not a sample: shares must be read from the tables.
    """
    table, models, pair = _read(records, guide, labels)
    if not models:
        return []
    turned = _turned(table, pair, seed, changed_only=True)[: (number + 2) // 4] if pair else []
    others = _right_and_wrong(table[table["model"] == (pair or models)[-1]], seed)
    return _examples(islice(chain(turned, others), number // 2), guide, labels)


def choose_for_sheet(records: Iterable[Mapping], *, guide: Optional[Mapping], labels: Mapping[str, str],
                     number: int, seed: int) -> list[dict[str, Any]]:
    """Many examples for a sheet: every kind of change between two models in turn, each image under both.

    With one thinking model: every step in turn, one trace an image. Arguments as in `choose_examples`.
    """
    table, models, pair = _read(records, guide, labels)
    if pair:
        return _examples(_turned(table, pair, seed)[: number // 2], guide, labels)
    rows = [row for model in models for row in table[table["model"] == model].to_dict("records")]
    chosen = _in_turn(rows, lambda row: (False, row["step"]), seed)[:number]
    return _examples([[(row, "")] for row in chosen], guide, labels)


def _read(records, guide, labels) -> tuple[Any, list[str], Optional[tuple[str, str]]]:
    """(table of traces, thinking models in order, the two models before and after or None)."""
    table = trace_table(records, guide)
    models = in_order(table["model"], labels)
    return table, models, before_and_after(models)


def _turned(table: Any, pair: tuple[str, str], seed: int, changed_only: bool = False) -> list[Pair]:
    """The same items under both models, each kind of change in turn, changes of verdict first."""
    items = list(zip(*(side.to_dict("records") for side in pair_of(table, *pair))))

    def kept(item):
        return (item[0]["step"] == "right") == (item[1]["step"] == "right")

    def kind(item):  # mended and broken in turn, whatever the steps; or every two steps in turn
        was, is_ = (row["step"] for row in item)
        return (was == "right",) if changed_only else (kept(item), was, is_)

    items = [item for item in items if not (changed_only and kept(item))]
    return [[(a, "before"), (b, "after")] for a, b in _in_turn(items, kind, seed)]


def _right_and_wrong(table: Any, seed: int) -> Iterator[Pair]:
    """Wrong and right rows of one model: steps in turn, the nearest kind of right trace."""
    rows = table.sort_values("item_id").to_dict("records")
    right = [row for row in rows if row["step"] == "right"]
    random.Random(f"{seed}/right").shuffle(right)
    wrong_rows = [row for row in rows if row["step"] != "right"]
    for wrong in _in_turn(wrong_rows, lambda row: (False, row["step"]), seed):
        mates = [row for key in ("sub_category", "super_category") for row in right if row[key] == wrong[key]]
        if mates:
            right.remove(mates[0])
            yield [(wrong, "wrong"), (mates[0], "right")]


def _in_turn(rows: Sequence, kind: Callable[[Any], tuple], seed: int) -> list:
    """All rows, shuffled by seed, one of each kind in turn; a kind is a tuple whose first part says which are
    served first, and among those the commonest come first."""
    groups: dict[tuple, list] = {}
    for row in rows:
        groups.setdefault(kind(row), []).append(row)
    for key, members in groups.items():
        random.Random(f"{seed}/{key}").shuffle(members)
    lists = [groups[key] for key in sorted(groups, key=lambda key: (key[0], -len(groups[key]), key))]
    return [members[turn] for turn in range(max(map(len, lists), default=0)) for members in lists
            if turn < len(members)]


def _examples(pairs: Iterable[Pair], guide: Optional[Mapping], labels: Mapping[str, str]) -> list[dict]:
    """Chosen rows as examples, numbered by pair."""
    copied = ("model", "item_id", "image_id", "super_category", "sub_category", "categories", "step")
    examples = []
    for number, pair in enumerate(pairs):
        for row, role in pair:
            data_set = table_for(row["super_category"], row["sub_category"])
            trace = parse(row["completion"], meanings(data_set))
            examples.append({
                **{key: row[key] for key in copied}, "label": label_of(row["model"], labels),
                "colour": colour_of(row["model"]), "role": role, "pair": number,
                "raw": None if trace.complete else row["completion"],
                "parts": mark(trace, row["sub_category"], guide, data_set)})
    return examples


def mark(trace: Trace, sub_category: str, guide: Optional[Mapping],
         data_set: str = "") -> dict[str, list[Segment]]:
    """The parts of a trace cut into segments that together are the part's text, letter for letter.

    Judged by the true name and its other names in the data set; without a guide only the names are marked.
    """
    guide = guide or {}
    claims = {"analysis": analysis_claims(trace, sub_category, guide),
              "comparison": comparison_claims(trace, guide)}
    spans = {part: [(claim.start, claim.end, *_judged(claim, guide)) for claim in found]
             for part, found in claims.items()}
    spans["options"], place, met, missed = [], 0, set(), 0
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
            spans["options"].append((start, place, *verdict))
            met.add(key)
        elif (missed := missed + 1) > MAX_CANDIDATES:  # each costs a look through all that is left
            break
    right = {"prediction": predicts(trace, sub_category, data_set),
             "answer": trace.answer is not None and same_name(data_set, trace.answer, sub_category)}
    for part, verdict in right.items():
        spans[part] = [(0, len(getattr(trace, part) or ""), "right" if verdict else "wrong", "")]
    return {part: _cut(getattr(trace, part), spans[part]) for part in PARTS}


def _judged(claim, guide: Mapping) -> tuple[str, str]:
    """(mark, note) of a claim; what the guide says weighs more than a mark that does not fit."""
    if claim.true is False:
        return "wrong", f"guide: {attributes_of(guide, claim.name)[claim.attribute]}"
    return ("doubt", "mark does not fit") if claim.consistent is False else ("right", "")


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


@cache
def _templates() -> Any:
    """The macros of sheet.html; model text in them is escaped."""
    import jinja2
    # text without lone surrogates, which no file can hold; what is HTML already stays as it is
    valid = lambda text: text.encode("utf-8", "replace").decode("utf-8") if type(text) is str else text  # noqa: E731
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined, finalize=valid)
    environment.globals.update(parts=PARTS, step_labels=STEP_LABELS, signs=SIGNS)
    return environment.from_string(Path(__file__).with_name("sheet.html").read_text(encoding="utf-8")).module


def card(example: Mapping[str, Any], image: Optional[bytes]) -> str:
    """One trace of `choose_examples` as HTML, with an image of `image_bytes`; its page needs `STYLE`."""
    source = None
    if image:
        kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
        source = f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
    return str(_templates().card(example, source))


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


def write_sheet(path: Path, records: Sequence[Mapping], image_root, guide: Optional[Mapping],
                labels: Mapping[str, str], *, seed: int, max_cards: int = MAX_CARDS,
                max_bytes: int = MAX_BYTES) -> dict[str, int]:
    """Write the sheet of at most so many cards, two for each image, in a file of about so many bytes at most.

    {"cards": how many the page has, "left_out": how many more were chosen, as the page says, "bytes"}.
    """
    from markupsafe import Markup
    examples = choose_for_sheet(records, guide=guide, labels=labels, number=max_cards, seed=seed)
    pairs, shown, size = [], [], 0
    for _, pair in groupby(examples, key=lambda example: example["pair"]):
        here = list(pair)
        image = image_bytes(image_root, here[0]["image_id"])
        text = '<div class="trace-pair">' + "".join(card(example, image) for example in here) + "</div>"
        if size + len(text.encode("utf-8")) <= max_bytes:  # a smaller pair may still find room
            size += len(text.encode("utf-8"))
            pairs.append(Markup(text))
            shown += here
    left_out, kinds = len(examples) - len(shown), {example["step"] for example in shown}
    filters = {
        "model": {example["model"]: example["label"] for example in shown},
        "step": {step: label for step, label in {"right": "right", **STEP_LABELS}.items() if step in kinds},
        "categories": {example["categories"]: example["categories"] for example in shown}}
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    page = str(_templates().page(len(shown), left_out, pairs, filters, guide, seed, policy, Markup(STYLE),
                                 Markup(_SCRIPT)))
    atomic_write_text(path, page)
    return {"cards": len(shown), "left_out": left_out, "bytes": len(page.encode("utf-8"))}
