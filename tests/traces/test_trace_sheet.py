"""The sheet of traces: what is chosen and marked, how large it gets, and that no model's text acts in it."""

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from test_trace_statistics import MARKERS, record
from test_trace_steps import COMPARED, GUIDE, text

from finer1_lib.core.errors import UserError
from finer1_lib.core.escaping import escape
from finer1_lib.data.rationales.parsing import parse
from finer1_lib.traces import sheet as trace_sheet
from finer1_lib.traces.sheet import choose_for_sheet, mark

LABELS = {"cot_sft": "CoT SFT", "cot_sft_tapo": "CoT SFT + TAPO"}
HOSTILE = ('<script>pwned=1</script><img src=x onerror="pwned=1">\'"&lt;</pre></article>'
           '<a href="javascript:pwned=1">')


class Page(HTMLParser):
    """Tags with their attributes, and the text, as a browser would read them."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def cards(self):
        return [attributes for tag, attributes in self.tags if tag == "article"]


def records(count=12, models=("cot_sft", "cot_sft_tapo")):
    """Items that are mended, broken, right twice and wrong twice, in turn."""
    turns = [("wrong", "right"), ("right", "wrong"), ("right", "right"), ("wrong", "wrong")]
    said = {"right": text(answer="Dunen Wren"), "wrong": text()}
    return [record(said[turns[k % 4][number]], item=f"{k:02d}", model=model)
            for k in range(count) for number, model in enumerate(models)]


@pytest.fixture
def pictures(tmp_path):
    for k in range(12):
        Image.new("RGB", (40, 30), (k * 20, 80, 120)).save(tmp_path / f"{k:02d}.png")
    return tmp_path


def written(path):
    return Page(path.read_text(encoding="utf-8"))


def test_marks_say_what_is_right_and_the_text_stays_whole():
    trace = parse(text(analysis="needle bill, blue crown", options="Dunen Wren, Zzz Wren, Dunen Wren"))
    cut = mark(trace, "Dunen Wren", GUIDE)
    assert [segment for segment in cut["analysis"] if segment[1]] == [
        ("needle bill", "right", ""), ("blue crown", "wrong", "guide: red")]
    assert [segment[:2] for segment in cut["options"] if segment[1]] == [
        ("Dunen Wren", "right"), ("Zzz Wren", "wrong"), ("Dunen Wren", "doubt")]
    assert ("blue crown (differs)", "doubt", "mark does not fit") in cut["comparison"]  # blue was seen
    assert cut["prediction"] == [("Marlo Wren", "wrong", "")] == cut["answer"]
    assert "".join(segment[0] for segment in cut["comparison"]) == COMPARED
    for guide in ({}, None):
        cut = mark(trace, "A", guide)
        assert {segment[1] for segment in cut["analysis"] + cut["comparison"]} == {""}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["Dunen Wren", "Zzz", ":", ";", ", ", "red crown", " (differs)",
                                 "other genus", "\n"])))
def test_segments_join_to_the_text(pieces):
    trace = parse(text(analysis="".join(pieces), options="".join(pieces), comparison="".join(pieces)))
    for part, segments in mark(trace, "Dunen Wren", GUIDE).items():
        whole = getattr(trace, part)
        assert "".join(segment[0] for segment in segments) == (whole or "(cannot be read)")


def test_pairs_for_a_page_are_balanced_and_the_seed_s():
    found = trace_sheet.choose_examples(records(), guide=GUIDE, labels=LABELS, number=8, seed=0)
    assert [e["role"] for e in found] == ["before", "after"] * 2 + ["wrong", "right"] * 2
    assert [(e["pair"]) for e in found] == [0, 0, 1, 1, 2, 2, 3, 3]
    verdicts = [(a["step"] == "right", b["step"] == "right") for a, b in zip(found[:4:2], found[1:4:2])]
    assert sorted(verdicts) == [(False, True), (True, False)]  # one mended, one broken
    assert all(a["item_id"] == b["item_id"] for a, b in zip(found[:4:2], found[1:4:2]))
    assert {e["model"] for e in found[4:]} == {"cot_sft_tapo"}
    assert len({e["item_id"] for e in found[4:]}) == 4  # no right trace stands twice
    again = trace_sheet.choose_examples(records(), guide=GUIDE, labels=LABELS, number=8, seed=0)
    other = trace_sheet.choose_examples(records(), guide=GUIDE, labels=LABELS, number=8, seed=5)
    assert again == found != other
    json.dumps(found)


def test_what_was_broken_is_shown_even_where_more_was_mended():
    turned = [(text(), "right")] * 4 + [("a bird", "right")] * 4 + [("right", text())]
    found = [record(text(answer="Dunen Wren") if said == "right" else said, item=str(k), model=model)
             for k, turn in enumerate(turned) for said, model in zip(turn, ("cot_sft", "cot_sft_tapo"))]
    examples = trace_sheet.choose_examples(found, guide=GUIDE, labels=LABELS, number=8, seed=0)
    assert [e["step"] == "right" for e in examples[:4]] == [False, True, True, False]


def test_one_thinking_model_or_none():
    one = [r for r in records() if r["model"] == "cot_sft"]
    found = trace_sheet.choose_examples(one, guide=None, labels=LABELS, number=6, seed=0)
    assert [e["role"] for e in found] == ["wrong", "right"] * 3
    assert len(choose_for_sheet(one, guide=None, labels=LABELS, number=5, seed=0)) == 5
    assert trace_sheet.choose_examples([], guide=None, labels=LABELS, number=6, seed=0) == []


def test_the_sheet_takes_every_kind_of_change_in_turn(pictures, tmp_path):
    path = tmp_path / "t.html"
    told = trace_sheet.write_sheet(path, records(), pictures, GUIDE, LABELS, seed=0, max_cards=16)
    page = written(path)
    cards = page.cards()
    assert told["cards"] == len(cards) == 16 and told["left_out"] == 0
    pairs = [(a["data-step"], b["data-step"]) for a, b in zip(cards[::2], cards[1::2])]
    assert {pairs.count(kind) for kind in pairs} == {2} and len(set(pairs)) == 4
    assert [card["data-model"] for card in cards] == ["cot_sft", "cot_sft_tapo"] * 8
    assert "guide: " not in page.text and "✗" in page.text
    options = [attributes["value"] for tag, attributes in page.tags if tag == "option"]
    assert {"cot_sft", "cot_sft_tapo", "right", "prediction_differs", "seen"} <= set(options)
    form = [attributes for tag, attributes in page.tags if tag == "form"]
    # without a script the filters stay away and all is shown
    assert "hidden" in form[0] and not any("hidden" in card for card in cards)


def test_the_file_needs_nothing_but_itself_and_stays_small(pictures, tmp_path):
    path = tmp_path / "t.html"
    whole = trace_sheet.write_sheet(path, records(), pictures, GUIDE, LABELS, seed=0)
    assert whole["bytes"] == path.stat().st_size
    sources = [attributes["src"] for tag, attributes in written(path).tags if "src" in attributes]
    assert len(sources) == 24 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not [tag for tag, attributes in written(path).tags if tag == "link" or "href" in attributes]
    less = trace_sheet.write_sheet(path, records(), pictures, GUIDE, LABELS, seed=0, max_bytes=20_000)
    assert 0 < less["cards"] < 24 and less["cards"] + less["left_out"] == 24
    assert f"{less['left_out']} more were chosen" in written(path).text and less["bytes"] < 27_000
    none = trace_sheet.write_sheet(path, [], pictures, GUIDE, LABELS, seed=0)
    assert none["cards"] == 0 and "no trace to show" in written(path).text


def test_text_of_models_and_names_stays_text(tmp_path):
    name = 'Dunen" onmouseover="pwned=1" <b>'
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    completions = [text(analysis=HOSTILE, options=f"{name}, {HOSTILE}", comparison=f"{name}: {HOSTILE}",
                        prediction=HOSTILE, answer=HOSTILE), HOSTILE + "\x00", text(answer=name)]
    for completion in completions:
        hostile = record(completion, sub_category=name, model='m"><script>pwned=1</script>')
        hostile["super_category"] = hostile["categories"] = HOSTILE
        guide = {"sub_categories": {name: {"super_category": HOSTILE, "attributes": {"crown": HOSTILE}}}}
        path = tmp_path / "t.html"
        trace_sheet.write_sheet(path, [hostile], tmp_path, guide, {hostile["model"]: HOSTILE}, seed=0)
        page = written(path)
        assert [tag for tag, _ in page.tags].count("script") == 1 and len(page.cards()) == 1
        assert [tag for tag, _ in page.tags if tag in ("a", "b")] == []
        handlers = [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
        assert handlers == [] and [tag for tag, _ in page.tags].count("img") == 1
        assert page.cards()[0]["data-model"] == hostile["model"]
        assert "javascript:pwned" in page.text  # shown as what it is
    assert escape("\ud800<") == "?&lt;"


def test_the_page_forbids_any_other_script(pictures, tmp_path):
    import base64
    import hashlib

    trace_sheet.write_sheet(tmp_path / "t.html", records(), pictures, GUIDE, LABELS, seed=0)
    source = (tmp_path / "t.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", source, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    metas = [attributes for tag, attributes in Page(source).tags if tag == "meta"]
    (policy,) = [meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy"]
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")
    assert "innerHTML" not in script and "eval" not in script


def test_an_unreadable_trace_is_shown_as_it_was_written():
    (example,) = choose_for_sheet([record("a bird & more")], guide=GUIDE, labels=LABELS, number=1, seed=0)
    html = trace_sheet.card(example, None)
    assert "trace cannot be read" in html and "<pre>a bird &amp; more</pre>" in html and "<img" not in html
    (whole,) = choose_for_sheet([record(MARKERS)], guide=None, labels=LABELS, number=1, seed=0)
    assert "<pre>" not in trace_sheet.card(whole, None) and "right ✓" in trace_sheet.card(whole, None)


def test_large_pictures_are_shrunk_and_missing_ones_named(tmp_path):
    Image.effect_noise((1200, 900), 80).convert("RGB").save(tmp_path / "photo.png")
    assert (tmp_path / "photo.png").stat().st_size > 500_000
    small = trace_sheet.image_bytes(tmp_path, "photo.png")
    assert small.startswith(b"\xff\xd8") and len(small) < 40_000
    with pytest.raises(UserError, match="no such image"):
        trace_sheet.image_bytes(tmp_path, "none.png")
