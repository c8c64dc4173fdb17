"""Tiny trees in the exact layout of the six official archives: five sub-categories each, with every trap.

    plant(root, "dog")     five training and two test images of each sub-category, the archive's own lists
    NAMES["dog"]           the names that the readers must give them
"""

import io
from pathlib import Path

import numpy
from PIL import Image
from scipy.io import savemat

TRAIN, TEST = 5, 2
CLASSES = {
    "bird": ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross",
             "023.Brandt_Cormorant", "025.Pelagic_Cormorant"],
    "car": ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012",
            "Ram C/V Cargo Van Minivan 2012", "Volvo XC90 SUV 2007"],
    "dog": ["n02085936-Maltese_dog", "n02086240-Shih-Tzu", "n02089078-black-and-tan_coonhound",
            "n02098105-soft-coated_wheaten_terrier", "n02099712-Labrador_retriever"],
    "flower": [12, 16, 60, 78, 93],
    "pet": ["Abyssinian", "american_bulldog", "Bengal", "pug", "staffordshire_bull_terrier"],
    "aircraft": ["707-320", "A318", "Boeing 717", "Cessna 525", "F-16A/B"],
}  # fmt: skip
NAMES = {
    "bird": ["Black Footed Albatross", "Laysan Albatross", "Sooty Albatross", "Brandt Cormorant",
             "Pelagic Cormorant"],
    "car": CLASSES["car"],
    "dog": ["Maltese Dog", "Shih Tzu", "Black And Tan Coonhound", "Soft Coated Wheaten Terrier",
            "Labrador Retriever"],
    "flower": ["colt's foot", "globe flower", "pink and yellow dahlia", "lotus", "air plant"],
    "pet": ["Abyssinian", "American Bulldog", "Bengal", "Pug", "Staffordshire Bull Terrier"],
    "aircraft": ["Boeing 707-320", "Airbus A318", "Boeing 717", "Cessna 525", "F-16A/B"],
}  # fmt: skip
SIZE, BANNERED = (48, 40), (48, 60)  # pixels; an aircraft's last 20 rows are its banner


def picture(number: int, file_format: str = "JPEG", size=SIZE, mode: str = "RGB") -> bytes:
    """A picture whose pixels depend on its number."""
    draw = numpy.random.default_rng(number)
    image = Image.fromarray(draw.integers(0, 200, (*size[::-1], 3), dtype=numpy.uint8)).convert(mode)
    if size == BANNERED:
        image.paste("white", (0, SIZE[1], *BANNERED))
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def plant(root: Path, word: str, nested: bool = False) -> Path:
    """Write one data set's archive below `root`; `nested` as Kaggle's copy of the cars.

    Returns:
        Its folder.
    """
    folder = Path(root) / FOLDERS[word]
    seed = 1000 * sorted(CLASSES).index(word)
    rows = [(name, "train" if i < TRAIN else "test", seed + 10 * k + i)
            for k, name in enumerate(CLASSES[word]) for i in range(TRAIN + TEST)]
    PLANTERS[word](folder, rows, **({"nested": nested} if word == "car" else {}))
    return folder


def put(file: Path, data) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data) if isinstance(data, bytes) else file.write_text(data, encoding="utf-8")
    return file


def cells(texts) -> numpy.ndarray:
    """A MATLAB cell array of texts, one a row."""
    found = numpy.empty((len(texts), 1), dtype=object)
    found[:, 0] = texts
    return found


def birds(folder, rows):
    listed, split, labels = [], [], []
    for number, (name, part, seed) in enumerate(rows, start=1):
        path = f"{name}/{name.split('.')[1]}_{number:04d}_{seed}.jpg"
        put(folder / "images" / path, picture(seed))
        listed.append(f"{number} {path}")
        split.append(f"{number} {int(part == 'train')}")
        labels.append(f"{number} {CLASSES['bird'].index(name) + 1}")
    for name, lines in (("images", listed), ("train_test_split", split), ("image_class_labels", labels)):
        put(folder / f"{name}.txt", "\n".join(lines) + "\n")


def cars(folder, rows, nested=False):
    kinds = {}
    for name, part, seed in rows:
        number = len(kinds.setdefault(part, [])) + 1  # train and test share their file names
        inner = f"cars_{part}/cars_{part}" if nested else f"cars_{part}"
        put(folder / inner / f"{number:05d}.jpg", picture(seed))
        kinds[part].append((CLASSES["car"].index(name) + 1, f"{number:05d}.jpg"))
    (folder / "devkit").mkdir()
    names = numpy.empty((1, len(CLASSES["car"])), dtype=object)
    names[0, :] = CLASSES["car"]
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names})
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
        found = numpy.array([[(1, label, file_name) for label, file_name in kinds[part]]], dtype=kind)
        savemat(folder / file, {"annotations": found})


def dogs(folder, rows):
    listed = {"train": [], "test": []}
    for number, (name, part, seed) in enumerate(rows):
        path = f"{name}/{name.split('-')[0]}_{seed}.jpg"
        put(folder / "Images" / path, picture(seed, "PNG" if number == 3 else "JPEG"))  # a PNG called .jpg
        listed[part].append((path, CLASSES["dog"].index(name) + 1))
    for part, found in listed.items():
        labels = numpy.array([[label] for _, label in found])
        lists = {"file_list": cells([path for path, _ in found]), "labels": labels}
        savemat(folder / f"{part}_list.mat", lists)


