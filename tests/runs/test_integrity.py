"""What is finished is what was recorded: outputs by their hashes, the code, parameters, places."""

import json
import os
import shutil
import time
from pathlib import Path

import fixture_kit
import pytest
from hypothesis import given, settings, strategies as st
from stage_cases import opened, play

import finer1_lib
from finer1_lib.commands.report.page import finish_run
from finer1_lib.core import files, hashing
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import read_jsonl
from finer1_lib.evaluation import summary
from finer1_lib.runs import fingerprints as signatures, presets, runner
from finer1_lib.runs.chain import NEEDS, STAGES, find_run
from finer1_lib.runs.notebook import open_stage
from finer1_lib.runs.stage import Stage

FIRST, SECOND = STAGES[:2]
CHANGED = "the code of its notebook has changed since"


@settings(deadline=None, max_examples=30)
@given(contents=st.dictionaries(st.sampled_from(["a", "b/c", "b/d", "e/f/g"]), st.binary(max_size=6), min_size=1),
       data=st.data())  # fmt: skip
def test_any_other_content_of_any_output_is_seen_and_the_old_one_again_is_right(tmp_path_factory, contents, data):
    folder = tmp_path_factory.mktemp("stage")
    for name, content in contents.items():
        files.atomic_write_bytes(folder / name, content)
    outputs = hashing.recorded_hashes(folder)
    hashing.remember(folder, outputs, time.time_ns() + 10**12)  # as if all had been written long ago
    time.sleep(0.02)  # the clock of a file system is coarse
    assert hashing.changed_outputs(folder, outputs) == []
    name = data.draw(st.sampled_from(sorted(contents)))
    other = data.draw(st.binary(max_size=6).filter(lambda content: content != contents[name]))
    told = os.stat(folder / name)
    (folder / name).write_bytes(other)
    if data.draw(st.booleans()):
        os.utime(folder / name, ns=(told.st_atime_ns, told.st_mtime_ns + 1))
    assert hashing.changed_outputs(folder, outputs) == [name]
    (folder / name).write_bytes(contents[name])
    assert hashing.changed_outputs(folder, outputs) == []


# --- a run whose notebooks are played by a function ---


