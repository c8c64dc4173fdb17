"""A large teacher behind an address, played by a server on this machine that errs in every way a real one does."""

import asyncio
import base64
import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from chat_stand_in import answer, endpoint, refusal, text_of
from hypothesis import example, given, settings, strategies as st
from PIL import Image

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import read_jsonl
from finer1_lib.core.images import ImageFile, data_url, fitted
from finer1_lib.data.rationales.filters import CUT_OFF, TOO_LONG, flaws, reasons_of, words, write_rationale
from finer1_lib.data.rationales.making import make_rationales
from finer1_lib.data.rationales.teachers import Description, EndpointTeacher, PromptedTeacher, Rationale
from finer1_lib.models import endpoint as chat_endpoint
from finer1_lib.models.endpoint import (Answer, ChatEndpoint, Pace, Question, Stopped, backoff, spent,
                                        spent_line)
from finer1_lib.models.endpoint_replies import FILTERED, Later, Unwanted, read_reply, retry_after

KEY = "sk-this-is-the-key-0123456789"


# --- what is sent, and what comes back


def test_a_image_and_a_prompt_reach_the_server_whole(standin, tmp_path, monkeypatch):
    """The banner's rows are left out, the size is bounded, colours are kept; the key is in its header alone."""
    image = Image.new("RGB", (60, 50), (250, 10, 10))
    image.paste((0, 0, 0), (0, 40, 60, 50))
    image.save(tmp_path / "a.png")
    monkeypatch.setenv("TEACHER_KEY", KEY)
    asked = Question("What is it?", ImageFile(str(tmp_path), "a.png#bottom=10"), seed=7)
    teacher = endpoint(standin, tmp_path, key_variable="TEACHER_KEY", max_tokens=99, temperature=0.3, max_pixels=600)
    assert teacher.ask([asked]) == [Answer("A wren.", False, 3)]
    request, headers = standin.requests[0], standin.headers[0]
    assert headers["path"] == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert {name: request[name] for name in ("model", "max_tokens", "temperature", "seed")} == {
        "model": "giant", "max_tokens": 99, "temperature": 0.3, "seed": 7}
    picture, text = request["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    kind, data = picture["image_url"]["url"].split(",")
    assert kind == "data:image/jpeg;base64"
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert sent.size == (30, 20)  # 60 x 40 without the banner, a quarter of its pixels
    assert all(abs(a - b) < 8 for a, b in zip(sent.getpixel((15, 19)), (250, 10, 10)))
    line = read_jsonl(tmp_path / "answers.jsonl")[0]
    assert line["answered_by"] == "giant-2" and line["image_id"] == "a.png#bottom=10" and line["tries"] == 1
    assert (line["prompt_tokens"], line["completion_tokens"]) == (10, 3) and line["sent"]["seed"] == 7


def test_images_are_only_made_smaller():
    image = Image.new("RGB", (40, 30))
    assert fitted(image, 0) is image and fitted(image, 1200) is image
    assert fitted(image, 300).size == (20, 15) and fitted(Image.new("RGB", (1000, 1)), 5).size == (70, 1)


def test_a_mark_one_pixel_wide_keeps_its_colour(tmp_path):
    stripes = Image.new("RGB", (32, 32), (220, 20, 20))
    for x in range(0, 32, 2):
        stripes.paste((20, 20, 220), (x, 0, x + 1, 32))
    stripes.save(tmp_path / "a.png")
    data = data_url(ImageFile(str(tmp_path), "a.png")).split(",")[1]
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert all(sent.getpixel((x, 9))[2] > 150 > 90 > sent.getpixel((x + 1, 9))[2] for x in range(0, 32, 2))


def test_answers_come_in_their_order_and_requests_go_out_together(standin, tmp_path):
    def slow(number, request):
        time.sleep(0.03 + 0.02 * (number % 3))
        return answer(text_of(request).upper())

    standin.script = slow
    asked = [Question(f"q{n}") for n in range(10)]
    answers = endpoint(standin, tmp_path, concurrency=4).ask(asked)
    assert [one.text for one in answers] == [f"Q{n}" for n in range(10)]
    assert standin.most == 4  # never more, and no fewer


# --- what may pass


def torn(number, request):
    status, headers, body = answer()
    return status, {"Content-Length": str(len(body) + 50), "Connection": "close"}, body


def drips(reply):
    """The same reply, a piece every twentieth of a second."""
    status, headers, body = reply
    step = len(body) // 30 + 1
    return status, {"Content-Length": str(len(body))}, [body[k : k + step] for k in range(0, len(body), step)]


FAULTS = {  # malformed replies are in test_chat_hostile.py
    "too many": lambda *_: refusal(429, "slow down", {"Retry-After": "0"}),
    "too many, in milliseconds": lambda *_: refusal(429, "slow down", {"retry-after-ms": "20"}),
    "too many, no hint": lambda *_: refusal(429, "slow down"),
    "server error": lambda *_: refusal(500, "sorry"),
    "empty": lambda *_: answer("  \n"),
    "null": lambda *_: answer(None),
    "hung up": lambda *_: None,
    "torn": torn,
    "silent": lambda *_: (time.sleep(0.6), answer("too late"))[1],
    "in drips": lambda *_: drips(answer("too slow")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_retried(standin, tmp_path, fault):
    standin.script = lambda number, request: FAULTS[fault](number, request) if number < 3 else answer("At last.")
    late = fault in ("silent", "in drips")
    teacher = endpoint(standin, tmp_path, time_out=0.3 if late else 20.0)
    assert [answer[:2] for answer in teacher.ask([Question("What?")])] == [("At last.", False)]
    tries = read_jsonl(teacher.answers)[0]["tries"]
    assert tries == len(standin.requests) >= 3 and (late or tries == 3)  # a busy machine may be late once more


def test_an_endless_body_is_given_up(standin, tmp_path, monkeypatch):
    monkeypatch.setattr(chat_endpoint, "MOST_BYTES", 500)
    standin.script = lambda number, request: answer("x" * 1000)
    with pytest.raises(UserError, match="try 2 of 2: an endless answer"):
        endpoint(standin, tmp_path, tries=2).ask([Question("What?")])


def test_a_server_that_is_not_there_is_reported_in_one_line(tmp_path):
    teacher = ChatEndpoint("http://127.0.0.1:9/v1", "giant", tmp_path / "a.jsonl", first_wait=0.01, tries=2)
    with pytest.raises(UserError, match=r"gave no answer \(try 2 of 2: ConnectError.*run again later"):
        teacher.ask([Question("What?")])


def test_retry_after_holds_everybody_back(standin, tmp_path):
    """One refusal with half a second: no request of any thread arrives before that."""
    times = []

    def script(number, request):
        times.append(time.monotonic())
        if number == 1:
            return refusal(429, "wait", {"retry-after-ms": "500"})
        time.sleep(0.15)
        return answer()

    standin.script = script
    teacher = endpoint(standin, tmp_path, concurrency=4)
    teacher.ask([Question("first")])
    began = times[0]
    assert times[1] - began >= 0.45
    standin.requests.clear()
    times.clear()
    teacher.ask([Question("a"), Question("b"), Question("c"), Question("d"), Question("e")])
    assert min(other - times[0] for other in times[4:]) >= 0.4  # at most those under way were before


def test_a_server_that_wants_too_long_a_rest_ends_the_run(standin, tmp_path):
    standin.script = lambda number, request: refusal(429, "quota of the day", {"Retry-After": "86400"})
    with pytest.raises(UserError, match="quota of the day, which asks to wait 86400 s"):
        endpoint(standin, tmp_path).ask([Question("What?")])
    assert len(standin.requests) == 1


def test_an_answer_that_stays_empty_is_the_models_own(standin, tmp_path):
    """It is kept as such, with the tokens of all its tries, for the filters to send back."""
    standin.script = lambda number, request: answer("")
    teacher = endpoint(standin, tmp_path, tries=3)
    assert [answer[:2] for answer in teacher.ask([Question("What?")])] == [("", False)] and len(standin.requests) == 3
    assert spent(teacher.answers)["prompt_tokens"] == 30
    standin.script = lambda number, request: answer("", FILTERED)
    assert [answer[:2] for answer in teacher.ask([Question("Other?")])] == [("", False)] and len(standin.requests) == 4
    standin.script = lambda number, request: refusal(400, "not this picture", code="content_policy_violation")
    assert [answer[:2] for answer in teacher.ask([Question("Third?")])] == [("", False)] and len(standin.requests) == 5


# --- what will not pass


@pytest.mark.parametrize(
    ("reply", "says"),
    [(refusal(401, f"Incorrect API key provided: {KEY}"), r"answers 401 \(Incorrect API key provided: \*\*\*\).*key"),
     (refusal(404, "The model does not exist"), "answers 404 .*teacher_name"),
     (refusal(400, "giant is not a multimodal model"), "not a multimodal model"),
     (refusal(429, "You have no money", code="insufficient_quota"), "no credit"),
     ((307, {"Location": "https://elsewhere.example/v1"}, b""), "it has moved"),
     ((413, {}, b"too large"), "lower max_pixels")],
)
def test_what_will_not_pass_is_one_line_at_once(standin, tmp_path, monkeypatch, reply, says):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    standin.script = lambda number, request: reply
    with pytest.raises(UserError, match=says) as caught:
        endpoint(standin, tmp_path, key_variable="TEACHER_KEY").ask([Question("What?")])
    assert len(standin.requests) == 1 and "\n" not in str(caught.value) and KEY not in str(caught.value)


def test_one_refusal_ends_the_others_and_keeps_what_was_answered(standin, tmp_path):
    def script(number, request):
        time.sleep(0.05)
        return refusal(401) if number == 5 else answer(text_of(request))

    standin.script = script
    asked = [Question(f"q{n}") for n in range(40)]
    teacher = endpoint(standin, tmp_path, concurrency=2)
    with pytest.raises(UserError, match="401"):
        teacher.ask(asked)
    before = len(standin.requests)
    kept = len(read_jsonl(tmp_path / "answers.jsonl"))
    assert kept == before - 1 < 10
    standin.script = lambda number, request: answer(text_of(request))
    answers = endpoint(standin, tmp_path, concurrency=2).ask(asked)
    assert [one.text for one in answers] == [f"q{n}" for n in range(40)]
    assert len(standin.requests) == before + 40 - kept
    assert teacher.ask([Question("new")])[0].text == "new"  # the one that failed is of use again


def test_an_interrupt_keeps_what_is_under_way_and_a_notebook_s_loop_is_no_hindrance(standin, tmp_path):
    def script(number, request):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return answer(text_of(request))

    async def cell():
        return endpoint(standin, tmp_path).ask([Question("q0"), Question("new")])

    standin.script = script
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with pytest.raises(KeyboardInterrupt):
        endpoint(standin, tmp_path, concurrency=2).ask([Question(f"q{n}") for n in range(20)])
    signal.signal(signal.SIGINT, before)
    assert len(read_jsonl(tmp_path / "answers.jsonl")) == len(standin.requests) == 2
    assert [one.text for one in asyncio.run(cell())] == ["q0", "new"] and len(standin.requests) == 3


@pytest.mark.parametrize(
    "url", ["", "a:8000/v1", "ftp://a/v1", "https://", "https://u:p@a/v1", "https://a/v1?key=x", "http://[::1/v1"])
def test_an_address_is_an_address_and_nothing_else(url, tmp_path):
    with pytest.raises(UserError, match="teacher_url"):
        ChatEndpoint(url, "giant", tmp_path / "a.jsonl")


def test_addresses_in_every_spelling(tmp_path):
    for url in ("https://a.example/v1", " https://a.example/v1/ ", "https://a.example/v1/chat/completions"):
        address = ChatEndpoint(url, "giant", tmp_path / "a.jsonl").address
        assert address == "https://a.example/v1/chat/completions"
    for bad in (dict(model=" "), dict(tries=0), dict(concurrency=0), dict(requests_per_minute=-1)):
        with pytest.raises(UserError):
            ChatEndpoint("https://a.example", **{"model": "giant", **bad}, answers=tmp_path / "a.jsonl")


def test_the_key_is_nowhere_but_in_its_header(standin, tmp_path, monkeypatch, capsys):
    """A server that repeats the key in its answers and errors; a key given in place of the variable's name."""
    monkeypatch.setenv("TEACHER_KEY", f" {KEY}\n")
    standin.script = lambda number, request: answer(f"your key is {KEY}", model=KEY)
    teacher = endpoint(standin, tmp_path, key_variable="TEACHER_KEY")
    assert teacher.ask([Question("What?")])[0].text == "your key is ***"
    assert standin.headers[0]["Authorization"] == f"Bearer {KEY}"
    standin.script = lambda number, request: refusal(400, f"unsupported seed for {KEY}")
    with pytest.raises(UserError) as caught:
        teacher.ask([Question("Again?")])
    written = "".join(file.read_text() for file in tmp_path.iterdir()) + str(caught.value)
    written += str(vars(teacher)) + "".join(capsys.readouterr())
    assert KEY not in written and "your key is" in written
    with pytest.raises(UserError, match="variable's name") as caught:
        endpoint(standin, tmp_path, key_variable=KEY)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "line\nfeed", "é"])
def test_without_a_key_nothing_is_sent(standin, tmp_path, monkeypatch, value):
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TEACHER_KEY", value)
    with pytest.raises(UserError, match="TEACHER_KEY holds no key"):
        endpoint(standin, tmp_path, key_variable="TEACHER_KEY").ask([Question("What?")])
    assert not standin.requests


# --- fields that some servers do not take


def test_a_newer_models_fields_are_spelt_as_it_wants(standin, tmp_path, capsys):
    """It wants another name for the limit, its own temperature and no seed; each is said once."""

    def script(number, request):
        if "max_tokens" in request:
            return refusal(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                                "'max_completion_tokens' instead.", param="max_tokens", code="unsupported_parameter")
        if "temperature" in request:
            return refusal(400, "Unsupported value: 'temperature' does not support 0.7 with this model.")
        if "seed" in request:  # as FastAPI says it
            detail = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]
            return 422, {}, json.dumps({"detail": detail}).encode()
        return answer()

    standin.script = script
    teacher = endpoint(standin, tmp_path, max_tokens=77, concurrency=3)
    assert len(teacher.ask([Question(f"q{n}", seed=n) for n in range(6)])) == 6
    assert standin.requests[-1].keys() == {"model", "messages", "max_completion_tokens"}
    assert standin.requests[-1]["max_completion_tokens"] == 77
    out = capsys.readouterr().out
    assert [out.count(f"does not take {name} ") for name in ("max_tokens", "temperature", "seed")] == [1, 1, 1]
    assert read_jsonl(teacher.answers)[-1]["sent"] == {"max_completion_tokens": 77}


