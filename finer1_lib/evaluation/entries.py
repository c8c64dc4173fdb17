"""Who is compared: the rows of every table and figure, with their labels and colours, in ONE place.

`FIXED`, then what else notebooks 02 and 03 trained, checkpoints from elsewhere, systems, strategies. Controls
(`training.methods.CONTROLS`) are no rows of the main table. An entry of each list:

    [{"name": "cot_sft_tapo", "label": "CoT SFT + TAPO", "adapter": "03_tapo/cot_sft_tapo", "prompt": "cot"}]
    more_models = ["Fine-R1-3B=StevenHH2000/Fine-R1-3B@6da43fd"]    thinks first, as it was trained
    more_models = ["plain=answer:Qwen/Qwen2.5-VL-3B-Instruct"]      the name alone
    more_models = ["mine=my_adapter"]                               an adapter, on the run's own base
    more_models = ["mine=Qwen/Qwen2.5-VL-3B-Instruct+my_adapter"]   an adapter on another base
    systems = ["siglip-l", "siglip-l-ensemble"]                     of `systems.registry`
    strategies = ["cot_sft=self_consistency", "base=in_context"]    any row again under another strategy
"""

import importlib.util
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterable, Optional, Sequence

from finer1_lib.core.checkpoint_names import is_folder, read_entry, split_adapter
from finer1_lib.core.errors import CONTROL, UserError
from finer1_lib.core.prompts import TRAINED_KINDS
from finer1_lib.evaluation.systems.registry import System
from finer1_lib.evaluation.systems.strategies import STRATEGIES
from finer1_lib.training.methods import KNOWN, ROWS

MODELS_FILE = "03_tapo/models.json"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"  # of a model, and of the folder of its weights


@dataclass(frozen=True)
class Entry:
    """One row of the main table: which weights, under which prompt and strategy."""

    model: str  # the name in records and summary rows
    prompts: str  # one of `PROMPT_KINDS`; of an encoder its kind of sentence
    adapter: Optional[str]  # folder of trained weights, e.g. "02_cot_sft/cot_sft"; None: the base
    label: str  # in tables and figures
    checkpoint: Optional[str] = None  # the weights below the adapter; None: the run's base
    system: Optional[System] = None  # the registry's record, where it is one
    strategy: str = "zero_shot"  # a key of `STRATEGIES`
    samples: int = 1  # answers drawn for each question; 1 is one greedy answer


FIXED = tuple(
    Entry(model, prompts, adapter, ROWS[model].label) for model, prompts, adapter in (
        ("base", "answer", None), ("base_cot_prompt", "cot", None),
        ("sft_answer_only", "answer", "02_cot_sft/sft_answer_only"), ("cot_sft", "cot", "02_cot_sft/cot_sft"),
    ))


def all_entries(trained: Sequence[Any]) -> tuple[Entry, ...]:
    """The four fixed rows, then what else was trained (the list in `03_tapo/models.json`).

    Raises: UserError: an entry that is not as the module's docstring shows, or a name that is listed twice.
    """
    found = list(FIXED)
    for number, entry in enumerate(trained):
        problem = _problem(entry, {one.model for one in found})
        if problem:
            raise UserError(f"{MODELS_FILE}, entry {number}: {problem}; run notebook 03_tapo again")
        found.append(Entry(entry["name"], entry["prompt"], entry["adapter"], entry["label"]))
    return tuple(found)


def _problem(entry: Any, taken: set[str]) -> str:
    """What is wrong with one entry of models.json; "" if nothing is."""
    keys = ("name", "label", "adapter", "prompt")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in keys):
        return f"not an object with the texts {', '.join(keys)}"
    name, label, adapter, prompt = (entry[key] for key in keys)
    checks = {
        f"name {name!r} is not of letters, digits, '_' and '-'": re.fullmatch(_NAME, name),
        f"adapter {adapter!r} is not a folder of 02_cot_sft or 03_tapo":
            re.fullmatch(f"(02_cot_sft|03_tapo)/{_NAME}", adapter),
        f"the name {name!r} is listed twice": name not in taken,
        f"prompt {prompt!r} is not one of {', '.join(TRAINED_KINDS)}": prompt in TRAINED_KINDS,
        "the label holds a control character": not CONTROL.search(label),
        "the label is empty": label.strip(),
    }
    return next((problem for problem, fine in checks.items() if not fine), "")


