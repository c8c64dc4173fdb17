"""Endpoints that answer as no server should: each reply is an answer, a final empty one, or one line."""

import gzip
import json
import socket
import threading
import time
import zlib
from contextlib import suppress
from functools import partial

import httpx
import pytest
from chat_stand_in import RAW, answer, endpoint as patient_endpoint, refusal

from finer1_lib.core import network
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import read_jsonl
from finer1_lib.evaluation.records import collect_records, without_text as rows_without_text
from finer1_lib.models import endpoint as chat_endpoint
from finer1_lib.models.endpoint import (Answer, ChatEndpoint, Question, advice, read_answers, spent,
                                        spent_line, without_text)
from finer1_lib.models.endpoint_replies import NO_TEXT, read_reply

endpoint = partial(patient_endpoint, tries=2)
ESCAPES = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J\x08\x00 \u202eright"


def message(finish="stop", usage=None, **fields):
    """A reply whose message has these fields and no others."""
    choice = {"message": {"role": "assistant", **fields}, "finish_reason": finish}
    usage = usage or {"prompt_tokens": 400, "completion_tokens": 1536}
    return 200, {}, json.dumps({"model": "giant-2", "choices": [choice], "usage": usage}).encode()


def body(value, status=200, **headers):
    return status, headers, value if isinstance(value, bytes) else json.dumps(value).encode()


def packed(content, way="gzip", said=None):
    content = gzip.compress(content) if way == "gzip" else zlib.compress(content)
    return 200, {"Content-Encoding": said or way}, content


# --- what is paid for and cannot change


FINAL = {
    "null beside reasoning_content": (message(content=None, reasoning_content="Hm."), "reasoning"),
    "nothing beside reasoning_content": (message("length", content="", reasoning_content="Hm."), "reasoning"),
    "spaces beside reasoning": (message(content=" \n ", reasoning="Hm."), "reasoning"),
    "no content at all, thinking": (message(thinking="Hm."), "reasoning"),
    "details of reasoning": (message(content="", reasoning_details=[{"text": "Hm."}]), "reasoning"),
    "thinking as a part": (message(content=[{"type": "thinking", "thinking": "Hm."}]), "reasoning"),
    "hidden reasoning, by its tokens": (message(content="", usage={
        "completion_tokens": 900, "completion_tokens_details": {"reasoning_tokens": 900}}), "reasoning"),
    "the limit of tokens": (message("length", content=""), "length"),
    "the limit of tokens, null": (message("length", content=None), "length"),
    "the limit by another name": (message("MAX_TOKENS", content=None), "length"),
    "a refusal": (message(content=None, refusal="I cannot help with that."), "refusal"),
    "a refusal as a part": (message(content=[{"type": "refusal", "refusal": "No."}]), "refusal"),
    "a refusal by its finish": (message("refusal", content=""), "refusal"),
    "tool calls": (message("tool_calls", content=None, tool_calls=[{"id": "1", "type": "function"}]), "tool_calls"),
    "a tool call with finish stop": (message(content="", tool_calls=[{"id": "1"}]), "tool_calls"),
    "a function call": (message("function_call", content=None, function_call={"name": "f"}), "tool_calls"),
    "filtered": (message("content_filter", content=""), "content_filter"),
    "filtered, null": (message("content_filter", content=None), "content_filter"),
    "filtered by another name": (message("SAFETY", content=None), "content_filter"),
    "withheld as a recitation": (message("RECITATION", content=""), "content_filter"),
    "the limit of the model": (message("model_length", content=""), "length"),
    "thinking in blocks": (message(content=None, thinking_blocks=[{"thinking": "Hm."}]), "reasoning"),
    "reasoning text": (message(content="", reasoning_text="Hm."), "reasoning"),
    "reasoning counted elsewhere": (message(content="", usage={"reasoning_tokens": 9}), "reasoning"),
}


@pytest.mark.parametrize("kind", FINAL)
def test_what_cannot_change_is_requested_once_and_reported_once(standin, tmp_path, capsys, kind):
    reply, why = FINAL[kind]
    standin.script = lambda number, request: reply
    teacher = endpoint(standin, tmp_path, tries=8)
    answers = teacher.ask([Question("What?"), Question("And this?"), Question("What?")])
    assert [one[::3] for one in answers] == [("", why)] * 3 and len(standin.requests) == 2
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and NO_TEXT[why] in out and "giant answered without text" in out
    assert {line["no_text"] for line in read_jsonl(teacher.answers)} == {why}
    assert without_text(teacher.answers) == {why: 2} and f"2 without text: {NO_TEXT[why]}" in spent_line(teacher.answers)
    assert endpoint(standin, tmp_path).ask([Question("What?")])[0].no_text == why and len(standin.requests) == 2


