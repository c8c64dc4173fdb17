"""The base model's model card: what it sees, what it knows, and what it does not say.

Every ability is measured by free greedy generation on fresh images and wordings, and counted by exact values.

Source: Fine-R1 (arXiv 2602.07605), Section 1 (the situation that the numbers establish).
"""

import itertools
import random
import re
from pathlib import Path
from typing import Any, Callable, Optional

from finer1_lib.core.files import atomic_write_json, read_json
from finer1_lib.core.hashing import sha256_file
from finer1_lib.core.prompts import PROMPTS, question_for
from finer1_lib.data.guide import describe
from finer1_lib.miniature import pretraining_data
from finer1_lib.miniature.base import WEIGHTS
from finer1_lib.miniature.drawing import draw_specimen

# What the shipped base must reach; `holds` says whether it did.
BARS = {"attribute read from image, mean": (">=", 0.96), "attribute read from image, each": (">=", 0.92),
        "name from attributes": (">=", 0.98), "attributes from name": (">=", 0.98),
        "four-part reasoning in text": (">=", 0.90), "sub-category named over an image": ("<", 0.02)}


def make_model_card(loaded: Any, guide: dict, seed: int = 1, pictures: int = 4, wordings: int = 2,
                    report: Callable[[str], None] = lambda ability: None) -> list[dict[str, Any]]:
    """Measure every ability of a base model that was pretrained on `guide`.

    `pictures` are images a sub-category, `wordings` texts a sub-category and ability; report(ability) follows
    each. Rows {ability, super_category, attribute, categories, value, low, high, n, seed}: fractions, Wilson
    95 % intervals.
    """
    rows: list[dict[str, Any]] = []
    for ability in (_attributes_from_images, _names_over_images, _knowledge, _reasoning):
        rows += ability(loaded, guide, seed, pictures if "image" in ability.__name__ else wordings)
        report(ability.__name__.strip("_").replace("_", " "))
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The card against its bars: rows {ability, value, bar, n, holds}; "each" is the least of its cells."""
    found = []
    for ability, (sign, bar) in BARS.items():
        name, _, part = ability.partition(", ")
        cells = [row for row in rows if row["ability"] == name]
        worst, n = max if sign == "<" else min, min(row["n"] for row in cells)
        value = worst(row["value"] for row in cells)
        if part == "mean":
            n = sum(row["n"] for row in cells)
            value = sum(row["value"] * row["n"] for row in cells) / n
        found.append({"ability": ability, "value": value, "bar": f"{sign} {bar}", "n": n,
                      "holds": value < bar if sign == "<" else value >= bar})
    return found


def _answers(loaded: Any, texts: list[str], images: list = (), max_new_tokens: int = 48) -> list[str]:
    """Greedy answers to one-turn questions, with an image each where there are images."""
    from finer1_lib.models.generation import generate
    shown = [[{"type": "image", "image": image}] for image in images] or [[]] * len(texts)
    chats = [[{"role": "user", "content": image + [{"type": "text", "text": text}]}]
             for image, text in zip(shown, texts)]
    return [out.text for out in generate(loaded, chats, max_new_tokens=max_new_tokens, batch_size=64)]


def _count(ability: str, outcomes: list[tuple[str, str, str, bool]], seed: int) -> list[dict[str, Any]]:
    """Outcomes (super_category, attribute, categories, right) -> one row per cell."""
    from statsmodels.stats.proportion import proportion_confint
    rows = []
    for cell, group in itertools.groupby(sorted(outcomes), key=lambda outcome: outcome[:3]):
        hits = [right for *_, right in group]
        low, high = proportion_confint(sum(hits), len(hits), method="wilson")
        rows.append({"ability": ability, **dict(zip(("super_category", "attribute", "categories"), cell)),
                     "value": sum(hits) / len(hits), "low": float(low), "high": float(high),
                     "n": len(hits), "seed": seed})
    return rows


def claims(text: str, attributes: dict[str, list[str]]) -> dict[str, str]:
    """The values that a text claims, {attribute: value}: exactly "<value> <attribute>" between commas."""
    parts = (part.strip().partition(" ") for part in re.sub(r"</?analysis>", "", text).split(","))
    return {attribute: value for value, _, attribute in parts if attribute in attributes}


def _read(answer: str, guide: dict, entry: dict) -> dict[str, str]:
    return claims(answer, guide["super_categories"][entry["super_category"]]["attributes"])


def _entries(guide: dict, count: int) -> list[tuple[str, dict, str, str]]:
    """`count` times each sub-category: (name, entry, super-category, seen or unseen)."""
    kinds = {name: kind for kind in ("seen", "unseen") for name in guide[kind]}
    return [(name, entry, entry["super_category"], kinds[name])
            for name, entry in guide["sub_categories"].items() for _ in range(count)]


def _pictures(guide: dict, seed: int, count: int, what: str) -> list[Any]:
    """`count` images of each sub-category, in the order of `_entries`."""
    return [draw_specimen(kind, entry["attributes"], random.Random(f"{what}-{seed}-{name}-{place % count}"))
            for place, (name, entry, kind, _) in enumerate(_entries(guide, count))]


def _attributes_from_images(loaded: Any, guide: dict, seed: int, count: int) -> list[dict]:
    images = _pictures(guide, seed, count, "card")
    answers = _answers(loaded, [PROMPTS["describe"].text()] * len(images), images)
    outcomes = []
    for (_, entry, kind, seen), answer in zip(_entries(guide, count), answers):
        read = _read(answer, guide, entry)
        outcomes += [(kind, key, seen, read.get(key) == value) for key, value in entry["attributes"].items()]
    return _count("attribute read from image", outcomes, seed)


def _names_over_images(loaded: Any, guide: dict, seed: int, count: int) -> list[dict]:
    entries, rng, texts = _entries(guide, count), random.Random(f"card-name-{seed}"), []
    for _, _, kind, _ in entries:
        question = question_for(kind)
        texts.append(rng.choice(("What species is this?", question, PROMPTS["answer_open"].text(question))))
    answers = _answers(loaded, texts, _pictures(guide, seed, count, "card-name"))
    outcomes = [(kind, "", seen, any(name in answer for name in guide["sub_categories"]))
                for (_, _, kind, seen), answer in zip(entries, answers)]
    return _count("sub-category named over an image", outcomes, seed)


def _knowledge(loaded: Any, guide: dict, seed: int, count: int) -> list[dict]:
    rng, entries = random.Random(f"card-text-{seed}"), _entries(guide, count)
    texts = [f"{describe(kind, entry['attributes'], rng)} {PROMPTS['answer_open'].text(question_for(kind))}"
             for _, entry, kind, _ in entries]
    named = [(kind, "", seen, answer.strip() == f"<answer>{name}</answer>")
             for (name, _, kind, seen), answer in zip(entries, _answers(loaded, texts))]
    texts = [rng.choice((f"Describe the {name}.", f"Describe the {name} in <analysis></analysis>."))
             for name, *_ in entries]
    recalled = [(kind, "", seen, _read(answer, guide, entry) == entry["attributes"])
                for (_, entry, kind, seen), answer in zip(entries, _answers(loaded, texts))]
    return _count("name from attributes", named, seed) + _count("attributes from name", recalled, seed)


def _reasoning(loaded: Any, guide: dict, seed: int, count: int) -> list[dict]:
    rng, entries = random.Random(f"card-reasoning-{seed}"), _entries(guide, count)
    texts = [pretraining_data.reasoning(guide, name, rng)[0] for name, *_ in entries]
    outcomes = []
    for (name, _, kind, seen), answer in zip(entries, _answers(loaded, texts, max_new_tokens=200)):
        end = f"<prediction>{name}</prediction>\n</think>\n<answer>{name}</answer>"
        outcomes.append((kind, "", seen, answer.rstrip().endswith(end)))
    return _count("four-part reasoning in text", outcomes, seed)


def stored_card(path: Path, loaded: Any, guide: dict, *, seed: int, pictures: int, wordings: int,
                progress: Callable[[int, int, str], None],
                checkpoint: Optional[Path] = None) -> list[dict[str, Any]]:
    """The rows in the file `path`, measured first if it does not exist; with 0 pictures the shipped base's.

    `checkpoint` is a new base's folder, whose model card is then written beside its weights.
    """
    if not path.exists() and not pictures:
        atomic_write_json(path, read_json(model_card_path(WEIGHTS))["rows"])
    elif not path.exists():
        number = itertools.count(1)
        rows = make_model_card(loaded, guide, seed, pictures, wordings,
                               lambda ability: progress(next(number), 4, ability))
        atomic_write_json(path, rows)
        if checkpoint:
            write_model_card(rows, checkpoint)
    return read_json(path, list)


def model_card_path(checkpoint: Path) -> Path:
    """The file of a checkpoint's card, beside the weights."""
    return Path(checkpoint) / "capability_card.json"


def write_model_card(rows: list[dict[str, Any]], checkpoint: Path) -> None:
    """Write the card beside a local checkpoint's weights, with their sha256, whole or not at all."""
    weights = sha256_file(Path(checkpoint) / "model.safetensors")
    content = {"weights_sha256": weights, "summary": summarise(rows), "rows": rows}
    atomic_write_json(model_card_path(checkpoint), content)
