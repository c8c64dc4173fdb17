"""A large model behind an address: chat completions as OpenAI, vLLM and most vendors serve them.

    endpoint = ChatEndpoint("http://localhost:8000/v1", "Qwen/Qwen2.5-VL-32B-Instruct", Path("answers.jsonl"))
    endpoint.ask([Question("What is seen?", ImageFile(root, "bird/a.jpg"), seed=3)])
        -> [Answer(text="A red crown.", truncated=False)]

A kill costs nothing: the file of answers is read first. Serve by vLLM with `--generation-config vllm`: a
checkpoint's own settings (top_k 1) may give every attempt the same text. The `openai` client is not used: it
waits for a slow server without end, unpacks a body without bound, and takes an error under 200 as None.
"""

import asyncio
import hashlib
import json
import os
import random
import re
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core import faces
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import append_jsonl, read_jsonl
from finer1_lib.core.images import MAX_PIXELS, ImageFile, data_url, image_key
from finer1_lib.core.network import client_options, settings_named
from finer1_lib.models.endpoint_replies import NO_TEXT, TOKENS, Later, Unwanted, read_reply

httpx = faces.Later("httpx")
LONGEST_WAIT = 60.0  # seconds between two tries, where the server does not say
PATIENCE = 600.0  # seconds that a server may ask us to wait
MOST_BYTES = 16 * 2**20  # of a reply


class Question(NamedTuple):
    """A prompt with or without an image; `earlier`: (prompt, image, answer) turns before it, as examples."""

    prompt: str
    image: Optional[ImageFile] = None
    seed: int = 0
    earlier: tuple[tuple[str, ImageFile, str], ...] = ()


class Answer(NamedTuple):
    """A text, whether the token limit cut it off, its tokens (0 if not reported), and a key of `NO_TEXT`."""

    text: str
    truncated: bool
    tokens: int = 0
    no_text: str = ""


def messages_of(question: Question, max_pixels: int) -> list[dict]:
    """The conversation as OpenAI's chat completions have it, its images as data URLs."""
    def user(prompt: str, image: Optional[ImageFile]) -> dict:
        url = image and {"type": "image_url", "image_url": {"url": data_url(image, max_pixels)}}
        return {"role": "user", "content": [*([url] if url else []), {"type": "text", "text": prompt}]}

    turns = []
    for prompt, image, answer in question.earlier:
        turns += [user(prompt, image), {"role": "assistant", "content": answer}]
    return [*turns, user(question.prompt, question.image)]


def address_of(url: str) -> str:
    """The address of a server's completions. Raises: UserError: not an address, or more than one."""
    named, like = "the endpoint's url (01's teacher_url)", "give one like http://localhost:8000/v1"
    try:
        parts = urllib.parse.urlsplit(url.strip())
        (parts.hostname or "").encode("idna"), parts.port  # both refuse impossible names and numbers
    except ValueError:
        raise UserError(f"{named} is not an address: {like}") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(f"{named} is recorded, and holds more than an address (a name, a key, a query): give"
                        " the address, and the key in the variable that key_variable names")
    odd = re.search(r"[\s<>\"\\^`{|}\x00-\x20\x7f]", parts.netloc)
    if parts.scheme not in ("http", "https") or not parts.hostname or odd:
        raise UserError(f"{named} {url!r} is not an address: {like}")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path}/chat/completions"


def read_answers(answers: Path, truncate: bool = False) -> list[dict]:
    """The checked lines of a file of answers; a missing file has none. Raises: UserError: a damaged line."""
    fix = "take that line out of the file; the others are paid for and stay"
    kinds = {"key": (str,), "text": (str,), "truncated": (bool,), **dict.fromkeys(TOKENS, (int, type(None)))}
    lines = read_jsonl(Path(answers), truncate=truncate, fix=fix)
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, dict) or any(type(line.get(name)) not in kinds[name] for name in kinds):
            raise UserError(f"{answers} line {number} is not an answer of an endpoint: {fix}")
    return lines