def test_a_value_out_of_range_is_no_unwanted_field(standin, tmp_path):
    standin.script = lambda number, request: refusal(400, "max_tokens is too large: 99999")
    with pytest.raises(UserError, match="too large"):
        endpoint(standin, tmp_path).ask([Question("What?")])
    assert len(standin.requests) == 1


# --- the file of answers


def test_nothing_is_requested_twice_and_everything_that_decides_counts(standin, tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (30, 30), "red" if name == "a" else "blue").save(tmp_path / f"{name}.png")
    root = str(tmp_path)

    def ask(question, **options):
        before = len(standin.requests)
        endpoint(standin, tmp_path, **options).ask([question])
        return len(standin.requests) - before

    one = Question("What?", ImageFile(root, "a.png"), 3)
    assert ask(one) == 1 and ask(one) == 0 and ask(one, concurrency=3, tries=2) == 0
    assert ask(one._replace(prompt="Why?")) == ask(one._replace(seed=4)) == ask(one._replace(image=None)) == 1
    other, cropped = (one._replace(image=ImageFile(root, name)) for name in ("b.png", "a.png#bottom=3"))
    assert ask(other) == ask(cropped) == 1
    assert ask(one, max_tokens=7) == ask(one, temperature=0.1) == ask(one, max_pixels=100) == 1
    (tmp_path / "b.png").rename(tmp_path / "a.png")
    assert ask(one) == 0  # the blue picture was asked about, under whichever name
    Image.new("RGB", (30, 30), "green").save(tmp_path / "a.png")
    assert ask(one) == 1
    before = len(standin.requests)
    assert len(set(endpoint(standin, tmp_path / "new").ask([one, one]))) == 1 == len(standin.requests) - before


