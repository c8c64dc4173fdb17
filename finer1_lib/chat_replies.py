"""What a server's reply says: an answer, "later", "not this field", or an error that the user can mend.

    read_reply(200, {}, b'{"choices": [{"message": {"content": "A wren."}, "finish_reason": "stop"}]}')
        -> {"text": "A wren.", "truncated": False, "finish": "stop", "prompt_tokens": None, ...}

Servers that call themselves compatible differ in the details, so nothing in a reply is taken for granted.

Source: our choice, after the chat completions format (choices, message, finish_reason, usage).
"""

import json
import re
from typing import Any, Collection, Mapping, Optional

from finer1_lib.errors import UserError
from finer1_lib.request_pace import retry_after

FILTERED = "content_filter"  # the finish of an answer that the server's own filter refused
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
_SHOWN = 300  # signs of a server's message


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
        are not said).

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
        return _answer(reply, body, secret)
    error = reply.get("error", reply) if isinstance(reply, dict) else None
    codes = {str(error.get(name)) for name in ("code", "type")} if isinstance(error, dict) else set()
    said = _message(error, body, secret)
    if codes & set(_POOR):
        raise UserError(f"the endpoint answers {status} ({said}): {_MENDS[402]}")
    if any(FILTERED in code or "content_policy" in code for code in codes):
        return _line("", False, FILTERED, None, {})
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


def _answer(reply: Any, body: bytes, secret: str) -> dict[str, Any]:
    """The answer of a reply that says it is one."""
    try:
        choice = reply["choices"][0]
        content, finish = choice["message"].get("content"), str(choice.get("finish_reason"))
        if isinstance(content, list):  # in parts, as some servers send it
            content = "".join(part.get("text") or "" for part in content if part.get("type") == "text")
        text = _clean(content or "", secret).strip()
    except (TypeError, KeyError, IndexError, AttributeError):
        raise Later(f"no answer in what it sent: {_message(reply, body, secret)}") from None
    if finish in _GAVE_UP:
        raise Later(f"an answer that ends with {finish!r}")
    cut = finish == "length" or (finish == FILTERED and bool(text))
    usage = reply.get("usage")
    return _line(text, cut, _clean(finish, secret), _clean(str(reply.get("model") or ""), secret),
                 usage if isinstance(usage, dict) else {})


def _line(text: str, truncated: bool, finish: str, model: Optional[str], usage: Mapping) -> dict[str, Any]:
    tokens = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return {"text": text, "truncated": truncated, "finish": finish, "answered_by": model,
            **{name: count if type(count) is int and count >= 0 else None for name, count in tokens.items()}}


def _message(error: Any, body: bytes, secret: str) -> str:
    """What the server says went wrong, short and on one line."""
    for name in ("error", "message", "detail"):
        if isinstance(error, dict) and error.get(name):
            error = error[name]
    if isinstance(error, list) and all(isinstance(item, dict) for item in error):  # an entry for each field
        error = "; ".join(f"{item.get('loc')}: {item.get('msg')}" for item in error)
    text = error if isinstance(error, str) else body.decode("utf-8", "replace")
    return " ".join(_clean(text, secret).split())[:_SHOWN]


def _clean(text: str, secret: str) -> str:
    """Without the key, and without halves of signs, which no file can hold."""
    text = text.replace(secret, "***") if len(secret) >= 8 else text
    return re.sub("[\ud800-\udfff]", "\ufffd", text)
