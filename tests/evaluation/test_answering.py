"""What answers: models of any family on tiny checkpoints, endpoints played by a server here, encoders."""

import json
import time
from collections import Counter

import family_checkpoints
import pytest
import tiny_checkpoint
from chat_stand_in import StandIn, answer, refusal, text_of
from hypothesis import given, strategies as st
from test_strategies import NAMES, OFFERED, images

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import read_jsonl
from finer1_lib.evaluation import records as evaluation
from finer1_lib.evaluation.entries import FIXED, Entry, with_strategies, with_systems
from finer1_lib.evaluation.records import collect_records, windows_of
from finer1_lib.evaluation.requests import all_requests, build_requests
from finer1_lib.evaluation.systems.answering import ChatAnswerer, EndpointAnswerer, open_answerer
from finer1_lib.evaluation.systems.registry import System
from finer1_lib.evaluation.systems.strategies import shots_of
from finer1_lib.models import generation
from finer1_lib.models.encoding import Encoder
from finer1_lib.models.endpoint_replies import FILTERED
from finer1_lib.models.generation import AnyModel
from finer1_lib.models.sharing import read_prompts

SIZES = {"Dunen Wren": (56, 56), "Marlo Wren": (56, 84), "Tarn Finch": (112, 56)}
KEY = "sk-this-is-the-key-0123456789"


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """(folder of pictures, items): a test picture each of three birds, in three sizes, and all shots."""
    root, items = tmp_path_factory.mktemp("album"), []
    for seed, image_id in enumerate(images()["image_id"]):
        word, name, _ = image_id.split("/")
        size = SIZES.get(name, (56, 56))
        (root / image_id).parent.mkdir(parents=True, exist_ok=True)
        tiny_checkpoint.picture((40 * seed % 255, 99, 30), size, seed).save(root / image_id)
        if name in SIZES and image_id.endswith("3.png"):
            items.append({
                "item_id": image_id, "image_id": image_id, "super_category": word, "sub_category": name,
                "categories": "seen", "question": f"What species is this {word}?", "options": OFFERED,
                "width": size[0], "height": size[1]})
    return root, items


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(tiny_checkpoint.build(tmp_path_factory.mktemp("tiny")))


def opened(entry, base, root, **options):
    return open_answerer(entry, base, root, **options)


def collect(entry, items, path, open_one, *, batch_size=4, max_new_tokens=8, **asking):
    asked = all_requests(entry, items, ["shuffled"], seed=0, **{"shots": shots_of(images()), **asking})
    return collect_records(asked, path, open_one, max_new_tokens=max_new_tokens, batch_size=batch_size)


def first_scores(answerer, requests):
    """The first token's scores, a row a request: they differ where two short texts of a tiny model agree."""
    seen, head = [], answerer._loaded.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: seen.extend(output[:, -1].clone()))
    answerer.answer(requests, max_new_tokens=1, seed=0)
    hook.remove()
    return seen


# --- models


