"""`finer1 doctor`: a clean world passes, and each planted fault is caught by the check that is there for it.

The worlds are small and real: pictures on the disk, a run whose stages 00 and 01 have finished, and the six
data sets' archives as `data_set_trees` plants them. No model is loaded.
"""

import dataclasses
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import data_set_trees
import pandas
import pytest
import yaml
from tiny_checkpoint import picture

from finer1_lib.commands import cli
from finer1_lib.commands.doctor import CHECKS, machine, texts
from finer1_lib.commands.doctor.subject import Subject
from finer1_lib.commands.findings import Finding, NotYet, as_json, counts, examine, passed
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import append_jsonl, atomic_write_json
from finer1_lib.core.prompts import PROMPTS
from finer1_lib.data.data_sets.catalogue import DATA_SETS
from finer1_lib.data.folder import read_table
from finer1_lib.data.split import evaluation_items, split_table
from finer1_lib.evaluation.requests import build_requests
from finer1_lib.miniature.base import WEIGHTS
from finer1_lib.runs import presets
from finer1_lib.runs.stage import Stage

NAMES = ("Bank Wren", "Cave Wren", "Dune Wren", "Fen Wren", "Gale Wren")
GPU = 40 * 2**30


def photographs(root: Path) -> Path:
    """Five sub-categories of eight pictures, in the size that the miniature's base sees."""
    for number, name in enumerate(NAMES):
        folder = root / "bird" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        for shot in range(8):
            picture(seed=10 * number + shot).save(folder / f"{shot}.png")
    return root


class World:
    """A run of an own folder whose 01 has finished; what 01 has made may be spoilt before `write`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.photos = folder, photographs(folder / "photos")
        self.table = split_table(read_table(self.photos), seed=0, train_share=0.6)
        shots = self.table[self.table["shot"] >= 0].sort_values(["sub_category", "shot"])
        self.rationales = [self.rationale(row, place) for place, row in enumerate(
            shots[shots["shot"] == 0].to_dict("records"))]
        self.items = evaluation_items(self.table, lambda *_: 0.0, seed=0)
        anchors = shots[shots["shot"] == 1]
        self.triplets = pandas.DataFrame({
            "image_id": list(anchors["image_id"]), "positive_id": list(shots[shots["shot"] == 2]["image_id"]),
            "negative_id": list(anchors["image_id"])[::-1], "super_category": "bird",
            "sub_category": list(anchors["sub_category"]),
            "negative_sub_category": list(anchors["sub_category"])[::-1]})

    @staticmethod
    def rationale(row: dict, place: int) -> dict:
        names = [name for name in NAMES if name != row["sub_category"]][:3]
        names.insert(place % 4, row["sub_category"])
        text = f"<think><options>{', '.join(names)}</options></think><answer>{row['sub_category']}</answer>"
        return {"image_id": row["image_id"], "super_category": "bird", "sub_category": row["sub_category"],
                "text": text, "candidates": names, "kept": True}

    def plan(self, *settings: str, **values) -> presets.Plan:
        values = {"image_root": str(self.photos), "train_share": 0.6, **values}
        plan = presets.make_plan(presets.find_kit(), "miniature", "world", str(self.folder / "outputs"),
                                 settings=settings)
        mine = {**plan.parameters["01_data"], **values}
        return dataclasses.replace(plan, parameters={**plan.parameters, "01_data": mine})

    def write(self) -> "World":
        """Stages 00 and 01 as finished, and 04's records as they come."""
        plan = self.plan()
        first = Stage.open("00_miniature_world", plan.parameters["00_miniature_world"])
        atomic_write_json(first.path("base.json"), {"checkpoint": str(WEIGHTS)})
        first.finish({})
        stage = Stage.open("01_data", plan.parameters["01_data"])
        self.table.to_parquet(stage.path("images.parquet"), index=False)
        self.triplets.to_parquet(stage.path("triplets.parquet"), index=False)
        append_jsonl(stage.path("rationales.jsonl"), *self.rationales)
        append_jsonl(stage.path("items.jsonl"), *self.items)
        atomic_write_json(stage.path("data.json"), {"image_root": str(self.photos)})
        stage.finish({})
        from finer1_lib.evaluation.entries import Entry

        sized = [{**item, "width": 112, "height": 112} for item in self.items]
        asked = build_requests(Entry("base", "answer", None, "base"), sized, "open_world")
        append_jsonl(plan.run_dir / "04_evaluation/records.jsonl", *asked)
        return self


