"""How a checkpoint is named: a folder, a Hub id with a revision, an adapter on a base, a labelled entry."""

import re
from pathlib import Path
from typing import Optional

from finer1_lib.core.prompts import PROMPT_KINDS

CONFIG = "adapter_config.json"
HUB_ID = r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w.-]+(?:/[\w.-]+)*))?"  # owner/name or owner/name@revision


def is_folder(checkpoint: str) -> bool:
    """Whether a checkpoint is meant as a folder: it exists, or it does not look like a Hub id."""
    return Path(checkpoint).is_dir() or not re.fullmatch(HUB_ID, checkpoint)


def split_revision(checkpoint: str) -> "tuple[str, str | None]":
    """(owner/name, revision) of "owner/name@revision": a branch, a tag or (it never moves) a commit; else
    None."""
    found = None if is_folder(checkpoint) else re.fullmatch(HUB_ID, checkpoint)
    return (checkpoint, None) if found is None else (found[1], found[2])


def split_adapter(text: str, root: "str | Path" = "") -> tuple[Optional[str], Optional[str]]:
    """(checkpoint, adapter) of CHECKPOINT, ADAPTER or BASE+ADAPTER; None for what is missing.

    A folder's name may contain a plus sign: existing folders decide where the text is split. Relative ones
    count from `root`.
    """
    def there(part: str) -> bool:
        return bool(part) and (Path(root) / Path(part).expanduser()).is_dir()

    if there(text) or "+" not in text:
        folder = Path(root) / Path(text).expanduser()
        alone = (folder / CONFIG).is_file() and not any(folder.glob("model*.safetensors"))
        return (None, text) if alone else (text, None)
    cuts = [(text[: at.start()].strip(), text[at.end() :].strip()) for at in re.finditer(r"\+", text)]
    known = [cut for cut in cuts if there(cut[0]) or re.fullmatch(HUB_ID, cut[0])]
    for cut in (*(cut for cut in known if there(cut[1])), *known, *(cut for cut in cuts if there(cut[1]))):
        return cut
    return text, None


def read_entry(entry: str) -> tuple[str, str, str]:
    """(label, prompt kind, checkpoint) of an entry of more_models, LABEL=[KIND:]CHECKPOINT; "" for what is
    missing."""
    label, _, checkpoint = (part.strip() for part in entry.partition("="))
    kind, colon, rest = checkpoint.partition(":")
    return (label, kind, rest.strip()) if colon and kind in PROMPT_KINDS else (label, "cot", checkpoint)