def test_a_row_answers_by_its_base_and_what_is_only_asked_is_frozen(tiny, album):
    root, items = album
    answerer = opened(FIXED[0], tiny, root)
    requests = build_requests(FIXED[0], items, "open_world")
    given = answerer.answer(requests, max_new_tokens=8, seed=0)
    assert isinstance(answerer, ChatAnswerer) and [one.tokens for one in given] == [8] * 3
    assert not any(weight.requires_grad for weight in answerer._loaded.model.parameters())
    assert given == answerer.answer(requests, max_new_tokens=8, seed=1)  # greedy
    together = first_scores(answerer, requests)
    assert len(together) == 3 and float((together[0] - together[1]).abs().max()) > 1e-4
    for request in requests:
        (single,) = first_scores(answerer, [request])
        assert sum(float((single - row).abs().max()) < 1e-3 for row in together) == 1


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_examples_are_looked_at_alone_and_in_a_batch(family, album, tmp_path):
    """Another picture among the examples changes the answer's scores; three together are three singles."""
    root, items = album
    checkpoint = str(family_checkpoints.build(family, tmp_path))
    system = System(name="x", label="X", checkpoint=checkpoint)
    entry = with_strategies(with_systems(FIXED, [system]), ["x=in_context"])[-1]
    answerer = opened(entry, "none", root, temperature=5.0)
    assert isinstance(answerer._loaded, AnyModel) == (family != "qwen2_5_vl")
    requests = build_requests(entry, items, "open_world", shots=shots_of(images()), examples=2)
    together = first_scores(answerer, requests)
    for request in requests:
        (single,) = first_scores(answerer, [request])
        assert sum(float((single - row).abs().max()) < 1e-3 for row in together) == 1
    one = requests[0]
    swapped = {**one, "examples": [[one["examples"][1][0], one["examples"][0][1]], one["examples"][1]]}
    (before,), (after,) = first_scores(answerer, [one]), first_scores(answerer, [swapped])
    assert float((before - after).abs().max()) > 1e-4
    assert answerer.answer(requests, max_new_tokens=6, seed=0) == answerer.answer(
        requests, max_new_tokens=6, seed=9)  # examples are no sampling, whatever the temperature


def test_samples_differ_by_their_draw_and_read_their_question_once(tiny, album, tmp_path, monkeypatch):
    root, items = album
    entry = with_strategies(FIXED, ["base=self_consistency"], samples=4)[-1]
    prefills, real = [], read_prompts

    def read(base, rows, *rest):
        prefills.append((len(rows), len({id(row) for row in rows})))
        return real(base, rows, *rest)

    monkeypatch.setattr(generation, "read_prompts", read)
    runs = [collect(entry, items, tmp_path / name, lambda: opened(
        entry, tiny, root, temperature=heat)) for name, heat in (("a", 1.0), ("b", 1.0), ("c", 0.0))]
    assert set(prefills) == {(4, 1)}  # four samples of one question a batch
    texts = [[record["completion"] for record in run] for run in runs]
    assert texts[0] == texts[1] and [record["sample"] for record in runs[0][:4]] == [0, 1, 2, 3]
    groups = [texts[0][start : start + 4] for start in range(0, 24, 4)]
    assert len(texts[0]) == 24 and all(len(set(group)) > 1 for group in groups)
    assert all(len(set(texts[2][start : start + 4])) == 1 for start in range(0, 24, 4))
    assert all(record["samples"] == 4 and record["strategy"] == "self_consistency" for record in runs[0])


def test_torn_samples_are_drawn_again_as_they_were(tiny, album, tmp_path):
    root, items = album
    entry = with_strategies(FIXED, ["base=self_consistency"], samples=3)[-1]

    def run():
        return collect(entry, items, tmp_path / "r", lambda: opened(entry, tiny, root), batch_size=3)

    whole = run()
    data = (tmp_path / "r").read_bytes()
    ends = [place + 1 for place, byte in enumerate(data) if byte == 10]
    for cut in (ends[0], ends[3] + 9, ends[6]):
        (tmp_path / "r").write_bytes(data[:cut])
        assert run() == whole and (tmp_path / "r").read_bytes() == data


def test_a_strategy_sees_no_other_row_s_records(tiny, album, tmp_path):
    root, items = album
    rows = with_strategies(FIXED[:1], ["base=step_by_step", "base=in_context"])
    for entry in rows:
        collect(entry, items, tmp_path / "r", lambda: opened(entry, tiny, root), examples=1)
    records = read_jsonl(tmp_path / "r")
    assert Counter((r["model"], r.get("strategy")) for r in records) == {
        ("base", None): 6, ("base-step_by_step", "step_by_step"): 6, ("base-in_context", "in_context"): 6}


# --- once for all that is asked about a picture


class Counting:
    """An answerer that keeps who was asked together."""

    def __init__(self):
        self.batches = []

    def answer(self, requests, *, max_new_tokens, seed):
        self.batches.append([request["image_id"] for request in requests])
        return [generation.Generation("<answer>x</answer>", 1, False) for _ in requests]


@given(sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=40),
       batch=st.integers(1, 6), limit=st.integers(1, 300), twice=st.booleans())
