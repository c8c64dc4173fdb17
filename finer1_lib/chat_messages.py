"""What is sent to a chat endpoint and what comes back: questions, conversations, answers, addresses.

Source: our choice; the form of a conversation is that of OpenAI's chat completions.
"""

import re
import urllib.parse
from typing import NamedTuple, Optional

from finer1_lib.encoding import ImageFile
from finer1_lib.errors import UserError
from finer1_lib.teacher_pictures import data_url

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