@pytest.fixture
def kit(tmp_path, monkeypatch):
    folder = fixture_kit.build(tmp_path / "kit")
    monkeypatch.setenv("FINER1_KIT", str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def played(kit, monkeypatch):
    """Run the toy's first stages: function of settings -> (lines, stages that were computed)."""
    computed = []

    def run_notebook(stage, source, parameters, run_dir, show):
        opened = Stage.open(stage, dict(plan.parameters[stage]))
        records = opened.path("records.jsonl")
        for number in range(len(read_jsonl(records)), 3):
            computed.append(stage)
            files.append_jsonl(records, {"number": number})
        files.atomic_write_text(opened.path("figures/curve.csv"), "a\n1\n")
        files.atomic_write_json(opened.path("summary_rows.json"), ROWS)
        opened.finish({"made": 3})
        (run_dir / f"{stage}.ipynb").write_text("{}")

    def run(*settings, keep=False, last=SECOND, first=None):
        nonlocal plan
        plan = presets.make_plan(kit, "toy", settings=settings)
        computed.clear()
        said = []
        runner.run_chain(plan, runner.chosen_stages(first, last), said.append, keep, finish_run)
        return said, sorted({*computed})

    plan = None
    monkeypatch.setattr(runner, "run_notebook", run_notebook)
    run.dir = kit / "outputs" / "toy"
    return run


ROWS = [dict(model="base", dataset="average", setting="closed_world", scorer="strict", metric="accuracy",
             categories="seen", option_order="shuffled", variant=None, value=0.5, low=0.25, high=0.75, n=3,
             seed=0)]  # fmt: skip


def edit_notebook(kit, stage, change):
    file = kit / "notebooks" / f"{stage}.ipynb"
    notebook = json.loads(file.read_text())
    change(notebook["cells"])
    file.write_text(json.dumps(notebook))


def test_the_same_again_is_skipped_without_hashing(played, monkeypatch):
    assert played()[1] == [FIRST, SECOND]
    time.sleep(0.15)  # what was written just now may still change under the same time
    played()
    hashed = []
    monkeypatch.setattr(hashing, "sha256_file", lambda path: hashed.append(path) or "no hash")
    said, computed = played()
    assert computed == [] and sum(line.endswith("skipped") for line in said) == 2 and hashed == []


@pytest.mark.parametrize("change", [
    lambda cells: cells[3].update(source="more = 1\n" + "".join(cells[3]["source"])),
    lambda cells: cells.append({"cell_type": "code", "metadata": {}, "source": ["stage"], "outputs": []}),
    lambda cells: cells.pop(3),
    lambda cells: cells[3].update(source="".join(cells[3]["source"]).replace("records", "Records")),
    lambda cells: cells[3].update(source="%matplotlib inline\n" + "".join(cells[3]["source"])),
])
def test_a_notebook_whose_code_changed_runs_anew_or_is_kept(kit, played, change):
    played()
    before = (played.dir / FIRST / "stage.json").read_bytes()
    edit_notebook(kit, FIRST, change)
    said, computed = played(keep=True)
    assert computed == [] and (played.dir / FIRST / "stage.json").read_bytes() == before
    assert any(f"{FIRST} finished earlier" in line and "kept, though the code of its" in line for line in said)
    said, computed = played()
    assert computed == [FIRST]  # its outputs are the same, so what reads them is not due
    line = next(line for line in said if "again: " in line)
    assert CHANGED in line and "--keep-finished" in line and "\n" not in line
    assert (played.dir / f"{FIRST}.previous" / "stage.json").read_bytes() == before
    assert played()[1] == []


@pytest.mark.parametrize("change", [
    lambda cells: cells[0].update(source="# Another title"),
    lambda cells: cells[3].update(source="\n\n# why\n" + "".join(cells[3]["source"]).replace(" = ", "=") + "  \n"),
    lambda cells: cells[3].update(source="".join(cells[3]["source"]).replace(", ", " ,  ")),
    lambda cells: cells[3].update(outputs=[{"output_type": "stream", "name": "stdout", "text": "x"}]),
    lambda cells: cells.append({"cell_type": "code", "metadata": {"tags": ["attempt"]}, "source": "x = 1"}),
    lambda cells: cells[1].update(source="".join(cells[1]["source"]).replace("a float", "another help")),
])
def test_words_blanks_outputs_and_exercises_are_no_code(kit, played, change):
    played()
    edit_notebook(kit, FIRST, change)
    assert played()[1] == []


def test_another_version_and_a_record_of_before_run_anew_or_are_kept(played, monkeypatch):
    played()
    monkeypatch.setattr(finer1_lib, "__version__", "9.9")
    assert "version 0.1.0 of the kit made it, this is 9.9: " not in " ".join(played(keep=True)[0])
    said, computed = played()
    assert computed == [FIRST, SECOND]
    assert any("version 0.1.0 of the kit made it, this is 9.9" in line for line in said)
    for name in ("stage.json", "started.json"):  # as the kit wrote them before it recorded its code
        file = played.dir / FIRST / name
        record = json.loads(file.read_text())
        del record["made_by"]
        file.write_text(json.dumps(record))
    assert played(keep=True)[1] == []
    said, computed = played()
    assert computed == [FIRST] and any("does not say which code made it" in line for line in said)


def test_why_a_stage_runs_anew_is_said(played):
    played()
    said, computed = played(f"{FIRST}.steps=5")
    assert computed == [FIRST] and any(f"{FIRST} begins: steps was 2 and is 5" in line for line in said)


@pytest.mark.parametrize("keep", [True, False])
def test_a_stage_begun_by_other_code_is_set_aside_or_gone_on_with(kit, played, monkeypatch, keep):
    def killed(stage, source, parameters, run_dir, show):
        opened = Stage.open(stage, dict(presets.make_plan(kit, "toy").parameters[stage]))
        files.append_jsonl(opened.path("records.jsonl"), {"number": 0})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner, "run_notebook", killed)
        played(last=FIRST)
    edit_notebook(kit, FIRST, lambda cells: cells.pop(3))
    said, _ = played(last=FIRST, keep=keep)
    previous = played.dir / f"{FIRST}.previous" / "records.jsonl"
    assert previous.exists() != keep and any(f"again: {CHANGED}" in line for line in said) != keep
    # what other code began is never called this code's
    made_by = signatures.read_record(played.dir / FIRST)["made_by"]
    assert signatures.other_code(made_by, FIRST) == (CHANGED if keep else "")


