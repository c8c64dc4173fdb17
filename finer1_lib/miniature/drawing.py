"""Draws specimens of a sub-category with Pillow.

Every attribute is large enough to be read at 112 pixels; pose, scale, flip, light, background and occlusion
vary freely (high intra-class variance).
"""

import math
import random
from pathlib import Path
from typing import Callable, Sequence

from PIL import Image, ImageDraw

from finer1_lib.core.files import atomic_directory

SIZE = 112  # pixels; 8 x 8 patches of 14, 16 image tokens after merging
_OVERSAMPLE = 3
_RGB = {"black": (28, 28, 32), "white": (248, 248, 244), "red": (214, 36, 36), "yellow": (246, 208, 36),
        "blue": (36, 84, 214), "green": (28, 150, 62)}
_BODY = (158, 138, 120)      # a neutral that is no value of any attribute
_METAL = (168, 172, 180)
_LINE = (40, 34, 34)
_DARK = (64, 66, 74)
_BACKGROUNDS = (  # (top, bottom)
    ((202, 222, 238), (232, 238, 240)), ((210, 224, 200), (228, 230, 214)),
    ((232, 220, 200), (216, 206, 190)), ((206, 206, 212), (226, 226, 230)),
    ((190, 212, 216), (214, 226, 222)), ((226, 210, 218), (236, 226, 228)),
)
Point = tuple[float, float]


class _Pen:
    """Draws polygons in the specimen's own coordinates (about -1..1, y downwards) through one pose."""

    def __init__(self, draw: ImageDraw.ImageDraw, place: Callable[[Point], Point], width: int) -> None:
        self.draw, self.place, self.width = draw, place, width

    def shape(self, points: Sequence[Point], fill: tuple, outline: bool = True) -> None:
        placed = [self.place(p) for p in points]
        self.draw.polygon(placed, fill=fill)
        if outline:
            self.draw.line(placed + placed[:2], fill=_LINE, width=self.width, joint="curve")

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: tuple, tilt: float = 0.0,
                outline: bool = True, start: float = 0.0, stop: float = 2 * math.pi) -> None:
        """An ellipse, or the segment of it between two angles (radians, clockwise from the right)."""
        c, s = math.cos(tilt), math.sin(tilt)
        points = []
        for k in range(25):
            t = start + (stop - start) * k / 24
            u, v = rx * math.cos(t), ry * math.sin(t)
            points.append((x + u * c - v * s, y + u * s + v * c))
        self.shape(points, fill, outline)


def _contrast(colour: str) -> tuple:
    """The colour of marks on a ground: dark on light grounds, light on dark ones."""
    return _RGB["black"] if colour in ("white", "yellow") else _RGB["white"]


