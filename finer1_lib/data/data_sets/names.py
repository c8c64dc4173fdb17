"""From what a data set calls a sub-category to the name that the paper's evaluation asks for.

    >>> bird_name("001.Black_footed_Albatross"), dog_name("n02086240-Shih-Tzu"), pet_name("Abyssinian_201")
    ('Black Footed Albatross', 'Shih Tzu', 'Abyssinian')

Cars and flowers keep their own spelling; CUB's own misspellings ("Artic Tern") stay too, because the
release's evaluation has them. All 755 names are known here, so that a copy with other names, or with the
names of another data set, is distinguished from the official one.

Source: release eval/data/*.jsonl, whose ground truths these rules give from file and class names;
flower names: the list of OpenAI's CLIP (the data set ships none), indexed by imagelabels.mat; the other
names (sub_categories.csv, cub_taxonomy.csv): the data sets' own class lists, read by these rules.
"""

import csv
import importlib.resources
import re
from functools import cache
from pathlib import PurePosixPath

FLOWERS = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold",
    "tiger lily", "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon",
    "colt's foot", "king protea", "spear thistle", "yellow iris", "globe flower", "purple coneflower",
    "peruvian lily", "balloon flower", "giant white arum lily", "fire lily", "pincushion flower",
    "fritillary", "red ginger", "grape hyacinth", "corn poppy", "prince of wales feathers",
    "stemless gentian", "artichoke", "sweet william", "carnation", "garden phlox", "love in the mist",
    "mexican aster", "alpine sea holly", "ruby-lipped cattleya", "cape flower", "great masterwort",
    "siam tulip", "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia",
    "bolero deep blue", "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia",
    "wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura", "geranium",
    "orange dahlia", "pink and yellow dahlia", "cautleya spicata", "japanese anemone", "black-eyed susan",
    "silverbush", "californian poppy", "osteospermum", "spring crocus", "bearded iris", "windflower",
    "tree poppy", "gazania", "azalea", "water lily", "rose", "thorn apple", "morning glory",
    "passion flower", "lotus", "toad lily", "anthurium", "frangipani", "clematis", "hibiscus", "columbine",
    "desert-rose", "tree mallow", "magnolia", "cyclamen", "watercress", "canna lily", "hippeastrum",
    "bee balm", "air plant", "foxglove", "bougainvillea", "camellia", "mallow", "mexican petunia",
    "bromelia", "blanket flower", "trumpet creeper", "blackberry lily",
)  # fmt: skip
# Other lists' names of the same flowers, by number: torchvision's, TensorFlow's, cat_to_name.json's.
FLOWER_ALIASES = {
    16: ("globe-flower",), 60: ("pink-yellow dahlia", "pink-yellow dahlia?"), 78: ("lotus lotus",),
    93: ("ball moss",),
}  # fmt: skip


def bird_name(folder: str) -> str:
    """The name of a CUB folder: what follows the number's dot."""
    return folder.split(".", 1)[1].replace("_", " ").title()


def dog_name(folder: str) -> str:
    """The name of a Stanford Dogs folder: what follows the FIRST dash; seven breeds have more of them."""
    return folder.split("-", 1)[1].replace("_", " ").replace("-", " ").title()


def pet_name(stem: str) -> str:
    """The name in a pet's file name: all before the last underscore."""
    return stem.rsplit("_", 1)[0].replace("_", " ").title()


def car_name(name: str) -> str:
    """The devkit's class name, as it is ("Ram C/V Cargo Van Minivan 2012")."""
    return name


def flower_name(number: int) -> str:
    """The name of class 1 to 102 of imagelabels.mat."""
    if not 1 <= number <= len(FLOWERS):
        raise ValueError(f"flower class {number} is not among 1 to {len(FLOWERS)}")
    return FLOWERS[number - 1]


def aircraft_name(variant: str) -> str:
    """The variant with its maker where the data set leaves it out: Boeing before 7x7-, Airbus before A3xx."""
    if re.match(r"7\d7-", variant):
        return f"Boeing {variant}"
    return f"Airbus {variant}" if re.match(r"A3\d\d", variant) else variant


@cache
def official_names(word: str) -> frozenset[str]:
    """All sub-categories of a data set, as these rules spell them."""
    if word == "flower":
        return frozenset(FLOWERS)
    file = "cub_taxonomy.csv" if word == "bird" else "sub_categories.csv"
    text = (importlib.resources.files(__package__) / file).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return frozenset(row["sub_category"] for row in rows if row.get("data_set", word) == word)


def name_of_label(word: str, label: str) -> str:
    """The name behind a class label of a copy: official folder names, bare names, or flowers' other names.
    Raises: ValueError: a label that gives no name of this data set.
    """
    if word == "bird" and re.match(r"\d{3}\.", label):
        label = bird_name(label)
    elif word == "dog" and re.match(r"n\d{8}-", label):
        label = dog_name(label)
    elif word == "pet":
        label = label.replace("_", " ").title()
    elif word == "flower":
        other = [number for number, aliases in FLOWER_ALIASES.items() if label in aliases]
        label = flower_name(other[0]) if other else label
    elif word == "aircraft":
        label = aircraft_name(label)
    if label not in official_names(word):
        raise ValueError(f"{label!r} is not a class label of the data set {word!r}")
    return label


def name_of_path(word: str, path: str) -> str:
    """The name that an image's path carries: birds and dogs in the folder, pets in the file.
    Raises: ValueError: cars, flowers and aircraft have numbers for names.
    """
    found = PurePosixPath(path)
    if word == "bird":
        return bird_name(found.parent.name)
    if word == "dog":
        return dog_name(found.parent.name)
    if word == "pet":
        return pet_name(found.stem)
    raise ValueError(f"the path of a {word}'s image does not contain its name")
