"""Names, labels and model text are shown as text: no markup runs, no cell is a formula, numbers stay numbers."""

import csv
import html
import io
import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from finer1_lib.core.errors import UserError
from finer1_lib.core.escaping import FORMULA, csv_text, escape, markdown, styled, write_csv

ROOT = Path(__file__).resolve().parents[2]
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


def exported(output) -> str:
    """The HTML that a notebook with this output is exported as, without the page's own scripts and styles."""
    from nbconvert.exporters import HTMLExporter
    from traitlets.config import Config

    html_of = getattr(output, "_repr_html_", None)
    data = {"text/html": html_of()} if html_of else {"text/markdown": output.data}
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("display_data", data)])
    page, _ = HTMLExporter(config=Config(), template_name="basic").from_notebook_node(
        nbformat.v4.new_notebook(cells=[cell]))  # fmt: skip
    return page


def inert(page: str) -> bool:
    tags = re.findall(r"<[^>]*>", page)
    return not any(re.match(r"<(script|img|iframe|svg)\b", tag) or re.search(r"\son\w+\s*=|javascript:", tag)
                   for tag in tags)  # fmt: skip


def test_a_table_s_cells_labels_names_and_caption_are_text():
    frame = pd.DataFrame({EVIL: [EVIL, 1.23456], ("a", "b"): [2, "x"]}, index=pd.Index([EVIL, "row"], name=EVIL))
    page = exported(styled(frame, EVIL, precision=3))
    assert inert(page) and html.unescape(page).count(EVIL) == 5 and "1.235" in page
    several = pd.DataFrame([[1.0, 2.0]], index=[EVIL], columns=pd.MultiIndex.from_tuples(
        [(EVIL, "seen"), (EVIL, "unseen")], names=[EVIL, None]))  # fmt: skip
    page = exported(styled(several, formatter="{:+.1f}").hide())
    assert inert(page) and "+2.0" in page and EVIL in html.unescape(page)
    assert several.columns.names == [EVIL, None] and several.index[0] == EVIL, "the table itself is left alone"


@pytest.mark.parametrize("name", [
    EVIL, "[click](javascript:alert(1))", "![x](https://a.example/x.png)", "<javascript:alert(1)>", "a]: javascript:b",
    "\n\n<svg onload=alert(1)>", "&lt;script&gt;", "</div><script>alert(1)</script>",
])  # fmt: skip
def test_markdown_keeps_its_form_and_runs_nothing(name):
    page = exported(markdown(f"- **{name} minus base**: 71.2 [66.0, 76.1]\n\n| a | b |\n| --- | --- |\n| {name} | 1 |"))
    body = page.partition("jp-RenderedMarkdown")[2] or page
    assert inert(page) and "<li>" in body
    assert "71.2 [66.0, 76.1]" in html.unescape(body)
    if "\n" not in name:
        assert "<table>" in body and "<strong>" in body and html.unescape(body).count("alert") == 2 * name.count("alert")


def test_an_address_in_a_label_is_no_link():
    page = exported(markdown("- see https://evil.example/a: 71.2 %"))
    assert "href=" not in page and "see https://evil.example/a: 71.2 %" in html.unescape(page)


def test_no_output_of_a_notebook_goes_round_the_escapes():
    """Styler, Markdown and HTML escape nothing by themselves, and pandas' own CSV keeps formulas."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
            found = re.findall(r"\.style\b|\bMarkdown\(|\.to_html\(|\.to_csv\(|\bHTML\(.*", source)
            assert all(re.match(r"HTML\(f'<style>\{(?:sheet\.)?STYLE\}", one) for one in found), (path.name, found)
    for path in sorted((ROOT / "finer1_lib").rglob("*.py")):
        if path.name != "escaping.py":
            assert not re.search(r"\.to_csv\(|\.style\.(?:format|set|hide)|csv\.writer|DictWriter", path.read_text(encoding="utf-8")), path


def test_a_formula_in_a_text_cell_gets_a_quote_and_numbers_stay_numbers(tmp_path):
    frame = pd.DataFrame({
        "name": ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\rx", "Rock Wren", "-", None, "-1.5"],
        "mixed": [-1.5, "-1.5", "+2e3", -3, "a=b", "=1", True, None, "-x", ""],
        "value": [-0.25] * 10, "=head": range(10)})  # fmt: skip
    write_csv(tmp_path / "deep" / "a.csv", frame)
    rows = list(csv.reader(io.StringIO((tmp_path / "deep" / "a.csv").read_bytes().decode(), newline="")))
    assert rows[0] == ["name", "mixed", "value", "'=head"]
    assert [row[0] for row in rows[1:]] == ["'=cmd|' /C calc'!A0", "'+1+1", "'-2+3", "'@SUM(A1)", "'\tx", "'\rx",
                                            "Rock Wren", "-", "", "-1.5"]  # fmt: skip
    assert [row[1] for row in rows[1:]] == ["-1.5", "-1.5", "+2e3", "-3", "a=b", "'=1", "True", "", "'-x", ""]
    assert {row[2] for row in rows[1:]} == {"-0.25"} and frame["name"][0].startswith("=")


@pytest.mark.parametrize("text", [" =1", "\u00a0+1+1", "\ufeff=1", "\u200b@SUM(A1)", "\u2060-2+3", "\uff1d1+1", " \uff201"])
def test_a_formula_behind_what_nobody_sees_is_one(text):
    head, cell = csv_text(pd.DataFrame({text: [text]})).splitlines()
    assert head == cell == f"'{text}"


@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-9, 9)), min_size=1))
def test_no_written_cell_begins_a_formula_and_plain_tables_are_written_as_by_pandas(rows):
    frame = pd.DataFrame(rows, columns=["text", "float", "int"])
    try:
        frame.to_csv(index=False).encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates stand in no file
        return
    read = list(csv.reader(io.StringIO(csv_text(frame), newline="")))[1:]
    for (text, number, whole), cells in zip(rows, read):
        changed = bool(FORMULA.match(text)) and text != "-" and not _number(text)
        assert cells[0] == ("'" + text if changed else text)
        assert float(cells[1]) == number and int(cells[2]) == whole
    if not any(FORMULA.match(text) or "\r" in text for text, *_ in rows):
        assert csv_text(frame) == frame.to_csv(index=False)


def _number(text: str) -> bool:
    try:
        return bool(float(text)) or True
    except ValueError:
        return False


def test_tables_of_other_kinds_are_written_as_by_pandas():
    frame = pd.DataFrame({"kind": pd.Categorical(["a", "b"]), "day": pd.to_datetime(["2026-01-01", None]),
                          "yes": [True, False], "none": [None, None], "name": pd.array(["x", None], "string")})  # fmt: skip
    assert csv_text(frame) == frame.to_csv(index=False) and csv_text(frame[:0]) == frame[:0].to_csv(index=False)


def test_a_mistake_of_the_user_s_is_one_line_below_a_cell():
    """What IPython shows in place of a traceback."""
    assert UserError("the file\nis \x1b[2Jgone")._render_traceback_() == [r"UserError: the file is \x1b[2Jgone"]


def test_escape_holds_in_content_and_attributes():
    assert escape(EVIL) == html.escape(EVIL) and escape("\ud800<") == "?&lt;" and escape(3) == "3"
