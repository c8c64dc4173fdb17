"""Rows that a run did not train: checkpoints from elsewhere, systems of the registry, other strategies.

    more_models = ["Fine-R1-3B=StevenHH2000/Fine-R1-3B@6da43fd"]    asked to think first, as it was trained
    more_models = ["plain=answer:Qwen/Qwen2.5-VL-3B-Instruct"]      asked for the name alone
    systems = ["siglip-l", "siglip-l-ensemble"]                     of `systems.registry`
    strategies = ["cot_sft=self_consistency", "base=in_context"]    any row once more, asked in another way

Source: our choice (METHOD 4: strategies; audit A6: every model under every prompt set).
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Sequence

from finer1_lib.contenders import KNOWN, PROMPT_KINDS, Contender
from finer1_lib.errors import UserError
from finer1_lib.systems.registry import System


def with_more(
    contenders: Sequence[Contender], more_models: Sequence[str], look: bool = True
) -> tuple[Contender, ...]:
    """The contenders and, after them, checkpoints that this run did not train.

    Args:
        contenders: of `all_contenders`.
        more_models: the parameter; a checkpoint is a folder or a Hub id. The name in records is the label in
            small letters: "Fine-R1-3B=StevenHH2000/Fine-R1-3B@6da43fd" becomes "fine-r1-3b".
        look: look into a folder; not needed where nothing is loaded from it.

    Raises:
        UserError: an entry of another form, a name that is taken, a folder that holds no checkpoint.
    """
    from finer1_lib.checkpoint_files import check_any, is_folder

    found = list(contenders)
    for entry in more_models:
        label, prompts, checkpoint = read_entry(entry)
        model = re.sub(r"[^a-z0-9_-]+", "-", label.lower()).strip("-_")
        if not model or not checkpoint:
            raise UserError(f"more_models: {entry!r} is not of the form label=checkpoint")
        if model in {contender.model for contender in found} | set(KNOWN):
            raise UserError(f"more_models: the name {model!r} of {label!r} is taken; choose another label")
        if look and is_folder(checkpoint):
            checkpoint = str(Path(checkpoint).expanduser())
            check_any(Path(checkpoint))
        found.append(Contender(model, prompts, None, label, checkpoint))
    return tuple(found)


def read_entry(entry: str) -> tuple[str, str, str]:
    """(label, prompts, checkpoint) of an entry of more_models; what is missing is ""."""
    label, _, checkpoint = (part.strip() for part in entry.partition("="))
    kind, colon, rest = checkpoint.partition(":")
    return (label, kind, rest.strip()) if colon and kind in PROMPT_KINDS else (label, "cot", checkpoint)


def with_systems(
    contenders: Sequence[Contender], systems: Sequence[System], look: bool = True
) -> tuple[Contender, ...]:
    """The contenders and, after them, systems of the registry.

    Args:
        look: look into a folder; not needed where nothing is loaded from it.

    Raises:
        UserError: a system's name that a row has already, or a folder that holds no checkpoint.
    """
    from finer1_lib.checkpoint_files import check_any, is_folder

    found = list(contenders)
    for system in systems:
        if look and system.kind == "chat" and is_folder(system.checkpoint):
            check_any(Path(system.checkpoint))
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
