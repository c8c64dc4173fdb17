"""Figures: a DataFrame in, a matplotlib figure out; nothing is shown or saved here.

Every model has one fixed colour in all notebooks (`entries.ROWS`), which the colour-blind can tell apart;
bars also carry their model's name and their value, so that a grey print reads the same. What is no model is
drawn in ink or in one of two purples, which no model has.

Source: our choice.

A matplotlib figure as a file, with fonts for the names of any script.

matplotlib's own font has Latin, Greek, Cyrillic, Arabic and Hebrew letters. Names in other scripts (Chinese,
Thai, emoji) would be empty boxes: an installed font that has their signs is added behind its own, for this
and every later figure; where none has, one line names a package. A name between dollar signs
is no formula: one that is none would end the figure, another would be drawn as other signs.

Source: our choice.
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
    """Make the horizontal axis one of percent: quarters with a pale line each, no frame above and right.

    Args:
        axis: matplotlib axes.
        low, high: its limits; room beyond 0 and 100 is for markers and labels.
        labelsize: of the ticks, in points.
    """
    axis.set_xlim(low, high)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.tick_params(axis="x", labelsize=labelsize)
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def plain_axis(axis, size: int = 11) -> None:
    """No frame above and right, ticks that can be read from the back row."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=size)


_MISSING = re.compile(r"Glyph (\d+) .*missing from")
_NO_FONT = "Last Resort"  # matplotlib's font of boxes: it has every sign and shows none
_named: set[str] = set()  # packages that a line of this process named already


def file_of(figure: Any, kind: str = "png", say: Callable[[str], None] = print) -> bytes:
    """The figure as it lies in a file.

    Args:
        figure: a matplotlib figure; its texts get the fonts that they lacked.
        kind: png, pdf or svg.
        say: called with the line about signs that no installed font has, once for each package.
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
        say(
            f"no installed font shows {signs[:8]} ({len(signs)} signs): names in figures have boxes; install"
            f" the package {package} (so named on Debian and Ubuntu) and run again"
        )
    return content


def _draw(figure: Any, kind: str) -> tuple[bytes, set[str]]:
    """The file, and the signs that no font of the figure's has; other warnings are passed on."""
    from matplotlib import rc_context

    buffer, missing = io.BytesIO(), set()
    # what differs from run to run or from version to version stays out of the file
    dated = {"svg": "Date", "pdf": "CreationDate"}.get(kind, "Software")
    # some texts are made while drawing
    with warnings.catch_warnings(record=True) as said, rc_context({"text.parse_math": False}):
        warnings.simplefilter("always")
        figure.savefig(buffer, format=kind, dpi=150, bbox_inches="tight", metadata={dated: None})
    for one in said:
        if found := _MISSING.search(str(one.message)):
            missing.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return buffer.getvalue(), missing


def _fonts_with(missing: set[str]) -> list[str]:
    """Names of installed fonts that have as many of the signs as can be had, the fewest fonts first."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    known = {Path(entry.fname) for entry in manager.ttflist}
    for file in font_manager.findSystemFonts():  # one that was installed since matplotlib looked
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
    """What matplotlib makes of a font file; None for one that it cannot read (some hold bitmaps alone)."""
    try:
        return reader(file)
    except (RuntimeError, OSError):
        return None


def _package(sign: str) -> str:
    name = unicodedata.name(sign, "")
    if name.startswith(("CJK", "KANGXI", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH")):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(sign) in ("So", "Sk") else "fonts-noto-core"
