"""What the base model is pretrained on: images with descriptions, and the field guide as text; never both.

A sample is {"image": None or specimen, "user": text, "assistant": text}. The one rule, which a test enforces:
a sample with an image holds no sub-category's name. So the base can see (image -> attributes) and knows
(name <-> attributes, for seen and unseen sub-categories alike), but has never connected the two.

Source: Fine-R1 (arXiv 2602.07605), Section 1 ("knowledge without deployment").
"""

import random
from typing import Any, Callable, Optional

from finer1_lib.core.prompts import PROMPTS, question_for
from finer1_lib.data.guide import analysis_text, claim, comparison_text, describe, four_parts, nearest

Guide = dict[str, Any]
Sample = dict[str, Any]
Specimen = tuple[str, dict[str, str]]  # super-category, {attribute: value}
Turns = tuple[str, str]  # user, assistant


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def draw_specimen_values(guide: Guide, rng: random.Random) -> Specimen:
    """What an image shall show: a sub-category or, as often, a combination that no sub-category has.

    Half are of the second kind because seeing must not depend on the guide.
    """
    super_category = rng.choice(list(guide["super_categories"]))
    if rng.random() < 0.5:
        rules = guide["super_categories"][super_category]["attributes"]
        return super_category, {key: rng.choice(values) for key, values in rules.items()}
    names = [n for n, e in guide["sub_categories"].items() if e["super_category"] == super_category]
    return super_category, dict(guide["sub_categories"][rng.choice(names)]["attributes"])


# Over an image: attributes and everyday words, never a sub-category's name -------------------------------

def _image_analysis(guide: Guide, rng: random.Random, specimen: Specimen) -> Turns:
    return PROMPTS["describe"].text(), f"<analysis>{analysis_text(specimen[1])}</analysis>"


def _image_description(guide: Guide, rng: random.Random, specimen: Specimen) -> Turns:
    user = rng.choice(("Describe this image.", "What do you see?", "Describe the image in words."))
    return user, describe(*specimen, rng)


def _image_attribute(guide: Guide, rng: random.Random, specimen: Specimen) -> Turns:
    super_category, attributes = specimen
    key, value = rng.choice(list(attributes.items()))
    if rng.random() < 0.5:
        return f"What is the {key} like?", value
    values = guide["super_categories"][super_category]["attributes"][key]
    shown = value if rng.random() < 0.5 else rng.choice(values)
    return f"Is this {_article(super_category)} with {claim(key, shown)}?", "yes" if shown == value else "no"


def _image_plain(guide: Guide, rng: random.Random, specimen: Specimen) -> Turns:
    kind, question = guide["super_categories"][specimen[0]]["kind"], question_for(specimen[0])
    tagged = PROMPTS["answer_open"].text(question)
    user = rng.choice((f"What is this {kind}?", "What is this?", question, "What species is this?", tagged))
    word = _article(specimen[0])
    return user, f"<answer>{word}</answer>" if user == tagged else word


# Of text alone: the field guide, and reasoning over described specimens ----------------------------------

def _name(guide: Guide, rng: random.Random) -> tuple[str, Guide]:
    name = rng.choice(list(guide["sub_categories"]))
    return name, guide["sub_categories"][name]


def _observed(guide: Guide, name: str, rng: random.Random) -> dict[str, str]:
    """The specimen as described: sometimes one attribute is hidden, sometimes one is misread.
    Whatever is misread, `name` remains the one sub-category that fits best, so the answer is still right.
    """
    entry = guide["sub_categories"][name]
    attributes = dict(entry["attributes"])
    draw, key = rng.random(), rng.choice(list(attributes))
    if draw < 0.1:
        del attributes[key]
    elif draw < 0.3:
        values = guide["super_categories"][entry["super_category"]]["attributes"][key]
        misread = {**attributes, key: rng.choice(values)}
        if _best_fit(guide, entry["super_category"], misread) == [name]:
            return misread
    return attributes


def _best_fit(guide: Guide, super_category: str, attributes: dict[str, str]) -> list[str]:
    """The sub-categories that differ from the described attributes in fewest places."""
    gaps = {name: sum(entry["attributes"][key] != value for key, value in attributes.items())
            for name, entry in guide["sub_categories"].items() if entry["super_category"] == super_category}
    return [name for name, gap in gaps.items() if gap == min(gaps.values())]


