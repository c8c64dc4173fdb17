"""`finer1 lesson`: a run made ready for notebooks 04 and 05 from records that are kept.

The records are written by `Stage` itself, over toys; in place of notebooks 00 and 01 a function makes their
files.
"""

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import fixture_kit
import nbformat
import pytest

from finer1_lib.commands.report.page import finish_run
from finer1_lib.core import hashing
from finer1_lib.core.errors import UserError
from finer1_lib.runs import presets
from finer1_lib.runs.chain import STAGES
from finer1_lib.runs.fingerprints import is_current, is_finished, signature_of
from finer1_lib.runs.runner import run_chain, run_notebook
from finer1_lib.runs.stage import Stage
from finer1_lib.teaching import lesson

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """A toy kit with the preset `miniature`."""
    folder = fixture_kit.build(tmp_path_factory.mktemp("kit"))
    (folder / "params" / "miniature").mkdir()
    (folder / "params" / "miniature" / "common.yaml").write_text("run_name: miniature\n")
    (folder / "params" / "miniature" / "04_evaluation.yaml").write_text("steps: 3\n")
    return folder


def open_stage(plan, stage):
    given = {name: value for name, value in plan.parameters[stage].items() if name != "notebook"}
    return Stage.open(stage, given)


def finish(plan, stage, read=(), **contents):
    """One stage by its own code: read inputs, write files (name with __ for /), finish."""
    opened = open_stage(plan, stage)
    for name in read:
        opened.input(name)
    for name, text in contents.items():
        opened.path(name.replace("__", "/").replace("_dot_", ".")).write_text(text)
    opened.finish({"made": stage})


def make_pictures(plan, pictures="drawn"):
    """Stages 00 and 01, with two files that hold a folder of the machine."""
    finish(plan, STAGES[0], base_dot_json=f"{plan.run_dir}", guide_dot_json="guide",
           **{f"images__{k}_dot_png": f"{pictures}{k}" for k in range(201)})
    finish(plan, STAGES[1], [f"{STAGES[0]}/{name}" for name in ("base.json", "guide.json", "images")],
           data_dot_json=f"{plan.run_dir}", items_dot_jsonl="items", triplets_dot_parquet="triplets")


RECORDS = '{"model": "base"}\n'


@pytest.fixture
def reference(kit, tmp_path):
    """The records of a whole run, as outputs/reference holds them: two adapters alone, answers gzipped."""
    plan = presets.make_plan(kit, "miniature", output_root=str(tmp_path / "origin"))
    make_pictures(plan)
    finish(plan, STAGES[2], ["01_data/items.jsonl", "01_data/data.json"], cot_sft__adapter_dot_json="lora",
           sft_answer_only__adapter_dot_json="other", models_dot_json="[]")
    finish(plan, STAGES[3], ["01_data/triplets.parquet", "02_cot_sft/cot_sft"],
           cot_sft_tapo__adapter_dot_json="tapo", models_dot_json="[]")
    finish(plan, STAGES[4], ["01_data/items.jsonl", "03_tapo/models.json"], records_dot_jsonl=RECORDS)
    kept = tmp_path / "kit" / "reference"
    for stage in STAGES[:5]:
        (kept / stage).mkdir(parents=True)
        shutil.copy(plan.run_dir / stage / "stage.json", kept / stage)
    for name in ("02_cot_sft/cot_sft", "03_tapo/cot_sft_tapo"):
        shutil.copytree(plan.run_dir / name, kept / name)
    shutil.copy(plan.run_dir / "03_tapo" / "models.json", kept / "03_tapo")
    (kept / "04_evaluation" / "records.jsonl.gz").write_bytes(gzip.compress(RECORDS.encode()))
    return kept