def test_a_torn_line_is_retried_and_no_other(standin, tmp_path):
    asked = [Question(f"q{n}") for n in range(3)]
    endpoint(standin, tmp_path, concurrency=1).ask(asked)
    file = tmp_path / "answers.jsonl"
    file.write_bytes(file.read_bytes()[:-7])
    assert len(endpoint(standin, tmp_path).ask(asked)) == 3 and standin.prompts()[3:] == ["q2"]
    assert len(read_jsonl(file)) == 3


KILLED = """
import sys
from pathlib import Path
from finer1_lib.models.endpoint import ChatEndpoint, Question
ChatEndpoint(sys.argv[1], "giant", Path(sys.argv[2]), concurrency=3).ask([Question(f"q{n}") for n in range(30)])
"""


def test_after_a_kill_no_answer_is_requested_again(standin, tmp_path):
    """The process dies by SIGKILL with three requests under way: these alone are asked a second time."""

    def script(number, request):
        time.sleep(0.05)
        return answer(text_of(request))

    standin.script, file = script, tmp_path / "answers.jsonl"
    process = subprocess.Popen([sys.executable, "-c", KILLED, standin.url, str(file)])
    deadline = time.monotonic() + 60
    while len(standin.requests) < 10 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before, kept = len(standin.requests), len(read_jsonl(file))
    assert before - 4 <= kept < 30  # three under way, one perhaps between its arrival and its line
    answers = endpoint(standin, tmp_path).ask([Question(f"q{n}") for n in range(30)])
    assert [one.text for one in answers] == [f"q{n}" for n in range(30)]
    assert len(standin.requests) == before + 30 - kept