def levels(findings) -> dict[str, set]:
    """level -> names of the checks that gave it."""
    found: dict[str, set] = {}
    for one in findings:
        found.setdefault(one.level, set()).add(one.check)
    return found


def only(subject, check):
    return examine(subject, {check: CHECKS[check]})


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("clean")).write()


@pytest.fixture
def trees(tmp_path, monkeypatch):
    """bird and pet as archives, the catalogue holding their small counts as the official ones."""
    for word in ("bird", "pet"):
        data_set_trees.plant(tmp_path / "data", word)
        small = DATA_SETS[word]._replace(classes=5, seen=3, unseen=2, train=25, test=10)
        monkeypatch.setitem(DATA_SETS, word, small)
    return tmp_path / "data"


def test_a_clean_world_passes(world):
    findings = examine(Subject(world.plan()), CHECKS)
    assert levels(findings) == {
        "pass": set(CHECKS) - {"teacher's key", "systems"}, "skip": {"teacher's key", "systems"}}, findings
    told = " ".join(one.what for one in findings)
    assert "40 images of 5 sub-categories" in told and "40 images opened whole" in told


# ---- a folder before anything has run

def own_folder(world, tmp_path, spoil=lambda photos: None, **values) -> list[Finding]:
    """All findings about pictures of a fresh copy of the photographs, spoilt."""
    photos = tmp_path / "own"
    shutil.copytree(world.photos, photos)
    spoil(photos)
    plan = dataclasses.replace(world.plan(image_root=str(photos), **values), run_dir=tmp_path / "new")
    return examine(Subject(plan), {name: CHECKS[name] for name in list(CHECKS)[:7]})


def thinned(photos):
    for name in NAMES[:3]:
        for shot in range(1, 8):
            (photos / "bird" / name.replace(" ", "_") / f"{shot}.png").unlink()


def doubled(photos):
    for shot in range(7):
        shutil.copy(photos / f"bird/Bank_Wren/{shot}.png", photos / f"bird/Cave_Wren/copy{shot}.png")


def broken_and_misnamed(photos):
    (photos / "bird/Dune_Wren/0.png").write_bytes(b"")
    os.rename(photos / "bird/Gale_Wren", photos / "bird/Gale, Wren")
    shutil.copytree(photos / "bird/Fen_Wren", photos / "bird/fen-wren")


def test_all_thin_names_are_listed_and_the_other_checks_go_on(world, tmp_path):
    findings = own_folder(world, tmp_path, thinned)
    for told in (said(findings, "data", "fail"), said(findings, "data", "warn")):
        assert all(f"{name} (1)" in told for name in NAMES[:3])
    assert "19 images opened whole" in said(findings, "whole images", "pass")
    assert levels(findings)["fail"] == {"data"} and "leaks of images" in levels(findings)["pass"]


def test_all_doubles_are_listed_and_the_other_checks_go_on(world, tmp_path):
    findings = own_folder(world, tmp_path, doubled)
    told = said(findings, "data", "fail")
    assert told.startswith("7 mistakes: ") and all(f"Cave_Wren/copy{shot}.png" in told for shot in range(7))
    where = " ".join(one.where for one in findings if one.check == "leaks of images")
    assert all(f"Bank_Wren/{shot}.png = bird/Cave_Wren/copy{shot}.png" in where for shot in range(7))
    assert "47 images opened whole" in said(findings, "whole images", "pass")


def test_mistakes_of_several_kinds_are_all_reported_and_none_is_the_kits(world, tmp_path):
    findings = own_folder(world, tmp_path, broken_and_misnamed)
    told = said(findings, "data", "fail")
    assert "Gale, Wren" in told and "reads as the same name" in told
    assert "1 images cannot be read" in said(findings, "whole images", "fail")
    assert not any("fault of the kit" in one.mend for one in findings)