@pytest.fixture
def plan(kit, tmp_path, monkeypatch):
    """A lesson's plan; in place of notebooks 00 and 01 `make_pictures` writes what is missing."""
    made = presets.make_plan(kit, "miniature", "lesson", str(tmp_path / "outputs"))

    def run_chain(plan, stages, say):
        assert tuple(stages) == STAGES[:2]
        if not (plan.run_dir / STAGES[1] / "stage.json").exists():
            make_pictures(plan)

    monkeypatch.setattr(lesson, "run_chain", run_chain)
    return made


def make(plan, reference):
    said = []
    return lesson.make_lesson(plan, reference, said.append), said


def whole(folder):
    """Everything but `.seen.json`: when outputs were last hashed, written once they are two seconds old."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".seen.json")
    return {path: path.read_bytes() for path in files}


def test_a_lesson_is_what_notebook_04_needs_and_says_where_it_comes_from(plan, reference):
    copies, said = make(plan, reference)
    assert len(said) == 3 and all("reference (made on 20" in line for line in said)
    origin = json.loads((reference / "03_tapo" / "stage.json").read_text())
    record = json.loads((plan.run_dir / "03_tapo" / "stage.json").read_text())
    assert is_current(plan.run_dir, "02_cot_sft") and is_current(plan.run_dir, "03_tapo")
    assert record["imported_from"] == "kit/reference" and record["written"] == origin["written"]
    assert record["parameters"] == origin["parameters"] and record["inputs"] == origin["inputs"]
    assert set(record["outputs"]) == {"cot_sft_tapo/adapter.json", "models.json"}
    # `finer1 run` does not take the imported stage for one that its parameters made
    own = signature_of(plan.parameters["03_tapo"], record["needs"])
    assert not is_finished(plan.run_dir / "03_tapo", own)

    stage = open_stage(plan, "04_evaluation")
    assert stage.path("records.jsonl").read_text() == RECORDS and stage.opened == 2
    assert stage.input("03_tapo/models.json").read_text() == "[]"
    assert (stage.input("02_cot_sft/cot_sft") / "adapter.json").read_text() == "lora"
    with pytest.raises(UserError, match="sft_answer_only is missing"):
        stage.input("02_cot_sft/sft_answer_only")
    told = json.loads(stage.path("imported.json").read_text())
    assert told["imported_from"] == "kit/reference" and told["device"] == origin["device"]
    stage.finish({})
    assert open_stage(plan, "05_probing").input("04_evaluation/records.jsonl").read_text() == RECORDS
    assert [path.name for path in copies] == ["04_evaluation_lesson.ipynb", "05_probing_lesson.ipynb"]


def test_the_copies_hold_the_preset_s_values_as_papermill_writes_them(plan, reference):
    copies, _ = make(plan, reference)
    cells = nbformat.read(copies[0], as_version=4).cells
    at = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    assert cells[at + 1].source.startswith("# Parameters\n")
    values = {}
    exec(cells[at].source + "\n" + cells[at + 1].source, values)
    assert values["run_name"] == "lesson" and values["steps"] == 3
    assert values["output_root"] == str(plan.run_dir.parent)  # not the kit's own outputs/, so in full
    own = plan.notebooks["04_evaluation"].parent.parent
    at_home = presets.make_plan(own, "miniature", "lesson", str(own / "outputs"))
    at_home.run_dir.mkdir(parents=True)
    text = lesson._ready_copy(at_home, "05_probing").read_text()
    assert str(at_home.run_dir.parent) not in text and r"output_root = \"outputs\"" in text
    shutil.rmtree(at_home.run_dir.parent)


def test_a_second_time_nothing_is_done_and_nothing_lost(plan, reference):
    copies, _ = make(plan, reference)
    copies[0].write_text("edited by the teacher")
    open_stage(plan, "04_evaluation").finish({})
    before = whole(plan.run_dir)
    again, said = make(plan, reference)
    assert again == copies and said == [] and whole(plan.run_dir) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [("00_miniature_world/images/", "the images drawn here are not"),
     ("01_data/items.jsonl", "01_data/items.jsonl as made")],
)
def test_other_images_are_one_line_and_nothing_is_taken_over(plan, reference, name, words):
    for stage in ("01_data", "02_cot_sft", "03_tapo", "04_evaluation"):
        file = reference / stage / "stage.json"
        record = json.loads(file.read_text())
        record["inputs"] |= {key: "0" * 64 for key in record["inputs"] if key == name}
        file.write_text(json.dumps(record))
    with pytest.raises(UserError, match=words) as raised:
        make(plan, reference)
    assert "constraints.txt" in str(raised.value) and name in str(raised.value)
    assert {path.name for path in plan.run_dir.iterdir() if path.is_dir()} == set(STAGES[:2])


def test_what_training_alone_read_may_differ(plan, reference):
    file = reference / "03_tapo" / "stage.json"
    record = json.loads(file.read_text())
    record["inputs"]["01_data/triplets.parquet"] = "0" * 64  # of another processor
    file.write_text(json.dumps(record))
    make(plan, reference)
    assert lesson.differences(plan.run_dir, reference) == []


def test_the_two_files_that_name_a_folder_may_differ(plan, reference):
    make(plan, reference)
    for name in lesson.OF_ONE_MACHINE:
        here, there = (json.loads((folder / "stage.json").read_text()) for folder in
                       (plan.run_dir / name.split("/")[0], reference / name.split("/")[0]))
        assert here["outputs"][name.split("/")[1]] != there["outputs"][name.split("/")[1]]
    assert lesson.differences(plan.run_dir, reference) == []


def test_versions_that_differ_are_named_with_the_images(plan, reference):
    file = reference / "01_data" / "stage.json"
    record = json.loads(file.read_text())
    record["versions"]["pillow"] = "1.2.3"
    record["inputs"]["00_miniature_world/images/"] = "0" * 64
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"pillow 1\.2\.3 there"):
        make(plan, reference)


def test_records_that_are_incomplete_changed_or_of_other_parameters(plan, reference):
    def refused(words):
        with pytest.raises(UserError, match=words):
            make(plan, reference)
        return not (plan.run_dir / "04_evaluation").exists()

    models = reference / "03_tapo" / "models.json"
    text = models.read_text()
    models.unlink()
    assert refused("models.json is missing") and not plan.run_dir.exists()  # told before anything is run
    models.write_text("[1]")
    assert refused("models.json is not what its stage.json says")
    assert not (plan.run_dir / "03_tapo").exists() and not list(plan.run_dir.glob(".tmp-*"))
    models.write_text(text)
    (reference / "04_evaluation" / "records.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    assert refused("records.jsonl.gz is not what")
    plan.parameters["04_evaluation"]["steps"] = 4
    assert refused("made with steps = 3 in 04_evaluation, and the preset miniature has 4")


def test_a_run_that_trained_for_itself_is_left_alone(plan, reference):
    make_pictures(plan)
    finish(plan, "02_cot_sft", cot_sft__adapter_dot_json="mine")
    with pytest.raises(UserError, match="has its own 02_cot_sft"):
        make(plan, reference)
    assert (plan.run_dir / "02_cot_sft" / "cot_sft" / "adapter.json").read_text() == "mine"


def test_answers_of_another_state_are_moved_aside(plan, reference):
    make(plan, reference)
    started = plan.run_dir / "04_evaluation" / "started.json"
    started.write_text(json.dumps({"signature": "other"}))
    _, said = make(plan, reference)
    assert len(said) == 1 and "answers" in said[0]
    assert (plan.run_dir / "04_evaluation.previous" / "records.jsonl").exists()


def test_killed_between_two_stages_the_same_command_goes_on(plan, reference, monkeypatch):
    real = lesson._import_stage

    def stop(run_dir, reference, stage):
        if stage == "03_tapo":
            raise KeyboardInterrupt
        real(run_dir, reference, stage)

    monkeypatch.setattr(lesson, "_import_stage", stop)
    with pytest.raises(KeyboardInterrupt):
        make(plan, reference)
    monkeypatch.setattr(lesson, "_import_stage", real)
    _, said = make(plan, reference)
    assert [line.split()[0] for line in said] == ["03_tapo", "the"]


def test_the_reference_is_a_lesson_s(plan):
    """What is kept in git is complete for a lesson, and the answers are those that the preset asks for."""
    reference = ROOT / "outputs" / "reference"
    missing = [name for name in lesson.NEEDED if not (reference / name).exists()]
    assert not missing
    real = presets.make_plan(ROOT, lesson.PRESET, "lesson", str(plan.run_dir.parent))
    lesson._check_reference(real, reference)


def test_a_checkout_that_asks_for_crlf_has_the_same_bytes(tmp_path):
    """The records are known by their hashes, whatever core.autocrlf says."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    subprocess.run(["git", "clone", "-q", "--depth", "1", "-c", "core.autocrlf=true", "-c", "core.eol=crlf",
                    ROOT.as_uri(), str(tmp_path / "crlf")], check=True)
    texts = [path for path in (tmp_path / "crlf").rglob("*")
             if path.suffix in (".py", ".json", ".csv", ".yaml", ".ipynb", ".md", ".jinja")]
    assert len(texts) > 100 and not [path for path in texts if b"\r\n" in path.read_bytes()]
    record = json.loads((tmp_path / "crlf" / "outputs/reference/03_tapo/stage.json").read_text())
    kept = tmp_path / "crlf" / "outputs" / "reference" / "03_tapo" / "models.json"
    assert hashing.sha256_file(kept) == record["outputs"]["models.json"]


