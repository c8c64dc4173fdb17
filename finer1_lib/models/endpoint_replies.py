"""What a chat server's reply means: an answer, "later", "not this field", or an error that the user can fix.

Nothing in a reply is taken for granted: servers that call themselves compatible differ in the details.
Source: OpenAI's chat completions (choices, message, finish_reason, usage); Retry-After: RFC 9110, 10.2.3.
"""

import email.utils
import json
import re
import time
from typing import Any, Collection, Mapping, Optional

from finer1_lib.core.errors import UserError, printable

TOKENS = ("prompt_tokens", "completion_tokens")
FILTERED = "content_filter"  # the finish of an answer that the server's own filter refused
_LIMIT = "raise the limit of tokens (max_tokens: 04's max_new_tokens, 01's teacher_max_tokens)"
# why a reply that is paid for holds no text; a retry would hold none either
NO_TEXT = {
    "reasoning": f"the text is in reasoning_content: serve without a reasoning parser, or {_LIMIT}",
    "length": f"the limit of tokens was reached before any text: {_LIMIT}",
    "refusal": "the model refused: change the prompt or take another model",
    "tool_calls": "the model called a tool in place of answering: serve without tools (tool_choice none)",
    FILTERED: "the server's filter withheld the text: take other images or another server",
    "empty": "the model wrote nothing in all tries: take another model or temperature",
}
_THOUGHTS = ("reasoning", "thinking", "thought")  # prefixes of the message fields that hold them
_FINISHES = {  # other names of a finish
    "function_call": "tool_calls", "tool_use": "tool_calls",
    **dict.fromkeys("max_tokens max_output_tokens model_length".split(), "length"),
    **dict.fromkeys("safety recitation blocklist prohibited_content spii image_safety".split(), FILTERED)}
_TRANSIENT = (408, 409, 425, 429, *range(500, 1000))
_GAVE_UP = ("error", "abort")  # finishes of an answer that a server did not finish
_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"}
_UNWANTED = re.compile(r"unsupported|(?:not|n't) support|unknown|unrecogni[sz]ed|unexpected"
                       r"|not (?:permitted|allowed)", re.IGNORECASE)
_KEY = "check the key in the variable that teacher_key_variable names"
_FIXES = {
    **dict.fromkeys(range(300, 400), "it has moved; give its new address as teacher_url"),
    401: _KEY, 402: "the account has no credit left", 403: f"{_KEY}, and what it may use",
    404: "check teacher_url (up to and with /v1) and teacher_name",
    413: "send smaller images: lower max_pixels"}
# escape sequences of terminals, control characters but tab and line end, half characters
_UNSAFE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]|[\ud800-\udfff]")
_SHOWN, _NAME = 300, 100  # characters of a server's message, of its names


