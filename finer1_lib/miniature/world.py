"""The drawn field guide: super-categories, genera, sub-categories, names and attributes.

A sub-category is one combination of attribute values. Those of a genus share the genus attributes (its
silhouette) and differ from one another in one to three of the others: low inter-class variance. Names are an
arbitrary epithet and the genus word ("Dunen Wren"), so a name cannot be guessed from a picture, and a right
genus with a wrong epithet is a meaningful near miss.
It restates the situation of Fine-R1 (arXiv 2602.07605), Section 1 (fine-grained classes that the model
knows by text but does not name from images), with known ground truth.

>>> guide = make_guide()
>>> len(guide["sub_categories"]), len(guide["seen"]), len(guide["unseen"])
(100, 60, 40)
"""

import random
from itertools import product
from typing import Any

COLOURS = ("black", "white", "red", "yellow", "blue", "green")
# In the order in which a description lists them; the genus attributes come first.
SUPER_CATEGORIES: dict[str, dict[str, Any]] = {
    "bird": {
        "attributes": {"bill": ("needle", "hooked", "stout", "curved"),
                       "tail": ("forked", "fan", "pointed", "square"), "crown": COLOURS, "back": COLOURS,
                       "breast": COLOURS, "wings": ("plain", "barred", "spotted")},
        "genus_attributes": ("bill", "tail"), "kind": "animal",
        "genera": ("Wren", "Finch", "Tern", "Shrike", "Plover", "Warbler", "Starling", "Heron", "Kestrel",
                   "Lark"),
    },
    "aircraft": {
        "attributes": {"planform": ("straight", "swept", "delta", "forward"),
                       "engines": ("nose", "twin", "quad", "aft"), "fuselage": COLOURS, "tips": COLOURS,
                       "fin": COLOURS, "livery": ("clean", "banded", "dotted")},
        "genus_attributes": ("planform", "engines"), "kind": "vehicle",
        "genera": ("Jetliner", "Glider", "Trainer", "Freighter", "Scout", "Clipper", "Courier", "Ranger",
                   "Meteor", "Voyager"),
    },
}
GENUS_SIZES = (5, 6, 4, 5, 5, 6, 4, 5, 5, 5)  # 50 sub-categories in each super-category
SEEN_SHARE = 0.6
_ONSETS = tuple("b br d dr f g h k l m n p r s st t tr v w z".split())
_VOWELS = ("a", "e", "i", "o", "u")
_MIDDLES = ("l", "m", "n", "r", "s", "v", "nd", "rt", "lm", "sk")
_ENDINGS = ("an", "en", "el", "ic", "or", "us", "ay", "ow", "ish", "ett")


def _epithets(count: int, rng: random.Random) -> list[str]:
    """`count` distinct invented words; none is a word of the guide's own vocabulary."""
    taken = {v for s in SUPER_CATEGORIES.values() for values in s["attributes"].values() for v in values}
    pool = ["".join(parts).capitalize() for parts in product(_ONSETS, _VOWELS, _MIDDLES, _ENDINGS)]
    rng.shuffle(pool)
    return [word for word in pool if word.lower() not in taken][:count]


def _gap(a: dict[str, str], b: dict[str, str]) -> int:
    return sum(a[key] != b[key] for key in a)


def _genus_members(shared: dict, free: dict[str, tuple], size: int, rng: random.Random) -> list[dict]:
    """A genus's members: each pair differs in one to three attributes, at most one pair in just one."""
    while True:
        members: list[dict[str, str]] = []
        for _ in range(200):
            candidate = {**shared, **{key: rng.choice(values) for key, values in free.items()}}
            gaps = [_gap(candidate, other) for other in members]
            close = sum(gap == 1 for gap in gaps)
            already = any(_gap(x, y) == 1 for i, x in enumerate(members) for y in members[:i])
            if all(1 <= gap <= 3 for gap in gaps) and close + already <= 1:
                members.append(candidate)
            if len(members) == size:
                return members


def make_guide(seed: int = 2602) -> dict[str, Any]:
    """The field guide, 60 / 40 seen and unseen (Section 4.1); the shipped base knows the default seed's.

    {"super_categories": {name: {"attributes": {attribute: [values]}, "genus_attributes", "kind"}},
    "sub_categories": {name: {"super_category", "genus", "attributes"}}, "seen": [names], "unseen": [names]}.
    """
    rng = random.Random(seed)
    epithets = iter(_epithets(len(SUPER_CATEGORIES) * sum(GENUS_SIZES), rng))
    guide: dict[str, Any] = {"super_categories": {}, "sub_categories": {}, "seen": [], "unseen": []}
    for super_category, spec in SUPER_CATEGORIES.items():
        attributes, shared_keys = spec["attributes"], spec["genus_attributes"]
        guide["super_categories"][super_category] = {
            "attributes": {key: list(values) for key, values in attributes.items()},
            "genus_attributes": list(shared_keys), "kind": spec["kind"]}
        silhouettes = list(product(*(attributes[key] for key in shared_keys)))
        rng.shuffle(silhouettes)
        free = {key: values for key, values in attributes.items() if key not in shared_keys}
        names = []
        for genus, size, silhouette in zip(spec["genera"], GENUS_SIZES, silhouettes):
            for values in _genus_members(dict(zip(shared_keys, silhouette)), free, size, rng):
                names.append(f"{next(epithets)} {genus}")
                guide["sub_categories"][names[-1]] = {
                    "super_category": super_category, "genus": genus, "attributes": values}
        seen = set(rng.sample(names, round(SEEN_SHARE * len(names))))
        guide["seen"] += [name for name in names if name in seen]
        guide["unseen"] += [name for name in names if name not in seen]
    return guide