def _bird(pen: _Pen, a: dict[str, str], rng: random.Random) -> None:
    tails = {
        "forked": [(-0.38, -0.1), (-1.02, -0.42), (-0.66, 0.08), (-1.02, 0.52), (-0.38, 0.26)],
        "fan": [(-0.36, -0.02), (-0.86, -0.5), (-1.0, -0.2), (-1.04, 0.1), (-1.0, 0.4), (-0.86, 0.68),
                (-0.36, 0.2)],
        "pointed": [(-0.36, -0.08), (-1.16, 0.1), (-0.36, 0.26)],
        "square": [(-0.36, -0.06), (-0.98, -0.06), (-0.98, 0.26), (-0.36, 0.24)],
    }
    bills = {
        "needle": [(0.68, -0.46), (1.22, -0.36), (0.68, -0.3)],
        "stout": [(0.62, -0.6), (0.98, -0.34), (0.62, -0.16)],
        "hooked": [(0.64, -0.54), (0.92, -0.52), (1.06, -0.36), (1.02, -0.06), (0.9, -0.28), (0.64, -0.24)],
        "curved": [(0.66, -0.5), (0.96, -0.4), (1.16, -0.16), (1.22, 0.14), (1.06, -0.08), (0.88, -0.26),
                   (0.66, -0.3)],
    }
    for x in (-0.02, 0.16):
        step = rng.uniform(-0.06, 0.06)
        leg = [(x, 0.4), (x + 0.05, 0.4), (x + 0.05 + step, 0.78), (x + step, 0.78)]
        pen.shape(leg, _LINE, outline=False)
    pen.shape(tails[a["tail"]], _BODY)
    pen.ellipse(0.02, 0.12, 0.56, 0.38, _BODY)
    pen.ellipse(0.27, 0.22, 0.33, 0.3, _RGB[a["breast"]], tilt=-0.5)
    pen.shape(bills[a["bill"]], (236, 142, 46))
    pen.ellipse(0.5, -0.36, 0.27, 0.27, _BODY)
    pen.ellipse(0.5, -0.4, 0.29, 0.27, _RGB[a["crown"]], start=math.pi * 0.98, stop=math.pi * 2.02)
    pen.ellipse(0.6, -0.3, 0.05, 0.05, _LINE, outline=False)
    lift = rng.uniform(-0.12, 0.12)
    pen.ellipse(-0.18, 0.02, 0.47, 0.25, _RGB[a["back"]], tilt=-0.1 + lift)
    mark = _contrast(a["back"])
    if a["wings"] == "barred":
        for x in (-0.42, -0.2, 0.02):
            pen.shape([(x, -0.14), (x + 0.1, -0.14), (x + 0.02, 0.2), (x - 0.08, 0.2)], mark, outline=False)
    elif a["wings"] == "spotted":
        for x, y in ((-0.46, 0.06), (-0.3, -0.08), (-0.26, 0.14), (-0.1, 0.0), (0.06, -0.1), (0.08, 0.1)):
            pen.ellipse(x, y, 0.058, 0.058, mark, outline=False)


def _aircraft(pen: _Pen, a: dict[str, str], rng: random.Random) -> None:
    # One wing as (root front, tip front, tip back, root back); the other is its mirror image.
    wings = {"straight": [(0.22, 0.1), (0.18, 0.96), (-0.12, 0.96), (-0.16, 0.1)],
             "swept": [(0.3, 0.1), (-0.34, 0.98), (-0.6, 0.98), (-0.14, 0.1)],
             "forward": [(0.12, 0.1), (0.62, 0.98), (0.38, 0.98), (-0.3, 0.1)],
             "delta": [(0.52, 0.08), (-0.46, 0.92), (-0.66, 0.92), (-0.66, 0.1)]}
    front, tip_front, tip_back, back = wings[a["planform"]]
    between = lambda p, q, t: (p[0] + (q[0] - p[0]) * t, p[1] + (q[1] - p[1]) * t)
    inner = 0.52  # the wing tip is what lies beyond this share of the span
    for side in (1, -1):
        mirrored = lambda points: [(x, side * y) for x, y in points]
        pen.shape(mirrored([front, tip_front, tip_back, back]), _METAL)
        tip = [between(front, tip_front, inner), tip_front, tip_back, between(back, tip_back, inner)]
        pen.shape(mirrored(tip), _RGB[a["tips"]])
        pen.shape(mirrored([(-0.6, 0.08), (-0.86, 0.5), (-1.08, 0.5), (-0.98, 0.06)]), _RGB[a["fin"]])
        for share in {"twin": (0.36,), "quad": (0.26, 0.52)}.get(a["engines"], ()):
            x, y = between(front, tip_front, share)
            pen.ellipse(x + 0.04, side * y, 0.17, 0.085, _DARK)
    pen.ellipse(0.0, 0.0, 0.94, 0.205, _RGB[a["fuselage"]])
    mark = _contrast(a["fuselage"])
    if a["livery"] == "banded":
        for x in (-0.42, -0.08, 0.26):
            pen.shape([(x, -0.19), (x + 0.13, -0.19), (x + 0.13, 0.19), (x, 0.19)], mark, outline=False)
    elif a["livery"] == "dotted":
        for x in (-0.48, -0.24, 0.0, 0.24, 0.48):
            pen.ellipse(x, 0.0, 0.075, 0.085, mark, outline=False)
    if a["engines"] == "nose":
        pen.shape([(0.93, -0.42), (1.03, -0.42), (1.03, 0.42), (0.93, 0.42)], _DARK)
    elif a["engines"] == "aft":
        for side in (1, -1):
            pen.ellipse(-0.5, side * 0.25, 0.2, 0.09, _DARK)


