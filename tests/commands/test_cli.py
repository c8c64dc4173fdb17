"""The command `finer1`: every mistake is one line and exit code 2; runs end, stop, resume and report.

The notebooks are the toys of `fixture_kit`; processes are real, kernels too. A minute on two idle cores.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fixture_kit
import nbformat
import pytest

from finer1_lib.commands import cli
from finer1_lib.core.errors import UserError
from finer1_lib.evaluation import summary
from finer1_lib.runs import parameters, presets
from finer1_lib.runs.chain import STAGES
from tools import export_release

SHORT = ("--to", "01_data")
SLOW = (*SHORT, "--set", "01_data.steps=12", "--set", "01_data.wait=0.15")
CHECKED = str(fixture_kit.CHECKOUT / "notebooks" / "03_tapo.ipynb")  # a notebook with exercises


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    return fixture_kit.build(tmp_path_factory.mktemp("kit"))


@pytest.fixture
def command(kit, monkeypatch, capsys):
    """Call main() in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("FINER1_KIT", str(kit))
    monkeypatch.chdir(kit)
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["finer1", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


def one_line(error: str) -> bool:
    return error.startswith("finer1: ") and error.endswith("\n") and error.count("\n") == 1


MISTAKES = [
    (("run", "miniture"), "unknown preset 'miniture': the presets are toy"),
    (("run", "toyy"), "unknown preset 'toyy': did you mean toy?"),
    (("run", "../params/toy"), "unknown preset"),
    (("run", "toy", "--set", "03_tapo.stepz=3"), "no parameter 'stepz': did you mean steps?"),
    (("run", "toy", "--set", "03_tapo.steps=many"), "03_tapo.steps must be a whole number, not 'many'"),
    (("run", "toy", "--set", "03_tapo.steps=1.5"), "must be a whole number"),
    (("run", "toy", "--set", "03_tapo.flag=1"), "must be true or false"),
    (("run", "toy", "--set", "03_tapo.rate=fast"), "must be a number"),
    (("run", "toy", "--set", "03_tap.steps=3"), "unknown stage '03_tap': did you mean 03_tapo?"),
    (("run", "toy", "--set", "steps=3"), "write STAGE.KEY=VALUE"),
    (("run", "toy", "--set", "03_tapo.run_name=x"), "use --run-name"),
    (("run", "toy", "--set", "01_data.image_root=nowhere"), "does not exist"),
    (("run", "toy", "--set", "01_data.image_root=~no_such_user/x"), "does not exist"),
    (("run", "toy", "--set", f"01_data.image_root={'x' * 5000}"), "does not exist"),
    (("run", "toy", "--from", "03_tapo", "--set", "01_data.steps=3"), "has no effect"),
    (("run", "toy", "--from", "07_more"), "unknown stage"),
    (("run", "toy", "--to", "tapo"), "--to tapo: unknown stage"),
    (("run", "toy", "--from", "04_evaluation", "--to", "02_cot_sft"), "comes after"),
    (("run", "toy", "--from", "02_cot_sft"), "has not finished 00_miniature_world, 01_data"),
    (("run", "toy", "--output-root", "taken"), "is a file"),
    (("run", "toy", "--output-root", "taken/below"), "is a file"),
    (("run", "toy", "--run-name", "../elsewhere"), "run name '../elsewhere'"),
    (("run", "toy", "--run-name", ".."), "run name '..'"),
    (("run", "toy", "--run-name", "a/b"), "run name 'a/b'"),
    (("run", "toy", "--seed", "one"), "--seed"),
    (("run", "toy", "--seed", "-1"), "seed must be from 0 to 2147483647, not -1"),
    (("run", "toy", "--seed", "2147483648"), "seed must be from 0 to 2147483647"),
    (("run", "toy", "--set", "03_tapo.steps=0"), "steps must be 1 or more, not 0"),
    (("run", "toy", "--set", "03_tapo.wait=-0.5"), "wait must be 0 or more, not -0.5"),
    (("run", "toy", "--set", "03_tapo.rate=nan"), "rate must be 0 or more, not nan"),
    (("run", "toy", "--set", "03_tapo.rate=inf"), "rate must be 0 or more, not inf"),
    (("run", "toy", "--set", "03_tapo.names=" + 20_000 * "["), "is not a value"),
    (("run", "toy", "--set", "03_tapo.names=[[1]]"), "names[0] must be text"),
    (("run", "toy", "--set", "03_tapo.names=[a\udce4]"), "is not UTF-8"),
    (("run", "toy", "--output-root", "bild\udce4er"), "output root: "),
    (("run", "toy", "--run-name", "bild\udce4er"), "run name 'bild\\udce4er'"),
    (("run", "toy", "--run-name", "x" * 256), "has 256 characters: use at most 100"),
    (("run", "toy", "--run-name", "NUL.txt"), "cannot be a folder on Windows"),
    (("run", "toy", "--sed", "1"), "No such option: --sed"),
    (("run",), "Missing argument"),
    (("rum",), "No such command"),
    (("lesson",), "unknown preset 'miniature': the presets are toy"),
    (("lesson", "--preset", "toy"), "No such option: --preset"),
    (("student-copy", "03_tapo"), "Missing option '--to'"),
    (("student-copy", "03_tap", "--to", "copies"), "no notebook '03_tap' here: did you mean 03_tapo?"),
    (("student-copy", "taken", "--to", "copies"), "taken is not a notebook"),
    (("student-copy", "--to", "copies"), "has no cell tagged `solution`"),
    (("student-copy", CHECKED, "--to", "taken"), "nothing can be read or written there as it is (taken)"),
    (("benchmark", "toy", "--repeats", "0"), "run it from a checkout of the kit"),
    (("benchmark-triplets",), "run it from a checkout of the kit"),
    (("benchmark-evaluation", "--help"), "run it from a checkout of the kit"),
    (("compare",), "Missing argument"),
    (("compare", "nowhere"), "has not finished 04_evaluation"),
    (("compare", "../up"), "run name '../up'"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words)[:60] for words, _ in MISTAKES])
