"""A large model behind an address: chat completions as OpenAI, vLLM and most vendors serve them.

    endpoint = ChatEndpoint("http://localhost:8000/v1", "Qwen/Qwen2.5-VL-32B-Instruct", Path("answers.jsonl"))
    endpoint.ask([Question("What is seen?", ImageFile(root, "bird/a.jpg"), seed=3)])
        -> [Answer(text="A red crown.", truncated=False)]

Every answer is a line of the file as soon as it is there, under a key of all that decides it: a killed run
asks nothing twice, and other parameters ask only what is new. What may pass is tried again (no connection,
a time-out, 429, 5xx, a torn or senseless body, an answer of nothing at all) with growing waits, the
server's Retry-After before all; what will not pass (a wrong key, a wrong name, no money) is one line at
once. An answer whose text went elsewhere (reasoning, a tool, a refusal, the limit of tokens) is final: it is
kept without text, with the reason, which is said once.

The key is read from an environment variable whenever it is needed; it is in no file, record or message.

Serve a checkpoint by vLLM with `--generation-config vllm`: otherwise the checkpoint's own sampling counts (a
top_k of 1 in some), and every attempt gets the same text.

Source: our choice (the paper's teacher is Qwen2.5-VL-32B; how it was run is not said).

What is sent to a chat endpoint and what comes back: questions, conversations, answers, addresses.

Source: our choice; the form of a conversation is that of OpenAI's chat completions.

When the next request may go out: so many a minute, nobody while the server asks for a pause, and a growing
wait after a failure.

    pace = Pace(per_minute=120)        # a request every half second, however many threads ask
    pace.turn()                        # returns when this thread may send
    pace.pause(30.0)                   # the server said Retry-After: 30; nobody sends before

Requests are spaced evenly: a minute's worth sent at once would be counted into two minutes by a server whose
minute begins elsewhere.

Source: our choice; Retry-After: RFC 9110, section 10.2.3.

What a server's reply says: an answer, "later", "not this field", or an error that the user can mend.

    read_reply(200, {}, b'{"choices": [{"message": {"content": "A wren."}, "finish_reason": "stop"}]}')
        -> {"text": "A wren.", "truncated": False, "finish": "stop", "prompt_tokens": None, ...}

Servers that call themselves compatible differ in the details, so nothing in a reply is taken for granted.

Source: our choice, after the chat completions format (choices, message, finish_reason, usage).

What a large teacher's answers took: tokens and money, counted from the file of the answers alone.

    spent(Path("answers.jsonl"), prices=[2.5, 10.0])
        -> {"answers": 1, "prompt_tokens": 1310, "completion_tokens": 9, "uncounted": 0, "cost": 0.003365}

Source: our choice.
"""

import asyncio
import email.utils
import hashlib
import json
import os
import random
import re
import threading
import time
import urllib.parse
import zlib
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Collection, Iterator, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError, printable
from finer1_lib.core.files import append_jsonl, read_jsonl
from finer1_lib.core.images import MAX_PIXELS, ImageFile, data_url, image_key
from finer1_lib.core.network import client_options, settings_named

if TYPE_CHECKING:
    import httpx

_URL = "the endpoint's url (01's teacher_url)"
_LIKE = "give one like http://localhost:8000/v1"


class Question(NamedTuple):
    """A prompt, with a picture or none.

    Attributes:
        seed: for the server's chance.
        earlier: (prompt, picture, answer) of turns that stand before it, as examples.
    """

    prompt: str
    image: Optional[ImageFile] = None
    seed: int = 0
    earlier: tuple[tuple[str, ImageFile, str], ...] = ()


class Answer(NamedTuple):
    """A text, whether it was cut off at the limit of tokens, how many it took (0 where nobody said), and,
    where there is no text, why (a key of `chat_replies.NO_TEXT`)."""

    text: str
    truncated: bool
    tokens: int = 0
    no_text: str = ""


def messages_of(question: Question, max_pixels: int) -> list[dict]:
    """The conversation, pictures in it as addresses of their own bytes."""
    def user(prompt: str, image: Optional[ImageFile]) -> dict:
        url = image and {"type": "image_url", "image_url": {"url": data_url(image, max_pixels)}}
        return {"role": "user", "content": [*([url] if url else []), {"type": "text", "text": prompt}]}

    turns = []
    for prompt, image, answer in question.earlier:
        turns += [user(prompt, image), {"role": "assistant", "content": answer}]
    return [*turns, user(question.prompt, question.image)]


