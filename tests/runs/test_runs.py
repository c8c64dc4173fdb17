"""The stage hand-over: atomic files, torn lines, signatures, folders moved aside, locks, records."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings, strategies as st
from stage_cases import opened, play

import finer1_lib
from finer1_lib.core import files, hashing
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import (
    append_jsonl,
    atomic_directory,
    atomic_write_json,
    check_targets,
    make_folder,
    read_jsonl,
)
from finer1_lib.runs import notebook as runs
from finer1_lib.runs.chain import NEEDS, STAGES, find_checkout, find_run
from finer1_lib.runs.notebook import open_stage
from finer1_lib.runs.stage import Stage

FIRST, SECOND, THIRD = STAGES[:3]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def finished(root: Path, name: str = FIRST, text: str = "x", **values) -> Stage:
    stage = opened(root, name, **values)
    files.atomic_write_text(stage.path("table.csv"), text)
    stage.finish({"rows": 1})
    return stage


# --- files ---


def test_atomic_json_is_whole_or_absent(tmp_path):
    atomic_write_json(
        tmp_path / "a" / "x.json", {"v": numpy.float32(0.5), "n": float("nan"), "p": Path("a/b")}
    )
    assert json.loads((tmp_path / "a" / "x.json").read_text()) == {"v": 0.5, "n": None, "p": "a/b"}
    with pytest.raises(TypeError):
        atomic_write_json(tmp_path / "a" / "x.json", {"v": object()})
    assert json.loads((tmp_path / "a" / "x.json").read_text())["v"] == 0.5  # the old file stands
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["x.json"]


def test_atomic_directory_replaces_or_leaves_alone(tmp_path):
    with atomic_directory(tmp_path / "images") as folder:
        (folder / "one.png").write_bytes(b"1")
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "images") as folder:
        (folder / "two.png").write_bytes(b"2")
        raise RuntimeError("killed half-way")
    assert [file.name for file in (tmp_path / "images").iterdir()] == ["one.png"]
    with atomic_directory(tmp_path / "images") as folder:
        for number in range(120):  # above the number from which one flush serves all
            (folder / f"{number}.png").write_bytes(b"3")
    assert len(list((tmp_path / "images").iterdir())) == 120
    assert [file.name for file in tmp_path.iterdir()] == ["images"]


@settings(deadline=None, max_examples=50)
@given(
    values=st.lists(JSON, max_size=5), torn=st.binary(max_size=40).filter(lambda piece: b"\n" not in piece)
)
def test_jsonl_round_trip_after_a_torn_line(tmp_path_factory, values, torn):
    file = tmp_path_factory.mktemp("jsonl") / "records.jsonl"
    append_jsonl(file, *values)
    with file.open("ab") as handle:
        handle.write(torn)
    assert read_jsonl(file) == values
    append_jsonl(file, {"after": 1})
    assert read_jsonl(file) == [*values, {"after": 1}]


def test_jsonl_truncate_and_damage(tmp_path):
    file = tmp_path / "records.jsonl"
    assert read_jsonl(file) == []
    file.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a"')
    assert read_jsonl(file, truncate=True) == [{"a": 1}, {"a": 2}]
    assert file.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
    file.write_bytes(b'{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        read_jsonl(file)


def test_jsonl_cuts_a_torn_line_longer_than_one_read(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_bytes(b'"whole"\n' + b"x" * 200_000)
    append_jsonl(file, "next")
    assert read_jsonl(file) == ["whole", "next"]


# --- hashes ---


def test_digest_does_not_depend_on_order_and_sees_values():
    assert hashing.digest({"a": 1, "b": [1, 2]}) == hashing.digest({"b": [1, 2], "a": 1})
    assert hashing.digest({"a": 1}) != hashing.digest({"a": 1.5})
    # Pinned: a change of the canonical form would make every finished stage look new.
    assert hashing.digest({"b": "é", "a": [1, 0.5, None]})[:16] == "4a7b52cd4c774d72"


def test_tree_hashes_are_those_of_the_files_and_quick(tmp_path):
    for number in range(3000):
        folder = tmp_path / "images" / str(number % 30)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(number.to_bytes(4, "little") * 200)
    (tmp_path / "images" / ".hidden").write_text("not counted")
    began = time.process_time()  # not the clock: the machine may be busy with other things
    found = hashing.sha256_tree(tmp_path)
    assert time.process_time() - began < 3.0
    assert len(found) == 3000 and list(found) == sorted(found)
    assert found["images/0/0.png"] == hashing.sha256_file(tmp_path / "images" / "0" / "0.png")
    folded = hashing.recorded_hashes(tmp_path)
    assert list(folded) == ["images/"]
    (tmp_path / "images" / "7" / "7.png").write_bytes(b"another")
    assert hashing.recorded_hashes(tmp_path) != folded


# --- where a run lies ---


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/b", "a\\b", "/tmp", "a..b", ".hidden", "a b", "a\n", "-x", "é/"]
)
def test_run_names_that_could_leave_the_root(tmp_path, name):
    with pytest.raises(UserError, match="run name"):
        find_run(str(tmp_path), name)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=12))
def test_whatever_the_name_the_run_stays_directly_under_the_root(name):
    root = Path("/some/root")
    try:
        assert find_run(str(root), name).parent == root and find_run(str(root), name).name == name
    except UserError:
        pass


def test_output_root_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    for root in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(UserError, match="is a file"):
            find_run(str(root), "r")
    with pytest.raises(UserError, match="run folder .* is a file"):
        find_run(str(tmp_path), "taken")


def test_relative_output_root_counts_from_the_kit_wherever_one_stands(tmp_path, monkeypatch):
    kit, other = tmp_path / "kit", tmp_path / "other"
    for folder in (kit, other):
        (folder / "notebooks").mkdir(parents=True)
        (folder / "params").mkdir()
        (folder / "pyproject.toml").write_text("")
    monkeypatch.delenv("FINER1_KIT", raising=False)
    library = find_checkout(Path(files.__file__).parent)
    for here in (tmp_path, other / "notebooks", library / "notebooks"):
        monkeypatch.chdir(here)
        assert find_run(None, "r") == find_run("outputs", "r") == library / "outputs" / "r"
        assert find_run("a/b", "r") == library / "a" / "b" / "r"
        assert find_run(str(tmp_path), "r") == tmp_path / "r"
    monkeypatch.setenv("FINER1_KIT", str(kit))
    assert find_run(None, "r") == kit / "outputs" / "r"
    monkeypatch.delenv("FINER1_KIT")
    monkeypatch.setattr(finer1_lib, "__file__", str(tmp_path / "site-packages" / "finer1_lib" / "__init__.py"))
    monkeypatch.chdir(other / "notebooks")
    assert find_run(None, "r") == other / "outputs" / "r"  # a wheel: the checkout around
    monkeypatch.chdir(tmp_path)
    assert find_run(None, "r") == tmp_path / "outputs" / "r" and find_checkout(tmp_path) is None


def test_needs_only_name_earlier_stages():
    for stage, needs in NEEDS.items():
        assert all(STAGES.index(need) < STAGES.index(stage) for need in needs)


# --- stages ---


def test_finish_records_what_was_made_and_from_what(tmp_path):
    finished(tmp_path, text="species\n")
    stage = opened(tmp_path, SECOND, shots=4)
    assert stage.input(f"{FIRST}/table.csv").read_text() == "species\n"
    files.atomic_write_text(stage.path("deep/er.txt"), "y")
    files.atomic_write_text(stage.path("checkpoints/step_1.txt"), "scratch")
    stage.finish({"accuracy": 0.5})
    record = json.loads((stage.dir / "stage.json").read_text())
    assert record["parameters"] == {"run_name": "r", "seed": 0, "shots": 4}
    assert record["inputs"] == {
        f"{FIRST}/table.csv": hashing.sha256_file(tmp_path / "r" / FIRST / "table.csv")
    }
    assert set(record["outputs"]) == {"deep/er.txt", "metrics.json"}
    assert set(record["needs"]) == {FIRST}
    assert record["opened"] == 1 and record["seconds"] >= 0 and record["versions"]["python"]
    assert 0.01 < record["peak_memory_gb"]["process"] < 64
    assert not (stage.dir / "checkpoints").exists()
    assert str(tmp_path) not in json.dumps(record)


def test_same_signature_keeps_another_moves_aside(tmp_path):
    stage = opened(tmp_path, shots=4)
    append_jsonl(stage.path("records.jsonl"), 1)
    again = opened(tmp_path, shots=4)
    assert not again.finished and read_jsonl(again.path("records.jsonl")) == [1]
    other = opened(tmp_path, shots=3)
    assert list(other.dir.iterdir()) == [other.dir / "started.json"]
    previous = tmp_path / "r" / f"{FIRST}.previous"
    assert read_jsonl(previous / "records.jsonl") == [1]
    append_jsonl(other.path("records.jsonl"), 2)
    opened(tmp_path, shots=2)
    assert read_jsonl(previous / "records.jsonl") == [2]  # one is kept


def test_a_folder_of_unknown_origin_is_moved_aside(tmp_path):
    (tmp_path / "r" / FIRST).mkdir(parents=True)
    (tmp_path / "r" / FIRST / "mine.txt").write_text("keep me")
    opened(tmp_path)
    assert (tmp_path / "r" / f"{FIRST}.previous" / "mine.txt").read_text() == "keep me"


def test_finished_stage_is_known_and_keeps_its_cost(tmp_path):
    stage = finished(tmp_path)
    first = json.loads((stage.dir / "stage.json").read_text())
    again = opened(tmp_path)
    assert again.finished
    again.finish({"rows": 2, "shown": "more"})
    second = json.loads((stage.dir / "stage.json").read_text())
    assert second["digest"] == first["digest"]  # metrics are for people: later stages stay valid
    assert {key: second[key] for key in ("seconds", "written", "opened")} == {
        key: first[key] for key in ("seconds", "written", "opened")
    }
    (stage.dir / "table.csv").unlink()
    assert not opened(tmp_path).finished  # an output is gone


def test_place_of_results_is_no_part_of_the_signature(tmp_path):
    assert opened(tmp_path / "a").signature == opened(tmp_path / "b").signature
    assert opened(tmp_path / "a").signature != opened(tmp_path / "c", seed=1).signature


def test_a_change_of_the_users_pictures_changes_the_signature(tmp_path):
    photos = tmp_path / "photos" / "wren"
    photos.mkdir(parents=True)
    (photos / "1.jpg").write_bytes(b"1")
    before = opened(tmp_path / "out", image_root=str(tmp_path / "photos")).signature
    assert opened(tmp_path / "out", image_root=str(tmp_path / "photos")).signature == before
    (photos / "2.jpg").write_bytes(b"2")
    assert opened(tmp_path / "out", image_root=str(tmp_path / "photos")).signature != before


def test_missing_changed_and_stale_inputs_name_the_notebook(tmp_path):
    with pytest.raises(UserError, match=f"run notebook {FIRST}"):
        opened(tmp_path, SECOND)
    finished(tmp_path)
    stage = finished(tmp_path, SECOND)
    with pytest.raises(UserError, match=f"{FIRST} again"):
        stage.input(f"{FIRST}/absent.csv")
    assert stage.input(f"{FIRST}/absent.csv", needed=False) == tmp_path / "r" / FIRST / "absent.csv"
    assert stage.inputs == {}
    (tmp_path / "r" / FIRST / "table.csv").write_text("tampered")
    for needed in (True, False):  # what is there is checked all the same
        with pytest.raises(UserError, match="is not what"):
            stage.input(f"{FIRST}/table.csv", needed=needed)
    with pytest.raises(ValueError):
        stage.input(f"{THIRD}/later.csv")
    finished(tmp_path, seed=5, text="other")
    with pytest.raises(UserError, match=f"{SECOND} of run 'r' was made from other inputs"):
        opened(tmp_path, THIRD)


def test_paths_stay_in_the_stage(tmp_path):
    stage = opened(tmp_path)
    for path in ("../x", "/etc/x", "a/../../x", "."):
        with pytest.raises(ValueError, match="leaves"):
            stage.path(path)
    assert stage.path("a/b.txt") == stage.dir / "a" / "b.txt" and (stage.dir / "a").is_dir()


def test_leftovers_of_killed_writers_are_swept(tmp_path):
    stage = opened(tmp_path)
    (stage.dir / ".tmp-abc").mkdir()
    (stage.dir / ".tmp-abc" / "half.png").write_bytes(b"")
    stage.path("deep/x")
    (stage.dir / "deep" / ".tmp-def").write_bytes(b"half")
    opened(tmp_path)
    assert not [file for file in stage.dir.rglob(".tmp-*")]


def test_figure_has_its_numbers_beside_it_and_is_the_same_twice(tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas

    stage = opened(tmp_path)
    data = pandas.DataFrame({"step": [0, 1], "reward": [0.5, 1.0]})
    figure, axes = plt.subplots()
    axes.plot(data["step"], data["reward"])
    file = stage.figure(figure, "reward", data)
    once = file.read_bytes()
    stage.figure(figure, "reward", data)
    plt.close(figure)
    assert file.read_bytes() == once and once.startswith(b"\x89PNG")
    assert (stage.dir / "figures" / "reward.csv").read_text() == "step,reward\n0,0.5\n1,1.0\n"


def test_progress_line(tmp_path, capsys):
    opened(tmp_path).progress(10, 60, "cot_sft", loss=0.12345678, step=3)
    assert capsys.readouterr().out == f"[{FIRST}] cot_sft 10/60 loss 0.1235 step 3\n"


def test_a_stage_in_use_elsewhere_is_refused_and_free_after_a_kill(tmp_path):
    code = (
        "import sys, time\nfrom finer1_lib.runs.stage import Stage\n"
        f"Stage.open({FIRST!r}, dict(run_name='r', output_root={str(tmp_path)!r}, seed=0))\n"
        "print('open', flush=True)\ntime.sleep(60)"
    )
    root = str(Path(runs.__file__).parent.parent)
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=root)
    )
    try:
        other.stdout.readline()
        with pytest.raises(UserError, match=f"in use by process {other.pid}"):
            files.lock(tmp_path / "r" / f".{FIRST}.lock", "it", patience=0.2)
    finally:
        other.kill()
        other.wait()
    assert opened(tmp_path).opened == 2


# --- open_stage: what a notebook's globals hold ---

CELL = """\
notebook = "00_miniature_world"
run_name = "r"  # run
output_root = "{root}"  # root
seed = 0  # seed
rate = 0.5  # rate"""


