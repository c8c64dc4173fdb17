"""A run's own data in the release's formats: Stage-1 rationales as JSON, Stage-2 triplets as parquet.

`finer1 export-stage1` and `export-stage2` (the scripts beside this one) call it; reading back what is written gives the same data
(`finer1_lib.paper.release.stage1`, `stage2`, which read the release's files).
"""

import io
from pathlib import Path
from typing import Any, Mapping, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_directory, atomic_write_json
from finer1_lib.core.images import load_image, split_crop
from finer1_lib.core.prompts import question_for
from finer1_lib.paper.release.stage1 import IMAGE
from finer1_lib.paper.release.stage2 import FIELDS, ROWS, check_sizes, size_of
from finer1_lib.runs.chain import find_run

SHARD = 512  # rows a file


def stage1_items(records: Sequence[Mapping]) -> list[dict]:
    """Kept rationales in the release's form; those that came from it are equal to what was read.

    Our own have their image_id as the path and no system message: LLaMA-Factory then takes the model's.
    """
    items = []
    for record in (record for record in records if record["kept"]):
        source = record.get("source") or {}
        said = {"system": source.get("system"), "user": IMAGE + record["question"],
                "assistant": record["text"]}
        items.append({
            "messages": [{"role": role, "content": text} for role, text in said.items() if text is not None],
            "images": [source.get("image", split_crop(record["image_id"])[0])]})  # a file, uncropped
    return items


def write_stage1(records: Sequence[Mapping], path: "str | Path") -> int:
    """Write kept rationales as such a file; returns how many. UserError if none was kept."""
    items = stage1_items(records)
    if not items:
        raise UserError("no rationale was kept: there is nothing to export")
    atomic_write_json(Path(path), items)
    return len(items)


def write_stage2(triplets: Any, root: "str | Path", target: "str | Path", *,
                 resize: bool = False) -> int:
    """Write triplets in the release's form, `target/data/train-*.parquet`; returns how many.

    Images keep their bytes, so reading the files back gives the same triplets. `resize` stretches a positive
    or negative to its anchor's size (as PNG), as the release needs. UserError if the target exists, an image
    is missing, or sizes differ without `resize`.
    """
    import pyarrow
    import pyarrow.parquet

    target = Path(target)
    if target.exists():
        raise UserError(f"{target}: is there already; remove it or choose another folder")
    image = pyarrow.list_(pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))
    schema = pyarrow.schema([("problem", pyarrow.string()), ("answer", pyarrow.string()),
                             *((field, image) for field in FIELDS)])
    records = triplets.to_dict("records")
    shards = [records[start : start + SHARD] for start in range(0, len(records), SHARD)]
    if not shards:
        raise UserError("there are no triplets to export")
    with atomic_directory(target) as folder:
        (folder / "data").mkdir()
        for number, shard in enumerate(shards):
            path = folder / "data" / f"train-{number:05d}-of-{len(shards):05d}.parquet"
            with pyarrow.parquet.ParquetWriter(path, schema) as writer:
                for start in range(0, len(shard), ROWS):
                    rows = [_row(record, Path(root), resize) for record in shard[start : start + ROWS]]
                    writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
    return len(records)


def _row(record: Mapping, root: Path, resize: bool) -> dict:
    """One triplet as a row of the file."""
    ids = [record[column] for column in FIELDS.values()]
    images = [load_image(root, image_id) for image_id in ids]  # also: whole, and below the root
    size = images[0].size
    if not resize:
        check_sizes([image.size for image in images], record["image_id"])
    paths, columns = record.get("paths"), []
    for image_id, path, image in zip(ids, ids if paths is None else paths, images):
        content = (root / split_crop(image_id)[0]).read_bytes()
        if image.size != size:
            content, path = _png(image.resize(size)), None
        elif size_of(content, image_id)[:2] != size:  # cropped or turned: the file's bytes are not the image
            content = _png(image)
        columns.append([{"bytes": content, "path": path}])
    problem = record.get("problem") or IMAGE + question_for(record["super_category"])
    return {"problem": problem, "answer": record["sub_category"], **dict(zip(FIELDS, columns))}


def _png(image: Any) -> bytes:
    image.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def data_of(run_name: str, output_root: "str | None") -> Path:
    """The folder of a run's 01_data. Raises: UserError: it is not finished."""
    folder = find_run(output_root, run_name) / "01_data"
    if not (folder / "stage.json").is_file():
        raise UserError(f"{folder}: 01_data is not finished; run it first: finer1 run ... --to 01_data")
    return folder
