"""Who is compared: the rows of every table and figure, with their labels and colours, in ONE place.

Four rows are always there: the base asked for the name alone, the base under the four-part prompt,
answer-only SFT and CoT SFT. What else notebooks 02 and 03 trained follows in its own order, read from
`03_tapo/models.json`:

    [{"name": "cot_sft_tapo", "label": "CoT SFT + TAPO", "adapter": "03_tapo/cot_sft_tapo", "prompt": "cot"}]

Checkpoints from elsewhere, systems of the registry, and rows asked once more under another strategy come after
them (`systems.rows`). Controls (`CONTROLS`) are no rows of the main table: they
stand beside it, drawn hollow or hatched. No later stage assumes that a method is among them. What `baselines`
calls its methods stands there; a name that neither knows gets a colour made from its letters.

The colours were found by a search that keeps any two apart
for normal, red-blind and green-blind eyes (CIELAB distance 20 and more, Machado 2009) and in lightness, so
that a grey print can be read too.

Rows that a run did not train: checkpoints from elsewhere, systems of the registry, other strategies.

    more_models = ["Fine-R1-3B=StevenHH2000/Fine-R1-3B@6da43fd"]    asked to think first, as it was trained
    more_models = ["plain=answer:Qwen/Qwen2.5-VL-3B-Instruct"]      asked for the name alone
    more_models = ["mine=my_adapter"]                               an adapter, on the run's own base
    more_models = ["mine=Qwen/Qwen2.5-VL-3B-Instruct+my_adapter"]   an adapter, on a base of its own
    systems = ["siglip-l", "siglip-l-ensemble"]                     of `systems.registry`
    strategies = ["cot_sft=self_consistency", "base=in_context"]    any row once more, asked in another way
"""

import importlib.util
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterable, Optional, Sequence

from finer1_lib.core.checkpoint_names import read_entry
from finer1_lib.core.errors import CONTROL, UserError
from finer1_lib.core.prompts import TRAINED_KINDS
from finer1_lib.evaluation.systems.registry import System
from finer1_lib.training.methods import KNOWN, ROWS

MODELS_FILE = "03_tapo/models.json"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"  # of a model, and of the folder of its weights