def test_parameters_are_the_cells_names_with_injected_values(tmp_path):
    cell = CELL.format(root=tmp_path)
    stage = open_stage(play("x = 1", cell, "# Parameters\nrate = 1\nseed = 3", "other = 5"))
    assert stage.parameters == {"run_name": "r", "output_root": str(tmp_path), "seed": 3, "rate": 1.0}
    assert stage.seed == 3


def test_opening_again_later_gives_the_same_stage(tmp_path):
    namespace = play(CELL.format(root=tmp_path))
    first = open_stage(namespace)
    namespace |= {"losses": [1.0], "temperature": object()}
    namespace["In"] += ["losses = []", "%matplotlib inline", "notebook_path = 3"]
    again = open_stage(namespace)
    assert (again.signature, again.opened) == (first.signature, 1)


def test_an_edited_parameters_cell_counts(tmp_path):
    cell = CELL.format(root=tmp_path)
    assert open_stage(play(cell, cell.replace("0.5", "0.25"))).parameters["rate"] == 0.25


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("rte = 1", "did you mean rate"),
        ('rate = "5e-6"', r"write 5\.0e-6"),
        ("seed = True", "whole number"),
        ("seed = 1.5", "whole"),
    ],
)
def test_mistaken_injections_are_refused(tmp_path, injected, message):
    with pytest.raises(UserError, match=message):
        open_stage(play(CELL.format(root=tmp_path), f"# Parameters\n{injected}"))


def test_without_a_parameters_cell():
    with pytest.raises(UserError, match="run the cells from the top"):
        open_stage(play("x = 1"))
    with pytest.raises(UserError, match="Stage.open"):
        open_stage({})


@pytest.mark.parametrize("name", ["", ".", "folder", "file/x.json", "pipe", "x" * 300, "a\0b"])
def test_a_target_that_can_be_no_file_is_refused_before_the_work(tmp_path, monkeypatch, name):
    """A device or a pipe would be replaced by the file: /dev/stdout, /dev/null."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="cannot write to"):
        check_targets(None, name)
    check_targets("file", "new/deep/x.json", None)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Not a directory: .*file/run.*choose another"):
        make_folder(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="File name too long.*choose another"):
        atomic_write_json(tmp_path / ("x" * 300) / "a.json", {})