EDITS = [
    lambda file: file.write_text(file.read_text().replace("0.5", "1.0")),  # the same size
    lambda file: file.write_text("[]"),
    lambda file: (file.unlink(), file.mkdir()),
]


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_output_reaches_neither_table_nor_report_nor_the_next_stage(played, edit):
    played(last=None)
    time.sleep(0.15)
    played(last=None)
    rows = played.dir / "04_evaluation" / "summary_rows.json"
    told = os.stat(rows)
    edit(rows)
    if rows.is_file():
        os.utime(rows, ns=(told.st_atime_ns, told.st_mtime_ns))  # nobody can set the time of change back
    for act in (lambda: played(last=None), lambda: played(first="05_probing", last=None),
                lambda: summary.join_summary(played.dir),
                lambda: signatures.recorded_file(played.dir, "04_evaluation/summary_rows.json")):
        with pytest.raises(UserError, match="summary_rows.json is not what 04_evaluation recorded: put it back"):
            act()
    assert json.loads((played.dir / "summary.json").read_text())[0]["value"] == 0.5


def test_rows_that_are_not_recorded_are_not_read(played):
    played(last=None)
    file = played.dir / "04_evaluation" / "stage.json"
    record = json.loads(file.read_text())
    del record["outputs"]["summary_rows.json"]
    record["digest"] = signatures.digest_of(record["outputs"])
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match="not among the files that 04_evaluation recorded"):
        summary.join_summary(played.dir)


def test_a_changed_figure_is_drawn_anew_and_a_missing_output_made(played):
    played()
    (played.dir / FIRST / "figures" / "curve.csv").write_text("a\n2\n")
    assert played()[1] == [] and (played.dir / FIRST / "figures" / "curve.csv").read_text() == "a\n1\n"
    (played.dir / FIRST / "records.jsonl").unlink()
    assert played()[1] == [FIRST]


def test_a_folded_folder_is_held_against_its_files(tmp_path):
    for number in range(201):
        files.atomic_write_text(tmp_path / "images" / f"{number}.png", str(number))
    outputs = hashing.recorded_hashes(tmp_path)
    assert list(outputs) == ["images/"] and hashing.changed_outputs(tmp_path, outputs) == []
    (tmp_path / "images" / "7.png").write_text("8")
    assert hashing.changed_outputs(tmp_path, outputs) == ["images/"]
    (tmp_path / "images" / "7.png").write_text("7")
    assert hashing.changed_outputs(tmp_path, outputs) == []
    (tmp_path / "images" / "more.png").write_text("x")
    assert hashing.changed_outputs(tmp_path, outputs) == ["images/"]


def test_a_look_that_was_noted_for_another_hash_or_is_damaged_is_not_believed(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    outputs = hashing.recorded_hashes(tmp_path)
    time.sleep(0.15)
    assert hashing.changed_outputs(tmp_path, outputs) == []
    assert hashing.changed_outputs(tmp_path, {"a.txt": "0" * 64}) == ["a.txt"]
    (tmp_path / hashing._SEEN).write_text("{")
    assert hashing.changed_outputs(tmp_path, outputs) == []


def finished(root, **values):
    stage = opened(root, **values)
    files.atomic_write_text(stage.path("table.csv"), "x")
    files.atomic_write_text(stage.path("deep/er.csv"), "x")
    stage.finish({})
    return stage


@pytest.mark.parametrize(("change", "told"), [
    (lambda record: record.pop("needs"), "lacks needs"),
    (lambda record: record.pop("digest"), "lacks digest"),
    (lambda record: record.pop("outputs"), "lacks outputs"),
    (lambda record: record.update(outputs={}), "lists no outputs"),
    (lambda record: record.update(outputs=["table.csv"]), "holds no outputs that could be"),
    (lambda record: record.update(made_by="me"), "holds no made_by that could be"),
    (lambda record: record.update(seed=[0]), "holds no seed that could be"),
    (lambda record: record.update(seconds="long"), "holds no seconds that could be"),
    (lambda record: record.update(needs={FIRST: None}), "names stages that it cannot have read"),
    (lambda record: record.update(needs={SECOND: "0" * 64}), "names stages that it cannot have read"),
    (lambda record: record.update(parameters=None), "holds no parameters that could be"),
    (lambda record: record["outputs"].pop("table.csv"), "was changed after the stage had finished"),
    (lambda record: record["outputs"].update({"table.csv": "0" * 64}), "was changed after the stage"),
    (lambda record: record.update(digest="0" * 64), "was changed after the stage had finished"),
])
def test_a_record_that_shows_nothing_is_refused_in_one_line(tmp_path, change, told):
    stage = finished(tmp_path)
    file = stage.dir / "stage.json"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))
    for act in (lambda: opened(tmp_path), lambda: signatures.is_current(stage.run_dir, FIRST),
                lambda: signatures.earlier_digests(stage.run_dir, SECOND)):
        with pytest.raises(UserError, match=f"stage.json {told}.*move .*{FIRST} away and run notebook {FIRST}"):
            act()