def reason_of(line: Mapping[str, Any]) -> str:
    """Why a line of the file holds no text, "" if it does; older lines have a finish alone."""
    finish = line.get("finish")
    return "" if line["text"] else line.get("no_text") or (finish if finish in NO_TEXT else "empty")


def without_text(answers: Path) -> dict[str, int]:
    """{key of `NO_TEXT`: number of answers in a file without text for that reason}."""
    why = [reason_of(line) for line in read_answers(answers)]
    return {kind: why.count(kind) for kind in NO_TEXT if kind in why}


def advice(answers: Path) -> str:
    """How many answers hold no text, why, and what to do about it; "" where all do."""
    return "; ".join(f"{count} without text: {NO_TEXT[why]}" for why, count in without_text(answers).items())


def spent(answers: Path, prices: Sequence[float] = ()) -> dict[str, Any]:
    """Tokens and cost of all answers in a file; failed tries are not counted.

    spent(Path("answers.jsonl"), prices=[2.5, 10.0])     # of a million tokens read, and written
        -> {"answers": 1, "prompt_tokens": 1310, "completion_tokens": 9, "uncounted": 0, "cost": 0.003365}
    """
    prices = list(prices)
    if prices and (len(prices) != 2 or not all(0 <= price < float("inf") for price in prices)):
        raise UserError(f"teacher_prices is {prices}: give two (a million tokens read, written) or none")
    lines = read_answers(answers)
    counted = {kind: sum(line.get(kind) or 0 for line in lines) for kind in TOKENS}
    cost = sum(price * counted[kind] for price, kind in zip(prices, TOKENS)) / 1e6 if prices else None
    missing = sum(any(line.get(kind) is None for kind in TOKENS) for line in lines)
    return {"answers": len(lines), **counted, "uncounted": missing, "cost": cost}


def spent_line(answers: Path, prices: Sequence[float] = ()) -> str:
    """`spent` and `advice` in one line."""
    took, empty = spent(answers, prices), advice(answers)
    cost = "" if took["cost"] is None else f", {took['cost']:.2f} at the prices given"
    missing = f"; {took['uncounted']} answers without a count" if took["uncounted"] else ""
    return (f"{took['answers']} answers: {took['prompt_tokens']:,} tokens read, {took['completion_tokens']:,}"
            f" written{cost}{missing}{'; ' if empty else ''}{empty}")


class Stopped(Exception):
    """Another request failed: no more of them."""


class Pace:
    """Client-side rate limiting of one server: evenly spaced requests, and pauses. The clock is for tests."""

    def __init__(self, per_minute: float = 0.0, *, clock: Callable[[], float] = time.monotonic,
                 sleep: Callable[[float], Any] = asyncio.sleep) -> None:
        self._gap, self._next = 60.0 / per_minute if per_minute > 0 else 0.0, float("-inf")
        self._clock, self._sleep, self.stopped = clock, sleep, False

    async def turn(self) -> None:
        """Wait until a request may be sent. Raises: Stopped."""
        while (left := self._next - self._clock()) > 0:
            await self.rest(left)
        self._next = self._clock() + self._gap
        await self.rest(0)

    def pause(self, seconds: float) -> None:
        """Nothing is sent for so long."""
        self._next = max(self._next, self._clock() + seconds)

    async def rest(self, seconds: float) -> None:
        """This request alone waits. Raises: Stopped."""
        end = self._clock() + seconds
        while not self.stopped and (left := end - self._clock()) > 0:
            await self._sleep(min(left, 0.25))
        if self.stopped:
            raise Stopped


def backoff(first: float, tried: int) -> float:
    """Seconds to wait after try `tried` (from 1): doubled each time, with jitter of up to a half."""
    return min(LONGEST_WAIT, first * 2 ** (tried - 1)) * random.uniform(0.5, 1.0)