def test_half_a_sign_in_an_answer_can_be_written_and_is_found_by_the_filters(standin, tmp_path):
    standin.script = lambda number, request: (200, {}, answer("a wren")[2].replace(b"a wren", b"a \\ud83d wren"))
    text = endpoint(standin, tmp_path).ask([Question("What?")])[0].text
    assert text == "a \ufffd wren" and read_jsonl(tmp_path / "answers.jsonl")[0]["text"] == text
    assert "mixed_language" in flaws(text, "x")


@settings(max_examples=200, deadline=None)
@example(200, b'[{"error": null, "loc": 1}]')
@given(st.integers(100, 599), st.binary(max_size=40) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["seed", "unsupported seed"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["error", "message", "choices", "content", "finish_reason", "usage", "detail", "code",
                         "loc", "msg", "prompt_tokens", "model", "type", "text"]), inner, max_size=4),
    max_leaves=12).map(lambda value: json.dumps(value).encode()))
def test_any_reply_is_an_answer_or_one_of_three_errors(status, body):
    try:
        line = read_reply(status, {}, body, secret=KEY, fields=("seed",))
        assert isinstance(line["text"], str) and isinstance(line["truncated"], bool)
        line["text"].encode("utf-8")
    except (Later, Unwanted, UserError) as error:
        assert "\n" not in str(error) and len(str(error)) < 600


