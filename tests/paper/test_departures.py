"""The page of departures between paper, release and kit: its tests, files, parameters and switches exist."""

import ast
import dataclasses
import json
import re
from functools import cache
from pathlib import Path

import pytest

from finer1_lib.training.methods import METHODS
from finer1_lib.training.tapo_config import TapoConfig

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "finer1_lib" / "paper" / "README.md").read_text()
ITEMS = re.split(r"\n(?=\*\*\d+\. )", PAGE)[1:]


@cache
def functions(file):
    return {part.name for part in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(part, ast.FunctionDef)}  # fmt: skip


def test_thirty_items_each_with_its_five_lines():
    assert [int(re.match(r"\*\*(\d+)\.", item)[1]) for item in ITEMS] == list(range(1, 31))
    for item in ITEMS:
        heads = re.findall(r"^- (\w+): ", item, re.M)
        assert heads == ["Paper", "Release", "Kit", "Switch", "Test"], item[:60]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: re.match(r"\*\*(\d+)", item)[1])
def test_every_test_and_file_of_the_kit_that_an_item_names_exists(item):
    tests = re.findall(r"`(tests/\S+?\.py)::(\w+)`", item)
    assert tests
    for file, name in tests:
        assert (ROOT / file).is_file() and name in functions(file), f"{file}::{name}"
    for file in re.findall(r"`(finer1_lib/[\w/.]+)`", item):
        assert (ROOT / file).is_file(), file


def test_every_switch_is_a_setting_a_parameter_a_method_or_an_option():
    known = {field.name for field in dataclasses.fields(TapoConfig)} | set(METHODS)
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [cell for cell in json.loads(notebook.read_text())["cells"]
                 if "parameters" in cell["metadata"].get("tags", [])]
        known |= {name for cell in cells for name in re.findall(r"(?m)^(\w+) = ", "".join(cell["source"]))}
    elsewhere = {"official", "release", "rotations", "always_first", "base", "base_cot_prompt", "fallback",
                 "k1", "k2", "k3", "paper", "full"}  # scorers, rows, orders and values, held by the tests named
    for item in ITEMS:
        switch = re.search(r"^- Switch: (.*)$", item, re.M)[1]
        for name in re.findall(r"`(\w+)(?: = [^`]+)?`", switch):
            assert name in known | elsewhere, name


def test_every_release_citation_has_a_line_or_is_a_folder_of_data():
    cited = re.findall(r"`((?:eval|TAPO|LLaMA-Factory)/[^`]*)`", PAGE)
    assert len(cited) > 30
    assert not [one for one in cited if not re.search(r":\d+(-\d+)?$", one) and "data/" not in one]