def test_mistakes_are_one_line_and_exit_code_2(command, kit, words, message):
    (kit / "taken").write_text("")
    code, out, error = command(*words)
    assert code == 2 and one_line(error), error
    assert message in error
    assert not (kit / "outputs").exists() or not list((kit / "outputs").iterdir())  # nothing was begun


PRESET_MISTAKES = [
    ("03_tapo.yaml", "stepz: 3", "03_tapo.yaml: the notebook has no parameter 'stepz': did you mean steps?"),
    ("03_tapo.yaml", "rate: 5e-6", "must be a number, not the text '5e-6'; write 5.0e-6"),
    ("03_tapo.yaml", "steps: true", "must be a whole number, not true"),
    ("03_tapo.yaml", "steps: 2.0", "must be a whole number, not 2.0"),
    ("03_tapo.yaml", "flag: 0", "must be true or false, not 0"),
    ("03_tapo.yaml", "names: [1]", "names[0] must be text, not 1"),
    ("03_tapo.yaml", "names: a", "names must be a list"),
    ("03_tapo.yaml", "image_root:", "must be text, not nothing (null)"),
    ("03_tapo.yaml", "run_name: x", "set it in params/bad/common.yaml"),
    ("03_tapo.yaml", "- a", "must hold lines `key: value`"),
    ("03_tapo.yaml", "a: [", "is not YAML"),
    ("03_tapo.yaml", "steps: 1\nrate: 2.0\nsteps: 2", "has the key 'steps' twice (line 3): remove one"),
    ("03_tapo.yaml", "names: " + 20_000 * "[", "is nested too deeply to be read"),
    ("03_tapo.yaml", "names: " + 20_000 * "{a: ", "is nested too deeply to be read"),
    ("03_tapo.yaml", b"steps: 2\nimage_root: bild\xe4er", "line 2 is not UTF-8: save it as UTF-8"),
    ("03_tapo.yaml", "rate: 2024-13-45", "is not YAML"),
    ("03_tapo.yaml", "seed: 1\nsteps: 010", "010 (line 2) is another number in YAML, of base 8 or 60"),
    ("03_tapo.yaml", "steps: 1:30", "1:30 (line 1) is another number in YAML, of base 8 or 60"),
    ("03_tapo.yaml", "rate: 1:30.5", "1:30.5 (line 1) is another number in YAML, of base 8 or 60"),
    ("03_tapo.yaml", "steps: 1000000000000000000000", "steps must be at most 2147483647, not 1000000000000000000000"),
    ("03_tapo.yaml", "flag: &a [x, x, x]\nnames: [[*a, *a], [*a, *a]]", "flag must be true or false, not ['x'"),
    ("03_tapo.yaml", "rate: .nan", "rate must be 0 or more, not nan"),
    ("03_tapo.yaml", "steps: -2", "steps must be 1 or more, not -2"),
    ("03_tapo.yaml", 'image_root: "bild\\udce4er"', "is not UTF-8"),
    ("03_tappo.yaml", "steps: 1", "belongs to no notebook: did you mean 03_tapo?"),
    ("common.yaml", "sead: 1", "common.yaml: the notebook has no parameter 'sead': did you mean seed?"),
    ("common.yaml", "seed: x", "seed must be a whole number"),
    ("common.yaml", "run_name: ../up", "run name '../up'"),
]


