"""Every row of the paper's tables has a line that says what would run; the README's table is the registry's."""

from pathlib import Path

import pytest

from finer1_lib.errors import UserError
from finer1_lib.paper.facts import facts
from finer1_lib.systems.paper_rows import OURS, TABLES, UNTRAINED, markdown, notes, paper_rows, systems_table
from finer1_lib.systems.registry import find_systems, known_systems, read_systems

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_readme_holds_the_registrys_table():
    assert markdown() in README.read_text(encoding="utf-8")


def test_every_row_of_the_paper_has_a_line_and_every_entry_a_row_that_exists():
    rows = {model for table in TABLES for model in facts(table)["model"]}
    lines = [line[0] for line in systems_table()[1]]
    assert rows == set(paper_rows()) and rows <= set(lines) | set(UNTRAINED) and set(OURS) <= rows
    named = {row for system in known_systems().values() for row in system.paper}
    assert named | set(UNTRAINED) == rows and not named & set(UNTRAINED)
    assert len(lines) == len(systems_table()[1]) and set(notes()) == {
        one.label for one in known_systems().values() if one.ambiguous and "ensemble" not in one.label}


def test_every_encoder_stands_twice_and_asks_in_two_ways():
    encoders = {name: one for name, one in known_systems().items() if one.kind == "encoder"}
    assert len(encoders) == 8
    for name in ("clip-l", "eva-g", "siglip-l", "siglip2-l"):
        one, other = encoders[name], encoders[f"{name}-ensemble"]
        assert (one.prompts, other.prompts) == ("clip_photo", "clip_ensemble")
        assert one.checkpoint == other.checkpoint and one.paper == other.paper


@pytest.mark.parametrize("names, message", [
    (["siglip"], "no system 'siglip'"), (["clip-l", "clip-l"], "stands twice"), (["internvl2.5-2b"], "would not run"),
])
def test_what_cannot_be_asked_is_one_line(names, message):
    with pytest.raises(UserError, match=message) as caught:
        find_systems(names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text, message", [
    ("- a\n", "holds no entries"), ("a: [", "cannot be read"), ("a:\n  label: A\n", "checkpoint"),
    ("A B:\n  label: A\n  checkpoint: o/n\n", "is not of small letters"),
    ("a:\n  label: A\n  checkpoint: o/n\n  colour: red\n", "colour"),
    ("a:\n  label: A\n  checkpoint: o/n\n  kind: endpoint\n", "needs a url"),
    ("a:\n  label: A\n  checkpoint: o/n\n  url: http://x\n", "only an endpoint"),
    ("a:\n  label: A\n  checkpoint: o/n\n  prompts: clip_photo\n", "of kind 'chat'"),
    ("a:\n  label: A\n  checkpoint: o/n\n  kind: encoder\n", "of kind 'encoder'"),
    ("1:\n  label: A\n  checkpoint: o/n\n", ""),
])
def test_a_wrong_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    if not message:
        assert list(read_systems(path)) == ["1"]
        return
    with pytest.raises(UserError, match=message) as caught:
        read_systems(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_ones_own_entries_come_first(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("siglip-l:\n  label: Mine\n  kind: encoder\n  prompts: clip_photo\n  checkpoint: o/n@abc\n"
                    "gpt:\n  label: GPT\n  kind: endpoint\n  checkpoint: gpt\n  url: http://localhost:8000/v1\n")
    found = find_systems(["siglip-l", "siglip-l-ensemble", "gpt", "clip-l"], path)
    assert [one.label for one in found] == ["Mine", "Mine, ensemble", "GPT", "CLIP-L"]