def address_of(url: str) -> str:
    """Where completions are asked for.

    Raises:
        UserError: no address, or one that holds more than an address.
    """
    try:
        parts = urllib.parse.urlsplit(url.strip())
        (parts.hostname or "").encode("idna"), parts.port  # both refuse what no name and no number can be
    except ValueError:
        raise UserError(f"{_URL} is no address: {_LIKE}") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(f"{_URL} is recorded, and holds more than an address (a name, a key, a query): give"
                        " the address, and the key in the variable that key_variable names")
    odd = re.search(r"[\s<>\"\\^`{|}\x00-\x20\x7f]", parts.netloc)
    if parts.scheme not in ("http", "https") or not parts.hostname or odd:
        raise UserError(f"{_URL} {url!r} is no address: {_LIKE}")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path}/chat/completions"


LONGEST_WAIT = 60.0  # seconds between two tries, where the server does not say


class Stopped(Exception):
    """Another thread failed: no more requests."""


class Pace:
    """The turns of all threads that talk to one server.

    Args:
        per_minute: requests a minute at most; 0 for no limit.
        clock: seconds, for tests.
        sleep: waits that many seconds and returns whether all should stop, for tests.
    """

    def __init__(
        self, per_minute: float = 0.0, *, clock: Callable[[], float] = time.monotonic,
        sleep: Optional[Callable[[float], bool]] = None,
    ) -> None:
        self._gap = 60.0 / per_minute if per_minute > 0 else 0.0
        self._clock, self._stopped, self._lock = clock, threading.Event(), threading.Lock()
        self._sleep = sleep or self._stopped.wait
        self._next = float("-inf")

    def turn(self) -> None:
        """Wait until this thread may send.

        Raises:
            Stopped: `stop` was called.
        """
        while True:
            with self._lock:
                left = self._next - self._clock()
                if left <= 0:
                    self._next = self._clock() + self._gap
                    break
            self.rest(left)
        if self._stopped.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Let nobody send for so long."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)

    def rest(self, seconds: float) -> None:
        """Let this thread alone wait; `Stopped` as for `turn`."""
        if self._sleep(seconds):
            raise Stopped

    def stop(self) -> None:
        """End every wait, until `start`."""
        self._stopped.set()

    def start(self) -> None:
        """Let threads send (again)."""
        self._stopped.clear()


def backoff(first: float, tried: int) -> float:
    """Seconds to wait after the try number `tried` (from 1): doubled each time, by chance up to half less, so
    that threads which failed together do not come back together."""
    return min(LONGEST_WAIT, first * 2 ** (tried - 1)) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """The seconds that a server asks to wait: as milliseconds, seconds or a date; None if it does not say."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").split(",")[0].strip()  # a gateway may add its own to the server's
        if value.replace(".", "", 1).isdecimal() and value.isascii():
            return float(value) / unit
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


FILTERED = "content_filter"  # the finish of an answer that the server's own filter refused
_LIMIT = "raise the limit of tokens (max_tokens: 04's max_new_tokens, 01's teacher_max_tokens)"
# why a reply that is paid for holds no text; asked again it would hold none either
NO_TEXT = {
    "reasoning": "the server put the text into reasoning_content: serve without a reasoning parser, or "
                 + _LIMIT,
    "length": f"the limit of tokens was reached before any text: {_LIMIT}",
    "refusal": "the model refused: change the prompt or take another model",
    "tool_calls": "the model called a tool in place of answering: serve without tools (tool_choice none)",
    FILTERED: "the server's filter withheld the text: take other pictures or another server",
    "empty": "the model wrote nothing in all tries: take another model or temperature",
}
_THOUGHTS = ("reasoning", "thinking", "thought")  # how the fields of a message begin that hold them
_FINISHES = {  # what some servers call it
    "function_call": "tool_calls", "tool_use": "tool_calls",
    **dict.fromkeys(("max_tokens", "max_output_tokens", "model_length"), "length"),
    **dict.fromkeys(("safety", "recitation", "blocklist", "prohibited_content", "spii", "image_safety"), FILTERED),
}  # fmt: skip
_PASSING = (408, 409, 425, 429)  # and everything from 500
_GAVE_UP = ("error", "abort")  # finishes of an answer that a server did not finish
_POOR = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_balance")
_UNWANTED = re.compile(
    r"unsupported|(?:not|n't) support|unknown|unrecogni[sz]ed|unexpected|not (?:permitted|allowed)",
    re.IGNORECASE,
)
_MENDS = {
    401: "check the key in the variable that teacher_key_variable names",
    402: "the account has no credit left",
    403: "check the key in the variable that teacher_key_variable names, and what it may use",
    404: "check teacher_url (up to and with /v1) and teacher_name",
    413: "send smaller pictures: lower max_pixels",
}
# escape sequences of terminals, control signs but tab and line end, half characters
_UNSAFE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]|[\ud800-\udfff]"
)
_SHOWN, _NAME = 300, 100  # characters of a server's message, of its names


class Later(Exception):
    """Something that may pass; `wait` seconds if the server named them; `crowded`: it had too much to do."""

    def __init__(self, reason: str, wait: Optional[float] = None, crowded: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.crowded = wait, crowded


class Unwanted(Exception):
    """The server does not take the request's field `field`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


