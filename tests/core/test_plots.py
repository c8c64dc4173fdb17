"""Figures as files: signs that matplotlib's font lacks come from an installed font, else one line says so."""

import warnings

import matplotlib
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib import font_manager
from matplotlib.figure import Figure

from finer1_lib.core import plots as figure_files
from finer1_lib.core.plots import file_of


def write_font(path, name, signs):
    """A font of our own with a black square for each sign."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for place in ((100, 0), (900, 0), (900, 800), (100, 800)):
        (pen.moveTo if place == (100, 0) else pen.lineTo)(place)
    pen.closePath()
    square, names = pen.glyph(), {ord(sign): f"u{ord(sign):X}" for sign in signs}
    order = [".notdef", *names.values()]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(names)
    builder.setupGlyf(dict.fromkeys(order, square))
    builder.setupHorizontalMetrics(dict.fromkeys(order, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A machine with matplotlib's own fonts and those that are installed here: install(name, signs)."""
    found = []
    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_, **__: found)
    monkeypatch.setattr(figure_files, "_named", set())
    font_manager.fontManager._findfont_cached.cache_clear()
    with matplotlib.rc_context({"font.family": ["sans-serif"]}):
        yield lambda name, signs: found.append(write_font(tmp_path / f"{name}.ttf", name, signs))
    font_manager.fontManager._findfont_cached.cache_clear()


def figure_of(*names):
    figure = Figure(layout="constrained")
    figure.subplots().set_yticks(range(len(names)), names)
    return figure


def test_names_of_any_script_are_drawn_with_what_is_installed(install):
    install("Tiny Han", "麻雀")
    install("Tiny Thai", "กวางนก")
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not one "Glyph missing"
        drawn = file_of(figure_of("麻雀", "กวาง", "House Wren"), say=said.append)
        assert matplotlib.rcParams["font.family"] == ["sans-serif", "Tiny Thai", "Tiny Han"]
        again = file_of(figure_of("麻雀", "กวาง", "House Wren"), say=said.append)
        assert again == drawn  # a later figure has them from the start
    assert said == [] and drawn.startswith(b"\x89PNG")


def test_a_figure_that_matplotlib_s_font_can_draw_is_left_alone(install):
    install("Tiny Han", "麻雀")
    file_of(figure_of("House Wren", "Škoda", "воробей", "عصفور"))
    assert matplotlib.rcParams["font.family"] == ["sans-serif"]


def test_without_a_font_one_line_names_a_package_once(install):
    said = []
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            file_of(figure_of("麻雀", "すずめ", "🐦 bird", "हिरण"), say=said.append)
    assert [line.split("package ")[1].split()[0] for line in said] == [
        "fonts-noto-cjk", "fonts-noto-core", "fonts-symbola"]
    assert all(line.count("\n") == 0 and "boxes" in line for line in said)


def test_a_font_that_cannot_be_read_and_one_installed_later(install, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    said = []
    font_manager.findSystemFonts().append(str(tmp_path / "broken.ttf"))
    file_of(figure_of("麻雀"), say=said.append)
    assert len(said) == 1
    install("Tiny Han", "麻雀")  # as the line said; matplotlib's own list of fonts is older
    file_of(figure_of("麻雀"), say=said.append)
    assert len(said) == 1 and matplotlib.rcParams["font.family"][-1] == "Tiny Han"


def test_other_warnings_are_passed_on(install):
    class Talking(Figure):
        def savefig(self, *words, **named):
            warnings.warn("another matter", RuntimeWarning, stacklevel=2)
            super().savefig(*words, **named)

    with pytest.warns(RuntimeWarning, match="another matter"):
        file_of(Talking())


@settings(deadline=None, max_examples=200)
@given(st.characters(exclude_categories=("Cs",)))
def test_every_sign_has_a_package(sign):
    assert figure_files._package(sign) in ("fonts-noto-cjk", "fonts-noto-core", "fonts-symbola")


def test_svg_and_pdf_hold_no_date(install):
    assert b"<dc:date>" not in file_of(figure_of("Wren"), "svg")
    assert file_of(figure_of("Wren"), "pdf") == file_of(figure_of("Wren"), "pdf")


@pytest.mark.parametrize("name", ["$100 Wren$", r"$\badcommand{x}$", "$x^$ Heron", "Wren $ and $ Heron", "$$", "a$b"])
def test_a_name_between_dollar_signs_is_drawn_as_it_stands(install, name):
    figure, said = figure_of(name, "Marlo Wren"), []
    axis = figure.axes[0]
    axis.set_title(name)
    axis.plot([0, 1], [0, 1], label=name)
    axis.legend()
    axis.text(0, 0, name)
    drawn = file_of(figure, "svg", said.append).decode()
    assert not said and drawn.count(f"<!-- {name} -->") == 4