def test_windows_hold_whole_batches_of_pictures_and_every_request_once(sizes, batch, limit, twice):
    first = [{"image_id": f"{n:03d}", "size": list(size)} for n, size in enumerate(sizes)]
    asked = [first, first[::-1] if twice else []]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "WINDOW_PIXELS", limit)
        windows = windows_of(asked, batch)
    for number, requests in enumerate(asked):
        found = [request["image_id"] for window in windows for request in window[number]]
        assert sorted(found) == sorted(request["image_id"] for request in requests)
    of = [{request["image_id"] for requests in window for request in requests} for window in windows]
    assert sum(map(len, of)) == len(first)  # a picture has one window
    area = {request["image_id"]: request["size"][0] * request["size"][1] for request in first}
    for place, window in enumerate(of):
        assert window and (len(window) % batch == 0 or place == len(of) - 1)
        assert len(window) <= batch or sum(area[image_id] for image_id in window) <= limit


def test_one_window_asks_all_lists_before_the_next_one_begins(album, tmp_path, monkeypatch):
    items = [{**item, "item_id": f"{n}", "image_id": f"{n}"} for n, item in enumerate(album[1] * 4)]
    asked = all_requests(FIXED[0], items, ["shuffled", "release"], seed=0)

    def run(name):
        answerer = Counting()
        records = collect_records(asked, tmp_path / name, lambda: answerer, max_new_tokens=1, batch_size=4)
        assert [(r["item_id"], r["setting"]) for r in records] == [
            (r["item_id"], r["setting"]) for requests in asked for r in requests]
        return answerer.batches

    assert [len(batch) for batch in run("one window")] == [4] * 9
    monkeypatch.setattr(evaluation, "WINDOW_PIXELS", 1)
    many = run("three windows")
    assert [len(batch) for batch in many] == [4] * 9
    for start in range(0, 9, 3):
        assert len({image_id for batch in many[start : start + 3] for image_id in batch}) == 4


def test_an_engine_gets_whole_windows_is_named_in_every_record_and_does_not_mix(album, tmp_path, monkeypatch):
    items = [{**item, "item_id": f"{n}", "image_id": f"{n}"} for n, item in enumerate(album[1] * 4)]
    asked = all_requests(FIXED[0], items, ["shuffled"], seed=0)
    monkeypatch.setattr(evaluation, "WINDOW_PIXELS", 1)
    answerer, path, options = Counting(), tmp_path / "records.jsonl", dict(max_new_tokens=1, batch_size=4)
    answerer.engine = "vllm 1.0"
    records = collect_records(asked, path, lambda: answerer, engine="vllm", **options)
    assert [len(batch) for batch in answerer.batches] == [8, 8, 8]  # two questions about each of four pictures
    assert {record["engine"] for record in records} == {"vllm 1.0"}
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:9]))  # a kill in the second window
    answerer.batches.clear()
    assert collect_records(asked, path, lambda: answerer, engine="vllm", **options) == records
    assert len(answerer.batches) == 2
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:9]))
    answerer.engine = "transformers 5.0"
    with pytest.raises(UserError, match="by vllm 1.0, the others would come from transformers 5.0: use that engine"):
        collect_records(asked, path, lambda: answerer, **options)


def test_a_models_own_engine_is_stated(tiny, album):
    chat = opened(FIXED[0], tiny, album[0])
    assert chat.engine.startswith("transformers 5.")
    with pytest.raises(UserError, match="one of transformers, vllm"):
        opened(FIXED[0], tiny, album[0], engine="sglang")


