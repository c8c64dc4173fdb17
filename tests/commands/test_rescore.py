"""Rescoring by line: the rows of the notebook's way, whatever the order of the lines; bad lines by number."""

import gzip
import json
import random

import pytest
import typer
from hypothesis import given, settings, strategies as st
from typer.testing import CliRunner

from finer1_lib.commands import rescore as cli_rescore
from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.records import RecordFile, fault_of, names_in, set_aside
from finer1_lib.evaluation.scores import rescore as module
from finer1_lib.evaluation.scores.rescore import paths_of, rescore
from finer1_lib.evaluation.scores.scoring import make_scorer, score_records, summary_rows
from finer1_lib.evaluation.summary import KEYS

NAMES = {"bird": ["Rock Wren", "House Wren", "Elf Owl", "Barn Owl"],
         "dog": ["Beagle", "Boxer", "Collie", "Pug"]}
KINDS = {name: "seen" if place % 2 else "unseen" for all_names in NAMES.values()
         for place, name in enumerate(all_names)}


def record(word="bird", label="Rock Wren", number=0, said=None, *, setting="closed_world", order="shuffled",
           rotation=0, model="base", **more):
    """One record; `said` None is the label."""
    options = NAMES[word][rotation:] + NAMES[word][:rotation]
    closed = setting == "closed_world"
    item = f"{word}/{label}/{number}"
    return {"item_id": item, "image_id": f"{item}.png", "super_category": word, "sub_category": label,
            "categories": KINDS[label], "model": model, "setting": setting, "prompt_name": "p", "prompt": "?",
            "prompt_hash": "0", "options": options if closed else None,
            "option_order": order if closed else None, "rotation": rotation, "seed": 0,
            "completion": f"<answer>{label if said is None else said}</answer>", "tokens": 3,
            "truncated": False, **more}


def world(seed=0, pictures=3):
    """Records of two models in every setting and order, of one also five samples; answers by chance."""
    rng, records = random.Random(seed), []
    for word, names in NAMES.items():
        for label in names:
            for number in range(pictures):
                for model in ("base", "clip", "base-drawn"):
                    def ask(model=model, **more):
                        said = rng.choice([label, label, *names, "", f"{names[0]}, {names[1]}"])
                        records.append(record(word, label, number, said, model=model, **more))
                    if model == "base-drawn":
                        for setting in ("closed_world", "open_world"):
                            for sample in range(5):
                                ask(setting=setting, sample=sample, samples=5, strategy="self_consistency")
                        continue
                    for order in ("shuffled", "release"):
                        ask(order=order)
                    for rotation in (1, 2, 3):
                        ask(order="rotations", rotation=rotation)
                    ask(setting="open_world" if model == "base" else "all_labels")
    return records


def write(path, records, end="\n"):
    path.write_text("".join(json.dumps(one) + "\n" for one in records[:-1]) + json.dumps(records[-1]) + end,
                    encoding="utf-8")
    return RecordFile(path)


def scorers_of():
    return [make_scorer(name, names=NAMES) for name in ("strict", "official")]


def by_key(rows):
    """{what a row is about: its numbers}."""
    numbers = ("value", "low", "high", "n")
    keyed = {tuple(row[key] for key in KEYS if key not in numbers): [row[key] for key in numbers]
             for row in rows}
    assert len(keyed) == len(rows)
    return keyed


def assert_same(found, expected):
    """Rows in any order; a sum of fractions may differ in its last digits by the order of adding."""
    found, expected = by_key(found), by_key(expected)
    assert found.keys() == expected.keys()
    for key, numbers in expected.items():
        for one, other in zip(found[key], numbers):
            assert one == other or one == pytest.approx(other, abs=1e-12), key


@pytest.fixture(scope="module")
def expected():
    return summary_rows(score_records(world(), scorers_of()), seed=0, similarity="trigram")