@pytest.mark.parametrize("change", [{"opened": "x"}, {"made_by": [1]}, {"parameters": 1}, {"signature": None}])
def test_a_damaged_start_is_one_line(tmp_path, change):
    stage = opened(tmp_path)
    files.atomic_write_json(stage.dir / "started.json", {**signatures.read_start(stage.dir), **change})
    with pytest.raises(UserError, match=f"started.json holds no {next(iter(change))} that could be"):
        opened(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "nothing"])
def test_a_record_that_is_no_record_is_one_line(tmp_path, text):
    stage = finished(tmp_path)
    (stage.dir / "stage.json").write_text(text)
    with pytest.raises(UserError, match="stage.json"):
        opened(tmp_path)


def test_a_record_without_an_earlier_stage_s_digest_is_refused(tmp_path):
    finished(tmp_path)
    second = Stage.open(SECOND, {"run_name": "r", "output_root": str(tmp_path), "seed": 0})
    second.finish({})
    file = second.dir / "stage.json"
    record = json.loads(file.read_text())
    assert NEEDS[SECOND] == (FIRST,)
    for needs in ({}, {FIRST: None}, {FIRST: ["0"]}):
        file.write_text(json.dumps({**record, "needs": needs}))
        with pytest.raises(UserError, match=f"lacks the digest of {FIRST}"):
            signatures.is_current(second.run_dir, SECOND)


def test_only_recorded_files_are_read(tmp_path):
    stage = finished(tmp_path)
    second = Stage.open(SECOND, {"run_name": "r", "output_root": str(tmp_path), "seed": 0})
    assert second.input(f"{FIRST}/deep") == stage.dir / "deep"
    assert set(second.inputs) == {f"{FIRST}/deep/er.csv"}
    (stage.dir / "deep" / "planted.py").write_text("x")
    (stage.dir / "more.csv").write_text("x")
    for path in ("deep", "deep/planted.py", "more.csv"):
        with pytest.raises(UserError, match="is not a file that 00_miniature_world recorded"):
            second.input(f"{FIRST}/{path}")
    assert second.input(f"{FIRST}/table.csv").is_file()


def test_a_finished_stage_opened_again_and_stopped_half_way_goes_on(tmp_path):
    stage = finished(tmp_path)
    again = opened(tmp_path)
    assert again.finished
    files.atomic_write_text(again.path("table.csv"), "half")  # killed here
    third = opened(tmp_path)
    assert not third.finished and (third.dir / "table.csv").read_text() == "half"
    files.atomic_write_text(third.path("table.csv"), "another")
    third.finish({})
    assert opened(tmp_path).finished
    third.finish({})
    (stage.dir / "table.csv").write_text("by hand")
    with pytest.raises(UserError, match="is not what"):
        opened(tmp_path)


# --- parameters that change below the set-up cell ---

CELL = """\
notebook = "00_miniature_world"
run_name = "r"
output_root = "{root}"
seed = 0
rate = 0.5
names = ["a"]"""


@pytest.mark.parametrize(("change", "told"), [
    ("seed = 5", "seed is 5 and was 0 when the stage was opened"),
    ("rate = 0.25; seed = 5", "seed is 5 and was 0 .*rate is 0.25 and was 0.5"),
    ("names.append('b')", r"names is \['a', 'b'\] and was \['a'\]"),
    ("seed = True", "seed must be a whole number, not true"),
    ("seed = -1", "seed must be from 0"),
    ("del rate", "rate of the parameters cell is deleted"),
    ("notebook = '01_data'", "notebook is '01_data' and was '00_miniature_world'"),
    ("run_name = 'other'", "run_name is 'other' and was 'r'"),
])
def test_a_parameter_changed_later_is_refused_where_something_is_written(tmp_path, change, told):
    namespace = play(CELL.format(root=tmp_path))
    stage = open_stage(namespace)
    exec(change, namespace)
    for write in (lambda: stage.path("table.csv"), lambda: stage.finish({})):
        with pytest.raises(UserError, match=told):
            write()
    assert [file.name for file in stage.dir.iterdir()] == ["started.json"]
    namespace |= {"notebook": FIRST, "run_name": "r", "seed": 0, "rate": 0.5, "names": ["a"]}
    stage.path("table.csv")