@pytest.mark.parametrize("pixels", [evaluation.WINDOW_PIXELS, 4000])
def test_a_picture_is_prepared_and_seen_once_for_every_prompt(tiny, album, tmp_path, monkeypatch, pixels):
    """Two orders and the open world over three pictures: three pictures opened, three passes of the tower."""
    root, items = album
    monkeypatch.setattr(evaluation, "WINDOW_PIXELS", pixels)
    monkeypatch.setattr("finer1_lib.evaluation.records.WINDOW_PIXELS", pixels)
    answerer = opened(FIXED[0], tiny, root)
    seen, prepared = [], []
    answerer._loaded.model.model.visual.register_forward_hook(lambda *_: seen.append(1))
    processor = answerer._loaded.processor.image_processor
    real = type(processor)

    class Watched(real):
        def __call__(self, images, **options):
            prepared.append(len(images))
            return real.__call__(self, images, **options)

    processor.__class__ = Watched
    asked = all_requests(FIXED[0], items, ["shuffled", "release", "rotations"], seed=0)
    records = collect_records(asked, tmp_path / "r", lambda: answerer, max_new_tokens=4, batch_size=1)
    assert len(records) == 3 * 6 and (len(seen), prepared) == (3, [1, 1, 1])


def test_a_store_holds_its_window_even_where_the_processor_rounds_up():
    """A store a little too small for its window would lose each picture before it is asked for again."""
    held = tiny_checkpoint.tiny_processor()
    area = 3 * 44 * 44  # each becomes 56 x 56, 1.6 times as large
    encoder = Encoder(held, 2 * 24 * area)
    pictures = [tiny_checkpoint.picture(size=(44, 44), seed=seed) for seed in range(3)]
    first = [encoder.picture(one)[0] for one in pictures]
    assert [encoder.picture(one)[0] is kept for one, kept in zip(pictures, first)] == [True] * 3


# --- endpoints


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    standin = StandIn()
    yield standin
    standin.close()


def served(server, strategies=(), samples=3, **changes):
    """A row whose answers come from the stand-in."""
    system = System(name="gpt", label="GPT", kind="endpoint", checkpoint="giant", url=server.url, **changes)
    return with_strategies(with_systems(FIXED, [system]), strategies, samples)[-1]


def over_the_line(entry, album, folder, **options):
    root, items = album
    return collect(entry, items, folder / "records.jsonl", lambda: open_answerer(
        entry, "none", root, answers=folder / "answers.jsonl"), **options)