def read_reply(
    status: int, headers: Mapping[str, str], body: bytes, *, secret: str = "", fields: Collection[str] = ()
) -> dict[str, Any]:
    """Take a reply apart.

    Args:
        status, headers, body: of the HTTP response.
        secret: the key; it is blotted out wherever the server repeats it.
        fields: optional fields of the request, which some servers do not take.

    Returns:
        text ("" for none), truncated (the limit of tokens was reached), finish (as the server names it),
        answered_by (the model, as the server names it), prompt_tokens and completion_tokens (None where they
        are not said), and of a final answer without text no_text (a key of `NO_TEXT`).

    Raises:
        Later: it may pass.
        Unwanted: a field is refused.
        UserError: it will not pass.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        reply = None
    if 200 <= status < 300:
        status = _code_within(reply) or status
    if 200 <= status < 300:
        return _answer(reply, body, secret)
    error = reply.get("error", reply) if isinstance(reply, dict) else None
    codes = {str(error.get(name)) for name in ("code", "type")} if isinstance(error, dict) else set()
    said = _message(error, body, secret)
    if codes & set(_POOR):
        raise UserError(f"the endpoint answers {status} ({said}): {_MENDS[402]}")
    if any(FILTERED in code or "content_policy" in code for code in codes):
        return _line("", False, FILTERED, None, {}, FILTERED)
    if status in _PASSING or status >= 500:
        raise Later(f"HTTP {status}{': ' + said if said else ''}", retry_after(headers), status == 429)
    if status in (400, 422) and _UNWANTED.search(said):
        named = re.findall(r"\w+", f"{error.get('param')} {said}" if isinstance(error, dict) else said)
        for field in (word for word in named if word in fields):  # the first: the next may be the better one
            raise Unwanted(field, said)
    if 300 <= status < 400:
        raise UserError(f"the endpoint answers {status}: it has moved; give its new address as teacher_url")
    mend = _MENDS.get(status, "check teacher_name, teacher_max_tokens, and that the model takes pictures")
    raise UserError(f"the endpoint answers {status} ({said}): {mend}")


def _code_within(reply: Any) -> Optional[int]:
    """The status of an error that came as if all were well, as routers of many servers send it; else None."""
    error = reply.get("error") if isinstance(reply, dict) and not reply.get("choices") else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and 400 <= code < 600 else None


def _answer(reply: Any, body: bytes, secret: str) -> dict[str, Any]:
    """The answer of a reply that says it is one."""
    if body.lstrip()[:6].startswith((b"data:", b"event:")):
        raise UserError("the endpoint sends its answer in pieces (a stream), which nobody asked for: turn streaming"
                        " off at the server or the gateway before it")
    if isinstance(reply, dict) and reply and not {"choices", "error"} & set(reply):
        raise UserError("the endpoint answers in another form than OpenAI's chat completions"
                        f" ({_message(reply, body, secret)}): give the address of such a server, up to and with /v1")
    try:
        choice, usage = reply["choices"][0], reply.get("usage")
        message, usage = choice["message"], usage if isinstance(usage, dict) else {}
        content, finish = message.get("content"), choice.get("finish_reason")
        parts = content if isinstance(content, list) else []  # as some servers send it
        if parts:
            parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
            content = "".join(part.get("text") or "" for part in parts if part.get("type") in ("text", "output_text"))
        text = _clean(content or "", secret).strip()
        kinds = {str(part.get("type")) for part in parts}
    except (TypeError, KeyError, IndexError, AttributeError):
        raise Later(f"no answer in what it sent: {_message(reply, body, secret)}") from None
    said, model = (_clean(one, secret)[:_NAME] if isinstance(one, str) else ""
                   for one in (finish, reply.get("model")))
    end = _FINISHES.get(said.lower(), said.lower())
    if end in _GAVE_UP:
        raise Later(f"an answer that ends with {said!r}")
    cut = end == "length" or (end == FILTERED and bool(text))
    return _line(text, cut, said, model, usage, "" if text else _why_no_text(message, end, kinds, usage))


def _why_no_text(message: Mapping, end: str, kinds: Collection[str], usage: Mapping) -> str:
    """A key of `NO_TEXT`, or "" for an answer that may have text another time."""
    counts = [usage, *(usage.get(f"{name}_tokens_details") for name in ("completion", "output"))]
    thought = any(_count(one.get("reasoning_tokens")) for one in counts if isinstance(one, dict))
    if end == FILTERED:
        return FILTERED
    if message.get("refusal") or "refusal" in {end, *kinds}:
        return "refusal"
    if message.get("tool_calls") or message.get("function_call") or end == "tool_calls":
        return "tool_calls"
    if thought or kinds & {"thinking", "reasoning"} or any(
        value for name, value in message.items() if name.startswith(_THOUGHTS)
    ):  # fmt: skip
        return "reasoning"
    return "length" if end == "length" else ""


def _count(value: Any) -> Optional[int]:
    """A number of tokens; None for what can be none."""
    return value if type(value) is int and 0 <= value < 2**53 else None


def _line(
    text: str, truncated: bool, finish: str, model: Optional[str], usage: Mapping, no_text: str = ""
) -> dict[str, Any]:
    return {"text": text, "truncated": truncated, "finish": finish, "answered_by": model,
            **{name: _count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")},
            **({"no_text": no_text} if no_text else {})}


def _message(error: Any, body: bytes, secret: str) -> str:
    """What the server says went wrong, short and on one line."""
    for name in ("error", "message", "detail"):
        if isinstance(error, dict) and error.get(name):
            error = error[name]
    if isinstance(error, list) and all(isinstance(item, dict) for item in error):  # an entry for each field
        error = "; ".join(f"{item.get('loc')}: {item.get('msg')}" for item in error)
    text = error if isinstance(error, str) else body.decode("utf-8", "replace")
    return printable(" ".join(_clean(text, secret, " ").split()))[:_SHOWN]


def _clean(text: str, secret: str, instead: str = "\ufffd") -> str:
    """Without the key, and without what a terminal would obey and no file can hold; CR LF becomes LF."""
    text = text.replace(secret, "***") if len(secret) >= 8 else text
    return _UNSAFE.sub(instead, text.replace("\r\n", "\n"))


_TOKENS = ("prompt_tokens", "completion_tokens")


def read_answers(answers: Path, truncate: bool = False) -> list[dict]:
    """The lines of a file of answers, each looked over; a missing file has none.

    Raises:
        UserError: a line that is none of `ChatEndpoint`'s.
    """
    fix = "take that line out of the file; the others are paid for and stay"
    lines = read_jsonl(Path(answers), truncate=truncate, fix=fix)
    for number, line in enumerate(lines, start=1):
        whole = isinstance(line, dict) and isinstance(line.get("truncated"), bool)
        if not whole or not all(isinstance(line.get(name), str) for name in ("key", "text")) or not all(
            line.get(name) is None or type(line[name]) is int for name in _TOKENS
        ):
            raise UserError(f"{answers} line {number} is no answer of an endpoint: {fix}")
    return lines


def without_text(answers: Path) -> dict[str, int]:
    """{why: how many answers of a file hold no text}, by the keys of `chat_replies.NO_TEXT`."""
    why = [reason_of(line) for line in read_answers(answers)]
    return {kind: why.count(kind) for kind in NO_TEXT if kind in why}


def reason_of(line: Mapping[str, Any]) -> str:
    """Why a line of the file holds no text, "" if it does; lines from before this was noted have a finish."""
    finish = line.get("finish")
    return "" if line["text"] else line.get("no_text") or (finish if finish in NO_TEXT else "empty")


def advice(answers: Path) -> str:
    """How many answers hold no text, why, and what to do about it; "" where all do."""
    return "; ".join(f"{count} without text: {NO_TEXT[why]}" for why, count in without_text(answers).items())


def spent(answers: Path, prices: Sequence[float] = ()) -> dict[str, Any]:
    """Tokens and cost of all answers in a file.

    Args:
        answers: of a `chat_endpoint.ChatEndpoint`; a missing file counts nothing.
        prices: of a million tokens read and of a million written; empty for unknown.

    Returns:
        answers; prompt_tokens and completion_tokens as the server counts them; uncounted (answers without
        such a count); cost in the prices' currency, None without prices. Tries that failed are not in it.

    Raises:
        UserError: prices that are not two numbers of at least 0.
    """
    prices = list(prices)
    if prices and (len(prices) != 2 or not all(0 <= price < float("inf") for price in prices)):
        raise UserError(f"teacher_prices is {prices}: give two (a million tokens read, written) or none")
    lines = read_answers(answers)
    counted = {kind: sum(line.get(kind) or 0 for line in lines) for kind in _TOKENS}
    cost = sum(price * counted[kind] for price, kind in zip(prices, _TOKENS)) / 1e6 if prices else None
    missing = sum(any(line.get(kind) is None for kind in _TOKENS) for line in lines)
    return {"answers": len(lines), **counted, "uncounted": missing, "cost": cost}


def told(answers: Path, prices: Sequence[float] = ()) -> str:
    """One line of `spent`."""
    took = spent(answers, prices)
    cost = "" if took["cost"] is None else f", {took['cost']:.2f} at the prices given"
    missing = f"; {took['uncounted']} answers without a count" if took["uncounted"] else ""
    return "; ".join(filter(None, (
        f"{took['answers']} answers: {took['prompt_tokens']:,} tokens read, {took['completion_tokens']:,}"
        f" written{cost}{missing}", advice(answers))))


PATIENCE = 600.0  # seconds that a server may ask us to wait
MOST_BYTES = 16 * 2**20  # of a reply
Send = Callable[[bytes], tuple[int, Mapping[str, str], bytes]]


class ChatEndpoint:
    """One model at one address.

    Args:
        url: up to and with the version, e.g. "https://api.example.com/v1"; no key in it.
        model: its name there.
        answers: `.jsonl` file of all answers; `chat_costs.spent` counts what they took.
        key_variable: name of the environment variable that holds the key; "" where none is needed.
        max_tokens, temperature: of every answer.
        max_pixels: larger pictures are made smaller before they are sent; 0 for the default bound.
        requests_per_minute: tries counted; 0 for no limit.
        concurrency: requests under way together.
        time_out: seconds for one whole answer, from the connection to its last byte.
        tries: of one question.
        first_wait: seconds after the first failure; doubled after each.

    Raises:
        UserError: an address or a variable's name that cannot be one, or numbers below what makes sense.
    """

    def __init__(
        self, url: str, model: str, answers: Path, *, key_variable: str = "", max_tokens: int = 1536,
        temperature: float = 0.7, max_pixels: int = MAX_PIXELS, requests_per_minute: float = 0,
        concurrency: int = 8, time_out: float = 300.0, tries: int = 8, first_wait: float = 1.0,
    ) -> None:
        self.address = address_of(url)
        if not model.strip():
            raise UserError("the endpoint has no model (01's teacher_name, a system's checkpoint): give its"
                            " name there")
        if key_variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_variable):
            raise UserError("the endpoint's key_variable (01's teacher_key_variable) is no name of an"
                            " environment variable (letters, digits, _): put the key into a variable and give"
                            " that variable's name, not the key itself")
        if min(concurrency, tries, max_tokens) < 1 or requests_per_minute < 0:
            raise UserError("an endpoint needs a batch, tries and tokens of at least 1 and no negative rate")
        self.model, self.answers, self.concurrency = model, Path(answers), concurrency
        self._variable, self._pixels = key_variable, max_pixels or MAX_PIXELS
        self._time_out, self._tries, self._first_wait = time_out, tries, first_wait
        self._settings = {"max_tokens": max_tokens, "temperature": temperature}
        self._names = {name: name for name in (*self._settings, "seed")}  # as sent; "" for what is left out
        self._pace, self._lock = Pace(requests_per_minute), threading.Lock()
        self._known: Optional[dict[str, dict]] = None
        self._reasons: set[str] = set()  # why there is no text, as far as it was said

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer every question, from the file where it is known; equal questions are asked once.

        Raises:
            UserError: the server refuses, or answers nothing in all tries; answers so far are kept.
        """
        if self._known is None:
            self._known = {line["key"]: line for line in read_answers(self.answers, truncate=True)}
        keys = [self._key(question) for question in questions]
        if new := {key: one for key, one in zip(keys, questions) if key not in self._known}:
            self._ask_new(new)
        lines = [self._known[key] for key in keys]
        return [Answer(line["text"], line["truncated"], line.get("completion_tokens") or 0, reason_of(line))
                for line in lines]

    def _key(self, question: Question) -> str:
        picture = question.image and image_key(question.image, self._pixels)
        decides = [self.address, self.model, question.prompt, picture, question.seed, self._settings]
        if question.earlier:
            decides.append([[prompt, image_key(image, self._pixels), answer]
                            for prompt, image, answer in question.earlier])
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode("utf-8")).hexdigest()

    def _ask_new(self, new: Mapping[str, Question]) -> None:
        secret = self._secret()
        self._pace.start()
        with self._connected(secret) as send, ThreadPoolExecutor(self.concurrency) as pool:
            futures = [pool.submit(self._one, send, secret, key, one) for key, one in new.items()]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self._pace.stop()  # no request begins any more; those under way are paid for, and are kept
                pool.shutdown(cancel_futures=True)
                raise

    @contextmanager
    def _connected(self, secret: str) -> Iterator[Send]:
        """A function that sends one body and gives (status, headers, body); any thread may call it.

        The client runs in an event loop of its own: only there a deadline ends a request wherever it is, also
        among the headers of a server that sends a byte a minute.
        """
        import httpx

        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers |= {"Authorization": f"Bearer {secret}"} if secret else {}
        timeout = httpx.Timeout(self._time_out, connect=min(self._time_out, 20.0))
        client = httpx.AsyncClient(headers=headers, timeout=timeout, **client_options(self.address))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()

        def send(content: bytes) -> tuple[int, Mapping[str, str], bytes]:
            answered = asyncio.wait_for(_exchange(client, self.address, content), self._time_out)
            return asyncio.run_coroutine_threadsafe(answered, loop).result()

        try:
            yield send
        finally:
            asyncio.run_coroutine_threadsafe(client.aclose(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _one(self, send: Send, secret: str, key: str, question: Question) -> None:
        """Ask until there is an answer, and write it down."""
        messages = messages_of(question, self._pixels)
        tokens = {"prompt_tokens": 0, "completion_tokens": 0}  # empty answers are paid for as well
        for tried in range(1, self._tries + 1):
            try:
                reply = self._post(send, secret, question, messages)
                for name in tokens:
                    tokens[name] = None if None in (tokens[name], reply[name]) else tokens[name] + reply[name]
                if not reply["text"] and tried == self._tries:
                    reply.setdefault("no_text", "empty")
                if reply["text"] or "no_text" in reply:
                    break
                trouble = Later("an empty answer")
            except Later as later:
                trouble = later
            self._wait(trouble, tried)
        line = {
            "key": key, "model": self.model, "image_id": question.image and question.image.image_id,
            "seed": question.seed, **reply, **tokens, "tries": tried, "sent": self._fields(question),
        }  # fmt: skip
        with self._lock:
            append_jsonl(self.answers, line)
            self._known[key] = line
            if (why := reply.get("no_text")) and why not in self._reasons:
                self._reasons.add(why)
                print(f"{self.model} answered without text: {NO_TEXT[why]} (kept and counted, not asked"
                      " again)", flush=True)

    def _wait(self, trouble: Later, tried: int) -> None:
        """Rest before the next try; a UserError if there is none, or if the server wants too long a rest."""
        asks = f", which asks to wait {trouble.wait:.0f} s" if trouble.wait else ""
        if tried == self._tries or (trouble.wait or 0) > PATIENCE:
            raise UserError(f"{self.address} gave no answer (try {tried} of {self._tries}: {trouble}{asks}):"
                            " run again later; what was answered is kept")
        rest = backoff(self._first_wait, tried)
        if trouble.wait is None and not trouble.crowded:
            self._pace.rest(rest)
        else:
            self._pace.pause(max(trouble.wait or 0.0, rest))  # for everybody

    def _post(self, send: Send, secret: str, question: Question, messages: list[dict]) -> dict:
        """One reply; again at once, in another spelling, where the server does not take a field."""
        import httpx

        while True:
            fields = self._fields(question)
            request = {"model": self.model, "messages": messages, **fields}
            self._pace.turn()
            try:
                return read_reply(*send(json.dumps(request).encode("ascii")), secret=secret, fields=fields)
            except Unwanted as unwanted:
                self._spell(unwanted)
            except (TimeoutError, asyncio.TimeoutError):
                raise Later(f"an answer that takes more than {self._time_out:g} s") from None
            except httpx.RequestError as error:  # no connection, a time-out, a torn or senseless body
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise UserError(f"{self.address}: its certificate is not trusted ({error}): name the file"
                                    " of its authority in SSL_CERT_FILE") from None
                why = f"{type(error).__name__} {error}".strip()
                raise Later(why + settings_named(self.address)) from None
            except (httpx.InvalidURL, UnicodeError):
                raise UserError(f"{self.address} is no address: check the endpoint's url") from None

    def _fields(self, question: Question) -> dict[str, Any]:
        """The optional fields, as this server wants them."""
        values = {**self._settings, "seed": question.seed}
        return {name: values[field] for field, name in self._names.items() if name}

    def _spell(self, unwanted: Unwanted) -> None:
        """Call a field as newer models do, or leave it out, and say so once."""
        with self._lock:
            field = next((own for own, name in self._names.items() if name == unwanted.field), None)
            if field is None:
                return  # another thread has just done it
            if unwanted.field == "max_completion_tokens":
                raise UserError(f"{self.address} takes no limit of tokens ({unwanted}): take another model")
            self._names[field] = "max_completion_tokens" if field == "max_tokens" else ""
            now = f"it is sent as {self._names[field]}" if self._names[field] else "it is left out"
            print(f"the endpoint does not take {field} ({unwanted}); {now}", flush=True)

    def _secret(self) -> str:
        """The key from the environment; "" where none is needed."""
        if not self._variable:
            return ""
        secret = os.environ.get(self._variable, "").strip()
        if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
            raise UserError(f"the environment variable {self._variable} holds no key (it is empty, or has"
                            " signs that no key has): export it in the shell that runs the kit")
        return secret


async def _exchange(
    client: "httpx.AsyncClient", address: str, content: bytes
) -> tuple[int, Mapping[str, str], bytes]:
    """Send a body and read the whole reply, as far as an answer may be long."""
    async with client.stream("POST", address, content=content) as response:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MOST_BYTES:
                raise Later("an endless answer")
        return response.status_code, response.headers, _unpacked(bytes(body), response.headers)


def _unpacked(body: bytes, headers: Mapping[str, str]) -> bytes:
    """A body that was packed though nobody asked for it, never more of it than an answer may be long."""
    packed = headers.get("content-encoding", "identity").strip().lower()
    if packed == "identity":
        return body
    if packed not in ("gzip", "deflate"):
        raise Later(f"an answer packed as {packed[:40]!r}")
    try:
        unpacking = zlib.decompressobj(47)  # zlib or gzip, as its first bytes say
        found = unpacking.decompress(body, MOST_BYTES + 1)
    except zlib.error:
        raise Later(f"an answer that says it is {packed}, and is not") from None
    if len(found) > MOST_BYTES:
        raise Later("an endless answer")
    return found
