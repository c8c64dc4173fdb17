"""What a shell or a user's settings leave around a run: kept out of kernels, notebooks and results."""

import json
import os
import subprocess
import sys

import fixture_kit
import pytest
from hypothesis import given, strategies as st

from finer1_lib.core.errors import UserError
from finer1_lib.runs import chain, provenance

LAUNCHED = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "2950",
            "ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2",
            "TORCHELASTIC_RUN_ID": "x", "OMPI_COMM_WORLD_SIZE": "1"}  # fmt: skip
SETTINGS = {"MPLBACKEND": "module://google.colab._backend_agg", "PYTHONSTARTUP": "/nowhere.py",
            "PYTHONOPTIMIZE": "1", "MATPLOTLIBRC": "/nowhere/matplotlibrc"}  # fmt: skip


def test_a_kernel_s_environment_keeps_what_a_run_needs_and_names_what_is_left_out():
    needed = {"PATH": "/bin", "HF_HOME": "/models", "CUDA_VISIBLE_DEVICES": "1", "OPENAI_API_KEY": "secret"}
    clean = provenance.cleaned({**needed, **LAUNCHED, **SETTINGS})
    assert clean.items() >= needed.items()
    left_out = clean.keys() - needed.keys()
    assert left_out == {"FINER1_LEFT_OUT"}
    assert clean["FINER1_LEFT_OUT"].split(",") == sorted({**LAUNCHED, **SETTINGS})
    assert provenance.cleaned(clean) == clean  # a notebook's own set-up cell finds nothing more


@given(st.dictionaries(st.text(), st.text()))
def test_other_variables_pass_through(environment):
    clean = provenance.cleaned(environment)
    kept = environment.keys() & clean.keys() - {"FINER1_LEFT_OUT"}
    assert all(clean[name] == environment[name] for name in kept)
    assert environment.keys() - clean.keys() <= {*provenance._FOREIGN, *filter(
        lambda name: name.startswith(provenance._FAMILIES), environment)}


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_one_of_several_processes_is_refused_by_name(monkeypatch, name, tmp_path):
    monkeypatch.setenv(name, "4")
    with pytest.raises(UserError, match=f"{name}=4 .* unset {name}"):
        provenance.check_one_process()
    for alone in ("1", "", "0", "many"):
        monkeypatch.setenv(name, alone)
        provenance.check_one_process()


def test_the_record_holds_names_and_no_secret(monkeypatch):
    monkeypatch.setenv("FINER1_LEFT_OUT", "MPLBACKEND,RANK")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    found = provenance.recorded()
    assert found["left_out"] == ["MPLBACKEND", "RANK"] and found["OMP_NUM_THREADS"] == "2"
    assert "secret" not in json.dumps(found)


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A shell with all of it, and a user's matplotlib settings that ask for LaTeX and a font of their own."""
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "matplotlibrc").write_text(
        "text.usetex: True\nfont.family: Papyrus\nsavefig.dpi: 10\nbackend: qtagg\n")
    for name, value in {**LAUNCHED, **SETTINGS, "MPLCONFIGDIR": str(tmp_path / "settings"),
                        "MATPLOTLIBRC": str(tmp_path / "settings" / "matplotlibrc")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FINER1_LEFT_OUT", raising=False)  # of a test that cleaned this process
    monkeypatch.delenv("PYTHONOPTIMIZE")  # it would take the asserts out of the command that is started here


def test_a_run_in_a_hostile_shell_draws_the_same_figure_and_says_what_it_left_out(tmp_path, hostile):
    first = chain.STAGES[0]
    kit = fixture_kit.build(tmp_path / "kit", drawn=first)
    code, out, err = fixture_kit.finer1(kit, "run", "toy", "--to", first)
    assert code == 0, err + out
    drawn = (kit / "outputs" / "toy" / first / "figures" / "curve.png").read_bytes()
    for name in (*LAUNCHED, "MPLBACKEND", "MATPLOTLIBRC", "MPLCONFIGDIR"):
        os.environ.pop(name)
    assert fixture_kit.finer1(kit, "run", "toy", "--run-name", "plain", "--to", first)[0] == 0
    assert (kit / "outputs" / "plain" / first / "figures" / "curve.png").read_bytes() == drawn
    records = (kit / "outputs" / name / first / "stage.json" for name in ("toy", "plain"))
    hostile_one, plain_one = (json.loads(record.read_text())["environment"] for record in records)
    assert set(hostile_one["left_out"]) == {*LAUNCHED, *SETTINGS} - {"PYTHONOPTIMIZE"}
    assert set(plain_one["left_out"]) == {"PYTHONSTARTUP"}


def test_a_notebook_run_by_hand_draws_too(hostile):
    """In a process of its own, as a kernel is: what the set-up cell does, then the first figure."""
    code = (
        "import os, sys; sys.modules['ipykernel'] = sys\n"
        "from finer1_lib.runs.provenance import clean_this_process; clean_this_process()\n"
        "import io, matplotlib, matplotlib.pyplot as plt\n"
        "figure, axes = plt.subplots(); axes.set_title('a_b'); figure.savefig(io.BytesIO())\n"
        "print(matplotlib.get_backend(), os.environ.get('RANK'), plt.rcParams['font.family'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=fixture_kit.environment("none"), text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    backend, rank, family = done.stdout.split()  # newer versions of matplotlib say "inline"
    assert "inline" in backend and (rank, family) == ("None", "['sans-serif']")


def test_a_launcher_s_second_process_runs_nothing(tmp_path, monkeypatch):
    kit = fixture_kit.build(tmp_path / "kit")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = fixture_kit.finer1(kit, "run", "toy")
    assert code == 2 and "WORLD_SIZE=2" in err and err.count("\n") == 1
    assert not (kit / "outputs").exists()


def test_a_command_s_figure_has_matplotlib_s_own_style(tmp_path, hostile):
    code = (
        "import os; from pathlib import Path; from finer1_lib.commands.seeds import draw\n"
        "from finer1_lib.runs.provenance import clean_this_process; clean_this_process(figures=False)\n"
        "assert 'RANK' not in os.environ and 'MPLBACKEND' not in os.environ\n"
        "row = dict(model='base', label='a_b', setting='open_world', categories='seen', value=0.5, low=0.4,\n"
        "           high=0.6, per_seed=[0.5])\n"
        f"draw({{'rows': [row]}}, Path({str(tmp_path / 'seeds.png')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=fixture_kit.environment("none"), text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seeds.png").read_bytes().startswith(b"\x89PNG")