# --- pace


class Clock:
    """A clock that only waiting moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds


def test_requests_are_spaced_evenly_whatever_happened_before():
    clock = Clock()
    pace = Pace(120, clock=clock, sleep=clock.sleep)

    def turns(n):
        return [(asyncio.run(pace.turn()), clock.now)[1] for _ in range(n)]

    assert turns(4) == [100.0, 100.5, 101.0, 101.5]
    clock.now = 110.0
    assert turns(2) == [110.0, 110.5]  # idle minutes are not saved up
    pace.pause(3.0)
    assert turns(2) == [113.5, 114.0]
    pace.pause(0.1)
    assert turns(1) == [114.5]  # a shorter pause takes nothing back
    free = Pace(0, clock=clock, sleep=clock.sleep)
    assert [(asyncio.run(free.turn()), clock.now)[1] for _ in range(3)] == [114.5] * 3


def test_a_minute_never_sees_more_than_its_number(standin, tmp_path):
    """600 a minute by six threads, in two calls, one try failing: ten requests take nine tenths of a second."""
    standin.script = lambda number, request: refusal(500) if number == 2 else answer()
    teacher, began = endpoint(standin, tmp_path, requests_per_minute=600, concurrency=6), time.monotonic()
    teacher.ask([Question(f"q{n}") for n in range(8)])
    teacher.ask([Question("q8")])
    assert len(standin.requests) == 10 and time.monotonic() - began >= 0.9


def test_whoever_waits_is_woken_when_all_stop():
    async def stop():
        pace.stopped = True

    async def both():
        await pace.turn()
        await asyncio.gather(pace.turn(), stop())

    pace = Pace(1)
    with pytest.raises(Stopped):
        asyncio.run(asyncio.wait_for(both(), 5))


def test_waits_grow_by_chance_to_a_bound():
    random.seed(0)
    for tried, most in ((1, 1.0), (2, 2.0), (5, 16.0), (9, 60.0)):
        waits = [backoff(1.0, tried) for _ in range(200)]
        assert most / 2 <= min(waits) < most * 0.6 and most * 0.9 < max(waits) <= most


def test_retry_after_in_every_form():
    from email.utils import formatdate

    assert retry_after({"retry-after": "7"}) == 7.0 and retry_after({"retry-after": " 1.5 "}) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": "7, 30"}) == 7.0
    assert 8 < retry_after({"retry-after": formatdate(time.time() + 10, usegmt=True)}) <= 10
    assert retry_after({"retry-after": formatdate(time.time() - 99, usegmt=True)}) == 0.0
    for nothing in ({}, {"retry-after": ""}, {"retry-after": "soon"}, {"retry-after": "-5"}, {"retry-after": "nan"}):
        assert retry_after(nothing) is None


# --- tokens and money


def test_tokens_and_cost_by_hand(standin, tmp_path):
    usages = iter([(1000, 50), (3000, 150), None, ("many", -1)])
    standin.script = lambda number, request: answer(usage=next(usages))
    teacher = endpoint(standin, tmp_path, concurrency=1)
    teacher.ask([Question(f"q{n}") for n in range(4)])
    assert spent(teacher.answers, [2.5, 10.0]) == {
        "answers": 4, "prompt_tokens": 4000, "completion_tokens": 200, "uncounted": 2,
        "cost": pytest.approx(0.012)}
    assert spent_line(teacher.answers, [2.5, 10.0]) == (
        "4 answers: 4,000 tokens read, 200 written, 0.01 at the prices given; 2 answers without a count")
    assert spent(teacher.answers)["cost"] is None and spent(tmp_path / "none.jsonl", [1, 1])["cost"] == 0
    for prices in ([1.0], [1.0, -1.0], [1.0, 2.0, 3.0], [1.0, float("nan")]):
        with pytest.raises(UserError, match="teacher_prices"):
            spent(teacher.answers, prices)


# --- the teacher


NAMES = ["Dunen Wren", "Marlo Wren", "Teko Wren"]
GOOD = write_rationale("red crown, long tail", NAMES[:2], "Dunen Wren: fits; Marlo Wren: blue crown", "Dunen Wren")


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "w").mkdir()
    for number in range(3):
        Image.new("RGB", (30, 30), (80 * number, 0, 0)).save(tmp_path / "w" / f"{number}.png")
    return [{"image_id": f"w/{n}.png", "super_category": "bird", "sub_category": "Dunen Wren"} for n in range(3)]


def test_an_endpoint_teaches_as_a_model_here_does(standin, tmp_path, rows):
    """The same prompts to the letter; images with all but the concepts; what was cut off is marked."""
    standin.script = lambda number, request: answer("1. red crown\n- long tail.", "stop")
    teacher = EndpointTeacher(endpoint(standin, tmp_path, concurrency=1), tmp_path, ["shape"])
    heard = []

    def generate(loaded, prompts, **options):
        heard.extend(prompt[0]["content"][-1]["text"] for prompt in prompts)
        return [type("", (), {"text": "", "truncated": False}) for _ in prompts]

    here = PromptedTeacher(object, tmp_path, ["shape"], generate=generate)
    assert teacher.foci(rows[0]) == here.foci(rows[0]) and teacher.batch_size == 1
    for one in (teacher, here):
        one.describe_all([Description(row, "shape", n) for n, row in enumerate(rows)])
        one.concepts_all([(rows[0], [])])
        one.rationale_all([Rationale(row, ["red crown"], "What?", 1) for row in rows])
    assert standin.prompts() == heard and len(heard) == 7 and "words in all" not in str(heard)  # no limit
    pictures = [len(request["messages"][0]["content"]) - 1 for request in standin.requests]
    assert pictures == [1, 1, 1, 0, 1, 1, 1] and [request["seed"] for request in standin.requests[:3]] == [0, 1, 2]
    assert teacher.concepts(rows[0], []) == ["red crown", "long tail"]
    standin.script = lambda number, request: answer("A red crown. A lo", "length")
    assert teacher.describe(rows[0], "shape", 99) == "A red crown."
    assert teacher.rationale(rows[0], [], "?", 99) == "A red crown. A lo" + CUT_OFF


def test_rationales_from_an_endpoint_are_filtered_resumed_and_limited(standin, tmp_path, rows):
    """Too long, then good; a run killed by a refusal goes on, and each answered question was asked once."""
    long = GOOD.replace("red crown,", "red crown, " + "very " * 30)
    replies = {}  # picture and seed -> how often asked

    def script(number, request):
        content = request["messages"][0]["content"]
        key = (content[0]["image_url"]["url"], request["seed"])
        replies[key] = replies.get(key, 0) + 1
        if number == 4:
            return refusal(401)
        tries = {seed for url, seed in replies if url == key[0]}
        return answer(long if len(tries) == 1 else GOOD)

    standin.script = script
    chosen = {row["image_id"]: [{"concept": "red crown", "kept": True}] for row in rows}

    def make(**options):
        teacher = EndpointTeacher(endpoint(standin, tmp_path, concurrency=1), tmp_path, ["shape"], words=40)
        return make_rationales(teacher, rows, chosen, seed=0, attempts=3, names={"bird": NAMES},
                               path=tmp_path / "r.jsonl", max_words=40, **options)

    with pytest.raises(UserError, match="401"):
        make()
    records = make()
    assert all(record["kept"] and record["rejections"] == [TOO_LONG] for record in records)
    assert all(record["max_words"] == 40 and words(record["text"]) <= 40 for record in records)
    assert reasons_of(records)[-1] == TOO_LONG and sorted(replies.values()) == [1] * 5 + [2]  # the refused one
    assert all("at most 40 words" in prompt for prompt in standin.prompts())
    with pytest.raises(UserError, match="other limits"):
        make_rationales(None, rows, chosen, seed=0, attempts=3, names={"bird": NAMES}, path=tmp_path / "r.jsonl")


def test_words_are_counted_without_tags_and_the_limit_is_off_at_nought():
    assert words("<think>\n<analysis>red crown</analysis>\n</think>\n<answer>Dunen Wren</answer>" + CUT_OFF) == 4
    count = words(GOOD)
    assert flaws(GOOD, "Dunen Wren", NAMES, (), count) == [] == flaws(GOOD, "Dunen Wren", NAMES)
    assert flaws(GOOD, "Dunen Wren", NAMES, (), count - 1) == [TOO_LONG]
    assert TOO_LONG not in reasons_of([{"kept": True}])


def test_a_crowded_server_is_left_alone_by_everybody(standin, tmp_path):
    """A 429 without a time, or with none to wait, holds all threads back as long as a failure would one."""
    teacher, told = endpoint(standin, tmp_path), []

    async def rest(seconds):
        told.append(("one", seconds))

    teacher._pace.pause, teacher._pace.rest = (lambda s: told.append(("all", s))), rest
    for trouble in (Later("HTTP 429", None, True), Later("HTTP 429", 0.0, True), Later("HTTP 503", None),
                    Later("HTTP 503", 7.0)):
        asyncio.run(teacher._wait(trouble, 1))
    assert [who for who, _ in told] == ["all", "all", "one", "all"]
    assert all(seconds > 0 for _, seconds in told) and told[-1][1] >= 7.0