def test_the_question_is_shown_as_it_will_be_put(world, tmp_path):
    findings = own_folder(world, tmp_path, lambda photos: os.rename(photos / "bird", photos / "images"))
    assert "5 sub-categories of 'images': What species is this images?" in said(findings, "data", "pass")
    assert "looks like a wrapper" in said(findings, "data", "warn")
    asked = own_folder(world, tmp_path / "b", lambda photos: os.rename(photos / "bird", photos / "images"),
                       strip_names=True, super_category="bird")
    assert "of 'bird': What species is this bird?" in said(asked, "data", "pass")
    assert not said(asked, "data", "warn")
    made = only(Subject(world.plan()), "data")
    assert "of 'bird': What species is this bird?" in said(made, "data", "pass")


def test_images_that_are_left_out_are_counted(world, tmp_path):
    findings = own_folder(world, tmp_path, lambda photos: [
        (photos / f"bird/Fen_Wren/{shot}.HEIC").write_bytes(b"x") for shot in range(4)])
    assert "not read: 4 .heic" in said(findings, "data", "warn")


def test_a_table_of_genera_is_compared_with_the_names(world, tmp_path):
    table = tmp_path / "genera.csv"
    table.write_bytes("sub_category,genus\nB\xfclb\xfcl,x\n".encode("latin-1"))
    assert "not UTF-8" in said(own_folder(world, tmp_path, taxonomy_file=str(table)), "data", "fail")
    table.write_text("sub_category,genus\n" + "".join(f"{name},Wren\n" for name in NAMES))
    found = own_folder(world, tmp_path / "b", taxonomy_file=str(table))
    assert "a genus is given to 5 of 5 names" in said(found, "data", "pass")


def test_a_disk_that_fails_is_not_a_fault_of_the_kit():
    def check(subject):
        raise PermissionError(13, "Permission denied", "/photos/x")

    (found,) = examine(None, {"data": check})
    assert found[1:] == ("fail", "Permission denied", "/photos/x", "make it readable, or take it out")


# ---- faults in what 01 has written, and in the preset's values

def unseen_answer(world):
    unseen = world.table[world.table["categories"] == "unseen"].iloc[0]
    world.rationales[0] = world.rationale(dict(unseen), 0) | {"image_id": world.rationales[0]["image_id"]}


def tested_shot(world):
    test = world.table[(world.table["split"] == "test") & (world.table["categories"] == "seen")].iloc[0]
    world.triplets.loc[0, "positive_id"] = test["image_id"]


def doubled_option(world):
    world.items[0]["options"] = [world.items[0]["sub_category"]] * 2 + world.items[0]["options"][2:]


def truth_left_out(world):
    world.items[3]["options"][0] = next(name for name in NAMES if name not in world.items[3]["options"])


def label_leads(world):
    for number, one in enumerate(world.rationales):
        world.rationales[number] = world.rationale(one, 0)


def same_picture(world):
    """The bytes of a shot in the place of a test picture of another sub-category."""
    shot = world.table[world.table["shot"] == 1].iloc[0]
    test = world.table[world.table["split"] == "test"]
    other = test[test["sub_category"] != shot["sub_category"]].iloc[0]
    shutil.copy(world.photos / shot["image_id"], world.photos / other["image_id"])


def truncated(world):
    file = world.photos / world.table.iloc[7]["image_id"]
    file.write_bytes(file.read_bytes()[:2000])