def find_entry(entries: Sequence[Entry], model: str) -> Entry:
    """The entry of this name. Raises: UserError: it was not trained in this run, or is misspelt."""
    known = {entry.model: entry for entry in entries}
    if model not in known:
        raise UserError(f"probed_models: {model!r} was not trained in this run (nor named in "
                        f"more_models); there are {', '.join(known)}")
    return known[model]


def labels_of(entries: Iterable[Entry]) -> dict[str, str]:
    """{model: label} in the order of the tables."""
    return {entry.model: entry.label for entry in entries}


def start_of(entry: Entry) -> Optional[str]:
    """The row that another is compared with first: the same model zero-shot, or what its training started from
    (checkpoints from elsewhere: the base, under their own prompt); None where its name does not say.
    """
    if entry.strategy != "zero_shot":
        return entry.model.removesuffix(f"-{entry.strategy}")
    if entry.model.startswith("cot_sft_") and not entry.checkpoint:
        return "cot_sft"
    if entry.model.startswith("base_") or entry.checkpoint:
        return "base_cot_prompt" if entry.prompts == "cot" else "base"
    return None


def pairs_of(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """(first, second) models whose difference is worth a test, of those that are there.

    The fixed rows as the paper compares them, each trained row with its start, then with the row that `ROWS`
    names (TAPO with DAPO, for one), and this run's TAPO with every checkpoint from elsewhere that thinks.
    Source: Fine-R1 (arXiv 2602.07605), Figure 3a to 3c.
    """
    pairs = [("base_cot_prompt", "base"), ("sft_answer_only", "base"), ("cot_sft", "sft_answer_only")]
    trained, names = entries[len(FIXED) :], {entry.model for entry in entries}
    pairs += [(entry.model, start) for entry in trained if (start := start_of(entry))]
    against = [(entry.model, ROWS[entry.model].against) for entry in trained if entry.model in ROWS]
    against += [("cot_sft_tapo", one.model) for one in entries if one.checkpoint and one.prompts == "cot"]
    return pairs + [pair for pair in against if set(pair) <= names]


def with_more(entries: Sequence[Entry], more_models: Sequence[str]) -> tuple[Entry, ...]:
    """The entries and, after them, checkpoints that this run did not train.

    The name in records is the label in small letters: "Fine-R1-3B" becomes "fine-r1-3b".
    Raises: UserError: an entry of another form, or a name that is taken.
    """
    found = list(entries)
    for entry in more_models:
        label, prompts, checkpoint = read_entry(entry)
        model = re.sub(r"[^a-z0-9_-]+", "-", label.lower()).strip("-_")
        if not model or not checkpoint:
            raise UserError(f"more_models: {entry!r} is not of the form label=checkpoint, label=ADAPTER or "
                            "label=BASE+ADAPTER")
        if CONTROL.search(label):
            raise UserError(f"more_models: the label {label!r} holds a control character: write plain words")
        if model in {one.model for one in found} | set(KNOWN):
            raise UserError(f"more_models: the name {model!r} of {label!r} is taken; choose another label")
        found.append(Entry(model, prompts, None, label, checkpoint))
    return tuple(found)


def weights_at(entry: Entry, base: str, adapter: "str | Path | None" = None) -> "tuple[str, str | Path | None]":
    """(checkpoint, adapter) to load for a row: its own where it comes from elsewhere, else the run's."""
    if not entry.checkpoint:
        return base, adapter
    own, outside = split_adapter(entry.checkpoint)
    return str(Path(own).expanduser()) if own else base, outside and str(Path(outside).expanduser())


def check_rows(entries: Iterable[Entry], base: str) -> None:
    """Examine what rows from elsewhere need before any is queried: files, Hub ids, keys, packages.

    Raises: UserError: one line with what is wrong with each.
    """
    if found := [f"{one.model}: {problem}" for one in entries if (problem := problem_of(one, base))]:
        many = f"{len(found)} of the rows cannot be queried: " if len(found) > 1 else ""
        raise UserError(many + "; ".join(found))


def problem_of(entry: Entry, base: str, reach: bool = True) -> str:
    """Why a row could not be queried, and how to fix it; "" if nothing was found.

    `reach` fetches the configuration of a Hub id, which shows that the id exists.
    """
    system, opened = entry.system, entry.system is not None and entry.system.library == "open_clip"
    if system is not None and system.key_variable and not os.environ.get(system.key_variable, "").strip():
        return (f"the environment variable {system.key_variable} is not set: export it in the shell that "
                "runs the kit, and never write a key into a file")
    if opened and importlib.util.find_spec("open_clip") is None:
        return 'it needs the package open_clip: install the kit with its extra "clip"'
    try:
        if entry.checkpoint and not (system is not None and system.kind == "endpoint"):
            _examine(*weights_at(entry, base), opened, reach)
    except UserError as error:
        return str(error)
    return ""


def _examine(checkpoint: str, adapter: Optional[str], opened: bool, reach: bool) -> None:
    """Refuse (UserError) files that are missing or incomplete, and a Hub id that cannot be reached."""
    from finer1_lib.models import checkpoint_files as files, loading
    from finer1_lib.models.adapter_files import check_base, read_adapter
    from finer1_lib.models.encoders import check_open_clip
    found, folder = None if adapter is None else read_adapter(adapter), is_folder(checkpoint)
    if not folder and not reach:
        return
    if opened:  # open_clip has its own configuration file
        copy = Path(files.local_copy(checkpoint, weights=folder))
        if folder:
            return check_open_clip(copy)
        return files.need(copy, "open_clip_config.json", "not a checkpoint of open_clip")
    if folder:
        files.check_any(Path(checkpoint))
        files.examine(Path(checkpoint), checkpoint, numbers=False)
    qwen = loading.is_qwen(checkpoint)
    if found is not None and not qwen:
        raise UserError(f"{checkpoint} is not a Qwen2.5-VL: adapters of other models are not read; merge it "
                        "into its base, and name the merged checkpoint")
    if found is not None and folder:
        check_base(found, checkpoint, checkpoint)


def with_systems(entries: Sequence[Entry], systems: Sequence[System]) -> tuple[Entry, ...]:
    """The entries and, after them, systems of the registry. Raises: UserError: a name is taken."""
    found = list(entries)
    for system in systems:
        if system.name in {entry.model for entry in found} | set(KNOWN):
            raise UserError(f"systems: the name {system.name!r} is taken by another row; choose another")
        found.append(Entry(system.name, system.prompts, None, system.label, system.checkpoint, system))
    return tuple(found)


def with_strategies(entries: Sequence[Entry], strategies: Sequence[str], samples: int = 8) -> tuple[Entry, ...]:
    """The entries and, after them, some of them again: "cot_sft=self_consistency" (`samples` drawn answers)
    becomes the row "cot_sft-self_consistency".
    Raises: UserError: another form, an unknown or unfit model or strategy, or fewer than two samples.
    """
    known, found = {entry.model: entry for entry in entries}, list(entries)
    for text in strategies:
        model, equals, word = (part.strip() for part in text.partition("="))
        if not equals or model not in known or word not in STRATEGIES:
            raise UserError(f"strategies: {text!r} is not of the form model=strategy, with a model of "
                            f"{', '.join(known)} and a strategy of {', '.join(STRATEGIES)}")
        entry, strategy, name = known[model], STRATEGIES[word], f"{model}-{word}"
        if entry.system is not None and entry.system.kind == "encoder":
            raise UserError(f"strategies: {model} is an encoder, which only compares; remove this entry")
        if strategy.samples and samples < 2:
            raise UserError(f"samples is {samples}: {word} needs two or more")
        if name in {one.model for one in found}:
            raise UserError(f"strategies: {text!r} is listed twice, or {name!r} is taken; remove one")
        found.append(replace(
            entry, model=name, label=f"{entry.label}, {strategy.label}", strategy=word,
            prompts=strategy.prompts or entry.prompts, samples=samples if strategy.samples else 1))
    return tuple(found)