@dataclass(frozen=True)
class Entry:
    """One row of the main table: which weights, asked in which way.

    Attributes:
        model: the name in records and summary rows.
        prompts: one of `PROMPT_KINDS`: "answer" (the name only), "cot" (the four parts, then the name),
            "letter" (a letter or a name), "step" (think step by step); of an encoder its kind of sentence.
        adapter: stage folder of the trained weights, e.g. "02_cot_sft/cot_sft"; None is the base as it is.
        label: in tables and figures.
        checkpoint: the weights that the adapter goes on; None is the run's own base.
        system: the registry's spec, where it is one.
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
    Entry(model, prompts, adapter, ROWS[model].label) for model, prompts, adapter in (
        ("base", "answer", None), ("base_cot_prompt", "cot", None),
        ("sft_answer_only", "answer", "02_cot_sft/sft_answer_only"), ("cot_sft", "cot", "02_cot_sft/cot_sft"),
    ))


def all_entries(trained: Sequence[Any]) -> tuple[Entry, ...]:
    """The four fixed rows, then what else was trained.

    Args:
        trained: the list in `03_tapo/models.json`.

    Raises:
        UserError: a spec that is not as the module's docstring shows, or a name that stands twice.
    """
    found = list(FIXED)
    for number, spec in enumerate(trained):
        problem = _problem(spec, {entry.model for entry in found})
        if problem:
            raise UserError(f"{MODELS_FILE}, spec {number}: {problem}; run notebook 03_tapo again")
        found.append(Entry(spec["name"], spec["prompt"], spec["adapter"], spec["label"]))
    return tuple(found)


def _problem(spec: Any, taken: set[str]) -> str:
    """What is wrong with one spec of models.json; "" if nothing is."""
    keys = ("name", "label", "adapter", "prompt")
    if not isinstance(spec, dict) or not all(isinstance(spec.get(key), str) for key in keys):
        return f"not an object with the texts {', '.join(keys)}"
    if not re.fullmatch(_NAME, spec["name"]):
        return f"name {spec['name']!r} is not of letters, digits, '_' and '-'"
    if not re.fullmatch(f"(02_cot_sft|03_tapo)/{_NAME}", spec["adapter"]):
        return f"adapter {spec['adapter']!r} is not a folder of 02_cot_sft or 03_tapo"
    if spec["name"] in taken:
        return f"the name {spec['name']!r} stands twice"
    if spec["prompt"] not in TRAINED_KINDS:
        return f"prompt {spec['prompt']!r} is not one of {', '.join(TRAINED_KINDS)}"
    if CONTROL.search(spec["label"]):
        return "the label holds a control sign"
    return "" if spec["label"].strip() else "the label is empty"


def find_entry(entries: Sequence[Entry], model: str) -> Entry:
    """The entry of this name.

    Raises:
        UserError: there is none: it was not trained in this run and is not of more_models, or is misspelt.
    """
    known = {entry.model: entry for entry in entries}
    if model not in known:
        raise UserError(f"probed_models: {model!r} was not trained in this run (nor named in "
                        f"more_models); there are {', '.join(known)}")
    return known[model]


def labels_of(entries: Iterable[Entry]) -> dict[str, str]:
    """{model: label} in the order of the tables."""
    return {entry.model: entry.label for entry in entries}


def start_of(entry: Entry) -> Optional[str]:
    """The row that another is held against first; None where its name does not tell.

    A row asked in another way is held against the same model asked plainly. A trained one against what it
    started from:

    `cot_sft_<method>` starts from CoT SFT; `base_<method>` from the base, under the prompt of its training;
    of a checkpoint from elsewhere nobody knows: it is held against the base.
    """
    if entry.strategy != "zero_shot":
        return entry.model.removesuffix(f"-{entry.strategy}")
    if entry.model.startswith("cot_sft_") and not entry.checkpoint:
        return "cot_sft"
    if entry.model.startswith("base_") or entry.checkpoint:
        return "base_cot_prompt" if entry.prompts == "cot" else "base"
    return None


def pairs_of(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """(first, second) models whose difference is worth a test, from what is there.

    The fixed rows as the paper compares them, each trained row against its start, then against the row
    that `ROWS` names (TAPO against DAPO, for one) where both were trained, and our TAPO against every
    checkpoint from elsewhere that thinks.

    Source: Fine-R1 (arXiv 2602.07605), Figure 3a to 3c.
    """
    pairs = [("base_cot_prompt", "base"), ("sft_answer_only", "base"), ("cot_sft", "sft_answer_only")]
    trained = entries[len(FIXED) :]
    names = {entry.model for entry in entries}
    pairs += [(entry.model, start) for entry in trained if (start := start_of(entry))]
    against = [(c.model, ROWS[c.model].against) for c in trained if c.model in ROWS]
    others = [("cot_sft_tapo", c.model) for c in entries if c.checkpoint and c.prompts == "cot"]
    return pairs + [pair for pair in against + others if set(pair) <= names]


def with_more(entries: Sequence[Entry], more_models: Sequence[str]) -> tuple[Entry, ...]:
    """The entries and, after them, checkpoints that this run did not train.

    Args:
        entries: of `all_entries`.
        more_models: the parameter; a checkpoint is a folder or a Hub id, an adapter a folder. The name in
            records is the label in small letters: "Fine-R1-3B=StevenHH2000/Fine-R1-3B@6da43fd" becomes
            "fine-r1-3b". What they name is looked at by `check_rows`.

    Raises:
        UserError: a spec of another form, or a name that is taken.
    """
    found = list(entries)
    for spec in more_models:
        label, prompts, checkpoint = read_entry(spec)
        model = re.sub(r"[^a-z0-9_-]+", "-", label.lower()).strip("-_")
        if not model or not checkpoint:
            raise UserError(f"more_models: {spec!r} is not of the form label=checkpoint, label=ADAPTER or "
                            "label=BASE+ADAPTER")
        if CONTROL.search(label):
            raise UserError(f"more_models: the label {label!r} holds a control sign: write plain words")
        if model in {entry.model for entry in found} | set(KNOWN):
            raise UserError(f"more_models: the name {model!r} of {label!r} is taken; choose another label")
        found.append(Entry(model, prompts, None, label, checkpoint))
    return tuple(found)


def weights_at(
    entry: Entry, base: str, adapter: "str | Path | None" = None
) -> "tuple[str, str | Path | None]":
    """(checkpoint, adapter) to load for a row: its own where it comes from elsewhere, else the run's.

    Args:
        entry: the row.
        base: the run's base.
        adapter: folder of what the run trained for the row, if anything.
    """
    from finer1_lib.core.checkpoint_names import split_adapter

    if not entry.checkpoint:
        return base, adapter
    own, outside = split_adapter(entry.checkpoint)
    return str(Path(own).expanduser()) if own else base, outside and str(Path(outside).expanduser())


def check_rows(entries: Iterable[Entry], base: str) -> None:
    """Look at all that rows from elsewhere need before any is asked: files, Hub ids, keys, packages.

    Args:
        entries: those that are going to be asked.
        base: the run's base, on which an adapter without a base of its own is put.

    Raises:
        UserError: one line with what is wrong with each.
    """
    found = {one.model: problem for one in entries if (problem := problem_of(one, base))}
    if found:
        told = "; ".join(f"{model}: {problem}" for model, problem in found.items())
        raise UserError(f"{len(found)} of the rows cannot be asked: {told}" if len(found) > 1 else told)


def problem_of(entry: Entry, base: str, reach: bool = True) -> str:
    """Why a row could not be asked, and how to fix it; "" where nothing speaks against it.

    Args:
        reach: fetch the configuration of a Hub id, which shows that there is one.
    """
    system = entry.system
    if system is not None and system.key_variable and not os.environ.get(system.key_variable, "").strip():
        return (f"the environment variable {system.key_variable} is not set: export it in the shell that runs "
                "the kit, and never write a key into a file")
    opened = system is not None and system.library == "open_clip"
    if opened and importlib.util.find_spec("open_clip") is None:
        return 'it needs the package open_clip: install the kit with its extra "clip"'
    if not entry.checkpoint or system is not None and system.kind == "endpoint":
        return ""
    try:
        _look(*weights_at(entry, base), opened, reach)
    except UserError as error:
        return str(error)
    return ""


def _look(checkpoint: str, adapter: Optional[str], opened: bool, reach: bool) -> None:
    """Refuse (UserError) files that are not there or not whole, and a Hub id that cannot be reached."""
    from finer1_lib.core.checkpoint_names import is_folder
    from finer1_lib.models import loading as models
    from finer1_lib.models.adapter_files import check_base, read_adapter
    from finer1_lib.models.checkpoint_files import check_any, examine, local_copy, need
    from finer1_lib.models.encoders import check_open_clip

    found = None if adapter is None else read_adapter(adapter)
    folder = is_folder(checkpoint)
    if not folder and not reach:
        return
    if opened:  # open_clip reads a configuration of its own
        copy = Path(local_copy(checkpoint, weights=folder))
        if folder:
            return check_open_clip(copy)
        return need(copy, "open_clip_config.json", "no checkpoint of open_clip's")
    if folder:
        check_any(Path(checkpoint))
        examine(Path(checkpoint), checkpoint, numbers=False)
    qwen = models.is_qwen(checkpoint)
    if found is not None and not qwen:
        raise UserError(f"{checkpoint} is no Qwen2.5-VL: of other models no adapter is read; merge it into its "
                        "base, and name the merged checkpoint")  # fmt: skip
    if found is not None and folder:
        check_base(found, checkpoint, checkpoint)


def with_systems(entries: Sequence[Entry], systems: Sequence[System]) -> tuple[Entry, ...]:
    """The entries and, after them, systems of the registry; what they name is looked at by `check_rows`.

    Raises:
        UserError: a system's name that a row has already.
    """
    found = list(entries)
    for system in systems:
        if system.name in {entry.model for entry in found} | set(KNOWN):
            raise UserError(f"systems: the name {system.name!r} is taken by another row; give it another name")
        found.append(Entry(system.name, system.prompts, None, system.label, system.checkpoint, system))
    return tuple(found)


def with_strategies(
    entries: Sequence[Entry], strategies: Sequence[str], samples: int = 8
) -> tuple[Entry, ...]:
    """The entries and, after them, some of them once more under another strategy.

    Args:
        entries: the rows so far.
        strategies: "model=strategy" each, e.g. "cot_sft=self_consistency", which becomes the row
            "cot_sft-self_consistency".
        samples: answers drawn by self_consistency.

    Raises:
        UserError: a spec of another form, an unknown model or strategy, one that does not fit the model, or
            fewer than two samples.
    """
    from finer1_lib.evaluation.systems.strategies import STRATEGIES

    known, found = {entry.model: entry for entry in entries}, list(entries)
    for spec in strategies:
        model, equals, word = (part.strip() for part in spec.partition("="))
        if not equals or model not in known or word not in STRATEGIES:
            raise UserError(f"strategies: {spec!r} is not of the form model=strategy, with a model of "
                            f"{', '.join(known)} and a strategy of {', '.join(STRATEGIES)}")
        entry, strategy = known[model], STRATEGIES[word]
        if entry.system is not None and entry.system.kind == "encoder":
            raise UserError(f"strategies: {model} is an encoder, which only ever compares; take the spec out")
        if strategy.samples and samples < 2:
            raise UserError(f"samples is {samples}: {word} needs two or more")
        name = f"{model}-{word}"
        if name in {one.model for one in found}:
            raise UserError(f"strategies: {spec!r} stands twice, or a row has the name {name!r}; remove one")
        found.append(replace(
            entry, model=name, label=f"{entry.label}, {strategy.label}", strategy=word,
            prompts=strategy.prompts or entry.prompts, samples=samples if strategy.samples else 1))
    return tuple(found)
