"""The report's figures: the section of each, its caption (figures.yaml), and how it is packed into the page.

A figure is whatever PNG a finished stage left in its figures/; one without a caption gets its name and is
shown with the others of its stage. Packed means: a palette of 256 colours where that cannot be seen (lines
and text, about a third of the size), WebP where it could (photographs). The files on the disk stay as they are.
"""

import base64
import functools
import io
from pathlib import Path
from typing import Any, Iterable

from finer1_lib.core.errors import UserError

SECTIONS = ("results", "differences", "traces", "probing", "training", "stage1", "data", "world")
_STAGE_SECTION = {
    "00_miniature_world": "world", "01_data": "data", "02_cot_sft": "stage1", "03_tapo": "training",
    "04_evaluation": "results", "05_probing": "probing",
}  # fmt: skip
_TRACES = ("wrong_steps", "reading_and_use")
_PIXELS = 76 / 150  # of the page, for each of a file: 13 inches at 150 dpi fill the text's width
_VISIBLE = 0.5  # mean change of a colour value (of 255) beyond which a palette is not used


@functools.cache
def captions() -> dict[str, tuple[str, str]]:
    """{figure: (title, also its alternative text; what to see in it)} of figures.yaml, in its order."""
    import yaml

    text = Path(__file__).with_name("figures.yaml").read_text(encoding="utf-8")
    return {name: tuple(texts) for name, texts in yaml.safe_load(text).items()}


def figures_of(run_dir: Path, stages: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Every figure of the finished stages, by its section (all of `SECTIONS`) and in the order of `captions`.

    {section: [{name, title, see, csv, source, width, height}]}: `source` is a data URI, width and height are
    pixels of the page, csv is "" where there is none.

    Raises: UserError: a figure that cannot be read.
    """
    found: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    known = captions()
    order = {name: place for place, name in enumerate(known)}
    for stage in stages:
        for file in (run_dir / stage / "figures").glob("*.png"):
            title, see = known.get(file.stem, (file.stem.replace("_", " "), ""))
            csv = f"{stage}/figures/{file.stem}.csv"
            found[_section(stage, file.stem)].append(
                {"name": f"{stage}/{file.stem}", "title": title, "see": see, **pack(file),
                 "csv": csv if (run_dir / csv).is_file() else ""})  # fmt: skip
    for figures in found.values():
        figures.sort(key=lambda one: (order.get(one["name"].partition("/")[2], len(order)), one["name"]))
    return found


def _section(stage: str, name: str) -> str:
    if stage == "04_evaluation" and name == "orderings":
        return "differences"
    return "traces" if name in _TRACES or name.startswith("trace_") else _STAGE_SECTION[stage]


def pack(file: Path) -> dict[str, Any]:
    """A PNG as a data URI of about a third of its size: {source, width, height}, in pixels of the page.

    Raises: UserError: the file is not an image.
    """
    from PIL import Image, ImageChops, ImageStat

    try:
        with Image.open(file) as opened:
            image = Image.new("RGB", opened.size, "white")
            image.paste(opened, mask=opened.getchannel("A") if "A" in opened.getbands() else None)
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG chunk a SyntaxError
        raise UserError(f"{file} is not a readable image: delete its folder and run again") from error
    few = image.quantize(256, dither=Image.Dither.NONE)
    change = ImageStat.Stat(ImageChops.difference(image, few.convert("RGB"))).mean
    buffer = io.BytesIO()
    kind = "png" if max(change) <= _VISIBLE else "webp"
    if kind == "png":
        few.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="WEBP", quality=90, method=6)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = (round(_PIXELS * side) for side in image.size)
    return {"source": f"data:image/{kind};base64,{data}", "width": width, "height": height}
