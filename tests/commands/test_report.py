"""The report: whatever a run contains, the page shows it as text, needs nothing but itself, and is whole."""

import ast
import base64
import csv
import io
import json
import os
from collections import Counter
from html.parser import HTMLParser

import pytest
from fixture_kit import CHECKOUT
from PIL import Image, ImageChops, ImageStat

from finer1_lib.commands.report import page as report_page
from finer1_lib.commands.report.page import pack, write_report
from finer1_lib.core.errors import UserError
from finer1_lib.core.hashing import recorded_hashes
from finer1_lib.data.rationales.filters import write_rationale
from finer1_lib.evaluation.summary import KEYS
from finer1_lib.runs.chain import NEEDS, STAGES
from finer1_lib.runs.fingerprints import digest_of

HOSTILE = "<img src=x onerror=alert(1)>\"'><script>alert(2)&amp;"
VOID = {"meta", "img", "br", "hr"}
GUIDE = {"super_categories": ["bird"], "seen": ["Red Wren"], "unseen": [], "sub_categories": {
    "Red Wren": {"super_category": "bird", "genus": "Wren", "attributes": {"crown": "red"}},
    "Blue Wren": {"super_category": "bird", "genus": "Wren", "attributes": {"crown": "blue"}}}}
COMPARISON = {"first": "cot_sft_tapo", "second": "cot_sft", "setting": "closed_world", "metric": "accuracy",
              "categories": "unseen", "difference": 0.125, "low": 0.03, "high": 0.22, "p": 0.01, "n": 8,
              "reading": "higher"}
UNCLEAR = {**COMPARISON, "categories": "seen", "difference": 0, "low": -0.1, "high": 0.1,
           "reading": "cannot tell"}
ORDERING = {**COMPARISON, "figure": "Figure 3c", "claim": "+ TAPO above CoT SFT", "paper_difference": 0.025,
            "holds": "holds", "remark": ""}
PROBED = {"metric": "h1_probe_accuracy", "variant": "", "model": "cot_sft", "reference": "base",
          "difference": -0.005, "low": -0.012, "high": 0.0, "margin": 0.02, "reading": "equivalent"}


