"""The paper's values: as printed, all of them, each findable by table and row, shipped with the package."""

import csv
import os
import tomllib
from pathlib import Path

import pytest

from finer1_lib.paper.facts import COLUMNS, DATASETS, evaluation_sets, facts, remarks, sources, value

ROOT = Path(__file__).resolve().parents[2]
OFFICIAL = Path(os.environ.get("FINER1_OFFICIAL_DATA", ""))
TRANSCRIPT = OFFICIAL.parent / "reference" / "paper_tables.csv"


@pytest.mark.skipif(not (OFFICIAL.name and TRANSCRIPT.is_file()), reason="no transcript of the paper here")
def test_every_value_of_the_transcript_is_here_and_no_other():
    with TRANSCRIPT.open(encoding="utf-8", newline="") as file:
        theirs = {(*(row[key] for key in COLUMNS[:-1]), float(row["value"])) for row in csv.DictReader(file)}
    assert set(facts().itertuples(index=False, name=None)) == theirs and len(facts()) == len(theirs)


@pytest.mark.parametrize(
    ("source", "model", "categories", "dataset", "printed"),
    [
        ("Figure 3a", "SFT", "unseen", "Average", 65.82),
        ("Figure 3a", "Zero-shot", "seen", "Average", 77.43),
        ("Figure 3b", "CoT prompting", "unseen", "Average", 69.67),
        ("Figure 3c", "CoT SFT + TAPO", "seen", "Average", 73.35),
        ("Figure 3c", "CoT SFT + DAPO (as printed)", "all", "Average", 66.47),
        ("Table 1", "Fine-R1-3B", "seen", "Pet", 93.89),
        ("Table 2", "Qwen2.5-VL-7B", "unseen", "Flower", 32.74),
        ("Table 3a", "n1=10,n2=0", "unseen", "Average", 59.47),
        ("Table 6", "Fine-R1-7B", "unseen", "Bird", 29.77),
        ("Table 7", "openPangu-VL-7B CoT SFT", "seen", "Aircraft", 69.13),
        ("Table 8", "Fine-R1-3B", "all", "MME", 1587),
    ],
)
def test_values_as_printed(source, model, categories, dataset, printed):
    assert value(source, model, categories, dataset) == printed


def test_the_probing_table_has_its_two_differences_and_their_test():
    table = facts("Table 4").set_index(["metric", "model"])["value"]
    assert table["linear_probe_accuracy", "Qwen2.5-VL-3B"] == 84.26
    assert table["linear_probe_accuracy", "Fine-R1-3B"] == 85.0
    similarity = table["genus_similarity_difference"]
    assert (similarity["Qwen2.5-VL-3B"], similarity["Fine-R1-3B"]) == (0.0088, 0.0531)
    assert table["genus_similarity_t"].tolist() == [-0.3872]
    assert table["genus_similarity_p"].tolist() == [0.6993]


def test_the_averages_of_the_tables_are_unweighted_means_of_their_data_sets():
    """A slip of the pen in any of the cells would show: the paper rounds each to two digits."""
    checked = 0
    for source in ("Table 1", "Table 2", "Table 6", "Table 7"):
        for (model, kind), part in facts(source).groupby(["model", "categories"]):
            cells = part.set_index("dataset")["value"]
            if kind != "all":
                assert set(cells.index) == {*DATASETS, "Average"}
                mean = cells[list(DATASETS)].mean()
                assert cells["Average"] == pytest.approx(mean, abs=0.0051), (source, model, kind)
                checked += 1
    assert checked > 80


def test_selection_and_its_mistakes():
    assert tuple(facts().columns) == COLUMNS
    part = facts("Figure 3a", categories="unseen")
    assert set(part["source"]) == {"Figure 3a"} and set(part["categories"]) == {"unseen"} and len(part) == 5
    assert {"Table 1", "Table 4", "Figure 3c"} <= set(sources())
    with pytest.raises(ValueError, match="no 'Table 9'"):
        facts("Table 9")
    with pytest.raises(ValueError, match="no column"):
        facts(kind="seen")
    with pytest.raises(ValueError, match="0 values"):
        value("Figure 3a", "GRPO", "seen")
    with pytest.raises(ValueError, match="2 values"):
        value("Table 4", "Fine-R1-3B", "all", "CUB-200")


def test_the_oddities_are_remarked_upon_and_every_remark_is_of_a_row():
    rows = set(zip(facts()["source"], facts()["model"]))
    assert set(remarks()) <= rows and all(remarks().values())
    for bar in ("CoT SFT + Inter (as printed)", "CoT SFT + DAPO (as printed)"):
        assert "labels as printed" in remarks("Figure 3c")["Figure 3c", bar]
    assert list(remarks("Table 3a")) == [("Table 3a", "n1=10,n2=0")]


def test_the_evaluation_sets_are_the_release_s():
    sets = evaluation_sets()
    assert sets["Bird", "seen"] == (120, 3483) and sets["Car", "unseen"] == (79, 3230)
    for kind, classes, items in (("seen", 452, 21776), ("unseen", 303, 13790)):
        assert [sum(column) for column in zip(*(sets[name, kind] for name in DATASETS))] == [classes, items]


@pytest.mark.skipif(not (OFFICIAL / "bird_seen.jsonl").is_file(), reason="FINER1_OFFICIAL_DATA is not set")
@pytest.mark.parametrize("name", ["bird_seen", "bird_unseen", "pet_seen", "pet_unseen"])
def test_the_counts_are_those_of_the_release_s_files(name):
    import json

    lines = [json.loads(line) for line in (OFFICIAL / f"{name}.jsonl").read_text("utf-8").splitlines()]
    dataset, _, kind = name.partition("_")
    counted = len({line["ground_truth"] for line in lines}), len(lines)
    assert evaluation_sets()[dataset.capitalize(), kind] == counted


def test_the_files_are_package_data():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    assert "*.csv" in told["finer1_lib.paper"]


def test_the_evaluation_writes_no_value_of_figure_3_by_hand():
    printed = {f"{number:.2f}" for name in ("3a", "3b", "3c") for number in facts(f"Figure {name}")["value"]}
    text = (ROOT / "notebooks" / "04_evaluation.ipynb").read_text("utf-8")
    assert "paper_says" in text and not [number for number in printed if number in text]
