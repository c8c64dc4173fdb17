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
"""

import asyncio
import hashlib
import json
import os
import re
import threading
import zlib
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Optional, Sequence

from finer1_lib.chat_costs import read_answers
from finer1_lib.chat_messages import Answer, Question, address_of, messages_of
from finer1_lib.network import client_options, settings_named
from finer1_lib.chat_replies import NO_TEXT, Later, Unwanted, read_reply
from finer1_lib.errors import UserError
from finer1_lib.files import append_jsonl
from finer1_lib.request_pace import Pace, backoff
from finer1_lib.teacher_pictures import MAX_PIXELS, picture_key

if TYPE_CHECKING:
    import httpx

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
        return [Answer(line["text"], line["truncated"], line.get("completion_tokens") or 0,
                       "" if line["text"] else line.get("no_text") or "empty") for line in lines]

    def _key(self, question: Question) -> str:
        picture = question.image and picture_key(question.image, self._pixels)
        decides = [self.address, self.model, question.prompt, picture, question.seed, self._settings]
        if question.earlier:
            decides.append([[prompt, picture_key(image, self._pixels), answer]
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