class Page(HTMLParser):
    """Tags with their attributes, text, and whether every tag is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.text, self.tags, self.words, self.open, self.problems = text, [], [], [], []
        self.feed(text)
        self.close()
        self.problems += [f"{tag} never closed" for tag in self.open]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> out of turn at {self.getpos()}")

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def shown(self):
        return "".join(self.words)


def row(**changes):
    return {**dict.fromkeys(KEYS), "model": "cot_sft", "dataset": "average", "setting": "closed_world",
            "scorer": "strict", "metric": "accuracy", "categories": "unseen", "option_order": "shuffled",
            "value": 0.5, "low": 0.25, "high": 0.75, "n": 8, "seed": 0, **changes}


def record(model, answer, text=None, **changes):
    said = write_rationale(f"{answer.split()[0].lower()} crown", ["Red Wren", "Blue Wren"],
                           "Red Wren: red crown; Blue Wren: blue crown (differs)", answer)
    return {"image_id": "a.png", "super_category": "bird", "sub_category": "Red Wren", "categories": "seen",
            "model": model, "setting": "open_world", "prompt_name": "cot_open",
            "option_order": None, "rotation": 0, "seed": 0, "tokens": 9, "truncated": False, "item_id": "i",
            "completion": said if text is None else text, **changes}


RECORDS = [record("cot_sft", "Blue Wren"), record("cot_sft_tapo", "Red Wren")]
ROWS = [row(), row(categories="seen"), row(model="base", value=None, low=None, high=None),
        row(scorer="official", value=0.625, low=None, high=None),
        row(metric="format_failure", value=0.125, low=None, high=None),
        row(setting="probing", scorer=None, option_order=None, metric="h1_probe_accuracy", categories="all"),
        row(setting="probing", scorer=None, option_order=None, metric="h1_probe_accuracy", categories="all",
            variant="shuffled_labels", value=0.02)]


def as_csv(*rows):
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def png(colour="red", size=(30, 20)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def a_run(folder, stages=STAGES, hostile="", guide=GUIDE, records=RECORDS):
    """Folder of a run as its notebooks leave it, as far as the report looks."""
    pictures = folder.parent / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    (pictures / "a.png").write_bytes(png())
    for stage in stages:
        place = folder / stage
        (place / "figures").mkdir(parents=True)
        (place / "stage.json").write_text(json.dumps({
            "stage": stage, "parameters": {"run_name": "x", "seed": 0, "words": [hostile], "said": hostile},
            "seed": 0, "seconds": 90.0, "opened": 1, "peak_memory_gb": {"process": 1.25},
            "device": "cpu" + hostile, "versions": {"torch": "2.0" + hostile}, "git_commit": None,
            "written": "2026-01-01T00:00:00Z"}))
        numbers = {"seen": 6, "unseen": 4, "similarity": "guide" + hostile}
        (place / "metrics.json").write_text(json.dumps(numbers))
        for name in (f"own_{stage}", *(["main_table", "orderings"] if stage == "04_evaluation" else [])):
            (place / "figures" / f"{name}.png").write_bytes(png())
            (place / "figures" / f"{name}.csv").write_text("a\n1\n")
    write = {
        "01_data/data.json": json.dumps({"image_root": str(pictures), "guide": guide and "guide.json",
                                         "super_categories": ["bird" + hostile]}),
        "01_data/guide.json": json.dumps(guide),
        "03_tapo/models.json": json.dumps([{"name": "cot_sft_tapo", "label": "TAPO" + hostile,
                                            "prompt": "cot", "adapter": "03_tapo/cot_sft_tapo"}]),
        "04_evaluation/comparisons.csv": as_csv(COMPARISON, UNCLEAR),
        "04_evaluation/orderings.csv": as_csv({**ORDERING, "remark": hostile}),
        "04_evaluation/records.jsonl": "".join(json.dumps(line) + "\n" for line in records),
        "05_probing/comparisons.csv": as_csv(PROBED),
    }
    for name, text in write.items():
        if name.partition("/")[0] in stages:
            (folder / name).write_text(text, encoding="utf-8", errors="replace")
    return recorded(folder)


def recorded(folder):
    """The run once its stages have recorded the files as they lie there now."""
    digests = {}
    for stage in (stage for stage in STAGES if (folder / stage).is_dir()):
        outputs = recorded_hashes(folder / stage, skip=("stage.json",))
        digests[stage] = digest_of(outputs)
        file = folder / stage / "stage.json"
        needs = {need: digests[need] for need in NEEDS[stage]}
        file.write_text(json.dumps({**json.loads(file.read_text()), "needs": needs, "outputs": outputs,
                                    "digest": digests[stage]}))
    return folder


def page_of(folder, rows=ROWS):
    return Page(write_report(folder, rows).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return page_of(a_run(tmp_path_factory.mktemp("whole") / "run"))


# --- what it shows ---


def test_numbers_stand_in_their_cells(whole):
    cells = [" ".join(text.split()) for text in whole.words]
    assert "50.0 [25.0, 75.0]" in cells and "62.5" in cells  # strict with, official without an interval
    assert "+12.5 [+3.0, +22.0] ▲" in cells and "+0.0 [-10.0, +10.0]" in cells
    assert "-0.005 [-0.012, +0.000]" in cells and "equivalent" in cells
    assert "12.5" in cells and "closed world, unseen sub-categories (%), strict scorer" in whole.shown
    assert "1 of 2 differ from zero" in whole.shown and "Of 1 orderings 1 hold" in whole.shown
    assert "0.500 [0.250, 0.750]" in cells
    assert "H1: sub-category read from image states, shuffled labels" in cells
    plain, _, controls = whole.text[whole.text.index('id="probing"') :].partition("<details>")
    assert "shuffled labels" not in plain and "shuffled labels" in controls
    assert "8 seen and 8 unseen images" in " ".join(whole.shown.split())
    assert "6 seen in training, 4 unseen" in cells and "with a field guide" in whole.shown


def test_a_pair_of_traces_before_and_after(whole):
    assert whole.text.count('class="trace-card"') == 2 and "before and after training" in whole.shown
    assert "first wrong step" in whole.shown and "guide: red" in whole.shown


def test_a_trace_alone_makes_no_pair(tmp_path):
    page = page_of(a_run(tmp_path / "run", records=RECORDS[:1]))
    assert "No two open-world traces of this run make a pair." in page.shown and page.problems == []


def test_reading_order_and_contents(whole):
    targets = [attributes["href"] for attributes in whole.all("a")]
    assert targets == ["#" + key for key in (
        "run", "results", "differences", "traces", "probing", "training", "stage1", "data", "world",
        "parameters", "cost", "rows")]
    ids = Counter(attributes["id"] for _, attributes in whole.tags if "id" in attributes)
    assert max(ids.values()) == 1 and all(target[1:] in ids for target in targets)
    sections = [attributes["id"] for attributes in whole.all("section")]
    assert sections == [target[1:] for target in targets]


def test_every_figure_is_there_once_in_its_section(tmp_path):
    run = a_run(tmp_path / "run")
    for name in ("05_probing/wrong_steps", "05_probing/h3_auc", "04_evaluation/trace_new"):
        (run / f"{name}.png".replace("/", "/figures/")).write_bytes(png())
    page = page_of(run)
    wanted = sorted(f"{file.parts[-3]}/{file.stem}" for file in run.glob("*/figures/*.png"))
    assert sorted(attributes["id"] for attributes in page.all("figure")) == wanted
    sources = [attributes["src"] for attributes in page.all("img") if "width" in attributes]
    assert len(sources) == len(wanted)
    for section, name in (("traces", "05_probing/wrong_steps"), ("traces", "04_evaluation/trace_new"),
                          ("probing", "05_probing/h3_auc"), ("differences", "04_evaluation/orderings"),
                          ("results", "04_evaluation/main_table"), ("world", "00_miniature_world/own_00_")):
        start = page.text.index(f'<section id="{section}"')
        assert name in page.text[start : page.text.index("</section>", start)], name
    text = page.shown
    assert "own 01 data." in text and "01_data/figures/own_01_data.csv" in text  # a name it does not know
    assert text.count("05_probing/figures/wrong_steps.csv") == 0  # no CSV was left beside it


def test_every_figure_of_the_notebooks_has_a_caption():
    """All that a notebook names outright, under that very name."""
    named = set()
    for file in (CHECKOUT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] != "code" or "stage.figure" not in "".join(cell["source"]):
                continue
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "stage.figure":
                    named |= {node.args[1].value} if isinstance(node.args[1], ast.Constant) else set()
    assert {"main_table", "montage", "reward"} <= named
    assert named - set(report_page.captions()) == set()


def test_what_the_paper_comparison_says(tmp_path, monkeypatch):
    run = a_run(tmp_path / "run")
    shown = page_of(run).shown
    assert "is not put beside the paper's numbers" in shown and "the paper's numbers, which belong" in shown
    import pandas

    from finer1_lib.paper import comparison as paper_comparison

    line = {"source": "Table 1", "setting": "closed_world", "metric": "accuracy", "paper_row": HOSTILE,
            "model": "base_cot_prompt", "categories": "seen", "dataset": "Average",
            "option_order": "shuffled", "paper": 61.5, "released": float("nan"), "run": 60.0,
            "difference": -1.5, "low": -3.0, "high": 0.5, "n": 400, "n_paper": 800,
            "reading": "inside", "run_strict": 58.0}
    table = pandas.DataFrame([line, {**line, "dataset": "CUB", "paper": 77.7}])
    monkeypatch.setattr(paper_comparison, "comparison_table", lambda run_dir: table)
    page = page_of(run)
    assert "-1.50 [-3.00, +0.50]" in page.shown and "61.50" in page.shown and "77.7" not in page.shown
    assert HOSTILE in page.shown and "the paper's numbers, which belong" not in page.shown


# --- hostile text ---


def test_hostile_text_stays_text(tmp_path, monkeypatch):
    name = "<img src=x onerror=alert(3)>"
    run = a_run(tmp_path / name, hostile=HOSTILE,
                records=[record("cot_sft", "Blue Wren", HOSTILE + "said", super_category=HOSTILE + "kind"),
                         record("cot_sft_tapo", "Red Wren", super_category=HOSTILE + "kind")])
    (run / "05_probing" / "figures" / f"{name}.png").write_bytes(png())
    monkeypatch.setitem(report_page.captions(), "own_01_data", (HOSTILE, HOSTILE + "see"))
    monkeypatch.setattr(report_page, "points", lambda *_: HOSTILE + "cell")
    page = page_of(run, [*ROWS, row(model="cot_sft_tapo", dataset="bird" + HOSTILE, variant=HOSTILE)])
    assert not page.all("script") and "<script" not in page.text and page.problems == []
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert all(attributes["src"].startswith("data:image/") for attributes in page.all("img"))
    text = page.shown
    for told in (f"Run {name}", "TAPO" + HOSTILE, f'["{HOSTILE}"]'.replace('>"', '>\\"'), "cpu" + HOSTILE,
                 "bird" + HOSTILE, "2.0" + HOSTILE, "guide" + HOSTILE, HOSTILE + "see", HOSTILE + "cell",
                 HOSTILE + "kind", HOSTILE + "said", f"{name}."):
        assert told in text, told
    assert "as it was written" in text  # the completion that cannot be read is shown as it is


def test_a_lone_surrogate_is_no_obstacle(tmp_path):
    run = a_run(tmp_path / "run", hostile="\ud800")
    assert "TAPO?" in page_of(run).shown


# --- partial and damaged runs ---


@pytest.mark.parametrize("number", range(len(STAGES) + 1))
def test_a_run_of_the_first_stages(tmp_path, number):
    stages = STAGES[:number]
    (tmp_path / "run").mkdir()
    page = page_of(a_run(tmp_path / "run", stages), ROWS if number > 4 else [])
    assert page.problems == []
    told = page.shown.partition("Not in this report")[2].partition(".")[0]
    assert [stage for stage in STAGES if stage in told] == list(STAGES[number:])
    assert len(page.all("figure")) == sum(3 if stage == "04_evaluation" else 1 for stage in stages)


def test_a_stage_made_from_other_inputs_is_left_out(tmp_path):
    run = a_run(tmp_path / "run")
    file = run / "03_tapo" / "stage.json"
    file.write_text(file.read_text().replace(json.loads(file.read_text())["needs"]["02_cot_sft"], "an older digest"))
    page = page_of(run, [])
    told = page.shown.partition("Not in this report")[2]
    assert "03_tapo, 04_evaluation, 05_probing." in " ".join(told.split())
    assert {attributes["id"] for attributes in page.all("figure")} == {
        f"{stage}/own_{stage}" for stage in STAGES[:3]}


def test_lines_that_are_no_records_are_passed_over(tmp_path):
    run = a_run(tmp_path / "run")
    with (run / "04_evaluation" / "records.jsonl").open("a") as file:
        file.write('7\nnull\n[1]\n"x"\n{"completion": 3}\n')
    recorded(run)
    assert "traces" in write_report(run, ROWS).read_text()


def test_without_records_guide_images_or_tables(tmp_path):
    run = a_run(tmp_path / "a" / "run", guide={})
    page = page_of(run)
    assert "without a field guide" in page.shown and "guide: red" not in page.shown
    assert page.text.count('class="trace-card"') == 2
    (tmp_path / "a" / "pictures" / "a.png").unlink()
    assert "1 of the images are no longer where" in page_of(run).shown
    for name in ("records.jsonl", "comparisons.csv", "orderings.csv", "metrics.json"):
        (run / "04_evaluation" / name).unlink()
    (run / "05_probing" / "comparisons.csv").unlink()
    page = page_of(recorded(run))
    assert 'class="trace-card"' not in page.text and "▲ higher" not in page.shown and page.problems == []
    assert "traces" not in [attributes["id"] for attributes in page.all("section")]
    (run / "05_probing" / "figures" / "trace_words.png").write_bytes(png())
    page = page_of(recorded(run))  # the section for its figure alone
    assert "traces" in [attributes["id"] for attributes in page.all("section")] and page.problems == []


def test_what_was_taken_over_is_reported_and_its_cost_is_not_this_machine_s(tmp_path):
    run = a_run(tmp_path / "run")
    assert "not of this machine" not in page_of(run).shown and "9 min" in page_of(run).shown
    file = run / "03_tapo" / "stage.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "imported_from": "outputs/reference"}))
    (run / "04_evaluation" / "imported.json").write_text('{"imported_from": "outputs/reference"}')
    shown = page_of(recorded(run)).shown
    assert "03_tapo, the answers of 04_evaluation: imported from outputs/reference" in shown
    assert "8 min, at most" in shown  # 7.5: five stages of a minute and a half


DAMAGES = [
    ("01_data/metrics.json", b"{", "metrics.json is not JSON"),
    ("01_data/metrics.json", b"[]", "does not hold what it should"),
    ("04_evaluation/comparisons.csv", b"first,second\na,b\n", "has no column categories"),
    ("04_evaluation/comparisons.csv", b"\xff\xfe\x00", "comparisons.csv is damaged"),
    ("04_evaluation/records.jsonl", b"{}\n}\n", "line 2 is not JSON"),
    ("04_evaluation/orderings.csv", b"claim\nx\n", "orderings.csv has no column"),
    ("05_probing/figures/own_05_probing.png", b"GIF", "own_05_probing.png is not a readable image"),
    ("05_probing/figures/own_05_probing.png", png()[:60], "own_05_probing.png is not a readable image"),
    ("03_tapo/models.json", b"[1]", "03_tapo/models.json, "),
    ("05_probing/comparisons.csv", b"metric\nx\n", "has no column"),
]


@pytest.mark.parametrize(("name", "content", "told"), DAMAGES, ids=[" ".join(case[::2]) for case in DAMAGES])
def test_damage_is_reported_in_one_line_and_the_old_page_stays(tmp_path, name, content, told):
    run = a_run(tmp_path / "run")
    (run / "report.html").write_text("old")
    (run / name).write_bytes(content)
    recorded(run)
    with pytest.raises(UserError) as failure:
        write_report(run, ROWS)
    assert told in str(failure.value) and "\n" not in str(failure.value)
    assert (run / "report.html").read_text() == "old"


def test_the_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    run = a_run(tmp_path / "run")
    (run / "report.html").write_text("old")

    def torn(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", torn)
    with pytest.raises(OSError, match="disk is full"):
        write_report(run, ROWS)
    assert (run / "report.html").read_text() == "old"
    assert [file.name for file in run.iterdir() if file.is_file()] == ["report.html"]


# --- the page itself ---


def test_the_page_asks_for_nothing_from_outside(whole):
    for _, attributes in whole.tags:
        for key in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(key, "#").startswith(("#", "data:image/")), attributes
    style = whole.text[whole.text.index("<style>") : whole.text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    (policy,) = [entry for entry in whole.all("meta") if entry.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert not {"script", "iframe", "link", "object", "form"} & {tag for tag, _ in whole.tags}


def test_the_page_is_sound_and_accessible(whole):
    assert whole.problems == [] and whole.text.startswith("<!doctype html>")
    assert whole.all("html") == [{"lang": "en"}] and len(whole.all("h1")) == 1 and len(whole.all("main")) == 1
    assert all(len(attributes["alt"]) > 2 for attributes in whole.all("img"))
    assert {attributes.get("scope") for attributes in whole.all("th")} == {"col", "row"}
    levels = [int(tag[1]) for tag, _ in whole.tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:]))
    boxes = [attributes for attributes in whole.all("div") if "scroll" in attributes.get("class", "")]
    assert len(boxes) == len(whole.all("table")) + len(whole.all("figure"))  # wide things scroll inside
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in boxes)


# --- figures packed, tables read ---


def unpacked(source):
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")


def test_few_colours_are_kept_exactly_and_many_faithfully(tmp_path):
    flat = Image.new("RGB", (300, 150), "white")
    flat.paste("#D16D02", (20, 20, 200, 100))
    flat.save(tmp_path / "flat.png")
    found = pack(tmp_path / "flat.png")
    assert found["source"].startswith("data:image/png;base64,iVBOR")
    assert not ImageChops.difference(unpacked(found["source"]), flat).getbbox()
    assert (found["width"], found["height"]) == (152, 76)
    slope, round_ = Image.linear_gradient("L"), Image.radial_gradient("L")
    many = Image.merge("RGB", [slope, round_, slope.rotate(90)])
    many.save(tmp_path / "many.png")
    found = pack(tmp_path / "many.png")
    assert found["source"].startswith("data:image/webp;base64,")
    assert max(ImageStat.Stat(ImageChops.difference(unpacked(found["source"]), many)).mean) < 3
    assert (tmp_path / "many.png").stat().st_size > len(found["source"])


def test_transparency_becomes_paper(tmp_path):
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert unpacked(pack(tmp_path / "clear.png")["source"]).getpixel((5, 5)) == (255, 255, 255)


def test_tables_are_read_with_numbers_and_gaps(tmp_path):
    (tmp_path / "a.csv").write_text('name,value\n"a, ""b""",0.5\n,nan\nc,\n')
    assert report_page.read_table(tmp_path / "a.csv", ("name",)) == [
        {"name": 'a, "b"', "value": 0.5}, {"name": None, "value": None}, {"name": "c", "value": None}]
    assert report_page.read_table(tmp_path / "absent.csv", ("name",)) is None
    assert report_page.points({**COMPARISON, "low": None, "reading": "lower"}) == "+12.5 ▼"
    assert report_page.points({**COMPARISON, "difference": None}) == "-"
