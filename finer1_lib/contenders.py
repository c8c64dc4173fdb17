"""Who is compared: the rows of every table and figure, with their labels and colours, in ONE place.

Four rows are always there: the base asked for the name alone, the base under the four-part prompt,
answer-only SFT and CoT SFT. What else notebooks 02 and 03 trained follows in its own order, read from
`03_tapo/models.json`:

    [{"name": "cot_sft_tapo", "label": "CoT SFT + TAPO", "adapter": "03_tapo/cot_sft_tapo", "prompt": "cot"}]

Checkpoints from elsewhere, systems of the registry, and rows asked once more under another strategy come after
them (`systems.rows`). Controls (`CONTROLS`) are no rows of the main table: they
stand beside it, drawn hollow or hatched. No later stage assumes that a method is among them. What `baselines`
calls its methods stands there; a name that neither knows gets a colour made from its letters.

Source: METHOD 3 (the baselines) and 4; the colours are our choice: found by a search that keeps any two apart
for normal, red-blind and green-blind eyes (CIELAB distance 20 and more, Machado 2009) and in lightness, so
that a grey print can be read too.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterable, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.baselines import METHODS, model_label, model_name
from finer1_lib.errors import UserError

if TYPE_CHECKING:
    from finer1_lib.systems.registry import System

MODELS_FILE = "03_tapo/models.json"
PROMPT_KINDS = ("cot", "answer", "letter", "step")  # how one is asked; 02 and 03 train for the first two
TRAINED_KINDS = PROMPT_KINDS[:2]
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # in a label it would reach terminals and break tables
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"  # of a model, and of the folder of its weights


class Row(NamedTuple):
    """What is known of a row beforehand.

    Attributes:
        label: in tables.
        colour: in figures; None leaves it to `colour_of`.
        against: the row it is compared with beside its own start, if both are there.
    """

    label: str
    colour: Optional[str] = None
    against: Optional[str] = None


# method -> (colour, the method it is held against): matched baselines and TAPO against DAPO, a change of one
# of TAPO's parts against TAPO
_METHODS = {
    "dapo": ("#03884F", None),
    "intra": ("#D8B969", "dapo"),
    "inter": ("#00167A", "dapo"),
    "tapo": ("#D16D02", "dapo"),
    "noisy_rollout": ("#015070", "dapo"),
    "papo": ("#00645C", "dapo"),
    "paper_text": ("#880B00", "tapo"),
    "official_release": ("#478FFF", "tapo"),
    "no_entropy": ("#5283B0", "tapo"),
    "containment": ("#5F091D", "tapo"),
    "cls_rl": ("#BBD9AD", None),
    "no_thinking_rl": ("#97E8FA", "cls_rl"),
}


def _method_row(method: str) -> Row:
    colour, against = _METHODS.get(method, (None, None))
    return Row(model_label(method), colour, against and model_name(against))


ROWS: Mapping[str, Row] = {
    "base": Row("base", "#9C9FA4"),
    "base_cot_prompt": Row("base + four-part prompt", "#3EBFFB"),
    "sft_answer_only": Row("answer-only SFT", "#FFBB00"),
    "cot_sft": Row("CoT SFT", "#0061B2"),
    "full_sft_answer_only": Row("answer-only SFT, full, hard", "#040228", "sft_answer_only"),
    "full_cot_sft": Row("CoT SFT, full, hard", "#0A0FBD", "full_sft_answer_only"),
    **{model_name(method): _method_row(method) for method in METHODS},
}


CONTROLS: Mapping[str, Row] = {"always_first": Row("always the first option", "#747474")}
KNOWN = {**ROWS, **CONTROLS}


@dataclass(frozen=True)
class Contender:
    """One row of the main table: which weights, asked in which way.

    Attributes:
        model: the name in records and summary rows.
        prompts: one of `PROMPT_KINDS`: "answer" (the name only), "cot" (the four parts, then the name),
            "letter" (a letter or a name), "step" (think step by step); of an encoder its kind of sentence.
        adapter: stage folder of the trained weights, e.g. "02_cot_sft/cot_sft"; None is the base as it is.
        label: in tables and figures.
        checkpoint: the weights that the adapter goes on; None is the run's own base.
        system: the registry's entry, where it is one.
        strategy: a word of `systems.strategies.STRATEGIES`.
        samples: answers drawn for each question; 1 is one greedy answer.
    """

    model: str
    prompts: str
    adapter: Optional[str]
    label: str
    checkpoint: Optional[str] = None
    system: "Optional[System]" = None
    strategy: str = "zero_shot"
    samples: int = 1


FIXED = tuple(
    Contender(model, prompts, adapter, ROWS[model].label) for model, prompts, adapter in (
        ("base", "answer", None), ("base_cot_prompt", "cot", None),
        ("sft_answer_only", "answer", "02_cot_sft/sft_answer_only"), ("cot_sft", "cot", "02_cot_sft/cot_sft"),
    ))


def all_contenders(trained: Sequence[Any]) -> tuple[Contender, ...]:
    """The four fixed rows, then what else was trained.

    Args:
        trained: the list in `03_tapo/models.json`.

    Raises:
        UserError: an entry that is not as the module's docstring shows, or a name that stands twice.
    """
    found = list(FIXED)
    for number, entry in enumerate(trained):
        problem = _problem(entry, {contender.model for contender in found})
        if problem:
            raise UserError(f"{MODELS_FILE}, entry {number}: {problem}; run notebook 03_tapo again")
        found.append(Contender(entry["name"], entry["prompt"], entry["adapter"], entry["label"]))
    return tuple(found)


def _problem(entry: Any, taken: set[str]) -> str:
    """What is wrong with one entry of models.json; "" if nothing is."""
    keys = ("name", "label", "adapter", "prompt")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in keys):
        return f"not an object with the texts {', '.join(keys)}"
    if not re.fullmatch(_NAME, entry["name"]):
        return f"name {entry['name']!r} is not of letters, digits, '_' and '-'"
    if not re.fullmatch(f"(02_cot_sft|03_tapo)/{_NAME}", entry["adapter"]):
        return f"adapter {entry['adapter']!r} is not a folder of 02_cot_sft or 03_tapo"
    if entry["name"] in taken:
        return f"the name {entry['name']!r} stands twice"
    if entry["prompt"] not in TRAINED_KINDS:
        return f"prompt {entry['prompt']!r} is not one of {', '.join(TRAINED_KINDS)}"
    if CONTROL.search(entry["label"]):
        return "the label holds a control sign"
    return "" if entry["label"].strip() else "the label is empty"


def find_contender(contenders: Sequence[Contender], model: str) -> Contender:
    """The contender of this name.

    Raises:
        UserError: there is none: it was not trained in this run and is not of more_models, or is misspelt.
    """
    known = {contender.model: contender for contender in contenders}
    if model not in known:
        raise UserError(f"probed_models: {model!r} was not trained in this run (nor named in "
                        f"more_models); there are {', '.join(known)}")
    return known[model]


def labels_of(contenders: Iterable[Contender]) -> dict[str, str]:
    """{model: label} in the order of the tables."""
    return {contender.model: contender.label for contender in contenders}


def label_of(model: str, labels: Optional[Mapping[str, str]] = None) -> str:
    """A model's label: the run's own, else the table's, else its name."""
    if labels and model in labels:
        return labels[model]
    return KNOWN[model].label if model in KNOWN else model


