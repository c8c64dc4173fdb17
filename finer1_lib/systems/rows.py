"""Rows that a run did not train: checkpoints from elsewhere, systems of the registry, other strategies.

    more_models = ["Fine-R1-3B=StevenHH2000/Fine-R1-3B@6da43fd"]    asked to think first, as it was trained
    more_models = ["plain=answer:Qwen/Qwen2.5-VL-3B-Instruct"]      asked for the name alone
    more_models = ["mine=my_adapter"]                               an adapter, on the run's own base
    more_models = ["mine=Qwen/Qwen2.5-VL-3B-Instruct+my_adapter"]   an adapter, on a base of its own
    systems = ["siglip-l", "siglip-l-ensemble"]                     of `systems.registry`
    strategies = ["cot_sft=self_consistency", "base=in_context"]    any row once more, asked in another way

Source: our choice (METHOD 4: strategies; audit A6: every model under every prompt set).
"""

import importlib.util
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Iterable, Optional, Sequence

from finer1_lib.contenders import CONTROL, KNOWN, PROMPT_KINDS, Contender
from finer1_lib.errors import UserError
from finer1_lib.systems.registry import System


def with_more(contenders: Sequence[Contender], more_models: Sequence[str]) -> tuple[Contender, ...]:
    """The contenders and, after them, checkpoints that this run did not train.

    Args:
        contenders: of `all_contenders`.
        more_models: the parameter; a checkpoint is a folder or a Hub id, an adapter a folder. The name in
            records is the label in small letters: "Fine-R1-3B=StevenHH2000/Fine-R1-3B@6da43fd" becomes
            "fine-r1-3b". What they name is looked at by `check_rows`.

    Raises:
        UserError: an entry of another form, or a name that is taken.
    """
    found = list(contenders)
    for entry in more_models:
        label, prompts, checkpoint = read_entry(entry)
        model = re.sub(r"[^a-z0-9_-]+", "-", label.lower()).strip("-_")
        if not model or not checkpoint:
            raise UserError(f"more_models: {entry!r} is not of the form label=checkpoint, label=ADAPTER or "
                            "label=BASE+ADAPTER")
        if CONTROL.search(label):
            raise UserError(f"more_models: the label {label!r} holds a control sign: write plain words")
        if model in {contender.model for contender in found} | set(KNOWN):
            raise UserError(f"more_models: the name {model!r} of {label!r} is taken; choose another label")
        found.append(Contender(model, prompts, None, label, checkpoint))
    return tuple(found)


def read_entry(entry: str) -> tuple[str, str, str]:
    """(label, prompts, checkpoint) of an entry of more_models; what is missing is ""."""
    label, _, checkpoint = (part.strip() for part in entry.partition("="))
    kind, colon, rest = checkpoint.partition(":")
    return (label, kind, rest.strip()) if colon and kind in PROMPT_KINDS else (label, "cot", checkpoint)


def weights_at(
    contender: Contender, base: str, adapter: "str | Path | None" = None
) -> "tuple[str, str | Path | None]":
    """(checkpoint, adapter) to load for a row: its own where it comes from elsewhere, else the run's.

    Args:
        contender: the row.
        base: the run's base.
        adapter: folder of what the run trained for the row, if anything.
    """
    from finer1_lib.adapter_files import split_adapter

    if not contender.checkpoint:
        return base, adapter
    own, outside = split_adapter(contender.checkpoint)
    return str(Path(own).expanduser()) if own else base, outside and str(Path(outside).expanduser())


def check_rows(contenders: Iterable[Contender], base: str) -> None:
    """Look at all that rows from elsewhere need before any is asked: files, Hub ids, keys, packages.

    Args:
        contenders: those that are going to be asked.
        base: the run's base, on which an adapter without a base of its own is put.

    Raises:
        UserError: one line with what is wrong with each.
    """
    found = {one.model: problem for one in contenders if (problem := problem_of(one, base))}
    if found:
        told = "; ".join(f"{model}: {problem}" for model, problem in found.items())
        raise UserError(f"{len(found)} of the rows cannot be asked: {told}" if len(found) > 1 else told)