class Later(Exception):
    """A transient failure; `wait` in seconds if the server gave it; `crowded`: it had too much to do."""

    def __init__(self, reason: str, wait: Optional[float] = None, crowded: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.crowded = wait, crowded


class Unwanted(Exception):
    """The server does not take the request's field `field`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


def read_reply(status: int, headers: Mapping[str, str], body: bytes, *, secret: str = "",
               fields: Collection[str] = ()) -> dict[str, Any]:
    """{"text": "A wren.", "truncated": False, "finish": "stop", "answered_by": "", **counts or None}.

    The key `secret` is masked wherever the server repeats it; `fields` are the request's optional ones. A
    final answer without text has `no_text`, a key of `NO_TEXT`. Raises: Later: transient. Unwanted: a field
    is refused. UserError: permanent.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        reply = None
    if 200 <= status < 300:
        inner = reply.get("error") if isinstance(reply, dict) and not reply.get("choices") else None
        code = inner.get("code") if isinstance(inner, dict) else None  # an error under status 200: routers'
        if type(code) is not int or not 400 <= code < 600:
            return _answer(reply, body, secret)
        status = code
    error = reply.get("error", reply) if isinstance(reply, dict) else None
    details = error if isinstance(error, dict) else {}
    codes, message = {str(details.get(name)) for name in ("code", "type")}, _message(error, body, secret)
    if codes & _NO_CREDIT:
        raise UserError(f"the endpoint answers {status} ({message}): {_FIXES[402]}")
    if any(FILTERED in code or "content_policy" in code for code in codes):
        return _answer({"choices": [{"message": {}, "finish_reason": FILTERED}]}, b"", "")
    if status in _TRANSIENT:
        raise Later(f"HTTP {status}{': ' + message if message else ''}", retry_after(headers), status == 429)
    if status in (400, 422) and _UNWANTED.search(message):
        named = re.findall(r"\w+", f"{details.get('param')} {message}" if details else message)
        for field in (word for word in named if word in fields):  # the first: the next may be the suggestion
            raise Unwanted(field, message)
    fix = _FIXES.get(status, "check teacher_name, teacher_max_tokens, and that the model takes images")
    raise UserError(f"the endpoint answers {status} ({message}): {fix}")


def _answer(reply: Any, body: bytes, secret: str) -> dict[str, Any]:
    if body.lstrip()[:6].startswith((b"data:", b"event:")):
        raise UserError("the endpoint sends its answer in pieces (a stream), which was not requested: turn"
                        " streaming off at the server or the gateway before it")
    if isinstance(reply, dict) and reply and not {"choices", "error"} & set(reply):
        raise UserError("the endpoint answers in another form than OpenAI's chat completions"
                        f" ({_message(reply, body, secret)}): give the address of such a server, up to and"
                        " with /v1")
    try:
        choice, usage = reply["choices"][0], reply.get("usage")
        message, usage = choice["message"], usage if isinstance(usage, dict) else {}
        content, finish = message.get("content"), choice.get("finish_reason")
        parts = content if isinstance(content, list) else []  # as some servers send it
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
        kinds = {str(part.get("type")) for part in parts}
        if parts:
            content = "".join(part.get("text") or "" for part in parts
                              if part.get("type") in ("text", "output_text"))
        text = _clean(content or "", secret).strip()
    except (TypeError, KeyError, IndexError, AttributeError):
        raise Later(f"no answer in what it sent: {_message(reply, body, secret)}") from None
    named, model = (_clean(one, secret)[:_NAME] if isinstance(one, str) else ""
                    for one in (finish, reply.get("model")))
    end = _FINISHES.get(named.lower(), named.lower())
    if end in _GAVE_UP:
        raise Later(f"an answer that ends with {named!r}")
    why = "" if text else _why_no_text(message, end, kinds, usage)
    return {"text": text, "truncated": end == "length" or (end == FILTERED and bool(text)), "finish": named,
            "answered_by": model, **{name: _count(usage.get(name)) for name in TOKENS},
            **({"no_text": why} if why else {})}


def _why_no_text(message: Mapping, end: str, kinds: Collection[str], usage: Mapping) -> str:
    """A key of `NO_TEXT`, or "" for an answer that may have text another time."""
    counts = [usage, *(usage.get(f"{name}_tokens_details") for name in ("completion", "output"))]
    thought = any(_count(one.get("reasoning_tokens")) for one in counts if isinstance(one, dict))
    written = any(value for name, value in message.items() if name.startswith(_THOUGHTS))
    found = {
        FILTERED: end == FILTERED,
        "refusal": message.get("refusal") or "refusal" in {end, *kinds},
        "tool_calls": message.get("tool_calls") or message.get("function_call") or end == "tool_calls",
        "reasoning": thought or written or kinds & {"thinking", "reasoning"},
        "length": end == "length"}
    return next((why for why, here in found.items() if here), "")


def _count(value: Any) -> Optional[int]:
    return value if type(value) is int and 0 <= value < 2**53 else None


def _message(error: Any, body: bytes, secret: str) -> str:
    """What the server reports, short and on one line."""
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


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """The seconds that a server asks to wait, given as milliseconds, seconds or a date; None if not given."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").split(",")[0].strip()  # a gateway may add its own to the server's
        if value.replace(".", "", 1).isdecimal() and value.isascii():
            return float(value) / unit
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