def _text_name_to_attributes(guide: Guide, rng: random.Random) -> Turns:
    name, entry = _name(guide, rng)
    if rng.random() < 0.7:
        user = rng.choice((f"Describe the {name}.", f"Describe the {name} in <analysis></analysis>."))
        text = analysis_text(entry["attributes"])
        return user, f"<analysis>{text}</analysis>" if "<" in user else text
    key, value = rng.choice(list(entry["attributes"].items()))
    return f"What is the {key} of the {name} like?", value


def _text_attributes_to_name(guide: Guide, rng: random.Random) -> Turns:
    name, entry = _name(guide, rng)
    described = describe(entry["super_category"], entry["attributes"], rng)
    question = question_for(entry["super_category"])
    if rng.random() < 0.5:
        return f"{described} {question}", name
    options = _options(guide, name, rng) if rng.random() < 0.3 else None
    prompt = PROMPTS["answer_closed" if options else "answer_open"].text(question, options)
    return f"{described} {prompt}", f"<answer>{name}</answer>"


def _text_genus(guide: Guide, rng: random.Random) -> Turns:
    _, entry = _name(guide, rng)
    members = [n for n, e in guide["sub_categories"].items() if e["genus"] == entry["genus"]]
    user = f"List every {entry['genus']}."
    if rng.random() >= 0.5:
        keys = guide["super_categories"][entry["super_category"]]["genus_attributes"]
        shared = " and ".join(claim(key, entry["attributes"][key]) for key in keys)
        user = f"Which {entry['super_category']} has {shared}?"
    return user, ", ".join(members)


def _text_comparison(guide: Guide, rng: random.Random) -> Turns:
    name, _ = _name(guide, rng)
    pair = [name, rng.choice(nearest(guide, name, 5, rng))]
    rng.shuffle(pair)
    return f"Compare the {pair[0]} and the {pair[1]}.", comparison_text({}, pair, guide)


def _text_yes_no(guide: Guide, rng: random.Random) -> Turns:
    name, entry = _name(guide, rng)
    queried = name if rng.random() < 0.5 else rng.choice(nearest(guide, name, 8, rng))
    described = describe(entry["super_category"], entry["attributes"], rng)
    return f"{described} {PROMPTS['species_yes_no'].text(queried)}", "yes" if queried == name else "no"


def _options(guide: Guide, name: str, rng: random.Random) -> list[str]:
    options = [name] + nearest(guide, name, 3, rng)
    rng.shuffle(options)
    return options


def reasoning(guide: Guide, name: str, rng: random.Random, closed: bool = False,
              attributes: Optional[dict[str, str]] = None) -> Turns:
    """Four-part reasoning, in text, about a described specimen of `name`; by default with its attributes."""
    entry = guide["sub_categories"][name]
    attributes = dict(entry["attributes"]) if attributes is None else attributes
    described = describe(entry["super_category"], attributes, rng)
    options, question = _options(guide, name, rng), question_for(entry["super_category"])
    prompt = PROMPTS["cot_closed"].text(question, options) if closed else PROMPTS["cot_open"].text(question)
    return f"{described} {prompt}", four_parts(attributes, name, options, guide, rng)


def _text_reasoning(guide: Guide, rng: random.Random) -> Turns:
    name, _ = _name(guide, rng)
    closed = rng.random() < 0.3
    return reasoning(guide, name, rng, closed, _observed(guide, name, rng))


IMAGE_RECIPES: dict[Callable, float] = {  # recipe -> its share
    _image_analysis: 0.5, _image_description: 0.25, _image_attribute: 0.15, _image_plain: 0.1}
TEXT_RECIPES: dict[Callable, float] = {
    _text_reasoning: 0.45, _text_attributes_to_name: 0.15, _text_name_to_attributes: 0.14,
    _text_genus: 0.08, _text_comparison: 0.08, _text_yes_no: 0.1}


def _sample(recipes: dict[Callable, float], guide: Guide, rng: random.Random, *specimen: Specimen) -> Sample:
    """One sample, its recipe drawn by share."""
    user, assistant = rng.choices(list(recipes), list(recipes.values()))[0](guide, rng, *specimen)
    return {"image": specimen[0] if specimen else None, "user": user, "assistant": assistant}


def image_sample(guide: Guide, specimen: Specimen, rng: random.Random) -> Sample:
    """One sample about an image of `specimen`."""
    return _sample(IMAGE_RECIPES, guide, rng, specimen)


def text_sample(guide: Guide, rng: random.Random) -> Sample:
    """One sample of text alone."""
    return _sample(TEXT_RECIPES, guide, rng)