FAULTS = {  # name: check, level, what is spoilt, settings, words
    "unseen answer": ("leaks of names", "fail", unseen_answer, (), "1 training answers name an unseen"),
    "test picture trained on": ("leaks of names", "fail", tested_shot, (), "1 training images are for"),
    "same bytes": ("leaks of images", "fail", same_picture, (), "trained on and tested on"),
    "truncated picture": ("whole images", "fail", truncated, (), "1 images cannot be read"),
    "doubled option": ("place of the truth", "fail", doubled_option, (), "1 of 20 questions"),
    "truth left out": ("place of the truth", "fail", truth_left_out, (), "1 of 20 questions"),
    "truth always first": ("place of the truth", "fail", None, ("04_evaluation.option_orders=[release]",),
                           "'shuffled' among them"),
    "label leads": ("place of the truth", "warn", label_leads, (), "leads the candidates in 100% of 3"),
    "cap too low": ("completion cap", "fail", None, ("03_tapo.max_new_tokens=12",), "12 new tokens; 95 of"),
    "small budget": ("pixels", "warn", None,
                     ("04_evaluation.min_pixels=784", "04_evaluation.max_pixels=3136"), "40 are shrunk"),
    "no budget": ("pixels", "fail", None, ("03_tapo.min_pixels=784", "03_tapo.max_pixels=300"), "is above"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught_by_its_check_alone(tmp_path, name):
    check, level, fault, settings, words = FAULTS[name]
    spoilt = World(tmp_path)
    if fault:
        fault(spoilt)
    spoilt.write()
    findings = examine(Subject(spoilt.plan(*settings)), CHECKS)
    assert levels(findings).get(level) == {check}, findings
    assert level == "fail" or "fail" not in levels(findings)
    caught = [one for one in findings if one.level == level]
    assert words in " ".join(one.what for one in caught)
    assert all(one.mend for one in caught)


def test_images_of_other_sizes_in_training_than_in_evaluation_are_reported(world):
    tested = ("04_evaluation", "05_probing")
    for stages, differ in ((tested, True), (("02_cot_sft", "03_tapo", *tested), False)):
        settings = [f"{stage}.{name}" for stage in stages for name in ("min_pixels=784", "max_pixels=3136")]
        found = only(Subject(world.plan(*settings)), "pixels")
        assert any("of different sizes" in one.what for one in found) is differ


def test_records_made_with_other_prompts_are_named(world, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(world.plan().run_dir, run)
    file = run / "04_evaluation/records.jsonl"
    lines = file.read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "prompt_hash": "0123456789ab"})
    file.write_text("\n".join(lines) + "\n")
    found = examine(Subject(dataclasses.replace(world.plan(), run_dir=run)), {"prompts": CHECKS["prompts"]})
    assert [one.level for one in found] == ["fail"]
    assert "1 of 20 records were made with other prompts: answer_open 0123456789ab" in found[0].what


def test_a_users_prompts_take_part_in_the_hashes(world, tmp_path):
    words = tmp_path / "mine.yaml"
    words.write_text('answer_open: "{question} One name in <answer></answer>."\n')
    plan = world.plan(f"04_evaluation.prompts_from={words}")
    assert [one.level for one in examine(Subject(plan), {"prompts": CHECKS["prompts"]})] == ["fail"]


def test_a_checkout_with_other_prompts_is_reported(world, tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/evaluation.py").write_text('A = "{Question} {Options} Say."\nB = "{Question} Say."\n')
    found = only(Subject(world.plan(release=str(tmp_path))), "prompts")
    assert found[-1].level == "warn"
    assert f"cot_open {PROMPTS['cot_open'].hash} (the release's " in found[-1].what
    plan = world.plan(f"04_evaluation.prompts_from={tmp_path}", release=str(tmp_path))
    assert [one.level for one in only(Subject(plan), "prompts")] == ["pass"]


def test_the_cap_is_compared_with_the_95th_percentile(world, monkeypatch):
    """Twenty rationales of 1 to 20 words, each with the token that ends it: 95 of 100 have up to 19 + 1."""
    monkeypatch.setattr(texts, "cached_file", lambda checkpoint, name: None)
    monkeypatch.setattr(texts, "TOKENS_PER_WORD", 1)

    def levels_at(cap):
        subject = Subject(world.plan(f"03_tapo.max_new_tokens={cap}", f"02_cot_sft.max_new_tokens={cap}"))
        subject.rationales = [{"text": "word " * count} for count in range(20, 0, -1)]
        found = only(subject, "completion cap")
        assert "up to 20, the longest 21" in found[0].what
        return [one.level for one in found]

    assert levels_at(20) == ["pass"] * 3 and levels_at(19) == ["warn", "fail", "pass"]


def test_before_a_teacher_is_queried_its_word_limit_is_for_the_rationales(world, tmp_path):
    plan = dataclasses.replace(world.plan("03_tapo.max_new_tokens=200", teacher_words=180), run_dir=tmp_path)
    found = only(Subject(plan), "completion cap")
    assert [one.level for one in found] == ["warn", "fail", "pass"] and "252" in found[1].what  # 180 x 1.4
    plan = dataclasses.replace(world.plan(), run_dir=tmp_path)
    assert [one.level for one in only(Subject(plan), "completion cap")] == ["skip"]


@pytest.mark.skipif("FINER1_OFFICIAL_DATA" not in os.environ, reason="needs the release's own files")
def test_the_releases_rationales_do_not_fit_under_a_short_cap(world, trees):
    file = Path(os.environ["FINER1_OFFICIAL_DATA"]) / "stage1_birds_pets.json"
    values = dict(data_sets=["bird", "pet"], data_root=str(trees), rationales_file=str(file), image_root="")
    plan = world.plan("03_tapo.max_new_tokens=384", "04_evaluation.max_new_tokens=2048", **values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "cached_file", lambda checkpoint, name: None)
        subject = Subject(dataclasses.replace(plan, run_dir=trees / "none"))
        found = only(subject, "completion cap")
    assert len(subject.rationales) == 98 and [one.level for one in found] == ["warn", "fail", "pass"]


# ---- faults of the machine

def test_a_full_disk_and_a_folder_that_may_not_be_written_fail(world, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10**8))
    assert [one.level for one in only(Subject(world.plan()), "disk")] == ["fail"]
    monkeypatch.setattr(os, "access", lambda folder, mode: mode != os.W_OK)
    found = only(Subject(world.plan()), "disk")
    assert [(one.level, one.what) for one in found] == [("fail", "no permission to write")]


def test_memory_is_compared_with_the_plan_and_a_missing_gpu_is_reported(world, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    small = only(Subject(world.plan(), gpu_bytes=2**20), "memory")
    assert {one.level for one in small} == {"fail"} and "the GPU has 0.0" in small[0].what
    assert {one.level for one in only(Subject(world.plan(), gpu_bytes=GPU), "memory")} == {"pass"}
    absent = only(Subject(world.plan("03_tapo.load_in_4bit=true")), "memory")
    assert [one.where for one in absent if one.level == "fail"] == ["03_tapo"] and "no GPU" in absent[1].what


def test_versions_outside_the_ranges_fail_and_untested_ones_warn(world, monkeypatch):
    true = machine._version
    other = {"trl": "0.1", "tqdm": "4.66.1"}
    monkeypatch.setattr(machine, "_version", lambda name: other.get(name) or true(name))
    found = only(Subject(world.plan()), "versions")
    assert [(one.level, one.where.split()[0]) for one in found] == [("fail", "trl"), ("warn", "tqdm")]
    monkeypatch.setattr(machine, "_version", lambda name: None if name == "unsloth" else true(name))
    found = only(Subject(world.plan("03_tapo.backend=unsloth")), "versions")
    assert ("fail", "unsloth is not installed") in [(one.level, one.what) for one in found]


def test_the_key_must_be_set_and_is_never_shown(world, monkeypatch):
    values = dict(teacher="endpoint", teacher_url="https://teacher.example/v1", teacher_name="large",
                  teacher_key_variable="TEACHERS_KEY")

    def found(levels, **changes):
        rows = only(Subject(world.plan(**{**values, **changes})), "teacher's key")
        assert [one.level for one in rows] == levels and "sesame" not in str(rows)
        return rows[0].what

    monkeypatch.delenv("TEACHERS_KEY", raising=False)
    assert "TEACHERS_KEY is not set" in found(["fail", "warn"], teacher_url="http://teacher.example/v1")
    monkeypatch.setenv("TEACHERS_KEY", "sesame")
    found(["pass"])
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    assert "SSL_CERT_FILE names /nowhere/ca.pem, which is not there" in found(["fail"])
    monkeypatch.delenv("SSL_CERT_FILE")
    found(["fail"], teacher_key_variable="sk-open-sesame")
    found(["fail"], teacher_url="https://me:sesame@teacher.example")


# ---- before anything has run, on the paper's data sets

def examined(world, trees, **values):
    given = {"data_sets": ["bird", "pet"], "data_root": str(trees), "image_root": "", **values}
    plan = dataclasses.replace(world.plan(**given), run_dir=trees.parent / "new")
    return examine(Subject(plan), {name: CHECKS[name] for name in list(CHECKS)[:7]})


def said(findings, check, level):
    return " ".join(one.what for one in findings if (one.check, one.level) == (check, level))


def test_archives_pass_before_anything_has_run(world, trees):
    findings = examined(world, trees)
    assert levels(findings).get("fail") is None
    assert levels(findings)["warn"] == {"pixels"}  # 48 x 40 pixels are enlarged to the base's 112 x 112
    assert said(findings, "data", "pass").count("5 sub-categories, 25 images to train and 10 to test") == 2
    assert "70 images opened whole" in said(findings, "whole images", "pass")
    assert "has not made the questions" in said(findings, "place of the truth", "skip")


def test_a_missing_data_set_warns_beside_another_and_fails_alone(world, trees):
    findings = examined(world, trees, data_sets=["bird", "dog"])
    assert said(findings, "data", "warn") == "Stanford Dogs is missing" and not levels(findings).get("fail")
    findings = examined(world, trees, data_sets=["dog"])
    assert said(findings, "data", "fail") == "Stanford Dogs is missing"
    assert "whole images" in levels(findings)["skip"]
    findings = examined(world, trees, data_root=str(trees / "elsewhere"))
    assert levels(findings)["fail"] == {"data", "named files"}


def test_a_root_that_the_hub_fills_need_not_be_there(world, trees):
    away = str(trees / "elsewhere")
    assert "named files" not in levels(examined(world, trees, hub_copies=["bird", "pet"], data_root=away)).get("fail", ())
    assert "named files" in levels(examined(world, trees, hub_copies=["pet"], data_root=away))["fail"]


def test_other_counts_fail_unless_allowed(world, trees, monkeypatch):
    monkeypatch.setitem(DATA_SETS, "pet", DATA_SETS["pet"]._replace(test=11))
    findings = examined(world, trees)
    assert "10 in place of 11 (test)" in said(findings, "data", "fail")
    assert levels(findings)["fail"] == {"data"}
    assert "70 images opened whole" in said(findings, "whole images", "pass")  # all the same
    findings = examined(world, trees, allow_incomplete=True)
    assert "not the official ones" in said(findings, "data", "warn") and "fail" not in levels(findings)


def test_every_broken_image_is_counted_headers_included(world, trees):
    birds = sorted((trees / "CUB_200_2011/images").rglob("*.jpg"))
    birds[3].write_bytes(b"")
    birds[9].write_bytes(birds[9].read_bytes()[:400])
    findings = examined(world, trees)
    assert levels(findings)["fail"] == {"whole images"}
    told = [one for one in findings if one.level == "fail"][0]
    assert told.what.startswith("2 images cannot be read") and birds[3].name in told.where


def test_one_image_in_two_data_sets_is_named(world, trees):
    birds, pets = (sorted((trees / folder).rglob("*.jpg")) for folder in ("CUB_200_2011", "oxford-iiit-pet"))
    shutil.copy(birds[0], pets[0])  # both for training
    findings = examined(world, trees)
    found = [one for one in findings if one.check == "leaks of images"]
    assert [one.level for one in found] == ["warn"] and "in two data sets" in found[0].what
    assert birds[0].name in found[0].where and pets[0].name in found[0].where


def test_a_rationale_for_an_unseen_name_is_found_in_the_releases_file(world, trees):
    """Stage 1 is given and speaks of a name that our own seeded split has put among the unseen."""
    plan = dataclasses.replace(world.plan(data_sets=["bird"], data_root=str(trees), image_root=""),
                               run_dir=trees.parent / "new")
    table = Subject(plan).table
    row = table[(table["categories"] == "unseen") & (table["split"] == "train")].iloc[0]
    text = f"<think>It is one.</think>\n<answer>{row['sub_category']}</answer>"
    messages = [{"role": "user", "content": "<image>Which bird?"}, {"role": "assistant", "content": text}]
    place = row["image_id"].replace("CUB_200_2011/images", "bird_200/images_train")
    item = {"messages": messages, "images": [place]}
    file = trees / "stage1.json"
    file.write_text(json.dumps([item]))
    findings = examined(world, trees, data_sets=["bird"], rationales_file=str(file))
    assert levels(findings)["fail"] == {"data", "leaks of names"}
    assert "1 training answers name an unseen" in said(findings, "leaks of names", "fail")


def released(trees) -> Path:
    """The release's two files about the five birds, three of them seen."""
    names = data_set_trees.NAMES["bird"]
    folder = data_set_trees.CLASSES["bird"]
    split = (trees / "CUB_200_2011/train_test_split.txt").read_text().split()[1::2]
    paths = [line.split()[1] for line in (trees / "CUB_200_2011/images.txt").read_text().splitlines()]
    lines = {"seen": [], "unseen": []}
    for path in (path for path, part in zip(paths, split) if part == "0"):
        number = folder.index(path.split("/")[0])
        others = [name for name in names if name != names[number]][:3]
        lines["seen" if number < 3 else "unseen"].append(json.dumps({
            "image_path": f"bird_200/images/{path}", "question": "Which bird is this?",
            "options": [names[number], *others], "ground_truth": names[number]}))
    for kind, rows in lines.items():
        data_set_trees.put(trees.parent / f"release/bird_{kind}.jsonl", "\n".join(rows) + "\n")
    return trees.parent / "release"


def test_the_releases_questions_are_checked_before_01_has_made_any(world, trees):
    given = dict(data_sets=["bird", "dog"], release=str(released(trees)))  # no dogs are there
    findings = examined(world, trees, **given)
    assert levels(findings).get("fail") is None
    assert "of 10 questions" in said(findings, "place of the truth", "pass")
    shutil.move(trees.parent / "release/bird_unseen.jsonl", trees / "bird_unseen.jsonl")
    assert "bird_unseen.jsonl is neither" in said(examined(world, trees, **given), "data", "fail")
    shutil.rmtree(trees.parent / "release")
    findings = examined(world, trees, **given)
    assert levels(findings)["fail"] == {"named files"}  # told once; what needs the lists waits for them
    assert {"leaks of names", "leaks of images"} <= levels(findings)["skip"]
    assert "35 images opened whole" in said(findings, "whole images", "pass")


def test_a_copy_on_the_hub_is_left_for_01(world, trees):
    commit = "0123456789" * 4
    findings = examined(world, trees, hub_copies=[f"pet@{commit}"])
    assert "01 will take it from the Hub" in said(findings, "data", "skip") and "fail" not in levels(findings)
    findings = examined(world, trees, hub_copies=["pet"])
    assert "newest commit of timm/oxford-iiit-pet" in said(findings, "data", "warn")


# ---- the examination itself, and the command

def test_a_check_that_breaks_stops_no_other(world):
    def broken(subject):
        raise RuntimeError("a fault\nof ours")

    def refused(subject):
        raise UserError("the user's mistake; mended so")

    def early(subject):
        raise NotYet("nothing there")

    def fine(subject):
        return [passed("well")]

    checks = {"broken": broken, "refused": refused, "early": early, "fine": fine, "parts": (early, fine)}
    findings = examine(Subject(world.plan()), checks)
    assert [(one.check, one.level) for one in findings] == [
        ("broken", "fail"), ("refused", "fail"), ("early", "skip"), ("fine", "pass"),
        ("parts", "skip"), ("parts", "pass")]
    assert "RuntimeError: a fault of ours" in findings[0].what
    assert findings[1][2:] == ("the user's mistake", "", "mended so")
    assert counts(findings) == {"pass": 2, "warn": 0, "fail": 2, "skip": 2}
    assert json.loads(json.dumps(as_json(findings)))["counts"]["fail"] == 2


def test_gpu_check_needs_a_gpu_and_ends_as_the_doctor_does(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA GPU here"):
        cli.gpu_check("miniature")
    rows = [Finding("gradients", "pass", "finite", "", ""), Finding("memory", "fail", "too much", "", "less")]
    monkeypatch.setattr("tools.gpu_check.run", lambda plan, vllm: rows[: 1 + vllm])
    cli.gpu_check("miniature", json_file=str(tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text())["findings"][0]["what"] == "finite"
    with pytest.raises(UserError, match="gpu-check: memory: fix"):
        cli.gpu_check("miniature", vllm=True)
    assert "too much" in capsys.readouterr().out


def test_quick_opens_a_seeded_sample(world, monkeypatch):
    monkeypatch.setattr("finer1_lib.commands.doctor.images.SAMPLE", 7)
    opened = []
    monkeypatch.setattr("finer1_lib.commands.doctor.images.load_image", lambda root, image_id: opened.append(image_id))
    found = only(Subject(world.plan(), quick=True), "whole images")
    assert "7 images opened whole (a sample of 40" in found[0].what
    first, opened[:] = sorted(opened), []
    only(Subject(world.plan(), quick=True), "whole images")
    assert sorted(opened) == first and len(set(first)) == 7


def test_the_command_ends_with_2_only_where_something_fails(world, tmp_path, monkeypatch, capsys):
    kit = tmp_path / "kit"
    (kit / "params/mine").mkdir(parents=True)
    (kit / "notebooks").symlink_to(presets.find_kit() / "notebooks")
    given = {"image_root": str(world.photos), "train_share": 0.6}
    (kit / "params/mine/01_data.yaml").write_text(yaml.safe_dump(given))
    monkeypatch.setenv("FINER1_KIT", str(kit))
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["finer1", "doctor", "mine", "--output-root", str(tmp_path), *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    code, out, error = command("--json", str(tmp_path / "found.json"))
    assert (code, error) == (0, "") and "whole images" in out and "0 fail" in out and "peak" in out
    assert json.loads((tmp_path / "found.json").read_text())["counts"]["fail"] == 0
    code, out, error = command("--set", "03_tapo.min_pixels=784", "--set", "03_tapo.max_pixels=300")
    assert code == 2 and error.startswith("finer1: doctor: ") and error.count("\n") == 1


# ---- systems

def test_systems_that_cannot_be_queried_or_may_not_be_the_papers(tmp_path, monkeypatch):
    def rows(**values):
        return machine.systems(SimpleNamespace(get=lambda stage, name, default=None: values.get(name, default)))

    with pytest.raises(NotYet):
        rows()
    found = {row.level: row.what for row in rows(systems=["deepperception"])}
    assert set(found) == {"warn"} and "newest commit" in found["warn"]
    assert [row.level for row in rows(systems=["fine-r1-3b"])] == ["pass"]  # pinned, and the paper's own
    with pytest.raises(UserError, match="would not run"):
        rows(systems=["openpangu-vl-7b"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert any(row.level == "fail" and '"clip"' in row.mend for row in rows(systems=["eva-g"]))
    mine = tmp_path / "mine.yaml"
    mine.write_text("gpt:\n  label: GPT\n  kind: endpoint\n  checkpoint: gpt\n  url: https://a.example/v1\n"
                    "  key_variable: NO_SUCH_KEY_HERE\n")
    monkeypatch.delenv("NO_SUCH_KEY_HERE", raising=False)
    (row,) = rows(systems=["gpt"], systems_from=str(mine))
    assert row.level == "fail" and "NO_SUCH_KEY_HERE" in row.what
    monkeypatch.setenv("NO_SUCH_KEY_HERE", "x")
    assert [row.level for row in rows(systems=["gpt"], systems_from=str(mine))] == ["pass"]


def test_a_checkpoint_without_its_vision_tower_is_found_wherever_it_is_named(world, tmp_path):
    """By the headers: as the base, and as a further row of 04."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(WEIGHTS, tmp_path / "blind")
    held = load_file(WEIGHTS / "model.safetensors")
    save_file({name: one for name, one in held.items() if "visual" not in name}, folder / "model.safetensors")
    plan = world.plan()
    for stage, values in (("00_miniature_world", {"pretrain": False, "base_checkpoint": str(folder)}),
                          ("04_evaluation", {"more_models": [f"Blind={folder}"]})):
        changed = {**plan.parameters, stage: {**plan.parameters[stage], **values}}
        (found,) = only(Subject(dataclasses.replace(plan, parameters=changed)), "base model")
        assert found.level == "fail" and "lacks 54 of its model's weights (first: model.visual" in found.what
        assert found.where.startswith(stage) and found.mend == "use a whole checkpoint"