def colour_of(model: str) -> str:
    """A model's colour as "#RRGGBB"; for a name that the table does not know one made from its letters."""
    known = KNOWN[model].colour if model in KNOWN else None
    if known:
        return known
    import colorsys
    import hashlib

    first, second, *_ = hashlib.sha256(model.encode("utf-8")).digest()
    red, green, blue = colorsys.hls_to_rgb(first / 256, 0.35 + 0.4 * second / 256, 0.45)
    return "#" + "".join(f"{round(255 * part):02X}" for part in (red, green, blue))


def in_order(models: Iterable[str], labels: Optional[Mapping[str, str]] = None) -> list[str]:
    """Each model once: in the order of the labels (else of the table), then the others as they come."""
    models = list(dict.fromkeys(models))
    order = list(labels or ROWS)
    return [model for model in order if model in models] + [model for model in models if model not in order]


def start_of(contender: Contender) -> Optional[str]:
    """The row that another is held against first; None where its name does not tell.

    A row asked in another way is held against the same model asked plainly. A trained one against what it
    started from:

    `cot_sft_<method>` starts from CoT SFT; `base_<method>` from the base, under the prompt of its training;
    of a checkpoint from elsewhere nobody knows: it is held against the base.
    """
    if contender.strategy != "zero_shot":
        return contender.model.removesuffix(f"-{contender.strategy}")
    if contender.model.startswith("cot_sft_") and not contender.checkpoint:
        return "cot_sft"
    if contender.model.startswith("base_") or contender.checkpoint:
        return "base_cot_prompt" if contender.prompts == "cot" else "base"
    return None


def pairs_of(contenders: Sequence[Contender]) -> list[tuple[str, str]]:
    """(first, second) models whose difference is worth a test, from what is there.

    The fixed rows as the paper compares them, each trained row against its start, then against the row
    that `ROWS` names (TAPO against DAPO, for one) where both were trained, and our TAPO against every
    checkpoint from elsewhere that thinks.

    Source: paper Fig. 3a to 3c; METHOD 3.
    """
    pairs = [("base_cot_prompt", "base"), ("sft_answer_only", "base"), ("cot_sft", "sft_answer_only")]
    trained = contenders[len(FIXED) :]
    names = {contender.model for contender in contenders}
    pairs += [(contender.model, start) for contender in trained if (start := start_of(contender))]
    against = [(c.model, ROWS[c.model].against) for c in trained if c.model in ROWS]
    others = [("cot_sft_tapo", c.model) for c in contenders if c.checkpoint and c.prompts == "cot"]
    return pairs + [pair for pair in against + others if set(pair) <= names]
