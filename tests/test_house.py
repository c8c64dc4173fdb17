"""The house: rooms import downwards only, nothing imports in a circle, and no text cites what a reader lacks."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "finer1_lib"
BELOW = {  # a room: those it may import from, as the picture in finer1_lib/README.md shows them
    "core": "",
    "runs": "core",
    "models": "core",
    "data": "core runs models",
    "training": "core models data",
    "miniature": "core models data",
    "evaluation": "core runs models data training",
    "traces": "core data training evaluation",
    "probing": "core models data training evaluation",
    "paper": "core runs data training evaluation",
    "teaching": "core runs data",
    "commands": "core runs models data training miniature evaluation traces probing paper teaching",
}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
           for path in LIBRARY.rglob("*.py")}  # fmt: skip


def imported(path):
    """Own modules that a file imports anywhere, inside functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            pytest.fail(f"{path.name}, line {node.lineno}: a relative import")


def test_rooms_import_downwards_and_no_file_imports_in_a_circle():
    graph = {name: {one for one in imported(path) if one in MODULES} for name, path in MODULES.items()}
    for name, found in graph.items():
        room = name.split(".")[1] if "." in name else ""
        allowed = {room, *BELOW.get(room, "").split()}
        upward = sorted(one for one in found if "." in one and one.split(".")[1] not in allowed)
        assert not upward, f"{name} imports {', '.join(upward)}"
    assert not [name for name in graph if any(one.startswith(("tests", "benchmarks")) for one in graph[name])]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {error.args[1]}")


def test_the_library_has_its_twelve_rooms_and_its_size():
    assert {path.name for path in LIBRARY.iterdir() if path.is_dir()} - {"__pycache__"} == set(BELOW)
    assert {path.name for path in LIBRARY.iterdir() if path.is_file()} == {"__init__.py", "README.md"}
    assert len(MODULES) <= 150
    assert sum(len(path.read_text().splitlines()) for path in MODULES.values()) <= 24_000  # for good: what comes in is paid for by what goes


CITED = re.compile(
    r"\bMETHOD\b|\bDESIGN\b|\baudit\b|\b(?:trainer|data|style|house|science|scale)\.md|[Ii]ssue \d|shared/|"
    r"Source: our choice"
)


def test_no_text_cites_what_a_reader_does_not_have():
    texts = [*MODULES.values(), *(ROOT / "notebooks").glob("*.ipynb"), *ROOT.glob("*.md"), *LIBRARY.rglob("*.md"),
             *(ROOT / "params").rglob("*.*"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "notebooks").glob("*.md")]
    found = [f"{path.relative_to(ROOT)}, line {number}: {line.strip()[:80]}"
             for path in texts if path.is_file() and path != Path(__file__)
             for number, line in enumerate(path.read_text().splitlines(), 1) if CITED.search(line)]
    assert not found, "\n".join(found)