SHORTER = [  # what neither the pictures nor the answers depend on, and of 05 one layer and few repeats
    "00_miniature_world.card_pictures=0", "05_probing.layers=[1]", "05_probing.layer=1",
    "05_probing.max_sub_categories=8", "05_probing.h1_train_images=2", "05_probing.h1_test_images=1",
    "05_probing.h2_repeats=2", "05_probing.h3_images=1", "05_probing.h3_folds=3",
]


@pytest.mark.long
def test_both_copies_run_from_the_records_that_are_kept(tmp_path):
    """The README's lesson, for real: two adapters of the records' many are there, and no model is asked."""
    reference, said = ROOT / "outputs" / "reference", []
    plan = presets.make_plan(ROOT, lesson.PRESET, "lesson", str(tmp_path / "outputs"), settings=SHORTER)
    copies = lesson.make_lesson(plan, reference, said.append)
    for copy, stage in zip(copies, STAGES[4:], strict=True):
        run_notebook(stage, copy, {}, plan.run_dir, said.append)
    evaluated = json.loads((plan.run_dir / STAGES[4] / "stage.json").read_text())
    kept = json.loads((reference / STAGES[4] / "stage.json").read_text())
    assert evaluated["outputs"]["records.jsonl"] == kept["outputs"]["records.jsonl"]  # none was asked anew
    read = {name.split("/")[1] for name in evaluated["inputs"] if name.startswith("02_cot_sft/")}
    assert read == {"cot_sft"}  # the weights that are there are checked
    rows = json.loads((plan.run_dir / STAGES[4] / "summary_rows.json").read_text())
    assert {row["model"] for row in rows} >= {"sft_answer_only", "cot_sft_dapo", "cot_sft_tapo"}
    probed = json.loads((plan.run_dir / STAGES[5] / "summary_rows.json").read_text())
    assert {row["model"] for row in probed} == {"base", "cot_sft", "cot_sft_tapo"}
    # the README's third command: both are taken as they are, and the report is written
    report = run_chain(plan, STAGES[4:], said.append, finish=finish_run)
    assert report is not None and report.is_file() and said[-1].endswith("skipped")
