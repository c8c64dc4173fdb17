"""A sheet of traces to leaf through: pictures, the four parts with every claim marked, filters, one file.

The HTML file needs nothing but itself: pictures are data URIs, a dozen lines of script filter the cards and
without them all are shown. All text of models and all names are escaped, and the page forbids itself any
other script and any address (Content-Security-Policy), should an escape ever be forgotten.

    examples = choose_examples(records, guide=guide, labels=labels, number=6, seed=0)
    html = [card(example, picture_bytes(image_root, example["image_id"])) for example in examples]

Marks are signs and not only colours, so that a grey print reads the same.

Source: our choice.
"""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.files import atomic_write_text
from finer1_lib.shown import escape
from finer1_lib.traces.examples import PARTS, Segment, choose_examples, choose_for_sheet
from finer1_lib.traces.steps import STEP_LABELS

__all__ = ["STYLE", "card", "choose_examples", "legend", "picture_bytes", "write_sheet"]

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
        picture: PNG or JPEG bytes (see `picture_bytes`), or None to leave the picture out.
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


def picture_bytes(image_root, image_id: str, side: int = SIDE) -> bytes:
    """A picture to embed: as PNG if it is small, else shrunk to `side` pixels as JPEG.

    Raises:
        UserError: the picture is missing, broken or outside the folder.
    """
    from finer1_lib.image_folder import load_image

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
        picture = picture_bytes(image_root, here[0]["image_id"])
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
