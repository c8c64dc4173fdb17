"""House style of the figures, and a figure as a file with fonts for names in any script.

Every model has one fixed colour in all notebooks, chosen to differ for the colour-blind; bars also carry
their model's name and value, so that a grey print reads the same. What is not a model is drawn in ink or in
one of two purples that no model has.

matplotlib's own font has Latin, Greek, Cyrillic, Arabic and Hebrew letters. For other scripts (Chinese, Thai,
emoji) an installed font that has the glyphs is added behind it; where none has, one line names a package. A
name between dollar signs is drawn as text, never as a formula.
"""

import io
import re
import unicodedata
import warnings
from pathlib import Path
from typing import Any, Callable

SEEN, UNSEEN, INK = "#6A2C91", "#CF7FC0", "#333333"
WIDEST = 13.0  # inches; on a projector wider figures shrink, and their text with them
SETTING_LABELS = {"closed_world": "closed world", "open_world": "open world"}
CATEGORY_LABELS = {"seen": "seen sub-categories", "unseen": "unseen sub-categories"}


def percent_axis(axis, low: float, high: float, labelsize: int = 12) -> None:
    """Make the horizontal axis one of percent: a pale line at each quarter, no frame above and right."""
    axis.set_xlim(low, high)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.tick_params(axis="x", labelsize=labelsize)
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def plain_axis(axis, size: int = 11) -> None:
    """No frame above and right, larger ticks."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=size)


def panels(rows: int, columns: int, size: tuple[float, float], **how: Any) -> tuple[Any, Any]:
    """(figure, axes [rows, columns]); closed, so that a notebook draws the returned figure only once."""
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **how)
    plt.close(fig)
    return fig, axes


def whisker(axis: Any, place: float, row: Any, unit: float, upright: bool = False, **style: Any) -> float:
    """Draw the interval of a row (value, low, high) at its place, if it has one; the end of what is drawn."""
    if row.low is None or row.low != row.low:  # NaN
        return unit * row.value
    ends = ([place, place], [unit * row.low, unit * row.high])
    axis.plot(*(ends if upright else ends[::-1]), **style)
    return unit * row.high


_MISSING = re.compile(r"Glyph (\d+) .*missing from")
_NO_FONT = "Last Resort"  # matplotlib's font of boxes: it claims every glyph
_named: set[str] = set()  # packages already reported in this process


def file_of(figure: Any, kind: str = "png", say: Callable[[str], None] = print) -> bytes:
    """The bytes of a matplotlib figure as png, pdf or svg; its texts get the fonts that they lacked.

    `say` is called with a line about glyphs that no installed font has, once for each package.
    """
    from matplotlib import rcParams
    from matplotlib.text import Text
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    content, missing = _draw(figure, kind)
    if missing and (fonts := _fonts_with(missing)):
        rcParams["font.family"] = [*rcParams["font.family"], *fonts]
        for text in figure.findobj(Text):
            text.set_fontfamily(rcParams["font.family"])
        content, missing = _draw(figure, kind)
    for package in sorted({_package(sign) for sign in missing} - _named):
        _named.add(package)
        signs = "".join(sorted(sign for sign in missing if _package(sign) == package))
        say(f"no installed font shows {signs[:8]} ({len(signs)} signs): names in figures have boxes; install"
            f" the package {package} (so named on Debian and Ubuntu) and run again")
    return content


def _draw(figure: Any, kind: str) -> tuple[bytes, set[str]]:
    """The file, and the signs without a glyph; other warnings are passed on."""
    from matplotlib import rc_context
    buffer, missing = io.BytesIO(), set()
    # what differs from run to run or from version to version stays out of the file
    dated = {"svg": "Date", "pdf": "CreationDate"}.get(kind, "Software")
    # some texts are made while drawing
    with warnings.catch_warnings(record=True) as caught, rc_context({"text.parse_math": False}):
        warnings.simplefilter("always")
        figure.savefig(buffer, format=kind, dpi=150, bbox_inches="tight", metadata={dated: None})
    for one in caught:
        if found := _MISSING.search(str(one.message)):
            missing.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return buffer.getvalue(), missing


def _fonts_with(missing: set[str]) -> list[str]:
    """Names of the fewest installed fonts that together cover the most signs."""
    from matplotlib import font_manager
    manager = font_manager.fontManager
    known = {Path(entry.fname) for entry in manager.ttflist}
    for file in font_manager.findSystemFonts():  # installed since matplotlib made its list
        if Path(file) not in known:
            _read(manager.addfont, file)
    has: dict[str, set[int]] = {}
    for entry in manager.ttflist:
        if entry.style == "normal" and not entry.name.startswith(_NO_FONT):
            font = _read(font_manager.get_font, entry.fname)
            if font is not None and font.scalable:  # outlines are drawn, bitmaps of colour emoji are not
                has.setdefault(entry.name, set()).update(map(ord, missing) & font.get_charmap().keys())
    wanted, found = {ord(sign) for sign in missing}, []
    while wanted and has:
        best = max(sorted(has), key=lambda name: (len(has[name] & wanted), "Sans" in name))
        if not has[best] & wanted:
            break
        found.append(best)
        wanted -= has.pop(best)
    return found


def _read(reader: Callable[[str], Any], file: str) -> Any:
    """A font file as matplotlib reads it; None for one that it cannot (some hold bitmaps alone)."""
    try:
        return reader(file)
    except (RuntimeError, OSError):
        return None


def _package(sign: str) -> str:
    name = unicodedata.name(sign, "")
    if name.startswith(("CJK", "KANGXI", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH")):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(sign) in ("So", "Sk") else "fonts-noto-core"