def test_an_answer_with_text_is_one_whatever_else_the_reply_holds(standin, tmp_path, capsys):
    replies = [message(content="A wren.", reasoning_content="Hm."), message("length", content="A wr"),
               message(content="No.", refusal="No."), message("content_filter", content="A w")]
    standin.script = lambda number, request: replies[number - 1]
    teacher = endpoint(standin, tmp_path, concurrency=1)
    found = teacher.ask([Question(str(number)) for number in range(4)])
    assert [one[:2] for one in found] == [("A wren.", False), ("A wr", True), ("No.", False), ("A w", True)]
    assert not any(one.no_text for one in found) and without_text(teacher.answers) == {} and not advice(teacher.answers)
    assert capsys.readouterr().out == ""


OTHER_FORMS = {
    "a stream": (b'data: {"choices": [{"delta": {"content": "A"}}]}\n\ndata: [DONE]\n\n', "turn streaming off"),
    "another maker's form": (b'{"content": [{"type": "text", "text": "A wren."}]}', "in another form than OpenAI's"),
    "no credit, as if all were well": (b'{"error": {"code": 402, "message": "no"}}', "no credit left"),
}


@pytest.mark.parametrize("kind", OTHER_FORMS)
def test_an_answer_in_another_form_is_paid_for_once(standin, tmp_path, kind):
    content, told = OTHER_FORMS[kind]
    standin.script = lambda number, request: (200, {}, content)
    with pytest.raises(UserError, match=told):
        endpoint(standin, tmp_path, tries=8).ask([Question("What?")])
    assert len(standin.requests) == 1


def test_parts_are_put_together_and_may_be_words_or_of_the_newer_kind():
    parts = ["A ", {"type": "thinking", "text": "hm"}, {"type": "text", "text": "wr"},
             {"type": "output_text", "text": "en."}]
    assert read_reply(*message(content=parts))["text"] == "A wren."


def test_nothing_at_all_is_tried_again_and_then_counted(standin, tmp_path, capsys):
    standin.script = lambda number, request: message(content="")
    teacher = endpoint(standin, tmp_path, tries=3)
    assert teacher.ask([Question("What?")]) == [Answer("", False, 3 * 1536, "empty")] and len(standin.requests) == 3
    assert spent(teacher.answers)["prompt_tokens"] == 1200 and "wrote nothing in all tries" in capsys.readouterr().out