def problem_of(contender: Contender, base: str, reach: bool = True) -> str:
    """Why a row could not be asked, and how to fix it; "" where nothing speaks against it.

    Args:
        reach: fetch the configuration of a Hub id, which shows that there is one.
    """
    system = contender.system
    if system is not None and system.key_variable and not os.environ.get(system.key_variable, "").strip():
        return (f"the environment variable {system.key_variable} is not set: export it in the shell that runs "
                "the kit, and never write a key into a file")
    opened = system is not None and system.library == "open_clip"
    if opened and importlib.util.find_spec("open_clip") is None:
        return 'it needs the package open_clip: install the kit with its extra "clip"'
    if not contender.checkpoint or system is not None and system.kind == "endpoint":
        return ""
    try:
        _look(*weights_at(contender, base), opened, reach)
    except UserError as error:
        return str(error)
    return ""


def _look(checkpoint: str, adapter: Optional[str], opened: bool, reach: bool) -> None:
    """Refuse (UserError) files that are not there or not whole, and a Hub id that cannot be reached."""
    from finer1_lib import any_model
    from finer1_lib.adapter_files import check_base, read_adapter
    from finer1_lib.checkpoint_files import check_any, is_folder, local_copy, need
    from finer1_lib.checkpoint_weights import examine
    from finer1_lib.systems.encoder_towers import check_open_clip

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
    qwen = any_model.is_qwen(checkpoint)
    if found is not None and not qwen:
        raise UserError(f"{checkpoint} is no Qwen2.5-VL: of other models no adapter is read; merge it into its "
                        "base, and name the merged checkpoint")  # fmt: skip
    if found is not None and folder:
        check_base(found, checkpoint, checkpoint)


def with_systems(contenders: Sequence[Contender], systems: Sequence[System]) -> tuple[Contender, ...]:
    """The contenders and, after them, systems of the registry; what they name is looked at by `check_rows`.

    Raises:
        UserError: a system's name that a row has already.
    """
    found = list(contenders)
    for system in systems:
        if system.name in {contender.model for contender in found} | set(KNOWN):
            raise UserError(f"systems: the name {system.name!r} is taken by another row; give it another name")
        found.append(Contender(system.name, system.prompts, None, system.label, system.checkpoint, system))
    return tuple(found)


def with_strategies(
    contenders: Sequence[Contender], strategies: Sequence[str], samples: int = 8
) -> tuple[Contender, ...]:
    """The contenders and, after them, some of them once more under another strategy.

    Args:
        contenders: the rows so far.
        strategies: "model=strategy" each, e.g. "cot_sft=self_consistency", which becomes the row
            "cot_sft-self_consistency".
        samples: answers drawn by self_consistency.

    Raises:
        UserError: an entry of another form, an unknown model or strategy, one that does not fit the model, or
            fewer than two samples.
    """
    from finer1_lib.systems.strategies import STRATEGIES

    known, found = {contender.model: contender for contender in contenders}, list(contenders)
    for entry in strategies:
        model, equals, word = (part.strip() for part in entry.partition("="))
        if not equals or model not in known or word not in STRATEGIES:
            raise UserError(f"strategies: {entry!r} is not of the form model=strategy, with a model of "
                            f"{', '.join(known)} and a strategy of {', '.join(STRATEGIES)}")
        contender, strategy = known[model], STRATEGIES[word]
        if contender.system is not None and contender.system.kind == "encoder":
            raise UserError(f"strategies: {model} is an encoder, which only ever compares; take the entry out")
        if strategy.samples and samples < 2:
            raise UserError(f"samples is {samples}: {word} needs two or more")
        name = f"{model}-{word}"
        if name in {one.model for one in found}:
            raise UserError(f"strategies: {entry!r} stands twice, or a row has the name {name!r}; remove one")
        found.append(replace(
            contender, model=name, label=f"{contender.label}, {strategy.label}", strategy=word,
            prompts=strategy.prompts or contender.prompts, samples=samples if strategy.samples else 1))
    return tuple(found)
