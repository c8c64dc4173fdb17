"""Runs on other people's machines: another user, read-only folders, full disks, mounts that refuse, Windows.

Another user is a real one (the tests' process takes another id for a moment), so that part needs root; the
full disk is /dev/full, whose writes end in the system's own error.
"""

import errno
import fcntl
import json
import os
import signal
import stat
import sys
from contextlib import contextmanager
from pathlib import Path

import fixture_kit
import pytest
from stage_cases import opened, release_locks

from finer1_lib.commands import cli
from finer1_lib.commands.report.page import finish_run
from finer1_lib.core import files
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import read_jsonl
from finer1_lib.probing import features as states
from finer1_lib.runs import chain, presets
from finer1_lib.runs.runner import run_chain
from finer1_lib.runs.stage import Stage
from finer1_lib.teaching import lesson

FIRST, SECOND = chain.STAGES[:2]
TOY = chain.STAGES[:5]  # up to the first stage whose rows make a report
OTHER, GROUP = 54321, 54322


@pytest.fixture
def umask():
    """Set the umask for a test: umask(0o002)."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@contextmanager
def another_user(folder: Path, group: int = OTHER):
    """Be another user, in one group alone; `folder` and what is above it can be passed through."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user for a moment")
    for above in (folder, *folder.parents):
        if above.owner() == "root" and above != Path("/") and above.is_relative_to("/tmp"):
            above.chmod(above.stat().st_mode | 0o011)
    groups, own = os.getgroups(), os.getgid()
    os.setgroups([])
    os.setresgid(group, group, own)
    os.setresuid(OTHER, OTHER, 0)  # the saved id is the way back
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(own, own, own)
        os.setgroups(groups)


def finished(root, name=FIRST, **values):
    stage = opened(root, name, **values)
    files.atomic_write_text(stage.path("table.csv"), "x")
    with files.atomic_directory(stage.path("adapter")) as folder:
        (folder / "weights").write_text("w")
    files.append_jsonl(stage.path("records.jsonl"), 1)
    stage.finish({"rows": 1})
    return stage


# --- rights ---


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]
)
def test_new_files_and_folders_have_the_rights_that_the_umask_gives(tmp_path, umask, mask, file, folder):
    umask(mask)
    finished(tmp_path / "runs")
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "runs").rglob("*")}
    assert len(found) >= 9
    assert {mode for path, mode in found.items() if path.is_file()} == {file}
    assert {mode for path, mode in found.items() if path.is_dir()} == {folder}