@settings(max_examples=8, deadline=None)
@given(order=st.randoms(use_true_random=False), chunk=st.sampled_from([1, 7, 50, 1024]))
def test_the_rows_are_those_of_the_notebook_in_any_order_of_lines(tmp_path_factory, expected, order, chunk):
    records = world()
    order.shuffle(records)
    file = write(tmp_path_factory.mktemp("records") / "records.jsonl", records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = rescore(file, scorers_of(), similarity="trigram")
    assert_same(found.rows, expected)
    assert found.records == len(records) and found.torn is None
    assert {"pass_at_4", "majority_share", "harmonic_accuracy"} <= {row["metric"] for row in found.rows}
    assert {"rotations", "release"} <= {row["option_order"] for row in found.rows}


def test_rotations_by_hand(tmp_path):
    """The first item is right in all four turns, the second misses one; the third was not rotated."""
    def turns(number, missed):
        return [record(number=number, said="Elf Owl" if turn == missed else None, rotation=turn,
                       order="rotations" if turn else "shuffled") for turn in range(4)]
    records = [*turns(0, None), *turns(1, 2), record(number=2)]
    for lines in (records, records[::-1]):
        rows = rescore(write(tmp_path / "records.jsonl", lines), scorers_of()).rows
        (row,) = [row for row in rows if row["option_order"] == "rotations" and row["scorer"] == "strict"
                  and row["dataset"] == "bird" and row["metric"] == "accuracy"]
        assert (row["value"], row["n"]) == (0.5, 2)
    with pytest.raises(UserError, match="not queried about bird/Rock Wren/1 under each rotation"):
        rescore(write(tmp_path / "records.jsonl", records[:-2]), scorers_of())


def test_samples_by_hand(tmp_path):
    said = ["Elf Owl", "Rock Wren", "", "Rock Wren"]
    records = [record(said=text, sample=place, samples=4) for place, text in enumerate(said)]
    rows = rescore(write(tmp_path / "records.jsonl", records[::-1]), scorers_of()).rows
    found = {row["metric"]: row["value"] for row in rows
             if (row["scorer"], row["dataset"]) == ("strict", "bird")}
    assert (found["accuracy"], found["pass_at_1"], found["majority_share"]) == (1.0, 0.5, 0.5)
    assert found["pass_at_2"] == pytest.approx(1 - 1 / 6)
    with pytest.raises(UserError, match="not the samples 0 to 3"):
        rescore(write(tmp_path / "records.jsonl", records[:3]), scorers_of())


def test_without_anything_to_score_one_line_says_so(tmp_path):
    with pytest.raises(UserError, match="records.jsonl gives no score: name a scorer"):
        rescore(write(tmp_path / "records.jsonl", [record()]), [])


@pytest.mark.parametrize(("change", "words"), [
    ({"completion": None}, "no text 'completion'"), ({"seed": "0"}, "no whole number 'seed'"),
    ({"setting": "half_open"}, "its setting is 'half_open'"), ({"options": "Rock Wren"}, "not a list of names"),
    ({"options": [1, 2]}, "not a list of names"), ({"lettered": True, "options": None}, "it has no options"),
    ({"option_order": "rotations", "rotation": 4}, "its rotation is 4 of 4"),
    ({"option_order": "rotations", "rotation": 0}, "its rotation is 0 of 4"),
    ({"option_order": 3}, "'option_order'"), ({"samples": 4}, "'sample' and 'samples'"),
    ({"seed": 1}, "its seed is 1, of those before it 0"), ({"seed": -1}, "seed is -1, below 0"),
    ({"seed": True}, "no whole number 'seed'"), ({"rotation": False}, "no whole number 'rotation'"),
    ({"item_id": "bird/Rock Wren/0", "tokens": 4}, "twice, and not alike"), ({"sample": 4, "samples": 4}, "'sample'"),
    ({"completion": "a \ud83d"}, "'completion' holds half a character"), ({"options": ["\udc00"]}, "'options' holds half"),
    ({"sub_category": "\ud83d"}, "'sub_category' holds half"), ({"categories": "other"}, "neither seen nor unseen"),
    ({"sub_category": " "}, "'sub_category' is empty"), ({"order_rule": "name"}, "'order_rule' is none of"),
    ({"order_rule": "release_file"}, "its order_rule is release_file, of those before it item_id"),
    ({"release_path": 5}, "'release_path' is not a text"), ({"sample": [1]}, "'sample'"), ({"sample": 1}, "'sample'"),
    ({"option_order": "\ud83d"}, "'option_order' holds half"), ({"setting": "x" * 9999}, "its setting is 'x{40}'"),
])
def test_a_line_that_is_not_a_record_is_reported_with_its_number(tmp_path, change, words):
    records = [record(), record(number=1), {**record(number=2), **change}, record(number=3)]
    with pytest.raises(UserError, match=f"records.jsonl line 3 .*{words}"):
        rescore(write(tmp_path / "records.jsonl", records), scorers_of())


def test_what_is_no_object_and_what_lacks_an_order():
    assert fault_of([1]) == "it is not an object" and fault_of(record()) == ""
    without = record()
    del without["option_order"]
    assert "option_order" in fault_of(without)


def test_a_torn_last_line_is_left_out_and_reported_and_one_in_the_middle_refused(tmp_path):
    records, path = [record(number=number) for number in range(3)], tmp_path / "records.jsonl"
    whole = json.dumps(records[2])
    for end in range(1, len(whole)):
        write(path, records[:2])
        with path.open("a", encoding="utf-8") as file:
            file.write(whole[:end])
        found = RecordFile(path)
        assert len(list(found)) == found.count == 2 and found.torn == 3
    assert rescore(RecordFile(path), scorers_of()).torn == 3
    assert rescore(write(path, records, end=""), scorers_of()).records == 3  # only its line end is missing
    path.write_text(json.dumps(records[0]) + "\n" + whole[:40] + "\n" + whole + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2 .*not JSON"):
        list(RecordFile(path))


def test_a_doubled_line_counts_once_wherever_it_is(tmp_path, expected):
    records = world()
    path = tmp_path / "records.jsonl"
    found = rescore(write(path, [*records, records[0], records[-1], records[40]]), scorers_of(), similarity="trigram")
    assert_same(found.rows, expected)
    assert (found.records, found.doubled) == (len(records), 3)
    assert "3 doubled lines dropped" in set_aside(path)
    assert list(RecordFile(path)) == records and not (tmp_path / "records.jsonl.aside").exists()


def test_bad_lines_are_set_aside_and_the_rest_is_kept(tmp_path):
    """Nothing is lost: what was in the file is in one of the two, and a second time nothing is left to do."""
    records, path, aside = world(pictures=1), tmp_path / "records.jsonl", tmp_path / "records.jsonl.aside"
    good = [json.dumps(one) + "\n" for one in records]
    bad = ["{torn\n", json.dumps({**records[3], "completion": None}) + "\n",
           json.dumps({**records[5], "completion": "<answer>another</answer>"}) + "\n", "[1]\n"]
    path.write_text("".join([*good[:7], *bad, *good[7:], '{"half": ']))
    told = set_aside(path)
    assert "5 lines set aside" in told and "line 8: it is not JSON" in told and "04_evaluation again" in told
    assert path.read_text() == "".join(good) and aside.read_text() == "".join([*bad, '{"half": \n'])
    before = path.read_bytes()
    assert "0 lines set aside" in set_aside(path) and path.read_bytes() == before
    path.write_text("".join([*good, bad[0]]))
    set_aside(path)
    assert aside.read_text() == "".join([*bad, '{"half": \n', bad[0]])  # added to what lies there
    path.write_text("".join(["no\n"] * len(good) * 2 + good))
    before = path.read_bytes()
    with pytest.raises(UserError, match="are not records of this file .*nothing was changed"):
        set_aside(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("other", [{"seed": 9}, {"order_rule": "release_file"}])
def test_a_first_line_of_another_seed_or_rule_is_the_one_set_aside(tmp_path, other):
    records, path = world(pictures=1), tmp_path / "records.jsonl"
    odd = {**next(one for one in records if one["options"]), **other, "item_id": "odd"}
    write(path, [odd, *records])
    assert "1 lines set aside" in set_aside(path)
    assert list(RecordFile(path)) == records


def test_packed_files_and_files_that_are_none(tmp_path):
    records, packed = world(pictures=1), tmp_path / "records.jsonl.gz"
    plain = write(tmp_path / "records.jsonl", records)
    packed.write_bytes(gzip.compress(plain.path.read_bytes()))
    assert_same(rescore(RecordFile(packed), scorers_of()).rows, rescore(plain, scorers_of()).rows)
    packed.write_bytes(packed.read_bytes()[:-200])
    with pytest.raises(UserError, match="not a complete gzip file"):
        list(RecordFile(packed))
    packed.write_bytes(plain.path.read_bytes())
    with pytest.raises(UserError, match="not a complete gzip file"):
        list(RecordFile(packed))
    plain.path.write_text("", encoding="utf-8")
    for path, words in ((plain.path, "holds no records"), (tmp_path / "none.jsonl", "is not a file")):
        with pytest.raises(UserError, match=words):
            list(RecordFile(path))


def test_names_are_labels_and_options():
    assert names_in([record(), record("dog", "Pug", setting="open_world")]) == {
        "bird": sorted(NAMES["bird"]), "dog": ["Pug"]}


def test_what_no_score_reads_is_not_kept(tmp_path):
    """Each line has a long prompt of its own: the peak is below the length of the file."""
    import tracemalloc

    def peak(count):
        lines = (json.dumps(record(number=n, said="Elf Owl", setting="open_world") | {
            "prompt": f"{n} {'x' * 5000}"}) + "\n" for n in range(count))
        path = tmp_path / f"{count}.jsonl"
        path.write_text("".join(lines), encoding="utf-8")
        tracemalloc.start()
        try:
            rescore(RecordFile(path), [make_scorer("strict", names=NAMES)])
            return tracemalloc.get_traced_memory()[1], path.stat().st_size
        finally:
            tracemalloc.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 20)
        peak(60)  # imports
        used, length = peak(600)
    assert used < length, (used, length)


@pytest.fixture
def command(monkeypatch):
    app = typer.Typer()
    app.command("rescore")(cli_rescore.rescore)
    monkeypatch.setenv("COLUMNS", "300")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_reads_a_file_and_a_run(tmp_path, command):
    import pandas as pd

    records, run = world(pictures=1), tmp_path / "outputs" / "mine"
    (run / "04_evaluation").mkdir(parents=True)
    (run / "01_data").mkdir()
    file = write(run / "04_evaluation" / "records.jsonl", records)
    (run / "04_evaluation" / "stage.json").write_text('{"parameters": {"text_similarity": "trigram"}}')
    images = [{"super_category": word, "sub_category": name} for word in NAMES for name in NAMES[word]]
    pd.DataFrame(images).to_parquet(run / "01_data" / "images.parquet")
    target, table = tmp_path / "rows.json", tmp_path / "rows.csv"
    rows = []
    for words in ((file.path,), ("mine", "--output-root", tmp_path / "outputs")):
        result = command(*words, "--json", target, "--csv", table)
        assert result.exit_code == 0, result.output
        assert f"{len(records)} records" in result.output and "strict scorer" in result.output
        rows.append(json.loads(target.read_text()))
    expected = summary_rows(score_records(records, scorers_of()), seed=0, similarity="trigram")
    assert_same([row for row in rows[0] if not row["metric"].startswith("path_")], expected)
    assert len(rows[0]) > len(expected)  # a file alone: its birds are in the table that the kit brings
    assert_same(rows[1], expected)
    assert list(pd.read_csv(table).columns) == list(KEYS) and len(pd.read_csv(table)) == len(expected)


def test_the_command_reports_what_is_not_there(tmp_path, command):
    for words, told in (
        (("no_such_run", "--output-root", tmp_path), "no run with answers"),
        ((tmp_path / "none.jsonl",), "is not a file"),
        ((write(tmp_path / "records.jsonl", [record()]).path, "--guide", tmp_path / "guide.json"), "--guide"),
        ((tmp_path / "records.jsonl", "--similarity", "feeling"), "feeling"),
    ):
        result = command(*words)
        assert isinstance(result.exception, UserError) and told in str(result.exception)


def test_the_command_offers_to_set_a_line_aside_and_does_it(tmp_path, command):
    records, path = world(pictures=1), tmp_path / "records.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "".join(json.dumps(one) + "\r\n" for one in records).encode() + b"oops\n")
    result = command(path)
    assert isinstance(result.exception, UserError) and f"`finer1 rescore {path} --set-aside`" in str(result.exception)
    result = command(path, "--set-aside")
    assert result.exit_code == 0 and f"{len(records)} records kept, 1 lines set aside" in result.output
    assert command(path).exit_code == 0


def test_the_command_never_writes_over_what_it_reads(tmp_path, command):
    path, target = write(tmp_path / "records.jsonl", world(pictures=1)).path, tmp_path / "new" / "deeper" / "rows"
    before = path.read_bytes()
    link = tmp_path / "link.json"
    link.symlink_to(path)
    for words in (("--json", path), ("--csv", link), ("--json", target, "--csv", target)):
        result = command(path, *words)
        assert isinstance(result.exception, UserError) and "read or written already" in str(result.exception)
        assert path.read_bytes() == before and not target.exists()
    assert command(path, "--json", target).exit_code == 0 and target.exists()  # its folders are made


@pytest.mark.parametrize("guide", [
    "[1]", "x", "null", "[" * 50000, '{"sub_categories": {}, "super_categories": {}}', b"\xff\xfe",
    '{"sub_categories": {"Rock Wren": null}, "super_categories": {}, "seen": [], "unseen": []}',
    '{"sub_categories": {"Rock Wren": {"super_category": "bird", "genus": 5, "attributes": {"a": "b"}}}, '
    '"super_categories": {"bird": {"attributes": {"a": ["b"]}, "genus_attributes": []}}, "seen": ["Rock Wren"],'
    ' "unseen": []}', '{"sub_categories": {"\\ud800": {}}, "super_categories": {}, "seen": [], "unseen": []}',
])
def test_a_guide_that_is_none_is_one_line(tmp_path, command, guide):
    path, file = write(tmp_path / "records.jsonl", world(pictures=1)).path, tmp_path / "guide.json"
    file.write_bytes(guide if isinstance(guide, bytes) else guide.encode())
    for words in ((), ("--similarity", "guide")):
        result = command(path, "--guide", file, *words)
        assert isinstance(result.exception, UserError) and "guide.json" in str(result.exception), result.exception


@pytest.mark.parametrize(("name", "content"), [
    ("01_data/images.parquet", "PAR1"), ("01_data/guide.json", '{"a": 1}'), ("01_data/taxonomy.json", '{"Pug": []}'),
    ("01_data/taxonomy.json", '{"Pug": {"genus": 5}}'), ("04_evaluation/stage.json", '{"parameters": []}'),
    ("04_evaluation/stage.json", '{"parameters": {"text_similarity": 5}}'),
    ("04_evaluation/stage.json", '{"parameters": {"more_similarities": [5]}}'),
])
def test_a_run_whose_folders_were_spoiled_is_one_line(tmp_path, command, name, content):
    import pandas as pd

    run = tmp_path / "mine"
    for folder in ("01_data", "04_evaluation"):
        (run / folder).mkdir(parents=True)
    write(run / "04_evaluation" / "records.jsonl", world(pictures=1))
    images = [{"super_category": word, "sub_category": name} for word in NAMES for name in NAMES[word]]
    pd.DataFrame(images).to_parquet(run / "01_data" / "images.parquet")
    assert command("mine", "--output-root", tmp_path).exit_code == 0
    (run / name).write_text(content)
    result = command("mine", "--output-root", tmp_path)
    assert isinstance(result.exception, UserError) and name.rpartition("/")[2] in str(result.exception)


def test_near_misses_are_those_of_the_hierarchy_in_any_order_of_lines(tmp_path):
    from finer1_lib.evaluation.scores.hierarchy import hierarchy_scores

    taxonomy = {name: {"genus": name.split()[-1]} for name in NAMES["bird"]}
    records = world(5)
    expected = summary_rows(hierarchy_scores(records, taxonomy), seed=0)
    random.Random(1).shuffle(records)
    file = write(tmp_path / "records.jsonl", records)
    rows = rescore(file, [], paths=paths_of(names_in(file), taxonomy)).rows
    assert_same(rows, expected)
    assert {row["dataset"] for row in rows} == {"bird", "average"}
    assert {row["metric"] for row in rows} > {"path_hca", "path_near_miss", "path_genus"}


def test_the_command_takes_a_taxonomy(tmp_path, command):
    file, table = write(tmp_path / "records.jsonl", world(pictures=1)), tmp_path / "genera.csv"
    table.write_text("sub_category,genus\n" + "".join(f"{name},{name[-3:]}\n" for name in NAMES["bird"]))
    target = tmp_path / "rows.json"
    for words, there in (((), True), (("--taxonomy", table), False)):  # the kit's has orders, one's own wins
        result = command(file.path, "--json", target, *words)
        assert result.exit_code == 0, result.output
        metrics = {row["metric"] for row in json.loads(target.read_text())}
        assert "path_hca" in metrics and ("path_order" in metrics) is there