def flowers(folder, rows):
    labels = numpy.array([[name for name, _, _ in rows]], dtype=numpy.uint8)
    ids = {"train": [], "test": []}
    for number, (_, part, seed) in enumerate(rows, start=1):
        put(folder / "jpg" / f"image_{number:05d}.jpg", picture(seed))
        ids[part].append(number)
    savemat(folder / "imagelabels.mat", {"labels": labels})
    half = len(ids["train"]) // 2
    parts = {"trnid": ids["train"][:half], "valid": ids["train"][half:], "tstid": ids["test"]}
    savemat(folder / "setid.mat", {part: numpy.array([numbers]) for part, numbers in parts.items()})


def pets(folder, rows):
    lines = {"train": [], "test": []}
    for number, (name, part, seed) in enumerate(rows, start=1):
        kind, mode = {2: ("GIF", "P"), 4: ("JPEG", "CMYK")}.get(number, ("JPEG", "RGB"))  # both called .jpg
        put(folder / "images" / f"{name}_{seed}.jpg", picture(seed, kind, mode=mode))
        label = CLASSES["pet"].index(name) + 1
        lines[part].append(f"{name}_{seed} {label} {1 if name[0].isupper() else 2} {label}")
    put(folder / "images" / "Abyssinian_100.mat", b"not a picture")
    for part, file in (("train", "trainval"), ("test", "test")):
        put(folder / "annotations" / f"{file}.txt", "\n".join(lines[part]) + "\n")
    everything = "\n".join(lines["train"])
    put(folder / "annotations/list.txt", f"#Image CLASS-ID SPECIES BREED ID\n{everything}\n")


def aircraft(folder, rows):
    lines = {"train": [], "test": []}
    for name, part, seed in rows:
        put(folder / "data/images" / f"{seed:07d}.jpg", picture(seed, size=BANNERED))
        lines[part].append(f"{seed:07d} {name}")
    for part, file in (("train", "trainval"), ("test", "test")):
        put(folder / "data" / f"images_variant_{file}.txt", "\n".join(lines[part]) + "\n")
    put(folder / "data/variants.txt", "\n".join(CLASSES["aircraft"]) + "\n")


FOLDERS = {"bird": "CUB_200_2011", "car": "stanford_cars", "dog": "dogs_120", "flower": "flowers-102",
           "pet": "oxford-iiit-pet", "aircraft": "fgvc-aircraft-2013b"}  # fmt: skip
PLANTERS = {"bird": birds, "car": cars, "dog": dogs, "flower": flowers, "pet": pets, "aircraft": aircraft}


# The release's files about such trees -----------------------------------------------------------------------

EVALUATED = {"aircraft": "fgvc_aircraft/data/images", "bird": "bird_200/images", "car": "stanford-cars/cars_test",
             "dog": "dogs_120/Images", "flower": "flower102/jpg", "pet": "oxford-pet/images"}  # fmt: skip
TRAINED = {"aircraft": "fgvc-aircraft-2013b-train/images", "bird": "bird_200/images_train",
           "car": "stanford_cars_train/images", "dog": "dogs_120/image_train/train",
           "flower": "flower102_train/image/train", "pet": "oxford-pet-train/train"}  # fmt: skip
SEEN = 3  # of the five names of a data set


def release_path(word: str, image_id: str, prefixes) -> str:
    """The release's name of a picture: its own folder, and the sub-category's for birds and dogs."""
    parts = image_id.partition("#")[0].split("/")
    return "/".join([prefixes[word], *parts[-2 if word in ("bird", "dog") else -1 :]])


def release_tree(root: Path, table) -> Path:
    """A checkout's eval/data and a Stage-1 file about a table of `read_data_sets`.

    Returns:
        The checkout. Every first training picture of a seen name has a rationale.
    """
    import json

    items = []
    for word, part in table.groupby("super_category"):
        lines = {"seen": [], "unseen": []}
        for row in part[part["split"] == "test"].itertuples():
            others = [name for name in NAMES[word] if name != row.sub_category][:3]
            kind = "seen" if row.sub_category in NAMES[word][:SEEN] else "unseen"
            lines[kind].append(json.dumps({
                "image_path": release_path(word, row.image_id, EVALUATED), "question": f"Which {word} do you see?",
                "options": [row.sub_category, *others], "ground_truth": row.sub_category}))
        for kind, found in lines.items():
            put(root / f"eval/data/{word}_{kind}.jsonl", "\n".join(found) + "\n")
        train = part[(part["split"] == "train") & part["sub_category"].isin(NAMES[word][:SEEN])]
        for row in train.groupby("sub_category").head(1).itertuples():
            other = next(name for name in NAMES[word] if name != row.sub_category)
            text = (f"<think>Colours and a shape are seen.\nThe analysis of candidate subcategories:\n"
                    f"1. {row.sub_category}: it fits.\n2. {other}: it does not.\nThe prediction is: "
                    f"{row.sub_category}.</think> <answer>{row.sub_category}</answer>")
            items.append({
                "messages": [{"role": "system", "content": "Think first."},
                             {"role": "user", "content": f"<image>What is the {word} called?"},
                             {"role": "assistant", "content": text}],
                "images": [release_path(word, row.image_id, TRAINED)]})
    put(root / "stage1.json", json.dumps(items))
    return root