def test_a_member_of_the_group_goes_on_with_a_shared_run(tmp_path, umask):
    umask(0o002)
    root = tmp_path / "runs"
    finished(root)
    files.append_jsonl(opened(root, SECOND).path("records.jsonl"), 1)
    release_locks()
    (root / "r" / f".{SECOND}.lock").chmod(0o644)  # of an older version, or of another umask
    for path in (root, *root.rglob("*")):
        os.chown(path, 0, GROUP) if os.geteuid() == 0 else None
    with another_user(root, GROUP):
        stage = opened(root, SECOND)
        assert stage.opened == 2 and stage.input(f"{FIRST}/table.csv").read_text() == "x"
        with pytest.raises(UserError, match="in use by process"):
            files.lock(root / "r" / f".{SECOND}.lock", "it", patience=0.1)
        files.append_jsonl(stage.path("records.jsonl"), 2)
        stage.finish({})
    assert (root / "r" / SECOND / "records.jsonl").read_text() == "1\n2\n"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A toy kit with a finished run: (kit, its plan)."""
    kit = fixture_kit.build(tmp_path_factory.mktemp("kit"))
    plan = presets.make_plan(kit, "toy")
    assert run_chain(plan, TOY, lambda line: None, finish=finish_run)
    return kit, plan


def test_a_finished_run_of_somebody_else_is_read_without_a_write_or_a_lock(toy, umask):
    _, plan = toy
    before = {path: path.stat().st_mtime_ns for path in plan.run_dir.rglob("*")}
    holder = os.open(plan.run_dir / ".run.lock", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)  # somebody who works on it is no reason to wait
    said = []
    try:
        with another_user(plan.run_dir):
            report = run_chain(plan, TOY, said.append, finish=finish_run)
            assert Stage.open(FIRST, {"run_name": "toy", "output_root": str(plan.run_dir.parent),
                                      **{key: value for key, value in plan.parameters[FIRST].items()
                                         if key not in ("notebook", "run_name", "output_root")}}).finished
    finally:
        os.close(holder)
    assert report == plan.run_dir / "report.html" and sum("skipped" in line for line in said) == len(TOY)
    assert "may not be written" in said[-1]
    assert {path: path.stat().st_mtime_ns for path in plan.run_dir.rglob("*")} == before


def test_what_is_due_in_somebody_else_s_run_is_one_line(toy):
    kit, plan = toy
    other = presets.make_plan(kit, "toy", seed=3)
    with another_user(plan.run_dir):
        with pytest.raises(UserError, match="you may not read or write there") as raised:
            run_chain(other, TOY, lambda line: None)
        assert "--run-name" in str(raised.value) and str(plan.run_dir) in str(raised.value)
        with pytest.raises(UserError, match="you may not read or write there"):
            opened(plan.run_dir.parent, seed=4)


def test_a_mount_that_refuses_chmod_is_no_hindrance(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for name in ("chmod", "fchmod", "lchmod"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    finished(tmp_path)
    assert opened(tmp_path).finished
    reference = tmp_path / "reference"
    finished(reference)
    with files.atomic_directory(tmp_path / "l" / FIRST):
        pass
    (reference / "r").rename(reference / "kept")
    lesson._import_stage(tmp_path / "l", reference / "kept", FIRST)
    assert (tmp_path / "l" / FIRST / "adapter" / "weights").read_text() == "w"


# --- a full disk ---

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FULL, "are free"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "your quota is used up"),
        (OSError(errno.ENOSPC, "No space left on device", "/nowhere/below/x"), "the disk of / is full"),
        (RuntimeError("Error while serializing: No space left on device (os error 28)"), "are free"),
        (OSError("[WinError 112] There is not enough space on the disk"), "are free"),
        (PermissionError(errno.EACCES, "Permission denied", "/r/x"), "'/r/x': you may not"),
        (OSError(errno.EROFS, "Read-only file system", "/r/x"), "you may not read or write there"),
        (OSError(errno.EIO, "Input/output error", "/r/x"), "'/r/x': nothing can be read or written there as it is"),
        (OSError(errno.ESTALE, "Stale file handle", "/r/x"), "remove or repair it"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG), "/r/x"), "nothing can be read or written there as it is"),
        (OSError(errno.EBUSY, os.strerror(errno.EBUSY), "/r/x"), "nothing can be read or written there as it is"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/r/x"), "see what is there"),
    ],
)
def test_the_line_says_what_to_do_and_what_is_kept(tmp_path, error, words):
    folder = Path("/nowhere/below") if "/nowhere" in str(error) else tmp_path
    line = files.system_line(str(error), folder)
    assert words in line and "\n" not in line and len(line) < 400
    if "is full" in line:
        assert "make room" in line and "is kept" in line and "same command goes on" in line


def test_other_errors_are_left_to_be_seen_in_full(tmp_path):
    for error in (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), ValueError("a fault")):
        assert files.system_line(str(error), tmp_path) is None
    with pytest.raises(FileNotFoundError), files.one_line_for_the_system(tmp_path):
        (tmp_path / "absent").read_text()


def test_no_inodes_are_said(tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)
    values = list(real)
    values[7] = 0  # f_favail
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(values))
    if real.f_files:  # some file systems have no fixed number
        assert " MB and 0 inodes, one for each file, are free" in files.system_line(str(FULL), tmp_path)


@pytest.mark.parametrize("write", [
    lambda path: files.atomic_write_text(path, "new"), lambda path: files.append_jsonl(path, "new"),
])  # fmt: skip
def test_a_full_disk_leaves_what_was_there_and_names_the_file(tmp_path, monkeypatch, write):
    target = tmp_path / "records.jsonl"
    files.append_jsonl(target, 1)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=f"the disk of {tmp_path} is full"), \
            files.one_line_for_the_system(Path("/elsewhere")):
        write(target)
    assert files.read_jsonl(target)[0] == 1 and not list(tmp_path.glob(".tmp-*"))


def test_an_older_folder_stays_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    files.atomic_write_text(tmp_path / "d" / "old", "o")
    replace, calls = os.replace, []

    def second_fails(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError), files.atomic_directory(tmp_path / "d") as new:
        (new / "new").write_text("n")
    assert len(calls) == 3 and [file.name for file in tmp_path.rglob("*")] == ["d", "old"]


def test_states_that_find_no_room_are_an_error_and_no_dead_kernel(tmp_path, monkeypatch):
    numpy = pytest.importorskip("numpy")
    states.save_states(tmp_path / "part.npy", numpy.zeros((1, 2, 3, 4), "float32"), "float32")
    states.join_parts([tmp_path / "part.npy"] * 2, 0, tmp_path / "joined.npy")
    assert states.load_array(tmp_path / "joined.npy").shape == (2, 6, 4)

    def full(descriptor, start, size):
        assert size > 2 * 6 * 4 * 4
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        states.join_parts([tmp_path / "part.npy"] * 2, 0, tmp_path / "again.npy")
    assert not (tmp_path / "again.npy").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_ends_a_run_in_one_line_from_kernel_runner_and_command(toy, monkeypatch, capsys):
    kit, plan = toy
    words = ("run", "toy", "--run-name", "full", "--to", SECOND)
    code, out, err = fixture_kit.finer1(kit, *words, "--set", f"{SECOND}.fault=full")
    line = "finer1: 01_data: the disk of"
    assert code == 2 and err.startswith(line) and err.count("\n") == 1 and "same command goes on" in err
    failed = json.loads((kit / "outputs" / "full" / f"{SECOND}.failed.ipynb").read_text())
    outputs = [output for cell in failed["cells"] for output in cell.get("outputs", ())]
    shown = [output for output in outputs if "traceback" in output]
    assert [len(output["traceback"]) for output in shown] == [1] and "is full" in shown[0]["traceback"][0]
    # the runner's own writes: papermill saves the notebook after every cell
    (kit / "outputs" / "full" / f"{SECOND}.running.ipynb").symlink_to("/dev/full")
    code, out, err = fixture_kit.finer1(kit, *words)
    assert code == 2 and err.startswith("finer1: the disk of") and err.count("\n") == 1, err
    code, out, err = fixture_kit.finer1(kit, *words)
    assert code == 0 and f"{FIRST} finished earlier" in out  # room was made: the same command goes on
    # any other command
    monkeypatch.setattr(signal_free(monkeypatch), "argv", ["finer1", "list"])
    monkeypatch.setattr(cli, "list_presets", lambda kit: (_ for _ in ()).throw(FULL))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("finer1: the disk of") and err.count("\n") == 1


def signal_free(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return sys


def test_missing_rights_in_a_notebook_are_one_line(toy):
    kit, _ = toy
    code, out, err = fixture_kit.finer1(kit, "run", "toy", "--run-name", "rights", "--to", FIRST,
                                        "--set", f"{FIRST}.fault=rights")  # fmt: skip
    assert code == 2 and "you may not read or write there" in err and err.count("\n") == 1, err


# --- Windows as far as files go: no os.sync, no handle of a folder, no flush through one that only reads ---


def test_files_are_flushed_while_they_can_be_written(tmp_path, monkeypatch):
    open_file, flush, flushed = os.open, os.fsync, []

    def windows_open(path, flags, *rest, **named):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, flags, *rest, **named)

    def windows_flush(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        flush(descriptor)

    monkeypatch.setattr(os, "open", windows_open)
    monkeypatch.setattr(os, "fsync", windows_flush)
    monkeypatch.delattr(os, "sync")
    with files.atomic_directory(tmp_path / "adapter") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights.safetensors").write_bytes(b"w")
        for number in range(120):
            (folder / f"{number}.png").write_bytes(b"p")
    assert "weights.safetensors" in flushed and "119.png" in flushed
    files.atomic_write_text(tmp_path / "x", "y")
    files.append_jsonl(tmp_path / "z", 1)
    assert read_jsonl(tmp_path / "z") == [1]


def test_a_mount_that_flushes_no_folder(tmp_path, monkeypatch):
    flush = os.fsync

    def mount(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", mount)
    with files.atomic_directory(tmp_path / "adapter") as folder:
        (folder / "deep").mkdir()
    assert (tmp_path / "adapter" / "deep").is_dir()