class ChatEndpoint:
    """One model at one address; an answer is appended to `answers` as it arrives, and never requested again.

    `key_variable` names the environment variable with the key ("": none needed); `max_pixels` 0 is the usual
    bound; `requests_per_minute` counts retries; `time_out` (seconds) is for a whole answer; `first_wait`
    (seconds) doubles after each of the `tries`. Raises: UserError: an impossible address, name or number.
    """

    def __init__(self, url: str, model: str, answers: Path, *, key_variable: str = "", max_tokens: int = 1536,
                 temperature: float = 0.7, max_pixels: int = MAX_PIXELS, requests_per_minute: float = 0,
                 concurrency: int = 8, time_out: float = 300.0, tries: int = 8,
                 first_wait: float = 1.0) -> None:
        self.address = address_of(url)
        if not model.strip():
            raise UserError("the endpoint has no model (01's teacher_name, a system's checkpoint): give its"
                            " name there")
        if key_variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_variable):
            raise UserError("the endpoint's key_variable (01's teacher_key_variable) is not a name of an"
                            " environment variable (letters, digits, _): put the key into a variable and give"
                            " that variable's name, not the key itself")
        if min(concurrency, tries, max_tokens) < 1 or requests_per_minute < 0:
            raise UserError("an endpoint needs a batch, tries and tokens of at least 1 and no negative rate")
        self.model, self.answers, self.concurrency = model, Path(answers), concurrency
        self._variable, self._pixels = key_variable, max_pixels or MAX_PIXELS
        self._time_out, self._tries, self._first_wait = time_out, tries, first_wait
        self._settings = {"max_tokens": max_tokens, "temperature": temperature}
        self._names = {name: name for name in (*self._settings, "seed")}  # as sent; "" for what is left out
        self._pace, self._reasons = Pace(requests_per_minute), set[str]()  # reported reasons for missing text
        self._known: Optional[dict[str, dict]] = None

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer every question, from the file where it is known; equal questions are sent once.

        Raises: UserError: the server refuses, or answers nothing in all tries; answers so far are kept.
        """
        if self._known is None:
            self._known = {line["key"]: line for line in read_answers(self.answers, truncate=True)}
        keys = [self._key(question) for question in questions]
        if new := {key: one for key, one in zip(keys, questions) if key not in self._known}:
            self._pace.stopped = False
            with ThreadPoolExecutor(1) as thread:  # in a notebook this one has an event loop already
                try:
                    thread.submit(asyncio.run, self._ask_new(new, self._secret())).result()
                finally:
                    self._pace.stopped = True  # interrupted: those under way are paid for, and are kept
        lines = [self._known[key] for key in keys]
        return [Answer(line["text"], line["truncated"], line.get("completion_tokens") or 0, reason_of(line))
                for line in lines]

    def _key(self, question: Question) -> str:
        image = question.image and image_key(question.image, self._pixels)
        decides = [self.address, self.model, question.prompt, image, question.seed, self._settings]
        if question.earlier:
            decides.append([[prompt, image_key(image, self._pixels), answer]
                            for prompt, image, answer in question.earlier])
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode("utf-8")).hexdigest()

    def _secret(self) -> str:
        secret = os.environ.get(self._variable, "").strip() if self._variable else ""
        if self._variable and not re.fullmatch(r"[!-~]+", secret):
            raise UserError(f"the environment variable {self._variable} holds no key (it is empty, or has"
                            " characters that no key has): export it in the shell that runs the kit")
        return secret

    async def _ask_new(self, new: Mapping[str, Question], secret: str) -> None:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers |= {"Authorization": f"Bearer {secret}"} if secret else {}
        timeout = httpx.Timeout(self._time_out, connect=min(self._time_out, 20.0))
        waiting = iter(new.items())

        async def work() -> None:
            for key, question in waiting:
                await self._pace.rest(0)  # stopped?
                await self._one(client, secret, key, question)

        options = client_options(self.address)
        async with httpx.AsyncClient(headers=headers, timeout=timeout, **options) as client:
            tasks = [asyncio.create_task(work()) for _ in range(self.concurrency)]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            self._pace.stopped = True  # no new request
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()

    async def _one(self, client: Any, secret: str, key: str, question: Question) -> None:
        """Request one answer until it is there, and append it to the file."""
        messages = await asyncio.to_thread(messages_of, question, self._pixels)
        tokens = dict.fromkeys(TOKENS, 0)  # empty answers are paid for as well
        for tried in range(1, self._tries + 1):
            try:
                reply = await self._post(client, secret, question, messages)
                for name in tokens:
                    tokens[name] = None if None in (tokens[name], reply[name]) else tokens[name] + reply[name]
                if not reply["text"] and tried == self._tries:
                    reply.setdefault("no_text", "empty")
                if reply["text"] or "no_text" in reply:
                    break
                trouble = Later("an empty answer")
            except Later as later:
                trouble = later
            await self._wait(trouble, tried)
        line = {"key": key, "model": self.model, "image_id": question.image and question.image.image_id,
                "seed": question.seed, **reply, **tokens, "tries": tried, "sent": self._fields(question)}
        append_jsonl(self.answers, line)
        self._known[key] = line
        if (why := reply.get("no_text")) and why not in self._reasons:
            self._reasons.add(why)
            print(f"{self.model} answered without text: {NO_TEXT[why]} (kept and counted, not requested"
                  " again)", flush=True)

    async def _wait(self, trouble: Later, tried: int) -> None:
        """Rest before the next try; a UserError if there is none, or if the server wants too long a rest."""
        asks = f", which asks to wait {trouble.wait:.0f} s" if trouble.wait else ""
        if tried == self._tries or (trouble.wait or 0) > PATIENCE:
            raise UserError(f"{self.address} gave no answer (try {tried} of {self._tries}: {trouble}{asks}):"
                            " run again later; what was answered is kept")
        rest = backoff(self._first_wait, tried)
        if trouble.wait is None and not trouble.crowded:
            await self._pace.rest(rest)
        else:
            self._pace.pause(max(trouble.wait or 0.0, rest))  # all requests

    async def _post(self, client: Any, secret: str, question: Question, messages: list) -> dict:
        """One reply; again at once, with other names, where the server does not take a field."""
        while True:
            fields = self._fields(question)
            request = json.dumps({"model": self.model, "messages": messages, **fields}).encode("ascii")
            await self._pace.turn()
            try:
                async with asyncio.timeout(self._time_out):
                    answered = await _exchange(client, self.address, request)
                return read_reply(*answered, secret=secret, fields=fields)
            except Unwanted as unwanted:
                self._rename(unwanted)
            except TimeoutError:
                raise Later(f"an answer that takes more than {self._time_out:g} s") from None
            except httpx.RequestError as error:  # no connection, a time-out, a torn or malformed body
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise UserError(f"{self.address}: its certificate is not trusted ({error}): name the file"
                                    " of its authority in SSL_CERT_FILE") from None
                why = f"{type(error).__name__} {error}".strip()
                raise Later(why + settings_named(self.address)) from None
            except (httpx.InvalidURL, UnicodeError):
                raise UserError(f"{self.address} is not an address: check the endpoint's url") from None

    def _fields(self, question: Question) -> dict[str, Any]:
        values = {**self._settings, "seed": question.seed}
        return {name: values[field] for field, name in self._names.items() if name}

    def _rename(self, unwanted: Unwanted) -> None:
        """Name a field as newer models do, or leave it out, and report it once."""
        field = next((own for own, name in self._names.items() if name == unwanted.field), None)
        if field is None:
            return  # another request has just done it
        if unwanted.field == "max_completion_tokens":
            raise UserError(f"{self.address} takes no limit of tokens ({unwanted}): take another model")
        self._names[field] = "max_completion_tokens" if field == "max_tokens" else ""
        now = f"it is sent as {self._names[field]}" if self._names[field] else "it is left out"
        print(f"the endpoint does not take {field} ({unwanted}); {now}", flush=True)


async def _exchange(client: Any, address: str, content: bytes) -> tuple:
    """Status, headers and body."""
    async with client.stream("POST", address, content=content) as response:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MOST_BYTES:
                raise Later("an endless answer")
        return response.status_code, response.headers, bytes(body)
