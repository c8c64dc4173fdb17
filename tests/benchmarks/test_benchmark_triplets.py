"""The benchmark of mining: both ways find the planted negatives, and the kit's holds no copy of all rows."""

import json
import subprocess
import sys

import numpy
import pandas
import pytest
from benchmarks import benchmark_triplets as measured

from finer1_lib.core.errors import UserError
from finer1_lib.data.triplets import prototype_similarity, prototypes


def test_the_plain_way_by_hand():
    """Mean cosines after centring: a 0 and b 30 degrees, c 180, whatever the blocks."""
    angles = numpy.radians([0, 10, 30, 40, 180, 190, 280, 290, 190, 200])
    table = pandas.DataFrame({"sub_category": list("aabbccddcc")})
    features = numpy.stack([numpy.cos(angles), numpy.sin(angles)], 1)
    features -= features.mean(0)
    unit = features / numpy.linalg.norm(features, axis=1, keepdims=True)
    classes = {name: unit[(table["sub_category"] == name).to_numpy()] for name in "abcd"}
    for rows in (1, 3, 100):
        found = measured.plain_nearest(features + 5, table, rows)
        assert found["a"] == "b" and found["b"] == "a"
        for name in "abcd":
            likeness = {other: (classes[name] @ classes[other].T).mean() for other in "abcd" if other != name}
            assert found[name] == max(likeness, key=likeness.get)


def test_drawn_classes_have_one_right_negative():
    features, table = measured.drawn_embeddings(600, 10, 64)
    assert features.shape == (600, 64) and features.dtype == numpy.float32
    assert (table.groupby("sub_category").size() == 60).all()
    assert sorted(set(table["shot"])) == [-1, 0, 1, 2, 3] and (table["shot"] == 3).sum() == 10
    names = sorted(set(table["sub_category"]))
    partner = {name: names[number ^ 1] for number, name in enumerate(names)}
    assert measured.plain_nearest(features, table) == partner
    near = prototype_similarity(prototypes(features, table))
    assert near.nearest("bird", names, 0) == partner


def test_prototypes_hold_no_copy_of_all_rows():
    for images in (4_000, 16_000):
        features, table = measured.drawn_embeddings(images, 20, 256)
        peak = measured._measured(lambda: prototypes(features, table))[1]
        assert peak < 6 * 2**20 < features.nbytes * 16_000 / images  # the whole is 16 MiB
    plain = measured._measured(lambda: measured.plain_nearest(features[:4_000], table[:4_000]))[1]
    assert plain > features[:4_000].nbytes


def test_a_small_measurement(tmp_path):
    told = []
    result = measured.measure(256, 4, 8, plain=64, repeats=2, say=told.append)
    assert [row["images"] for row in result["kit"]] == [64, 128, 256]
    assert [row["images"] for row in result["plain"]] == [16, 32, 64]
    assert len(told) == 6 and 0 <= result["agree"] <= 1
    last = sum(result["plain"][-1]["seconds"].values())
    assert numpy.isclose(result["plain_at_full"], 16 * last)
    titles, rows = measured.table_of(result)
    assert len(rows) == 5 and all(len(row) == len(titles) for row in rows)
    for wrong in ({"classes": 1}, {"embeddings": 63}, {"plain": 63}, {"repeats": 0}):
        with pytest.raises(UserError, match="benchmark-triplets"):
            measured.measure(**{"embeddings": 256, "classes": 4, "width": 8, "plain": 64, **wrong})


def test_the_command_writes_its_numbers(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "finer1_lib.commands.cli", "benchmark-triplets", "--embeddings", "64", "--classes", "4",
         "--width", "8", "--plain", "64", "--repeats", "1", "--json", str(tmp_path / "cost.json")],
        capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "all pairs of images" in done.stdout and "estimated" in done.stdout
    assert json.loads((tmp_path / "cost.json").read_text())["settings"]["classes"] == 4


def test_the_exponent_of_a_square_is_two():
    rows = [{"images": n, "seconds": {"all pairs of images": n**2 / 1e6}} for n in (10, 20, 40)]
    assert numpy.isclose(measured._exponent(rows), 2)