def test_answers_from_before_the_reason_was_noted_know_their_finish(tmp_path):
    lines = [{"key": str(n), "text": "", "truncated": False, "finish": finish}
             for n, finish in enumerate(("length", "length", "content_filter", "stop", None))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert without_text(tmp_path / "a.jsonl") == {"length": 2, "content_filter": 1, "empty": 2}


def test_rows_of_the_evaluation_say_how_many_answers_had_no_text(standin, tmp_path):
    """Records keep the reason; the table has a column for each and nothing for rows that always wrote."""
    from PIL import Image

    from finer1_lib.evaluation.entries import FIXED
    from finer1_lib.evaluation.requests import build_requests
    from finer1_lib.evaluation.systems.answering import EndpointAnswerer
    from finer1_lib.evaluation.systems.registry import System

    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    items = [{"item_id": f"{n}", "image_id": "a.png", "super_category": "bird", "sub_category": "Elf Owl",
              "categories": "seen", "question": "What?", "options": ["Elf Owl", "A", "B", "C"], "width": 30,
              "height": 30} for n in range(4)]
    requests = [{**one, "prompt": f"{one['item_id']} {one['prompt']}"}
                for one in build_requests(FIXED[0], items, "open_world")]
    standin.script = lambda number, request: list(FINAL.values())[number][0] if number < 3 else answer()
    system = System(name="r", label="R", kind="endpoint", url=standin.url, checkpoint="m", concurrency=1)
    records = collect_records(
        [requests], tmp_path / "records.jsonl", lambda: EndpointAnswerer(system, tmp_path, tmp_path / "a.jsonl"),
        max_new_tokens=8, batch_size=2)
    assert [one.get("no_text") for one in records] == ["reasoning", "reasoning", None, None]
    table = rows_without_text([*records, {"model": "other"}])
    assert table.to_dict("index") == {records[0]["model"]: {"no text: reasoning": 2},
                                      "other": {"no text: reasoning": 0}}
    assert rows_without_text(records[2:]).columns.empty


# --- what may pass, and does not


LATER = {
    "a page": body(b"<!DOCTYPE html><title>Hotel</title>", **{"Content-Type": "text/html"}),
    "nothing": body(b""), "no content": body(b"", 204), "not UTF-8": body(b"\xff\xfe\xfd"), "text": body("hello"),
    "a number": body(7), "null": body(None), "a list": body([{"choices": 1}]), "true": body(True),
    "choices null": body({"choices": None}), "choices a word": body({"choices": "stop"}),
    "choices a number": body({"choices": 5}), "no choices": body({"choices": []}), "no keys": body({}),
    "choices an object": body({"choices": {"message": {"content": "x"}}}), "choice null": body({"choices": [None]}),
    "choice a list": body({"choices": [[]]}), "no message": body({"choices": [{"text": "A wren."}]}),
    "message null": body({"choices": [{"message": None}]}), "message a word": body({"choices": [{"message": "A"}]}),
    "content a number": message(content=5), "content an object": message(content={"text": "x"}),
    "content true": message(content=True), "parts null": message(content=[None]), "a part of a number": message(content=[{"type": "text", "text": 5}]),
    "gave up": message("abort", content="A w"), "an error": body({"error": {"message": "upstream", "code": 500}}),
    "two objects": body(answer()[2] * 2), "half": body(answer()[2][:-20]), "deep": body(b'{"a":' * 200000),
    "huge number": body(b'{"choices": ' + b"9" * 100000 + b"}"), "no gzip": body(b"x", **{"Content-Encoding": "gzip"}),
    "torn gzip": (200, {"Content-Encoding": "gzip"}, gzip.compress(answer()[2])[:60]),
    "an unknown packing": packed(answer()[2], said="br"), "a bomb": packed(b" " * 40_000_000),
    "a deflated bomb": packed(b" " * 40_000_000, "deflate"), "too long": body(b" " * 17_000_000),
    "busy": refusal(503, "busy"), "gateway": body(b"<html>502", 502), "no status that is known": body(b"", 599),
    "hung up": None, "an endless header": (RAW, 0, [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000]),
    "no HTTP": (RAW, 0, [b"SSH-2.0-OpenSSH\r\n"]), "a bad length": body(b"{}", **{"Content-Length": "-5"}),
    "two lengths": (RAW, 0, [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"]),
    "bad chunks": (RAW, 0, [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"]),
    "half a header": (RAW, 0, [b"HTTP/1.1 200 OK\r\nContent-"]),
}


@pytest.mark.parametrize("kind", LATER)
def test_senseless_replies_are_tried_again_and_end_in_one_line(standin, tmp_path, kind):
    standin.script = lambda number, request: LATER[kind]
    with pytest.raises(UserError, match=r"gave no answer \(try 2 of 2: ") as caught:
        endpoint(standin, tmp_path).ask([Question("What?")])
    assert len(standin.requests) == 2 and "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert not (tmp_path / "answers.jsonl").exists()


REFUSED = {
    "moved": (body(b"", 301, Location="http://127.0.0.1:1/v1"), "it has moved"),
    "moved to another protocol": (body(b"", 302, Location="file:///etc/passwd"), "it has moved"),
    "moved to nowhere": (body(b"", 308), "it has moved"), "not changed": (body(b"", 304), "it has moved"),
    "a wrong key": (refusal(401), "answers 401"), "no money": (refusal(402), "no credit"),
    "a page that says 404": (body(b"<html><h1>Not found</h1>", 404), "answers 404 .*teacher_url"),
    "an error of numbers": (body({"error": 5}, 400), "answers 400"), "an error of nulls": (
        body({"error": {"message": None, "code": None, "param": []}}, 400), "answers 400"),
    "an error that is a list": (body({"detail": [1, None]}, 422), "answers 422"),
    "an error of bytes": (body(b"\xff" * 5000, 400), "answers 400"),
    "an endless wait": (refusal(429, "slow", {"Retry-After": "9" * 400}), "asks to wait inf s"),
    "no limit of tokens is taken": (refusal(400, "max_completion_tokens: unknown field max_tokens, unsupported"),
                                    "takes no limit of tokens"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_are_one_line_at_once(standin, tmp_path, kind):
    reply, says = REFUSED[kind]
    standin.script = lambda number, request: reply
    with pytest.raises(UserError, match=says) as caught:
        endpoint(standin, tmp_path, tries=8).ask([Question("What?")])
    assert len(standin.requests) <= 2 and "\n" not in str(caught.value) and len(str(caught.value)) < 700


GOOD = {
    "with a mark at its start": body(b"\xef\xbb\xbf" + answer()[2]), "gzip, unasked": packed(answer()[2]),
    "deflate, unasked": packed(answer()[2], "deflate"), "UTF-16": body(answer()[2].decode().encode("utf-16")),
    "negative usage": body({**json.loads(answer()[2]), "usage": {"prompt_tokens": -1, "completion_tokens": -5}}),
    "usage of words": body({**json.loads(answer()[2]), "usage": {"prompt_tokens": "9", "completion_tokens": [1]}}),
    "usage a list": body({**json.loads(answer()[2]), "usage": [1, 2]}),
    "usage without end": body({**json.loads(answer()[2]), "usage": {"completion_tokens": 10**300}}),
    "usage true": body({**json.loads(answer()[2]), "usage": {"completion_tokens": True}}),
    "names of objects": body({**json.loads(answer()[2]), "model": {"a": 1}}),
    "no finish": body({"choices": [{"message": {"content": "A wren."}}]}),
    "a finish of an object": message({"a": 1}, content="A wren."),
    "first of several": body({"choices": [{"message": {"content": "A wren."}}, {"message": None}]}),
    "in chunks": (RAW, 0.01, [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                              *(b"1\r\n%c\r\n" % byte for byte in answer()[2][:9]),
                              b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer()[2]) - 9, answer()[2][9:])]),
    "after early hints": (RAW, 0, [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 5 + b"HTTP/1.1 200 OK\r\n"
                                   b"Content-Length: %d\r\n\r\n" % len(answer()[2]) + answer()[2]]),
    "HTTP/1.0": (RAW, 0, [b"HTTP/1.0 200 OK\r\n\r\n" + answer()[2]]),
}


@pytest.mark.parametrize("kind", GOOD)
def test_odd_replies_that_hold_an_answer_give_it(standin, tmp_path, kind):
    standin.script = lambda number, request: GOOD[kind]
    teacher = endpoint(standin, tmp_path)
    assert teacher.ask([Question("What?")])[0].text == "A wren." and len(standin.requests) == 1
    (line,) = read_answers(teacher.answers)
    assert all(line[name] is None or line[name] in (3, 10, 400, 1536) for name in ("prompt_tokens", "completion_tokens"))
    assert isinstance(line["finish"], str) and isinstance(line["answered_by"], str)
    assert spent(teacher.answers)["answers"] == 1


# --- time


DRIPS = {
    "headers": [b"HTTP/1.1 200 OK\r\n", *(b"X-%d: 1\r\n" % n for n in range(400))],
    "one header, a byte at a time": [b"HTTP/1.1 200 OK\r\nX: ", *[b"x"] * 400],
    "the status line": [b"H", *[b"T"] * 400],
    "early hints": [b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 400,
    "the body": [b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", *[b" "] * 400],
    "chunks": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 400],
    "a trailer": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
                  *(b"X-%d: 1\r\n" % n for n in range(400))],
}


@pytest.mark.parametrize("kind", DRIPS)
def test_whatever_drips_is_given_up_after_its_time(standin, tmp_path, kind):
    """Twenty seconds of drips; the next reply is whole. The client hangs up, it does not only look away."""
    standin.script = lambda number, request: (RAW, 0.05, DRIPS[kind]) if number == 1 else answer("At last.")
    began = time.monotonic()
    teacher = endpoint(standin, tmp_path, time_out=1.0, tries=4)
    assert teacher.ask([Question("What?")])[0].text == "At last."
    assert time.monotonic() - began < 15
    while not standin.given_up and time.monotonic() - began < 25:
        time.sleep(0.02)
    assert standin.given_up == 1


def test_a_server_that_accepts_and_says_nothing_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        teacher = ChatEndpoint(url, "giant", tmp_path / "a.jsonl", first_wait=0.01, time_out=0.3, tries=2)
        with pytest.raises(UserError, match="try 2 of 2: an answer that takes more than 0.3 s|ReadTimeout"):
            teacher.ask([Question("What?")])


def test_no_thread_is_left_behind(standin, tmp_path):
    before = threading.active_count()
    teacher = endpoint(standin, tmp_path)
    for script in (lambda *_: answer(), lambda *_: refusal(401), lambda *_: body(b"")):
        standin.script = script
        with suppress(UserError):  # what it says is held above; here only what it leaves behind
            teacher.ask([Question(str(script))])
    deadline = time.monotonic() + 10
    while threading.active_count() > before + 3 and time.monotonic() < deadline:  # the stand-in's own
        time.sleep(0.02)
    assert threading.active_count() <= before + 3


# --- what a terminal would obey


def test_control_signs_reach_no_terminal_no_record_and_no_message(standin, tmp_path, capsys):
    def bad(text):
        return {sign for sign in text if not sign.isprintable()} - {"\n"}

    standin.script = lambda number, request: answer(f"A wren. {ESCAPES}", model=ESCAPES, finish=ESCAPES)
    teacher = endpoint(standin, tmp_path)
    text = teacher.ask([Question("What?")])[0].text
    assert text.startswith("A wren. \ufffdred\ufffd") and not bad(text) - {"\u202e"} and "[31m" not in text
    (line,) = read_jsonl(teacher.answers)
    assert "\x1b" not in str(line) and not bad(line["finish"] + line["answered_by"]) - {"\u202e"}
    for status in (400, 401, 404, 500, 429):
        standin.script = lambda number, request: refusal(status, f"{ESCAPES}\r\nsecond line")
        with pytest.raises(UserError) as caught:
            teacher.ask([Question(f"{status}")])
        assert not bad(str(caught.value)) and "[31m" not in str(caught.value) and "red" in str(caught.value)
    standin.script = lambda number, request: (
        refusal(400, f"unsupported seed {ESCAPES}") if "seed" in request else answer())
    teacher.ask([Question("Again?")])
    out = capsys.readouterr().out
    assert "it is left out" in out and not bad(out)


def test_lines_of_a_text_stay_lines():
    assert read_reply(*answer("one\r\ntwo\n\tthree"))["text"] == "one\ntwo\n\tthree"


# --- the file of answers


@pytest.mark.parametrize("line", [
    "{", "[]", "null", '{"key": "a"}', '{"key": 5, "text": "x", "truncated": false}',
    '{"key": "a", "text": null, "truncated": false}', '{"key": "a", "text": "x", "truncated": 1}',
    '{"key": "a", "text": "x", "truncated": false, "completion_tokens": "9"}',
])
def test_a_spoiled_line_of_paid_answers_is_named_and_nothing_is_deleted(standin, tmp_path, line):
    teacher = endpoint(standin, tmp_path)
    teacher.ask([Question("a"), Question("b")])
    with teacher.answers.open("a") as file:
        file.write(line + "\n")
    before = teacher.answers.read_bytes()
    for use in (lambda: endpoint(standin, tmp_path).ask([Question("a")]), lambda: spent(teacher.answers)):
        with pytest.raises(UserError, match="line 3 is .*take that line out of the file; the others are paid for"):
            use()
    assert teacher.answers.read_bytes() == before


# --- proxies and certificates


@pytest.fixture
def clean(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("values", [
    {"ALL_PROXY": "socks5://127.0.0.1:7890"}, {"all_proxy": "socks5h://127.0.0.1:1", "NO_PROXY": "localhost"},
    {"http_proxy": "http://127.0.0.1:9"}, {"HTTP_PROXY": "nonsense", "ALL_PROXY": "ftp://x"},
    {"no_proxy": "[::1],localhost"}, {"no_proxy": "[::1", "http_proxy": "http://127.0.0.1:9"},
    {"SSL_CERT_FILE": "/nowhere/ca.pem"}, {"SSL_CERT_DIR": "/nowhere"}, {"http_proxy": "http://[::1"},
])
def test_a_server_on_this_machine_is_used_whatever_the_shell_says(standin, tmp_path, clean, values):
    for name, value in values.items():
        clean.setenv(name, value)
    for host in ("127.0.0.1", "localhost"):
        url = standin.url.replace("127.0.0.1", host)
        teacher = ChatEndpoint(url, "giant", tmp_path / f"{host}.jsonl", first_wait=0.01, tries=2)
        assert teacher.ask([Question("What?")])[0].text == "A wren."


@pytest.mark.parametrize(("values", "says"), [
    ({"ALL_PROXY": "socks5://user:pw-secret@127.0.0.1:9"}, "^ALL_PROXY names a SOCKS proxy"),
    ({"http_proxy": "http://user:pw-secret@127.0.0.1:9"}, "through the proxy of http_proxy"),
    ({"http_proxy": "http://"}, "^http_proxy names no"), ({"http_proxy": "http://a:99999"}, "^http_proxy names no"),
    ({"HTTP_PROXY": "127.0.0.1:9"}, "through the proxy of HTTP_PROXY"), ({"http_proxy": "ftp://x"}, "^http_proxy names"),
    ({"all_proxy": "http://[::1", "HTTPS_PROXY": "http://127.0.0.1:9"}, "^all_proxy names no proxy"),
    ({"http_proxy": "http://127.0.0.1:9", "no_proxy": "[::1],localhost"}, "through the proxy of http_proxy"),
])
def test_a_proxy_that_cannot_serve_is_one_line_with_its_variable(tmp_path, clean, values, says):
    clean.setattr(network.importlib.util, "find_spec", lambda name: None)  # without socksio
    for name, value in values.items():
        clean.setenv(name, value)
    teacher = ChatEndpoint("http://far.invalid/v1", "giant", tmp_path / "a.jsonl", first_wait=0.01, tries=1)
    with pytest.raises(UserError, match=says) as caught:
        teacher.ask([Question("What?")])
    assert "\n" not in str(caught.value) and "pw-secret" not in str(caught.value)


def test_a_proxy_is_used_where_one_is_named_and_left_where_it_is_excepted(standin, tmp_path, clean):
    """The stand-in plays the proxy: it sees the far address in the request's path."""
    clean.setenv("http_proxy", standin.url.removesuffix("/v1"))
    teacher = ChatEndpoint("http://far.invalid/v1", "giant", tmp_path / "a.jsonl", first_wait=0.01, tries=1)
    assert teacher.ask([Question("What?")])[0].text == "A wren."
    assert standin.headers[0]["path"] == "http://far.invalid/v1/chat/completions"
    clean.setenv("no_proxy", ".invalid")
    with pytest.raises(UserError) as caught:
        teacher.ask([Question("Again?")])
    assert len(standin.requests) == 1 and "proxy" not in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [
    ("SSL_CERT_FILE", None), ("SSL_CERT_FILE", b"no certificate"), ("SSL_CERT_DIR", None)])
def test_certificates_that_are_none_are_one_line_with_their_variable(tmp_path, clean, name, content):
    place = tmp_path / "ca"
    if content:
        place.write_bytes(content)
    clean.setenv(name, str(place))
    teacher = ChatEndpoint("https://far.invalid/v1", "giant", tmp_path / "a.jsonl", first_wait=0.01, tries=1)
    with pytest.raises(UserError, match=f"^{name} names {place}, which .*: set it right or unset it"):
        teacher.ask([Question("What?")])


def test_a_certificate_that_no_authority_signed_ends_at_once(standin, tmp_path, monkeypatch):
    async def send(*_):
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed")

    monkeypatch.setattr(chat_endpoint, "_exchange", send)
    with pytest.raises(UserError, match="certificate is not trusted .*SSL_CERT_FILE"):
        endpoint(standin, tmp_path, tries=8).ask([Question("What?")])


def test_this_machine_by_any_name():
    for host in ("localhost", "LOCALHOST".lower(), "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::",
                 "localhost.", "127.1", "2130706433", "::ffff:127.0.0.1", "ip6-localhost"):
        assert network.is_local(host), host
    for host in ("", "localhost.example.org", "10.0.0.1", "128.0.0.1", "::2", "notlocalhost", "::ffff:10.0.0.1"):
        assert not network.is_local(host), host
