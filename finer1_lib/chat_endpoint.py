"""A large model behind an address: chat completions as OpenAI, vLLM and most vendors serve them.

    endpoint = ChatEndpoint("http://localhost:8000/v1", "Qwen/Qwen2.5-VL-32B-Instruct", Path("answers.jsonl"))
    endpoint.ask([Question("What is seen?", ImageFile(root, "bird/a.jpg"), seed=3)])
        -> [Answer(text="A red crown.", truncated=False)]

Every answer is a line of the file as soon as it is there, under a key of all that decides it: a killed run
asks nothing twice, and other parameters ask only what is new. What may pass is tried again (no connection,
a time-out, 429, 5xx, a torn or senseless body, an empty answer) with growing waits, the server's Retry-After
before all; what will not pass (a wrong key, a wrong name, no money) is one line at once.

The key is read from an environment variable whenever it is needed; it is in no file, record or message.

Serve a checkpoint by vLLM with `--generation-config vllm`: otherwise the checkpoint's own sampling counts (a
top_k of 1 in some), and every attempt gets the same text.

Source: our choice (the paper's teacher is Qwen2.5-VL-32B; how it was run is not said).
"""

import hashlib
import json
import os
import re
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence

from finer1_lib.chat_messages import Answer, Question, address_of, messages_of
from finer1_lib.chat_replies import FILTERED, Later, Unwanted, read_reply
from finer1_lib.errors import UserError
from finer1_lib.files import append_jsonl, read_jsonl
from finer1_lib.request_pace import Pace, backoff
from finer1_lib.teacher_pictures import MAX_PIXELS, picture_key

if TYPE_CHECKING:
    import httpx

PATIENCE = 600.0  # seconds that a server may ask us to wait
MOST_BYTES = 16 * 2**20  # of a reply


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
        time_out: seconds for one whole answer.
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

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer every question, from the file where it is known; equal questions are asked once.

        Raises:
            UserError: the server refuses, or answers nothing in all tries; answers so far are kept.
        """
        if self._known is None:
            self._known = {line["key"]: line for line in read_jsonl(self.answers, truncate=True)}
        keys = [self._key(question) for question in questions]
        if new := {key: one for key, one in zip(keys, questions) if key not in self._known}:
            self._ask_new(new)
        lines = [self._known[key] for key in keys]
        return [Answer(line["text"], line["truncated"], line["completion_tokens"] or 0) for line in lines]

    def _key(self, question: Question) -> str:
        picture = question.image and picture_key(question.image, self._pixels)
        decides = [self.address, self.model, question.prompt, picture, question.seed, self._settings]
        if question.earlier:
            decides.append([[prompt, picture_key(image, self._pixels), answer]
                            for prompt, image, answer in question.earlier])
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode("utf-8")).hexdigest()

    def _ask_new(self, new: Mapping[str, Question]) -> None:
        import httpx

        secret = self._secret()
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        timeout = httpx.Timeout(self._time_out, connect=min(self._time_out, 20.0))
        self._pace.start()
        with (
            httpx.Client(headers=headers, timeout=timeout) as client,
            ThreadPoolExecutor(self.concurrency) as pool,
        ):
            futures = [pool.submit(self._one, client, secret, key, one) for key, one in new.items()]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self._pace.stop()  # no request begins any more; those under way are paid for, and are kept
                pool.shutdown(cancel_futures=True)
                raise

    def _one(self, client: "httpx.Client", secret: str, key: str, question: Question) -> None:
        """Ask until there is an answer, and write it down."""
        messages = messages_of(question, self._pixels)
        tokens = {"prompt_tokens": 0, "completion_tokens": 0}  # empty answers are paid for as well
        for tried in range(1, self._tries + 1):
            try:
                reply = self._post(client, secret, question, messages)
                for name in tokens:
                    tokens[name] = None if None in (tokens[name], reply[name]) else tokens[name] + reply[name]
                if reply["text"] or reply["finish"] == FILTERED or tried == self._tries:
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

    def _post(self, client: "httpx.Client", secret: str, question: Question, messages: list[dict]) -> dict:
        """One reply; again at once, in another spelling, where the server does not take a field."""
        import httpx

        while True:
            fields = self._fields(question)
            request = {"model": self.model, "messages": messages, **fields}
            self._pace.turn()
            try:
                with client.stream("POST", self.address, json=request) as response:
                    body = self._body(response)
                return read_reply(response.status_code, response.headers, body, secret=secret, fields=fields)
            except Unwanted as unwanted:
                self._spell(unwanted)
            except httpx.RequestError as error:  # no connection, a time-out, a torn or senseless body
                raise Later(f"{type(error).__name__} {error}".strip()) from None

    def _body(self, response: "httpx.Response") -> bytes:
        """The whole body, within the time and the size that an answer may take."""
        body, deadline = bytearray(), time.monotonic() + self._time_out
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MOST_BYTES:
                raise Later("an endless answer")
            if time.monotonic() > deadline:
                raise Later("an answer that takes too long")
        return bytes(body)

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