@pytest.mark.parametrize(("file", "text", "message"), PRESET_MISTAKES,
                         ids=[f"{f} {t[:30]}" for f, t, _ in PRESET_MISTAKES])
def test_mistakes_in_a_preset(command, tmp_path, monkeypatch, file, text, message):
    fixture_kit.build(tmp_path)
    (tmp_path / "params" / "bad").mkdir()
    (tmp_path / "params" / "bad" / file).write_bytes((text.encode() if isinstance(text, str) else text) + b"\n")
    monkeypatch.setenv("FINER1_KIT", str(tmp_path))
    code, _, error = command("run", "bad")
    assert code == 2 and one_line(error) and message in error, error


def test_without_a_kit_it_says_so(command, monkeypatch, tmp_path):
    monkeypatch.setenv("FINER1_KIT", str(tmp_path))
    code, _, error = command("run", "toy")
    assert code == 2 and one_line(error) and "run finer1 from a checkout" in error


def test_a_closed_stdout_stops_nothing(kit):
    code = "import sys; sys.stdout = None; sys.argv[1:] = ['list']; from finer1_lib.commands.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=fixture_kit.environment(kit), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_starts_without_heavy_libraries():
    code = ("import sys\nsys.argv = ['finer1', '--help']\nfrom finer1_lib.commands.cli import app\n"
            "app(standalone_mode=False)\nheavy = {'torch', 'pandas', 'numpy', 'transformers', 'pydantic'}\n"
            "assert not heavy & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "benchmark-triplets" in done.stdout


def test_the_benchmarks_show_the_scripts_own_options(command, monkeypatch):
    monkeypatch.setenv("FINER1_KIT", str(fixture_kit.CHECKOUT))
    for name, option in (("", "--backend"), ("-triplets", "--embeddings"), ("-evaluation", "--larger-tokens")):
        code, out, error = command(f"benchmark{name}", "--help")
        assert (code, error) == (0, "") and option in out and f"finer1 benchmark{name}" in out
    code, _, error = command("benchmark", "no-such-run", "--repeats", "2")
    assert code == 2 and one_line(error) and "has not finished 03_tapo" in error


def test_help_and_list(command):
    code, out, _ = command("run", "--help")
    assert code == 0
    for words in ("--run-name", "--output-root", "--from", "--to", "--set", "--seed", "STAGE.KEY=VALUE",
                  "finer1 run miniature"):
        assert words in out
    code, out, _ = command("list")
    assert code == 0 and "toy" in out and all(stage in out for stage in STAGES)
    code, out, _ = command("list", "toy")
    assert code == 0 and "records to write" in out and "5e-06" in out


# --- teaching, and the paper's numbers ---


def test_a_lesson_says_what_to_open_next(command, kit, monkeypatch):
    from finer1_lib.teaching import lesson

    (kit / "params" / "miniature").mkdir()
    asked = []

    def make_lesson(plan, reference, say):
        asked.append((plan.run_dir, reference))
        say("01_data done")
        return [plan.run_dir / "04_evaluation.ipynb", plan.run_dir / "05_probing.ipynb"]

    monkeypatch.setattr(lesson, "make_lesson", make_lesson)
    try:
        code, out, error = command("lesson", "--run-name", "monday")
    finally:
        (kit / "params" / "miniature").rmdir()
    assert (code, error) == (0, "") and asked == [(kit / "outputs" / "monday", kit / "outputs" / "reference")]
    assert "0:00  01_data done" in out and "jupyter lab outputs/monday/04_evaluation.ipynb" in out
    assert "finer1 run miniature --run-name monday --from 04_evaluation\n" in out
    again = next(line.split() for line in out.splitlines() if "student-copy" in line)
    copies = ["outputs/monday/04_evaluation.ipynb", "outputs/monday/05_probing.ipynb"]
    assert again[1:] == ["student-copy", *copies, "--to", "outputs/monday/students"]


def test_a_student_copy_is_named_and_kept_unless_forced(command, tmp_path):
    target = tmp_path / "class" / "03_tapo.ipynb"
    code, out, error = command("student-copy", CHECKED, "--to", str(target.parent))
    assert (code, out, error) == (0, f"{target}\n", "") and "One solution" not in target.read_text()
    code, _, error = command("student-copy", CHECKED, "--to", str(target.parent))
    assert code == 2 and one_line(error) and "--force replaces it" in error
    assert command("student-copy", CHECKED, "--to", str(target.parent), "--force")[0] == 0


def test_compare_hands_both_runs_on(command, kit, monkeypatch):
    from finer1_lib.paper import comparison as paper_comparison

    (kit / "outputs/ours").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(paper_comparison, "comparison_table", lambda *runs: list(runs))
    monkeypatch.setattr(paper_comparison, "compare_lines", lambda table: f"compared {table}")
    monkeypatch.setattr(paper_comparison, "to_csv", lambda table: "a,b\n")
    code, out, _ = command("compare", "ours", "--released", "theirs")
    assert code == 0 and out.startswith(f"compared {[kit / 'outputs' / 'ours', kit / 'outputs' / 'theirs']}\n")
    assert (kit / "outputs/ours/comparison.csv").read_text() == "a,b\n"
    code, out, _ = command("compare", "ours", "--to", str(kit / "mine/table.csv"))
    assert code == 0 and out.startswith(f"compared {[kit / 'outputs' / 'ours', None]}\n")
    assert (kit / "mine/table.csv").read_text() == "a,b\n"
    code, _, error = command("compare", "ours", "--to", str(kit / "mine"))
    assert code == 2 and one_line(error) and "cannot write to" in error


def test_runs_are_found_from_any_folder_and_a_typed_root_counts_from_here(command, kit, tmp_path, monkeypatch):
    from finer1_lib.paper import comparison as paper_comparison

    monkeypatch.chdir(tmp_path)

    def refused(run, released):
        raise UserError(f"no run {run}")

    monkeypatch.setattr(paper_comparison, "comparison_table", refused)
    assert command("compare", "ours")[2].endswith(f"no run {kit / 'outputs' / 'ours'}\n")
    assert command("compare", "ours", "--output-root", "mine")[2].endswith(f"no run {tmp_path / 'mine' / 'ours'}\n")
    assert str(kit / "outputs" / "r" / "04_evaluation") in command("rescore", "r")[2]
    assert str(tmp_path / "mine" / "r") in command("rescore", "r", "--output-root", "mine")[2]
    with pytest.raises(UserError, match="01_data is not finished") as caught:  # the scripts find runs by the same rule
        export_release.data_of("r", None)
    assert str(kit / "outputs" / "r" / "01_data") in str(caught.value)
    assert presets.make_plan(kit, "toy").run_dir == kit / "outputs" / "toy"


# --- plans ---


def test_later_settings_win_and_types_are_the_cells(kit, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    settings = ["02_cot_sft.rate=1e-4", "03_tapo.rate=1", "03_tapo.names=x,y", "04_evaluation.names=[z]",
                "03_tapo.flag=true", "01_data.image_root=photos", "01_data.fault=a=b.c", "05_probing.seed=9"]
    plan = presets.make_plan(kit, "toy", output_root="results", seed=7, settings=settings)
    assert plan.run_dir == tmp_path / "results" / "toy"
    assert plan.parameters["02_cot_sft"]["rate"] == 1e-4
    assert repr(plan.parameters["03_tapo"]["rate"]) == "1.0"
    assert plan.parameters["03_tapo"]["names"] == ["x", "y"]
    assert plan.parameters["04_evaluation"]["names"] == ["z"]
    assert plan.parameters["03_tapo"]["flag"] is True
    assert plan.parameters["01_data"]["image_root"] == str(tmp_path / "photos")
    assert plan.parameters["01_data"]["fault"] == "a=b.c"
    assert [plan.parameters[stage]["seed"] for stage in STAGES] == [7, 7, 7, 7, 7, 9]
    assert presets.make_plan(kit, "toy").parameters["02_cot_sft"]["rate"] == 5.0e-6
    assert presets.make_plan(kit, "toy").parameters["00_miniature_world"]["seed"] == 0


def test_parameters_cell_is_read_with_types_and_help():
    found = parameters.parse_parameters(
        '"""Values."""\nfrom typing import Optional\nlayers: Optional[int] = None  # which\n'
        "scale = 2.0  # how much"
    )
    assert found["layers"].kind is int and found["layers"].optional and found["layers"].help == "which"
    assert parameters.check_parameters({"layers": None, "scale": 3}, found, "here") == {"layers": None, "scale": 3.0}
    assert parameters.from_text("null", found["layers"], "here") is None
    with pytest.raises(UserError, match="here: layers must be a whole number"):
        parameters.check_parameters({"layers": 1.5}, found, "here")
    for logic in ("x = 1 + y", "for x in []:\n    pass", "x = y = 1", "x, y = 1, 2", "x = ("):
        with pytest.raises(UserError, match="parameters cell"):
            parameters.parse_parameters(logic)


def test_summary_rows_are_compared_with_the_contract():
    row = dict.fromkeys(summary.KEYS) | {"model": "base", "categories": "seen", "value": 0.5}
    assert summary.check_rows([row], "x") == [row]
    for wrong in ({**row, "extra": 1}, {**row, "model": "gpt"}, {**row, "categories": "both"}, {"model": "base"}, 3):
        with pytest.raises(ValueError, match="x, row 0"):
            summary.check_rows([wrong], "x")
    assert summary.percent(row) == "50.0"
    assert summary.percent({**row, "low": 0.4, "high": 0.625}) == "50.0 [40.0, 62.5]"


# --- whole runs ---


WHOLE = ("run", "toy", "--run-name", "whole", "--set", "00_miniature_world.names=<script>alert(1)</script>")


@pytest.fixture(scope="module")
def whole(kit) -> tuple[Path, int, str, str]:
    """One whole chain: its run folder and what the command said."""
    return kit / "outputs" / "whole", *fixture_kit.finer1(kit, *WHOLE)


def test_a_whole_run_ends_in_table_summary_and_report(whole):
    run_dir, code, out, error = whole
    assert (code, error) == (0, ""), error
    for number, stage in enumerate(STAGES, start=1):
        assert f"{number}/6 {stage} begins" in out and f"{number}/6 {stage} done in" in out
        assert f"[{stage}] counting 2/2 rate" in out
        assert (run_dir / f"{stage}.ipynb").is_file()
        assert json.loads((run_dir / stage / "stage.json").read_text())["stage"] == stage
    assert "not a progress line" not in out
    rows = json.loads((run_dir / "summary.json").read_text())
    assert len(rows) == 4 and set(rows[0]) == set(summary.KEYS)
    report = (run_dir / "report.html").read_text()
    assert "50.0 [25.0, 75.0]" in report and "50.0 [25.0, 75.0]" in out and "CoT SFT" in out
    assert "data:image/png;base64,iVBOR" in report
    assert "<script>alert" not in report and "&lt;script&gt;alert(1)" in report
    assert out.rstrip().endswith("report.html")
    assert not list(run_dir.glob("*.running.ipynb")) and not list(run_dir.glob(".*.kernel.log"))


def test_the_executed_notebook_is_clean_and_used_this_interpreter(whole):
    executed = nbformat.read(whole[0] / "02_cot_sft.ipynb", as_version=4)
    injected = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert len(injected) == 1 and "rate = 5e-06" in injected[0].source
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert all(output.output_type == "stream" and output.name == "stdout" for output in outputs)


def test_again_is_skipped_and_a_change_runs_what_depends_on_it(kit, whole):
    code, out, _ = fixture_kit.finer1(kit, *WHOLE)
    assert code == 0 and out.count("skipped") == 6 and "report.html" in out
    code, out, _ = fixture_kit.finer1(kit, *WHOLE, "--set", "04_evaluation.steps=3")
    assert code == 0 and out.count("skipped") == 4
    assert "[04_evaluation] new" in out and "[05_probing] new" in out
    assert (whole[0] / "04_evaluation.previous" / "stage.json").is_file()
    assert {row["n"] for row in json.loads((whole[0] / "summary.json").read_text())} == {3}


def test_a_users_mistake_in_a_notebook(kit):
    words = ("run", "toy", "--run-name", "user", *SHORT)
    code, out, error = fixture_kit.finer1(kit, *words, "--set", "01_data.fault=user")
    assert code == 2 and one_line(error)
    assert error == "finer1: 01_data: the image wren.png is truncated: save it again\n"
    assert "02_cot_sft" not in out
    code, out, error = fixture_kit.finer1(kit, *words)  # mended: goes on, and the failed copy is gone
    assert (code, error) == (0, "") and "00_miniature_world finished earlier" in out
    assert not (kit / "outputs" / "user" / "01_data.failed.ipynb").exists()
    assert not (kit / "outputs" / "user" / "report.html").exists() and "stopped after 01_data" in out


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("ours", ("failed in cell 4", "ValueError: a fault of the kit", 'raise ValueError("a fault of the kit")')),
        ("kernel", ("its kernel died",)),
        ("unfinished", ("ended without stage.finish",)),
    ],
)
def test_a_fault_of_the_kit_is_a_short_report(kit, fault, words):
    code, _, error = fixture_kit.finer1(kit, "run", "toy", "--run-name", fault, "--to", "00_miniature_world",
                                        "--set", f"00_miniature_world.fault={fault}")
    assert code == 1 and error.startswith("finer1: ") and error.count("\n") <= 4, error
    assert "Traceback" not in error
    assert all(word in error for word in words), error
    if fault != "unfinished":
        named = Path(error.partition("executed notebook: ")[2].splitlines()[0])
        assert named.name == "00_miniature_world.failed.ipynb"
        assert nbformat.read(named, as_version=4).cells


