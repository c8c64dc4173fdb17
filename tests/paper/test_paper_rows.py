"""Every row of the paper's tables has a line that says what would run; the table in evaluation/README.md is the registry's."""

from pathlib import Path

import pytest

from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.systems.registry import find_systems, known_systems, read_systems
from finer1_lib.paper.facts import facts
from finer1_lib.paper.rows import OURS, TABLES, UNTRAINED, markdown_table, notes, paper_rows, systems_table

README = Path(__file__).resolve().parents[2] / "finer1_lib" / "evaluation" / "README.md"


def test_the_readme_holds_the_registrys_table():
    assert markdown_table(*systems_table()) in README.read_text(encoding="utf-8")


def test_every_row_of_the_paper_has_a_line_and_every_entry_a_row_that_exists():
    rows = {model for table in TABLES for model in facts(table)["model"]}
    lines = [line[0] for line in systems_table()[1]]
    assert rows == set(paper_rows()) and rows <= set(lines) | set(UNTRAINED) and set(OURS) <= rows
    named = {row for system in known_systems().values() for row in system.paper}
    assert named | set(UNTRAINED) == rows and not named & set(UNTRAINED)
    assert len(lines) == len(systems_table()[1]) and set(notes()) == {
        one.label for one in known_systems().values() if one.ambiguous and "ensemble" not in one.label}


def test_every_encoder_is_listed_twice_and_asks_in_two_ways():
    encoders = {name: one for name, one in known_systems().items() if one.kind == "encoder"}
    assert len(encoders) == 8
    for name in ("clip-l", "eva-g", "siglip-l", "siglip2-l"):
        one, other = encoders[name], encoders[f"{name}-ensemble"]
        assert (one.prompts, other.prompts) == ("clip_photo", "clip_ensemble")
        assert one.checkpoint == other.checkpoint and one.paper == other.paper


@pytest.mark.parametrize("names, message", [
    (["siglip"], "no system 'siglip'"), (["clip-l", "clip-l"], "is listed twice"), (["internvl2.5-2b"], "would not run"),
])
def test_what_cannot_be_asked_is_one_line(names, message):
    with pytest.raises(UserError, match=message) as caught:
        find_systems(names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text, message", [
    ("- a\n", "holds no entries"), ("a: [", "is not YAML"), ("a:\n  label: A\n", "checkpoint"),
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


@pytest.mark.parametrize("line, message", [
    ("concurrency: 3", "takes no concurrency"), ("max_pixels: 50000", "takes no max_pixels"),
    ("library: open_clip", "takes no library"), ("key_variable: KEY", "takes no key_variable"),
])
def test_fields_that_do_not_belong_to_a_kind_are_refused(tmp_path, line, message):
    path = tmp_path / "mine.yaml"
    path.write_text(f"a:\n  label: A\n  checkpoint: o/n\n  {line}\n")
    with pytest.raises(UserError, match=message):
        read_systems(path)


@pytest.mark.parametrize("line, message", [
    ("key_variable: sk-secret", "not the key itself"), ("concurrency: 0", "concurrency"),
    ("requests_per_minute: -1", "requests_per_minute"), ("url: localhost", "not an address"),
])
def test_an_endpoint_is_looked_at_before_hours_are_spent_and_no_key_is_repeated(tmp_path, line, message):
    path = tmp_path / "mine.yaml"
    url = "" if line.startswith("url") else "  url: http://localhost:8000/v1\n"
    path.write_text(f"a:\n  label: A\n  kind: endpoint\n  checkpoint: o/n\n{url}  {line}\n")
    with pytest.raises(UserError, match=message) as caught:
        read_systems(path)
    assert "sk-secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert f"{path}, entry 'a'" in str(caught.value)


def test_ones_own_ensemble_is_kept(tmp_path):
    path = tmp_path / "mine.yaml"
    entry = "  kind: encoder\n  prompts: {}\n  checkpoint: {}\n"
    plain = "a:\n  label: A\n" + entry.format("clip_photo", "o/n")
    own = "a-ensemble:\n  label: B\n" + entry.format("clip_ensemble", "o/other")
    for text in (plain + own, own + plain):
        path.write_text(text)
        assert read_systems(path)["a-ensemble"].checkpoint == "o/other"


def test_a_changed_entry_or_folder_asks_anew(tmp_path):
    from finer1_lib.runs.fingerprints import signature_of

    (tmp_path / "weights").mkdir()
    path = tmp_path / "mine.yaml"
    path.write_text(f"a:\n  label: A\n  checkpoint: {tmp_path}/weights\n")
    values = {"systems": ["a"], "systems_from": str(path)}
    before = signature_of(values, {})
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"x")
    assert signature_of(values, {}) != before


def test_the_same_name_with_other_weights_is_another_question(tmp_path):
    from finer1_lib.evaluation.entries import FIXED, with_systems
    from finer1_lib.evaluation.records import collect_records
    from finer1_lib.evaluation.requests import build_requests
    from finer1_lib.evaluation.systems.registry import System
    from finer1_lib.models.generation import Generation

    item = {"item_id": "i", "image_id": "i.png", "super_category": "bird", "sub_category": "Rock Wren",
            "categories": "seen", "question": "?", "options": ["Rock Wren", "B", "C", "D"], "width": 28, "height": 28}

    class Says:
        def answer(self, requests, **options):
            return [Generation("<answer>x</answer>", 1, False)] * len(requests)

    def ask(checkpoint):
        entry = with_systems(FIXED, [System(name="a", label="A", checkpoint=checkpoint)])[-1]
        asked = [build_requests(entry, [item], "open_world")]
        return collect_records(asked, tmp_path / "r.jsonl", Says, max_new_tokens=1, batch_size=2)

    assert ask("o/one")[0]["weights"] == "o/one" and ask("o/one")
    with pytest.raises(UserError, match="answers another question"):
        ask("o/two")
    (plain,) = build_requests(FIXED[0], [item], "open_world")
    assert "weights" not in plain  # a row of the run itself


def test_code_of_a_checkpoint_is_never_run(tmp_path):
    """A folder whose config names a class of its own: every loader of the kit refuses, and asks nobody."""
    import json

    from finer1_lib.models.encoders import EncoderSimilarity, load_encoder

    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\nclass C: pass\n")
    (folder / "config.json").write_text(json.dumps({
        "model_type": "unknown_here", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.C"}}))
    for load in (load_encoder, lambda where: EncoderSimilarity(where)("a", "b")):
        with pytest.raises(UserError):
            load(str(folder))
    assert not (tmp_path / "RAN").exists()


def test_a_folder_that_is_none_is_told_before_anything_is_asked(tmp_path):
    from finer1_lib.evaluation.entries import FIXED, check_rows, with_systems
    from finer1_lib.evaluation.systems.registry import System

    with pytest.raises(UserError, match="does not exist"):
        check_rows(with_systems(FIXED, [System(name="a", label="A", checkpoint=str(tmp_path / "nothing"))]), "")