def test_the_opened_stage_s_own_parameters_cannot_be_set(tmp_path):
    stage = open_stage(play(CELL.format(root=tmp_path)))
    with pytest.raises(TypeError):
        stage.parameters["seed"] = 7
    with pytest.raises(AttributeError):
        stage.seed = 7
    stage.parameters["names"].append("b")  # a list can be
    with pytest.raises(UserError, match="names is .* when the stage was opened"):
        stage.finish({})


def test_another_stage_s_name_in_a_cell_of_its_own_is_no_parameters_cell(tmp_path):
    with pytest.raises(UserError, match=f"{SECOND}: the parameters cell does not set 'run_name'"):
        open_stage(play(CELL.format(root=tmp_path), f"notebook = '{SECOND}'"))


def test_the_set_up_cell_again_begins_with_the_new_value(tmp_path, capsys):
    namespace = play(CELL.format(root=tmp_path))
    first = open_stage(namespace)
    namespace["rate"] = 1
    second = open_stage(namespace)
    assert second.parameters["rate"] == 1.0 and second.signature != first.signature
    assert "restarted: rate was 0.5 and is 1.0; the earlier folder is" in capsys.readouterr().out
    second.finish({})
    with pytest.raises(UserError, match="removed or replaced while the stage was open"):
        first.finish({})


def test_by_hand_what_other_code_made_is_kept_told_and_not_called_one_s_own(kit, tmp_path, capsys):
    stage = finished(tmp_path)
    made = signatures.read_record(stage.dir)["made_by"]
    edit_notebook(kit, FIRST, lambda cells: cells.pop(3))
    again = open_stage(play(CELL.format(root=tmp_path).replace("\nrate = 0.5\nnames = [\"a\"]", "")))
    assert again.finished and "what is there is kept; to recompute it delete" in capsys.readouterr().out
    again.finish({})
    assert signatures.read_record(stage.dir)["made_by"] == made != signatures.made_by(FIRST)


@pytest.mark.parametrize(("cells", "told"), [
    (["%%time\n" + CELL], "begins with a %%magic.*into a cell below"),
    (["get_ipython().run_cell_magic('time', '', " + repr(CELL + "\n") + ")"], "begins with a %%magic"),
    ([CELL + '\nroot = os.environ["X"]'], r"line 7 \(root = os.environ\[\"X\"\]\) is not a plain value: write"),
    ([CELL + "\nprint(1)"], r"line 7 \(print\(1\)\) is not `name = value`: .*into a cell below"),
    *[([f"{CELL}\nroot = {odd}"], "is not a plain value: write") for odd in ("1j", "b'x'", "...", "{1, 2}", "[b'x']")],
    ([CELL + "\na, b = 1, 2"], "does not assign one name: write a line for each"),
])
def test_what_no_parameters_cell_can_hold_says_where_to_put_it(tmp_path, cells, told):
    namespace = {"In": ["", *cells], "notebook": FIRST}
    with pytest.raises(UserError, match=told):
        open_stage(namespace)


def test_a_cell_of_one_s_own_about_parameters_is_not_papermill_s(tmp_path):
    assert open_stage(play(CELL.format(root=tmp_path), "# Parameters of the camera\niso = 100")).seed == 0


# --- places ---


def test_a_folder_removed_under_way_is_not_finished(tmp_path):
    stage = opened(tmp_path)
    files.atomic_write_text(stage.path("table.csv"), "x")
    shutil.rmtree(stage.run_dir)
    for write in (lambda: stage.path("more.csv"), lambda: stage.finish({})):
        with pytest.raises(UserError, match="removed or replaced while the stage was open"):
            write()
    assert not stage.run_dir.exists()


def test_a_run_removed_under_way_is_one_line(kit, played, monkeypatch):
    def removed(stage, source, parameters, run_dir, show):
        shutil.rmtree(run_dir)
        (run_dir / "x").write_text("")

    monkeypatch.setattr(runner, "run_notebook", removed)
    with pytest.raises(UserError, match="toy was removed while it was made: give the same command again"):
        played()


