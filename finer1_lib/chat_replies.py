"""What a server's reply says: an answer, "later", "not this field", or an error that the user can mend.

    read_reply(200, {}, b'{"choices": [{"message": {"content": "A wren."}, "finish_reason": "stop"}]}')
        -> {"text": "A wren.", "truncated": False, "finish": "stop", "prompt_tokens": None, ...}

Servers that call themselves compatible differ in the details, so nothing in a reply is taken for granted.

Source: our choice, after the chat completions format (choices, message, finish_reason, usage).
"""

import json
import re
from typing import Any, Collection, Mapping, Optional

from finer1_lib.errors import UserError, printable
from finer1_lib.request_pace import retry_after

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