def children(pid: int) -> list[int]:
    """Process ids whose parent is `pid`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(state[1]) == pid and state[0] != "Z":
            found.append(int(folder.name))
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stop_in_the_middle(kit: Path, name: str, how: signal.Signals) -> tuple[int, str, list[int]]:
    """Start a run that takes long in 01_data and stop it there: exit code, stderr, its kernels' ids."""
    process = fixture_kit.start(kit, "run", "toy", "--run-name", name, *SLOW)
    for line in process.stdout:
        if "[01_data] counting 4/12" in line:
            break
    kernels = children(process.pid)
    assert kernels
    os.killpg(process.pid, how)  # as a terminal does: the whole foreground group
    _, error = process.communicate(timeout=300)
    return process.returncode, error, kernels


def gone(kernels: list[int], patience: float = 60.0) -> bool:
    deadline = time.monotonic() + patience
    while any(alive(kernel) for kernel in kernels) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(alive(kernel) for kernel in kernels)


posix = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")


@posix
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_stopped_anyhow_no_kernel_stays_and_the_same_command_goes_on(kit, how, code):
    name = f"stopped{code}"
    ended, error, kernels = stop_in_the_middle(kit, name, how)
    assert ended == code
    if how != signal.SIGKILL:
        assert one_line(error) and "interrupted" in error
    # at once: a dying kernel must not disturb it
    ended, out, error = fixture_kit.finer1(kit, "run", "toy", "--run-name", name, *SLOW)
    assert (ended, error) == (0, "")
    assert gone(kernels)
    assert "00_miniature_world finished earlier" in out and "[01_data] resuming" in out
    assert "counting 3/12" not in out and "counting 12/12" in out  # no step twice
    records = (kit / "outputs" / name / "01_data" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in records] == list(range(12))
    assert json.loads((kit / "outputs" / name / "01_data" / "stage.json").read_text())["opened"] == 2


def test_two_commands_on_one_run(kit):
    process = fixture_kit.start(kit, "run", "toy", "--run-name", "twice", *SHORT, "--set", "00_miniature_world.wait=3")
    try:
        next(line for line in process.stdout if "counting" in line)
        code, _, error = fixture_kit.finer1(kit, "run", "toy", "--run-name", "twice")
        assert code == 2 and one_line(error) and "is in use by process" in error
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