@pytest.mark.parametrize("name", [f"{FIRST}/stage.json", f"{FIRST}/started.json", f"{FIRST}/metrics.json",
                                  "summary.json", "report.html", f"{SECOND}.ipynb", f".{FIRST}.lock", ".run.lock"])
def test_a_folder_in_a_file_s_place_is_one_line(played, name):
    (played.dir / name).mkdir(parents=True)
    with pytest.raises(UserError, match="there is a folder: remove it"):
        played()


@pytest.mark.parametrize("name", [FIRST, SECOND, f"{FIRST}/figures", f"{FIRST}/checkpoints"])
def test_a_file_in_a_folder_s_place_is_one_line(played, name):
    files.atomic_write_text(played.dir / name, "")
    with pytest.raises(UserError, match="must be a folder, and there is a file: remove it"):
        played()


@pytest.mark.parametrize("name", ["", FIRST, ".run.lock", f".{FIRST}.lock", f"{FIRST}.ipynb", f"{FIRST}/stage.json"])
@pytest.mark.parametrize("target", ["nowhere", "itself"])
def test_a_link_that_leads_nowhere_is_one_line(played, name, target):
    link = played.dir / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(link if target == "itself" else played.dir.parent / "no" / "where")
    with pytest.raises(UserError, match="there is .*: remove it|leads nowhere: remove it|Too many levels"):
        played()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_a_record_s_place_is_not_waited_for(tmp_path):
    stage = finished(tmp_path)
    (stage.dir / "stage.json").unlink()
    os.mkfifo(stage.dir / "stage.json")
    with pytest.raises(UserError, match="stage.json must be a file, and there is something else"):
        signatures.read_record(stage.dir)


def test_an_output_that_is_a_link_to_nowhere_is_one_line(tmp_path):
    stage = opened(tmp_path)
    (stage.dir / "records.jsonl").symlink_to(tmp_path / "nowhere" / "x")
    with pytest.raises(UserError, match="records.jsonl is a link that leads nowhere: remove it"):
        stage.path("records.jsonl")


def test_a_place_where_no_folder_can_be_made_is_one_line(tmp_path, monkeypatch):
    def nobody(path, *rest, **named):
        raise FileNotFoundError(2, "No such file or directory", str(path))  # what /proc and some mounts say

    monkeypatch.setattr(Path, "mkdir", nobody)
    with pytest.raises(UserError, match="cannot be made .*: choose another place"):
        Stage.open(FIRST, {"run_name": "r", "output_root": str(tmp_path), "seed": 0})


def test_a_file_where_an_output_s_folder_must_be_is_one_line(tmp_path):
    stage = opened(tmp_path)
    stage.path("deep").write_text("")
    with pytest.raises(UserError, match="deep must be a folder, and there is a file"):
        stage.path("deep/er.csv")


@pytest.mark.parametrize("name", ["x" * 101, "x" * 256, "CON", "con", "nul.txt", "Aux.1", "COM1", "lpt9.a.b", "x.",
                                  "a\udcff"])
def test_names_that_are_no_folder_somewhere(tmp_path, name):
    with pytest.raises(UserError, match="run name"):
        find_run(str(tmp_path), name)


@pytest.mark.parametrize("name", ["x" * 100, "console", "nullify", "com", "com10", "x.y", "lpt", "auxin"])
def test_names_that_only_look_reserved(tmp_path, name):
    assert find_run(str(tmp_path), name).name == name


@pytest.mark.parametrize("root", ["x" * 300, "a\0b", "bild\udce4er", f"{'y' * 300}/z"])
def test_output_roots_that_can_be_no_folder(tmp_path, root):
    with pytest.raises(UserError, match="output root"):
        find_run(str(tmp_path / root), "r")


def test_names_that_are_no_utf_8_can_be_hashed(tmp_path):
    os.makedirs(os.fsencode(tmp_path) + b"/bild\xe4er")
    (tmp_path / os.fsdecode(b"bild\xe4er") / "a.png").write_text("x")
    before = hashing.listing_digest(tmp_path)
    (tmp_path / os.fsdecode(b"bild\xe4er") / "b.png").write_text("x")
    assert hashing.listing_digest(tmp_path) != before