def test_a_served_model_is_a_row_like_any_other(server, album, tmp_path, monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", KEY)
    def script(number, request):
        time.sleep(0.1)
        return answer(f"<answer>{text_of(request)[:4]}</answer>", usage=(90, 7))

    server.script = script
    entry = served(server, key_variable="VENDOR_KEY", prompts="cot", concurrency=2)
    records = over_the_line(entry, album, tmp_path)
    assert len(records) == len(server.requests) == 6 and server.most == 2
    keys = ("model", "prompt_name", "completion", "tokens", "truncated")
    assert {tuple(record[key] for key in keys) for record in records} == {
        ("gpt", name, "<answer>What</answer>", 7, False) for name in ("cot_closed", "cot_open")}
    local = build_requests(FIXED[3], album[1], "open_world")
    assert [r["prompt"] for r in records[3:]] == [r["prompt"] for r in local]
    assert {request["temperature"] for request in server.requests} == {0.0}
    assert {request["max_tokens"] for request in server.requests} == {8}
    assert KEY not in (tmp_path / "records.jsonl").read_text() + (tmp_path / "answers.jsonl").read_text()


def test_samples_ask_with_seeds_of_their_own(server, album, tmp_path):
    server.script = lambda number, request: answer(f"<answer>{request['seed']}</answer>")
    entry = served(server, ["gpt=self_consistency"])
    records = over_the_line(entry, album, tmp_path)
    assert len(server.requests) == 18 and {request["temperature"] for request in server.requests} == {1.0}
    assert all(r["completion"] == f"<answer>{r['seed'] + r['sample']}</answer>" for r in records)


def test_examples_go_out_as_turns_with_their_pictures(server, album, tmp_path):
    entry = served(server, ["gpt=in_context"])
    records = over_the_line(entry, album, tmp_path, examples=2)
    sent = server.requests[0]["messages"]
    assert [turn["role"] for turn in sent] == ["user", "assistant"] * 2 + ["user"]
    pictures = [turn["content"][0]["image_url"]["url"] for turn in sent[::2]]
    assert len(set(pictures)) == 3 and all(url.startswith("data:image/") for url in pictures)
    prompt = sent[-1]["content"][-1]["text"]
    names = [turn["content"] for turn in sent[1::2]]
    assert prompt in {r["prompt"] for r in records} and names in [
        [f"<answer>{name}</answer>" for _, name in r["examples"]] for r in records]
    endpoint = EndpointAnswerer(entry.system, album[0], tmp_path / "answers.jsonl")
    before, (one, two) = len(server.requests), records[0]["examples"]
    for asked, examples in enumerate(([one, two], [two, one], [[two[0], one[1]], two])):
        endpoint.answer([{**records[0], "examples": examples}], max_new_tokens=8, seed=0)
        assert len(server.requests) == before + asked  # what stands before a question decides its answer


@pytest.mark.parametrize("refuse, why", [
    (answer("", FILTERED), FILTERED), (refusal(400, "not it", code="content_policy_violation"), FILTERED),
    (answer(""), "stop")], ids=["filtered", "refused for its content", "empty"])
def test_a_question_that_gets_no_answer_is_a_record_without_one(server, album, tmp_path, refuse, why):
    """It stays in the denominator, and is not asked again; why there is none stands among the answers."""
    said = answer("<answer>a</answer>")
    server.script = lambda number, request: refuse if "Choose" in text_of(request) else said
    entry = served(server)
    endpoint = EndpointAnswerer(entry.system, album[0], tmp_path / "answers.jsonl")
    endpoint._endpoint(8)._first_wait = 0.01
    records = collect(entry, album[1], tmp_path / "records.jsonl", lambda: endpoint)
    assert [r["completion"] for r in records] == [""] * 3 + ["<answer>a</answer>"] * 3
    before = len(server.requests)
    lines = read_jsonl(tmp_path / "answers.jsonl")
    assert [line["finish"] for line in lines if not line["text"]] == [why] * 3 and len(lines) == 6
    (tmp_path / "records.jsonl").unlink()
    again = over_the_line(entry, album, tmp_path)
    assert again == records and len(server.requests) == before


def test_what_was_answered_before_the_server_gave_up_is_not_asked_again(server, album, tmp_path):
    server.script = lambda number, request: refusal(401, "wrong key") if number > 4 else answer(f"a{number}")
    with pytest.raises(UserError, match="401"):
        over_the_line(served(server, concurrency=1), album, tmp_path, batch_size=2)
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [len(records), len(read_jsonl(tmp_path / "answers.jsonl"))] in ([3, 4], [4, 4])
    server.script = lambda number, request: answer(f"a{number}")
    whole = over_the_line(served(server, concurrency=1), album, tmp_path, batch_size=2)
    assert len(server.requests) == 5 + 2 and whole[: len(records)] == records
    assert {r["completion"] for r in whole} == {"a1", "a2", "a3", "a4", "a6", "a7"}


# --- encoders, and what cannot be opened


def test_an_encoder_is_opened_with_its_labels(album, monkeypatch):
    given = {}

    def open_encoder(system, image_root, labels, *, batch_size):
        given.update(name=system.name, root=image_root, labels=labels, batch_size=batch_size)
        return "answers"

    monkeypatch.setattr("finer1_lib.evaluation.systems.encoders.open_encoder", open_encoder)
    system = System(name="e", label="E", kind="encoder", checkpoint="a/b", prompts="clip_photo")
    entry = with_systems(FIXED, [system])[-1]
    assert open_answerer(entry, "none", album[0], batch_size=7, labels=NAMES) == "answers"
    assert given == {"name": "e", "root": album[0], "labels": NAMES, "batch_size": 7}


def test_a_checkpoint_that_is_not_there_is_one_line(album, tmp_path):
    entry = Entry("x", "answer", None, "X", str(tmp_path / "gone"))
    with pytest.raises(UserError) as caught:
        open_answerer(entry, "none", album[0])
    assert "gone" in str(caught.value) and "\n" not in str(caught.value)
