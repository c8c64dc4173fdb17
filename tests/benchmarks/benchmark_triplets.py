"""What mining negatives costs: prototypes beside the plain way, at the size of a large data set.

    finer1 benchmark-triplets --embeddings 100000 --classes 1000

The plain way compares every image with every other one and takes, for a sub-category, the one whose images
are on average the most alike: time and comparisons grow with the square of the images. A mean of cosines is
the product of two means, which is why prototypes find (nearly) the same negatives in linear time. Embeddings
are drawn (a centre per sub-category and noise), so that no image and no model is needed; the encoder comes on
top, and is linear in both.
"""

import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Annotated, Any, Callable, Mapping, Optional, Sequence

import typer

from finer1_lib.commands.terminal import Json, new_app, run_app, show_table, write_json
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import check_targets
from finer1_lib.data.triplets import build_triplets, prototype_similarity, prototypes
from finer1_lib.models.encoders import stored_rows

SHOTS = 4  # per sub-category, as in the paper
_PLAIN = "all pairs of images"
_WORD = "bird"  # all sub-categories in one super-category: the hardest case


def drawn_embeddings(embeddings: int, classes: int, width: int, seed: int = 0) -> tuple[Any, Any]:
    """((embeddings, width) float32, their table): a centre per class, noise half as long.

    Centres stand in pairs, whose second is drawn near the first: every class has one right negative.
    """
    import numpy
    import pandas

    rng = numpy.random.default_rng(seed)
    centres = rng.standard_normal((classes, width), "float32")
    centres[1::2] = centres[: classes // 2 * 2 : 2] + 0.5 * centres[1::2]
    labels = numpy.arange(embeddings) % classes
    features = rng.standard_normal((embeddings, width), "float32")
    features *= 0.5
    for start in range(0, embeddings, 1024):
        features[start : start + 1024] += centres[labels[start : start + 1024]]
    names = numpy.array([f"class {number:05d}" for number in range(classes)])
    turn = numpy.arange(embeddings) // classes
    return features, pandas.DataFrame({
        "image_id": [f"{number:07d}" for number in range(embeddings)], "super_category": _WORD,
        "sub_category": names[labels], "categories": "seen", "split": "train",
        "shot": numpy.where(turn < SHOTS, turn, -1),
    })


def plain_nearest(features: Any, table: Any, rows: int = 1024) -> dict[str, str]:
    """sub-category -> the other one whose images are on average nearest: all pairs of images, by blocks.

    Memory is a block of `rows` times all images, not the whole square, so that it can be run at all.
    """
    import numpy

    names, codes = numpy.unique(table["sub_category"].to_numpy(), return_inverse=True)
    order = numpy.argsort(codes, kind="stable")
    unit = features[order] - features.mean(0)
    unit /= numpy.linalg.norm(unit, axis=1, keepdims=True)
    starts = numpy.searchsorted(codes[order], numpy.arange(len(names)))
    sums = numpy.zeros((len(names), len(names)))
    for start in range(0, len(unit), rows):
        cosines = unit[start : start + rows] @ unit.T
        by_class = numpy.add.reduceat(cosines, starts, axis=1)
        numpy.add.at(sums, codes[order][start : start + rows], by_class)
    counts = numpy.bincount(codes)
    likeness = sums / numpy.outer(counts, counts)
    numpy.fill_diagonal(likeness, -numpy.inf)
    return {name: names[best] for name, best in zip(names, likeness.argmax(1))}


def linear_steps(features: Any, table: Any, store: Path) -> dict[str, Callable[[], Any]]:
    """The steps of the kit's way, each to be called once, in this order."""
    made: list[Any] = []

    def read() -> Any:
        return stored_rows(store, "drawn", len(features), lambda start, stop: features[start:stop])

    def prototype() -> Any:
        made.append(prototype_similarity(prototypes(features, table)))

    def mine() -> Any:
        return build_triplets(table, made[-1], seed=0)

    return {"store, written": read, "store, read": read, "prototypes": prototype,
            "negatives and triplets": mine}


def measure(
    embeddings: int = 100_000, classes: int = 1_000, width: int = 768, plain: int = 16_000,
    repeats: int = 3, seed: int = 0, say: Optional[Callable[[str], None]] = None,
) -> dict[str, Any]:
    """Seconds and peak memory of both ways, each at a quarter, a half and the whole of its size.

    Parameters as the command's options; `width` is 768 for SigLIP base, 1152 for SO400M, 2048 for the 3B's own
    tower. Ready for JSON: `kit` and `plain`, lists of {images, seconds: part -> seconds, peak: part -> bytes
    beyond the embeddings}; `exponent` of either (1 is linear, 2 quadratic); `agree`, the share of classes for
    which both ways name the same negative, at `plain` images; `plain_at_full` (seconds, estimated).

    Raises: UserError: a class would have fewer than four images, or there are fewer than two classes.
    """
    if classes < 2 or repeats < 1 or min(embeddings, plain) < 4 * SHOTS * classes:
        raise UserError(f"benchmark-triplets: {classes} classes need at least {4 * SHOTS * classes} images "
                        "(four each at a quarter of the size), two classes and one repeat")
    result: dict[str, Any] = {"settings": {"embeddings": embeddings, "classes": classes, "width": width,
                                           "plain": plain, "repeats": repeats, "seed": seed},
                              "kit": [], "plain": []}
    _measured(lambda: plain_nearest(*drawn_embeddings(SHOTS * classes, classes, width)))  # to warm up
    for kind, whole in (("kit", embeddings), ("plain", plain)):
        for images in (whole // 4, whole // 2, whole):
            features, table = drawn_embeddings(images, classes, width, seed)
            turns = []
            for _ in range(repeats):
                with tempfile.TemporaryDirectory() as store:
                    steps = (linear_steps(features, table, Path(store) / "rows") if kind == "kit" else
                             {_PLAIN: lambda: plain_nearest(features, table)})
                    turns.append({part: _measured(step) for part, step in steps.items()})
            row = {"images": images,
                   "seconds": {part: statistics.median(turn[part][0] for turn in turns) for part in turns[0]},
                   "peak": {part: max(turn[part][1] for turn in turns) for part in turns[0]}}
            result[kind].append(row)
            if say:
                say(f"{kind}: {images} images in {sum(row['seconds'].values()):.2f} s")
    result["agree"] = _agreement(turns[-1][_PLAIN][2], features, table)
    result["exponent"] = {kind: _exponent(result[kind]) for kind in ("kit", "plain")}
    times = (embeddings / plain) ** 2
    result["plain_at_full"] = times * sum(result["plain"][-1]["seconds"].values())
    return result


def _measured(step: Callable[[], Any]) -> tuple[float, int, Any]:
    """Seconds and the peak of what was allocated meanwhile (numpy reports its arrays to tracemalloc)."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        found = step()
        return time.perf_counter() - began, tracemalloc.get_traced_memory()[1], found
    finally:
        tracemalloc.stop()


def _agreement(plain: Mapping[str, str], features: Any, table: Any) -> float:
    found = prototype_similarity(prototypes(features, table)).nearest(_WORD, sorted(plain), 0)
    return statistics.mean(found[name] == other for name, other in plain.items())


def _exponent(rows: Sequence[Mapping[str, Any]]) -> float:
    """Slope of log seconds over log images, by least squares, of the part that looks at images."""
    from numpy import log, polyfit

    part = _PLAIN if _PLAIN in rows[0]["seconds"] else "prototypes"
    seconds = [row["seconds"][part] for row in rows]
    return float(polyfit(log([row["images"] for row in rows]), log(seconds), 1)[0])


def table_of(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows for the terminal: seconds and, in brackets, peak memory."""
    rows = []
    for kind, label in (("kit", "prototypes"), ("plain", "plain way")):
        for part in result[kind][0]["seconds"]:
            cells = [f"{row['images']:,}: {row['seconds'][part]:.2f} s\n({row['peak'][part] / 2**20:.0f} MiB)"
                     for row in result[kind]]
            rows.append([label, part, *cells])
    return ["way", "part", "a quarter", "a half", "whole"], rows


app = new_app()


@app.command()
def benchmark_triplets(
    embeddings: Annotated[int, typer.Option(min=1, help="Images of the kit's way.")] = 100_000,
    classes: Annotated[int, typer.Option(min=1, help="Sub-categories of one super-category.")] = 1_000,
    width: Annotated[int, typer.Option(min=1, help="Numbers per embedding.")] = 768,
    plain: Annotated[int, typer.Option(min=1, help="Images of the plain way, which is quadratic.")] = 16_000,
    repeats: Annotated[int, typer.Option(min=1, help="Turns; the median is reported.")] = 3,
    json_file: Json = None,
) -> None:
    """Time the mining of negatives by prototypes against all pairs of images, on drawn embeddings.

    Example: finer1 benchmark-triplets --embeddings 100000 --classes 1000
    """
    check_targets(json_file)
    result = measure(embeddings, classes, width, plain, repeats, say=print)
    title = f"{classes:,} sub-categories, {width} numbers per image: seconds (peak memory)"
    show_table(title, *table_of(result))
    kit, plainly = result["exponent"]["kit"], result["exponent"]["plain"]
    print(f"seconds grow with images to the power of {kit:.2f} (prototypes) and {plainly:.2f} (plain)\n"
          f"the plain way for {embeddings:,} images: about {result['plain_at_full']:.0f} s (estimated)\n"
          f"both name the same negative for {result['agree']:.1%} of the classes")
    write_json(json_file, result)


if __name__ == "__main__":
    run_app(app)
