"""A checkpoint's chat template is a program of its own: tried before it is used, and bounded while it runs.

    check_processor(processor, config, checkpoint)     # once, when a model is loaded
    with bounded("owner/name"):                        # each time a conversation is rendered
        text = processor.apply_chat_template(...)

transformers renders templates in jinja2's sandbox, which forbids what they may reach but not how long they
run. So a template is first rendered in a process of its own, which is ended when it takes too long or too
much memory; later, a loop that depends on what is asked ends after `LINES` lines.

Source: our choice.
"""

import json
import subprocess
import sys
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Iterator

from finer1_lib.core.errors import UserError
from finer1_lib.models.checkpoint_files import AGAIN, loading
from finer1_lib.models.checkpoint_weights import is_finite, refuse_larger

SECONDS = 20  # a template takes a thousandth of one; this process has to start first
MEMORY = 2**30
LINES = 10**6  # of template code for one conversation; the longest of the published ones takes some hundreds
OWN = "use the chat_template.jinja that belongs to the model"
IMAGE, WORDS = {"type": "image"}, "What is seen here?"
QUERY = [{"role": "user", "content": [IMAGE, {"type": "text", "text": WORDS}]}]
REPLY = {"role": "assistant", "content": [{"type": "text", "text": "A wren."}]}
CONVERSATIONS = (
    QUERY, [*QUERY, REPLY, *QUERY],
    [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *QUERY],
)  # fmt: skip
# What a template may not do without end, with all that transformers gives it: a template that finds something
# missing here would stop before its bomb. Its mistakes are left to transformers' own environment afterwards.
_TRIAL = """
import datetime, json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (%d, %d))
except ImportError:
    pass  # Windows: the clock alone
import jinja2, jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
class Generation(jinja2.ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)
    def _inside(self, caller):
        return caller()
def stop(message):
    raise jinja2.TemplateError(message)
def to_json(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
given = json.load(sys.stdin)
more = [Generation, jinja2.ext.loopcontrols]
rooms = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=more)
rooms.filters["tojson"] = to_json
rooms.globals["raise_exception"] = stop
rooms.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
for messages in given["conversations"]:
    try:
        rooms.from_string(given["template"]).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, **given["tokens"])
    except MemoryError:
        sys.exit(3)
    except Exception:
        pass  # another conversation may be refused or may fail by itself
""" % (MEMORY, MEMORY)


def check_processor(processor: Any, config: Any, where: Any) -> None:
    """Refuse a processor with which a model would not see, stop, or answer anything.

    Args:
        processor: of a vision-language checkpoint.
        config: the model's.
        where: the checkpoint as given, for messages.

    Raises:
        UserError: no chat template, one that does not end, fails, or drops image or text; a tokenizer that is
            larger than the embedding.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    if tokenizer is None or tokenizer.eos_token_id is None:
        what = "tokenizer" if tokenizer is None else "eos_token"
        raise UserError(f"{where} has no {what} in its processor's files; {AGAIN}")
    if not template:
        raise UserError(f"{where} has no chat template: add its chat_template.jinja, or take a model that "
                        "follows instructions")  # fmt: skip
    refuse_larger(tokenizer, config, where)
    for one in template.values() if isinstance(template, dict) else [template]:
        if not isinstance(one, str):
            raise UserError(f"{where}: its chat template is a {type(one).__name__}, not a text; {OWN}")
        if not _ends(one, json.dumps(tokenizer.special_tokens_map)):
            raise UserError(f"{where}: its chat template takes more than {SECONDS} s or {MEMORY >> 20} MiB; "
                            f"{OWN}")  # fmt: skip
    with bounded(where):
        seen = processor.apply_chat_template(QUERY, add_generation_prompt=True, tokenize=False)
        blind = processor.apply_chat_template(
            [{**QUERY[0], "content": QUERY[0]["content"][1:]}], add_generation_prompt=True, tokenize=False)
    mark = getattr(processor, "image_token", None)
    places = seen.count(mark) - blind.count(mark) if mark else int(seen != blind)
    if places > 1:
        raise UserError(f"{where}: its chat template has {places} places for one image; {OWN}")
    if places < 1 or WORDS not in seen:
        what = "image" if places < 1 else "text"
        raise UserError(f"{where}: its chat template leaves the {what} out; {OWN}")
    _try(processor, config, where)


def _try(processor: Any, config: Any, where: Any) -> None:
    """Tokenize a query with a small image, so that a processor that cannot is refused at once."""
    from PIL import Image

    image = {**IMAGE, "image": Image.new("RGB", (112, 112))}
    with loading(where, "process an image with"):
        made = processor.apply_chat_template(
            [[{**QUERY[0], "content": [image, QUERY[0]["content"][1]]}]], add_generation_prompt=True,
            tokenize=True, return_dict=True, return_tensors="pt")
    if not all(is_finite(one) for one in made.values() if hasattr(one, "is_floating_point")):
        raise UserError(f"{where}: its processor's files make an image of NaN or infinite numbers; {AGAIN}")
    named = getattr(config, "image_token_id", None)
    own = processor.tokenizer.convert_tokens_to_ids(getattr(processor, "image_token", None) or "")
    if named is not None and own is not None and named != own:
        raise UserError(f"{where}: its config.json says that token {named} is an image, its processor writes"
                        f" {own}; {AGAIN}")


@lru_cache(maxsize=64)
def _ends(template: str, tokens: str) -> bool:
    """Whether a template is rendered within bounds, whatever else is wrong with it; `tokens` is JSON."""
    given = json.dumps({"template": template, "conversations": CONVERSATIONS, "tokens": json.loads(tokens)})
    try:
        done = subprocess.run([sys.executable, "-I", "-c", _TRIAL], input=given, text=True,
                              capture_output=True, timeout=SECONDS)  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@contextmanager
def bounded(where: Any) -> Iterator[None]:
    """End the rendering of a chat template after `LINES` lines; report in one line what fails in it.

    Raises:
        UserError: it takes too long, has a mistake, or refuses the conversation.
    """
    left = LINES

    def count(frame: Any, event: str, value: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != "<template>":
            return None
        left -= 1
        if left < 0:
            raise UserError(f"{where}: its chat template does not end; {OWN}")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        with loading(where, "render the chat template of", OWN):
            yield
    finally:
        sys.settrace(before)
