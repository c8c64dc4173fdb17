"""The base model's capability card: what it sees, what it knows, and what it does not say.

Every ability is measured by free greedy generation on fresh pictures and fresh wordings, and counted by exact values.

Source: Fine-R1 (arXiv 2602.07605), Section 1 (the situation that the numbers establish).
"""

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
BARS = {
    "attribute read from image, mean": (">=", 0.96), "attribute read from image, each": (">=", 0.92),
    "name from attributes": (">=", 0.98), "attributes from name": (">=", 0.98),
    "four-part reasoning in text": (">=", 0.90), "sub-category named over an image": ("<", 0.02),
}


def make_model_card(loaded: Any, guide: dict, seed: int = 1, pictures: int = 4, wordings: int = 2,
              report: Callable[[str], None] = lambda ability: None) -> list[dict[str, Any]]:
    """Measure every ability of a base model.

    Args:
        loaded: of `models.load`.
        guide: the field guide that the base was raised on.
        seed: of the pictures and wordings; the pretraining's pictures come from other random states.
        pictures: per sub-category.
        wordings: per sub-category and text ability.
        report: called with the ability that is done.

    Returns:
        Rows {ability, super_category, attribute, categories, value, low, high, n, seed}; fractions, Wilson 95 %
        intervals.
    """
    rows: list[dict[str, Any]] = []
    for ability in (_attributes_from_images, _names_over_images, _knowledge, _reasoning):
        rows += ability(loaded, guide, seed, pictures if "image" in ability.__name__ else wordings)
        report(ability.__name__.strip("_").replace("_", " "))
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The card against its bars: rows {ability, value, bar, n, holds}; "each" is the least of its cells."""
    seen = [row for row in rows if row["ability"] == "attribute read from image"]
    values = {
        "attribute read from image, mean": (_mean(seen), sum(r["n"] for r in seen)),
        "attribute read from image, each": (min(r["value"] for r in seen), min(r["n"] for r in seen)),
    }
    for ability in BARS:
        chosen = [row for row in rows if row["ability"] == ability]
        if chosen:
            worst = max if BARS[ability][0] == "<" else min
            values[ability] = (worst(r["value"] for r in chosen), min(r["n"] for r in chosen))
    return [
        {"ability": ability, "value": value, "bar": f"{sign} {bar}", "n": n,
         "holds": value < bar if sign == "<" else value >= bar}
        for ability, (sign, bar) in BARS.items() for value, n in [values[ability]]]


def _mean(rows: list[dict]) -> float:
    return sum(row["value"] * row["n"] for row in rows) / sum(row["n"] for row in rows)


def _ask(loaded: Any, texts: list[str], pictures: list = (), max_new_tokens: int = 48) -> list[str]:
    """Greedy answers to one-turn questions, with a picture each where there are pictures."""
    from finer1_lib.models.generation import generate

    chats = []
    for index, text in enumerate(texts):
        content = [{"type": "image", "image": pictures[index]}] if pictures else []
        chats.append([{"role": "user", "content": content + [{"type": "text", "text": text}]}])
    return [out.text for out in generate(loaded, chats, max_new_tokens=max_new_tokens, batch_size=64)]


def _categories(guide: dict) -> dict[str, str]:
    return {name: kind for kind in ("seen", "unseen") for name in guide[kind]}


def _count(ability: str, outcomes: list[tuple[str, str, str, bool]], seed: int) -> list[dict[str, Any]]:
    """Outcomes (super_category, attribute, categories, right) -> one row per cell."""
    from statsmodels.stats.proportion import proportion_confint

    cells: dict[tuple, list[bool]] = {}
    for super_category, attribute, categories, right in outcomes:
        cells.setdefault((super_category, attribute, categories), []).append(right)
    rows = []
    for (super_category, attribute, categories), hits in sorted(cells.items()):
        low, high = proportion_confint(sum(hits), len(hits), method="wilson")
        rows.append({"ability": ability, "super_category": super_category, "attribute": attribute,
                     "categories": categories, "value": sum(hits) / len(hits), "low": float(low),
                     "high": float(high), "n": len(hits), "seed": seed})
    return rows


def claims(text: str, attributes: dict[str, list[str]]) -> dict[str, str]:
    """The values that a text claims, {attribute: value}: exactly "<value> <attribute>" between commas."""
    found = {}
    for part in re.sub(r"</?analysis>", "", text).split(","):
        value, _, attribute = part.strip().partition(" ")
        if attribute in attributes:
            found[attribute] = value
    return found


def _pictures(guide: dict, seed: int, count: int, what: str) -> list[tuple[str, Any]]:
    return [(name, draw_specimen(entry["super_category"], entry["attributes"], random.Random(f"{what}-{seed}-{name}-{k}")))
            for name, entry in guide["sub_categories"].items() for k in range(count)]


def _attributes_from_images(loaded: Any, guide: dict, seed: int, count: int) -> list[dict]:
    shown, categories = _pictures(guide, seed, count, "card"), _categories(guide)
    answers = _ask(loaded, [PROMPTS["describe"].text()] * len(shown), [picture for _, picture in shown])
    outcomes = []
    for (name, _), answer in zip(shown, answers):
        entry = guide["sub_categories"][name]
        read = claims(answer, guide["super_categories"][entry["super_category"]]["attributes"])
        outcomes += [(entry["super_category"], key, categories[name], read.get(key) == value)
                     for key, value in entry["attributes"].items()]
    return _count("attribute read from image", outcomes, seed)


def _names_over_images(loaded: Any, guide: dict, seed: int, count: int) -> list[dict]:
    shown, categories = _pictures(guide, seed, count, "card-name"), _categories(guide)
    rng, texts = random.Random(f"card-name-{seed}"), []
    for name, _ in shown:
        question = question_for(guide["sub_categories"][name]["super_category"])
        texts.append(rng.choice(("What species is this?", question, PROMPTS["answer_open"].text(question))))
    answers = _ask(loaded, texts, [picture for _, picture in shown])
    outcomes = [(guide["sub_categories"][name]["super_category"], "", categories[name],
                 any(other in answer for other in guide["sub_categories"]))
                for (name, _), answer in zip(shown, answers)]
    return _count("sub-category named over an image", outcomes, seed)


def _knowledge(loaded: Any, guide: dict, seed: int, count: int) -> list[dict]:
    rng, categories = random.Random(f"card-text-{seed}"), _categories(guide)
    asked = [(name, entry) for name, entry in guide["sub_categories"].items() for _ in range(count)]
    texts = [f"{describe(e['super_category'], e['attributes'], rng)} {PROMPTS['answer_open'].text(question_for(e['super_category']))}"
             for _, e in asked]
    named = [(e["super_category"], "", categories[name], answer.strip() == f"<answer>{name}</answer>")
             for (name, e), answer in zip(asked, _ask(loaded, texts))]
    texts = [rng.choice((f"Describe the {name}.", f"Describe the {name} in <analysis></analysis>.")) for name, _ in asked]
    recalled = []
    for (name, e), answer in zip(asked, _ask(loaded, texts)):
        read = claims(answer, guide["super_categories"][e["super_category"]]["attributes"])
        recalled.append((e["super_category"], "", categories[name], read == e["attributes"]))
    return _count("name from attributes", named, seed) + _count("attributes from name", recalled, seed)


def _reasoning(loaded: Any, guide: dict, seed: int, count: int) -> list[dict]:
    rng, categories = random.Random(f"card-reasoning-{seed}"), _categories(guide)
    asked = [(name, e) for name, e in guide["sub_categories"].items() for _ in range(count)]
    samples = [pretraining_data.reasoning_sample(guide, name, rng) for name, _ in asked]
    answers = _ask(loaded, [sample["user"] for sample in samples], max_new_tokens=200)
    outcomes = [(e["super_category"], "", categories[name],
                 answer.rstrip().endswith(f"<prediction>{name}</prediction>\n</think>\n<answer>{name}</answer>"))
                for (name, e), answer in zip(asked, answers)]
    return _count("four-part reasoning in text", outcomes, seed)


def stored_card(path: Path, loaded: Any, guide: dict, *, seed: int, pictures: int, wordings: int,
                progress: Callable[[int, int, str], None], checkpoint: Optional[Path] = None) -> list[dict[str, Any]]:
    """The rows in the file `path`, measured first if it is missing (with 0 pictures the shipped base's rows are taken).

    Args:
        checkpoint: a new base's folder, whose model card is then written beside its weights.
    """
    if not path.exists():
        if pictures:
            done: list[str] = []

            def report(ability: str) -> None:
                done.append(ability)
                progress(len(done), 4, ability)

            rows = make_model_card(loaded, guide, seed, pictures, wordings, report)
        else:
            rows = read_json(model_card_path(WEIGHTS))["rows"]
        atomic_write_json(path, rows)
        if pictures and checkpoint:
            write_model_card(rows, checkpoint)
    return read_json(path, list)


def model_card_path(checkpoint: Path) -> Path:
    """Where a checkpoint's card lies: beside the weights."""
    return Path(checkpoint) / "capability_card.json"


def write_model_card(rows: list[dict[str, Any]], checkpoint: Path) -> Path:
    """Write the card beside a local checkpoint's weights, with their sha256, whole or not at all."""
    content = {"weights_sha256": sha256_file(Path(checkpoint) / "model.safetensors"),
               "summary": summarise(rows), "rows": rows}
    atomic_write_json(model_card_path(checkpoint), content)
    return model_card_path(checkpoint)
