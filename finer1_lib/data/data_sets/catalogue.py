"""Facts about the paper's six data sets, one entry a word.

    >>> DATA_SETS["pet"].title, DATA_SETS["pet"].train, DATA_SETS["pet"].test
    ('Oxford-IIIT Pet', 3680, 3669)

The word is the super-category of all its sub-categories: what tables group by and what a question names.

Source: Fine-R1 (arXiv 2602.07605), Section 5.1; the data sets' own pages and read-me files; the release's
evaluation files (the numbers of seen and unseen sub-categories). The Hub ids are copies by others: not opened
live when this was written, so a copy is held against these counts and against the name rules before anything
of it is used.
"""

from typing import Iterable, NamedTuple, Optional


class HubCopy(NamedTuple):
    """A parquet copy on the Hugging Face Hub.

    Attributes:
        name: owner/name.
        revision: commit that others have pinned; None where none is known: then the newest, which is noted.
        label: column of the sub-category, a ClassLabel or text.
        splits: this kit's split -> the copy's splits that make it up.
        file: column with the image's file name or stem; "" for the name inside the image column, if any.
    """

    name: str
    revision: Optional[str]
    label: str = "label"
    splits: dict = {"train": ("train",), "test": ("test",)}
    file: str = ""


class DataSet(NamedTuple):
    """One data set.

    Attributes:
        word: super-category; title: its name in tables.
        classes, seen, unseen: sub-categories, and the release's share of them.
        train, test: images of the official splits (train: all that are not for testing).
        folders: names that the unpacked archive goes by, below data_root.
        marker: a file that only this archive has, relative to such a folder.
        how: how to come by it, for messages.
        archives: file name -> (address, md5 or "").
        licence: in the owners' words, shortened.
        hub: a copy.
    """

    word: str
    title: str
    classes: int
    seen: int
    unseen: int
    train: int
    test: int
    folders: tuple[str, ...]
    marker: tuple[str, ...]
    how: str
    archives: dict[str, tuple[str, str]]
    licence: str
    hub: HubCopy


_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
_FLOWERS = f"{_OXFORD}/flowers/102"
_DOGS = "http://vision.stanford.edu/aditya86/ImageNetDogs"
DATA_SETS = {
    entry.word: entry
    for entry in (
        DataSet(
            "aircraft", "FGVC-Aircraft", 100, 60, 40, 6667, 3333, ("fgvc-aircraft-2013b", "fgvc_aircraft"),
            ("data/images_variant_trainval.txt",),
            "unpack fgvc-aircraft-2013b.tar.gz there",
            {"fgvc-aircraft-2013b.tar.gz":
             (f"{_OXFORD}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz", "")},
            "non-commercial research only",
            HubCopy("HuggingFaceM4/FGVC-Aircraft", "e18a7c97147c90dc7f4a60d74a7f4258e9264e97", "variant",
                    {"train": ("train", "validation"), "test": ("test",)}),
        ),
        DataSet(
            "bird", "CUB-200-2011", 200, 120, 80, 5994, 5794, ("CUB_200_2011", "bird_200"),
            ("train_test_split.txt",), "unpack CUB_200_2011.tgz there",
            {"CUB_200_2011.tgz": ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                                  "97eceeb196236b17998738112f37df78")},
            "non-commercial research",
            HubCopy("bentrevett/caltech-ucsd-birds-200-2011", None),
        ),
        DataSet(
            "car", "Stanford Cars", 196, 117, 79, 8144, 8041, ("stanford_cars", "stanford-cars"),
            ("devkit/cars_meta.mat", "car_devkit/devkit/cars_meta.mat"),
            "the owners' page is gone: take the pictures from Kaggle's jessicali9530/stanford-cars-dataset, "
            "car_devkit.tgz and cars_test_annos_withlabels.mat from pytorch/vision#7545, "
            "side by side in stanford_cars/",
            {"car_devkit.tgz": ("https://github.com/pytorch/vision/files/11644847/car_devkit.tgz", "")},
            "research use",
            HubCopy("tanganke/stanford_cars", "9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40"),
        ),
        DataSet(
            "dog", "Stanford Dogs", 120, 72, 48, 12000, 8580,
            ("dogs_120", "stanford_dogs", "StanfordDogs", "ImageNetDogs"),
            ("train_list.mat", "lists/train_list.mat"), "unpack images.tar and lists.tar there in dogs_120/",
            {"images.tar": (f"{_DOGS}/images.tar", ""), "lists.tar": (f"{_DOGS}/lists.tar", "")},
            "ImageNet's terms: non-commercial research",
            HubCopy("maurice-fp/stanford-dogs", None),
        ),
        DataSet(
            "flower", "Oxford Flowers", 102, 61, 41, 2040, 6149, ("flower102", "flowers-102", "102flowers"),
            ("imagelabels.mat",),
            "unpack 102flowers.tgz there in flowers-102/, imagelabels.mat and setid.mat beside its jpg/",
            {"102flowers.tgz": (f"{_FLOWERS}/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"),
             "imagelabels.mat": (f"{_FLOWERS}/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
             "setid.mat": (f"{_FLOWERS}/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c")},
            "none stated",
            HubCopy("Donghyun99/Oxford-Flower-102", "7e43fe37eeb9278138ab0bd2d0abb10d0f703d09", "label",
                    {"train": ("train", "validation"), "test": ("test",)}),
        ),
        DataSet(
            "pet", "Oxford-IIIT Pet", 37, 22, 15, 3680, 3669, ("oxford-iiit-pet", "oxford-pet"),
            ("annotations/trainval.txt",),
            "unpack images.tar.gz and annotations.tar.gz there in oxford-iiit-pet/",
            {"images.tar.gz": (f"{_OXFORD}/pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
             "annotations.tar.gz": (f"{_OXFORD}/pets/data/annotations.tar.gz",
                                    "95a8c909bbe2e81eed6a22bccdf3f68f")},
            "CC BY-SA 4.0",
            HubCopy("timm/oxford-iiit-pet", None, "label", file="image_id"),
        ),
    )
}  # fmt: skip


def copies_named(hub_copies: Iterable[str]) -> dict[str, Optional[str]]:
    """{word: the commit asked for, or None}: the entries "word" and "word@commit" of 01's `hub_copies`."""
    return {word: commit or None for word, _, commit in (entry.partition("@") for entry in hub_copies)}
