"""Systems to query beside a run's own models: every system of the paper's tables, and a user's.

    finer1 systems                                     what would run for each row of the paper
    04_evaluation.systems: [fine-r1-3b, siglip-l]      rows of a run, on the run's questions
    04_evaluation.systems_from: mine.yaml              further entries, of this form:

    gpt:
      label: GPT, by its vendor
      kind: endpoint                     # chat (a checkpoint, the default), encoder or endpoint
      checkpoint: the-model-name-there
      url: https://api.example.com/v1    # a vLLM server as well: http://localhost:8000/v1
      key_variable: MY_KEY               # the environment variable's name, never the key

Each entry names its prompts: baselines are prompted for the name alone, as the paper's authors stated when
asked, Fine-R1 under the prompt of its training. `ambiguous` states why the id may not be the one that the
paper used, `blocked` why it would not run here.

Source: Fine-R1 (arXiv 2602.07605), Tables 1, 2, 3c, 6, 7.
"""

import re
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import Literal, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from finer1_lib.core.errors import CONTROL, UserError
from finer1_lib.core.files import read_yaml

NAME = r"[a-z0-9][a-z0-9_.-]*"
CHAT_PROMPTS, CLIP_PROMPTS = ("cot", "answer", "letter", "step"), ("clip_photo", "clip_ensemble")
_OWNERS = {"concurrency": "endpoint", "key_variable": "endpoint", "library": "encoder", "max_pixels": "endpoint",
           "requests_per_minute": "endpoint"}  # fields of one kind alone
ENSEMBLE = "-ensemble"  # every encoder is listed twice: one sentence a name, and the ensemble of sentences


class System(BaseModel):
    """One entry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # in records and in the parameter `systems`
    label: str  # in tables
    kind: Literal["chat", "encoder", "endpoint"] = "chat"
    checkpoint: str  # a folder or "owner/name[@revision]"; of an endpoint the model's name there
    family: str = ""  # the architecture
    library: Literal["transformers", "open_clip"] = "transformers"  # of an encoder
    prompts: Literal["cot", "answer", "letter", "step", "clip_photo", "clip_ensemble"] = "answer"
    prompts_from: str = ""  # source of wordings (`worded_prompts.read_prompts`); "" for the run's
    url: str = ""  # this and the next four: of an endpoint, see `ChatEndpoint`
    key_variable: str = ""
    requests_per_minute: int = Field(0, ge=0)
    concurrency: int = Field(8, ge=1)
    max_pixels: int = Field(0, ge=0)
    paper: tuple[str, ...] = ()  # names of its rows in the paper's tables
    ambiguous: str = ""  # why it may not be the paper's
    blocked: str = ""  # why it does not run here
    note: str = ""

    @model_validator(mode="after")
    def _fits(self) -> "System":
        known = CLIP_PROMPTS if self.kind == "encoder" else CHAT_PROMPTS
        foreign = [name for name, owner in _OWNERS.items() if owner != self.kind
                   and getattr(self, name) != type(self).model_fields[name].default]
        rules = {
            f"the name {self.name!r} is not of small letters, digits, '_', '.' and '-'":
                re.fullmatch(NAME, self.name),
            "label and checkpoint must not be empty": self.label.strip() and self.checkpoint.strip(),
            "the label holds a line break or another control character: write plain words":
                not CONTROL.search(self.label),
            f"prompts {self.prompts!r} of kind {self.kind!r}: one of {', '.join(known)}": self.prompts in known,
            "an endpoint needs a url": self.url or self.kind != "endpoint",
            "only an endpoint has a url": not self.url or self.kind == "endpoint",
            f"kind {self.kind!r} takes no {', '.join(foreign)}": not foreign,
            "key_variable is no name of an environment variable: put the key into a variable and give that variable's"
            " name, not the key itself": re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)?", self.key_variable)}
        if problem := next((problem for problem, fine in rules.items() if not fine), ""):
            raise ValueError(problem)
        if self.url:
            from finer1_lib.models.endpoint import address_of

            address_of(self.url)
        return self


def find_systems(names: Sequence[str], systems_from: "str | Path" = "") -> list[System]:
    """The entries of these names, of the registry or of the user's YAML file, which takes precedence.

    Raises: UserError: an unknown or repeated name, an entry that would not run here, or a malformed file.
    """
    from finer1_lib.runs.parameters import nearest
    known = {**known_systems(), **(read_systems(systems_from) if systems_from else {})}
    found = []
    for name in names:
        if name not in known:
            raise UserError(f"systems: no system {name!r}{nearest(name, known, 'they are')}; your own come in"
                            " by systems_from")
        if names.count(name) > 1:
            raise UserError(f"systems: {name!r} is listed twice; remove one")
        if known[name].blocked:
            raise UserError(f"systems: {name} would not run: {known[name].blocked}")
        found.append(known[name])
    return found


def read_systems(path: "str | Path") -> dict[str, System]:
    """The entries of a YAML file, by name; of each encoder with one sentence its ensemble as well.

    Raises: UserError: a wrong file or entry.
    """
    path = Path(path).expanduser()
    content = read_yaml(path, f"systems_from: {path}")
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise UserError(f"systems_from: {path} holds no entries; write NAME: and below it label, checkpoint, ...")
    found: dict[str, System] = {}
    for name, entry in content.items():
        found[str(name)] = _system(path, str(name), entry)
        other, kind = f"{name}{ENSEMBLE}", (entry.get("kind"), entry.get("prompts"))
        if kind == ("encoder", "clip_photo") and other not in content:  # a user's entry of that name is kept
            more = {"label": f"{entry.get('label', '')}, ensemble", "prompts": "clip_ensemble"}
            found[other] = _system(path, other, entry | more)
    return found


def _system(path: Path, name: str, entry: Mapping) -> System:
    try:
        return System(name=name, **{key: value for key, value in entry.items() if key != "name"})
    except (UserError, ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"msg": str(error), "loc": ()}
        where = ".".join(map(str, first["loc"])) + ": " * bool(first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise UserError(f"systems_from: {path}, entry {name!r}: {where}{what}") from None


@cache
def known_systems() -> Mapping[str, System]:
    """The kit's own entries."""
    return read_systems(str(package_files("finer1_lib.evaluation.systems") / "systems.yaml"))