_SPECIMENS = {"bird": _bird, "aircraft": _aircraft}


def _background(size: int, rng: random.Random) -> Image.Image:
    top, bottom = rng.choice(_BACKGROUNDS)
    ground = Image.linear_gradient("L").resize((size, size)).rotate(rng.choice((0, 90, 180, 270)))
    image = Image.composite(*(Image.new("RGB", (size, size), fill) for fill in (bottom, top)), ground)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(3, 9)):
        shade = tuple(min(255, max(0, c + rng.randint(-26, 14))) for c in top)
        x, y, r = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0.03, 0.16) * size
        draw.ellipse((x - r, y - r * rng.uniform(0.3, 1), x + r, y + r), fill=shade)
    return image


def _occluder(draw: ImageDraw.ImageDraw, size: int, rng: random.Random) -> None:
    """A thin twig or contrail across the image: it never covers the whole of a part."""
    x, y, angle = rng.uniform(0.1, 0.9) * size, rng.uniform(0.1, 0.9) * size, rng.uniform(0, math.pi)
    reach, shade = rng.uniform(0.2, 0.6) * size, rng.choice(((120, 96, 70), (140, 150, 110), (190, 190, 196)))
    dx, dy = reach * math.cos(angle), reach * math.sin(angle)
    width = max(2, round(rng.uniform(0.012, 0.026) * size))
    draw.line((x - dx, y - dy, x + dx, y + dy), fill=shade, width=width)


def draw_specimen(super_category: str, attributes: dict[str, str], rng: random.Random,
                  size: int = SIZE) -> Image.Image:
    """One image of a specimen, `size` x `size` pixels; equal states of `rng` give equal images.

    Raises: KeyError: a super-category or value that cannot be drawn.
    """
    full = size * _OVERSAMPLE
    image = _background(full, rng)
    draw = ImageDraw.Draw(image)
    turn = rng.uniform(-0.22, 0.22) if super_category == "bird" else rng.uniform(-0.6, 0.6)
    scale = rng.uniform(0.33, 0.42) * full
    flip = rng.choice((1, -1))
    stretch = rng.uniform(0.93, 1.07)
    x0, y0 = (full * (0.5 + rng.uniform(-0.05, 0.05)) for _ in range(2))
    c, s = math.cos(turn), math.sin(turn)

    def place(point: Point) -> Point:
        u, v = point[0] * scale * stretch, point[1] * scale / stretch
        return x0 + flip * (u * c - v * s), y0 + u * s + v * c

    _SPECIMENS[super_category](_Pen(draw, place, max(1, full // 110)), attributes, rng)
    if rng.random() < 0.5:
        _occluder(draw, full, rng)
    image = image.resize((size, size), Image.Resampling.BOX)
    light = rng.uniform(0.74, 1.12)
    gains = [light * rng.uniform(0.95, 1.05) for _ in range(3)]
    bands = [band.point(lambda v, g=g: min(255, int(v * g))) for band, g in zip(image.split(), gains)]
    return Image.merge("RGB", bands)


def write_world(guide: dict, root: Path, images_per_sub_category: int, seed: int,
                report: Callable[[int, int], None] = lambda done, total: None) -> list[dict]:
    """Draw the world into `root/<super_category>/<sub_category>/<nnn>.png`, whole or not at all.

    Each image depends on (seed, name, number) alone; report(done, total) follows each sub-category. One row
    an image: path (relative to `root`), super_category, sub_category, genus, and a key per attribute.
    """
    rows, names = [], guide["sub_categories"]
    with atomic_directory(root) as folder:
        for done, (name, entry) in enumerate(names.items(), start=1):
            place = folder / entry["super_category"] / name.replace(" ", "_")
            place.mkdir(parents=True)
            for number in range(images_per_sub_category):
                rng = random.Random(f"world-{seed}-{name}-{number}")
                file = place / f"{number:03d}.png"
                draw_specimen(entry["super_category"], entry["attributes"], rng).save(file)
                rows.append({
                    "path": file.relative_to(folder).as_posix(),
                    "super_category": entry["super_category"], "sub_category": name, "genus": entry["genus"],
                    **entry["attributes"]})
            report(done, len(names))
    return rows
