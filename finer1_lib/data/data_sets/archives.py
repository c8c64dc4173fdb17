"""The six data sets from their official archives, unpacked side by side below one `data_root`.

Each reader turns a layout of its own into the same three things about an image: where it lies, how its
sub-category is called, whether it is for training or testing. Images are not opened here.

    bird      CUB_200_2011/{images/NNN.Name/*.jpg, images.txt, train_test_split.txt}
    car       stanford_cars/{cars_train, cars_test, devkit/*.mat, cars_test_annos_withlabels.mat}
    dog       dogs_120/{Images/wnid-name/*.jpg, train_list.mat, test_list.mat}
    flower    flowers-102/{jpg/image_NNNNN.jpg, imagelabels.mat, setid.mat}
    pet       oxford-iiit-pet/{images/*.jpg, annotations/{trainval,test}.txt}
    aircraft  fgvc-aircraft-2013b/data/{images/*.jpg, images_variant_{trainval,test}.txt}

torchvision reads four of them, from folders of its own naming and through private attributes; the tests hold
these readers against it.

Source: the data sets' own read-me files; release eval/data/*.jsonl (which images are for testing).
"""

from pathlib import Path
from typing import Iterator, NamedTuple, Optional

from finer1_lib.core.errors import UserError, first_line
from finer1_lib.data.data_sets.catalogue import DATA_SETS, DataSet
from finer1_lib.data.data_sets.names import (
    aircraft_name,
    bird_name,
    car_name,
    dog_name,
    flower_name,
    pet_name,
)

BANNER = 20  # pixel rows of copyright notice at the bottom of every aircraft image


class Picture(NamedTuple):
    """One image of an archive: its file, its sub-category's name, "train" or "test"."""

    file: Path
    sub_category: str
    split: str


def find_archive(data_set: DataSet, data_root: "str | Path") -> Optional[Path]:
    """The folder of an unpacked archive, known by a file that only it has; None if there is none.

    Looked for are data_root/NAME, data_root/NAME/NAME (zip files often nest), data_root/WORD,
    data_root/WORD/NAME and data_root itself, with the names of the catalogue.
    """
    root = Path(data_root)
    places = [root / name for name in (*data_set.folders, data_set.word)]
    places += [root / outer / name for name in data_set.folders for outer in (name, data_set.word)] + [root]
    try:
        return next((place for place in places
                     if any((place / marker).is_file() for marker in data_set.marker)), None)
    except OSError as error:
        raise _closed(error) from None


def _closed(error: OSError) -> UserError:
    """A folder that may not be looked into."""
    return UserError(f"{error.filename}: cannot be read ({error.strerror}); make it readable")


def read_archive(data_set: DataSet, folder: Path, allow_incomplete: bool = False) -> list[Picture]:
    """All images that the archive's own lists name, in their order.

    `allow_incomplete` leaves out images that are listed and not there.
    Raises: UserError: a list is missing, unreadable, or names an image that is not there.
    """
    try:
        pictures = list(_READERS[data_set.word](folder))
    except FileNotFoundError as error:
        raise UserError(f"{data_set.title}: {error.filename} is missing; {data_set.how}") from None
    except (OSError, ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        said = f"a list in {folder} cannot be read ({type(error).__name__}: {error})"
        raise UserError(f"{data_set.title}: {said}; unpack it again") from None
    if outside := next((one.file for one in pictures if not one.file.is_relative_to(folder)), None):
        raise UserError(f"{data_set.title}: a list in {folder} leads out of it, to {outside}; unpack it again")
    held: dict[Path, set] = {}
    try:
        for parent in {picture.file.parent for picture in pictures}:
            held[parent] = {entry.name for entry in parent.iterdir()} if parent.is_dir() else set()
    except OSError as error:
        raise _closed(error) from None
    absent = [picture for picture in pictures if picture.file.name not in held[picture.file.parent]]
    if absent and not allow_incomplete:
        raise UserError(f"{data_set.title}: {len(absent)} of {len(pictures)} listed images are not there, "
                        f"the first is {absent[0].file}; unpack them again, or set allow_incomplete to true")
    return [picture for picture in pictures if picture.file.name in held[picture.file.parent]]


def _lines(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _mat(*places: Path) -> dict:
    """The first of these .mat files that is there, structures as objects with attributes."""
    from scipy.io import loadmat

    for place in places:
        if place.is_file():
            try:
                return loadmat(place, squeeze_me=True, struct_as_record=False)
            except Exception as error:  # scipy has errors of its own, zlib's and struct's
                raise ValueError(f"{place.name}: {first_line(error)}") from None
    raise FileNotFoundError(2, "missing", str(places[0]))


def _folder(*places: Path) -> Path:
    """The first of these folders that is there, else the first."""
    return next((place for place in places if place.is_dir()), places[0])


def _birds(root: Path) -> Iterator[Picture]:
    training = dict(line.split() for line in _lines(root / "train_test_split.txt"))
    for line in _lines(root / "images.txt"):
        number, path = line.split(" ", 1)
        split = {"1": "train", "0": "test"}[training[number]]
        yield Picture(root / "images" / path, bird_name(path.split("/")[0]), split)


def _cars(root: Path) -> Iterator[Picture]:
    import numpy

    devkit = _folder(root / "devkit", root / "car_devkit" / "devkit")
    names = [str(name) for name in _mat(devkit / "cars_meta.mat")["class_names"]]
    labelled = "cars_test_annos_withlabels.mat"
    for split, lists in (
        ("train", (devkit / "cars_train_annos.mat",)), ("test", (root / labelled, devkit / labelled))
    ):  # fmt: skip
        inner = f"cars_{split}"  # Kaggle's copy nests it once more
        pictures = _folder(root / inner / inner, root / inner)
        for one in numpy.atleast_1d(_mat(*lists)["annotations"]):
            name = names[int(getattr(one, "class")) - 1]
            yield Picture(pictures / str(one.fname), car_name(name), split)


def _dogs(root: Path) -> Iterator[Picture]:
    import numpy

    pictures = _folder(root / "images" / "Images", root / "Images", root / "images")  # Kaggle's copy nests
    for split in ("train", "test"):
        lists = _mat(root / f"{split}_list.mat", root / "lists" / f"{split}_list.mat")
        for path in numpy.atleast_1d(lists["file_list"]):
            yield Picture(pictures / str(path), dog_name(str(path).split("/")[0]), split)


def _flowers(root: Path) -> Iterator[Picture]:
    import numpy

    labels = numpy.atleast_1d(_mat(root / "imagelabels.mat")["labels"])
    sets = _mat(root / "setid.mat")
    for key, split in (("trnid", "train"), ("valid", "train"), ("tstid", "test")):
        for number in numpy.atleast_1d(sets[key]):
            name = flower_name(int(labels[number - 1]))
            yield Picture(root / "jpg" / f"image_{number:05d}.jpg", name, split)


def _pets(root: Path) -> Iterator[Picture]:
    for file, split in (("trainval.txt", "train"), ("test.txt", "test")):
        for line in _lines(root / "annotations" / file):
            stem = line.split(" ")[0]
            yield Picture(root / "images" / f"{stem}.jpg", pet_name(stem), split)


def _aircraft(root: Path) -> Iterator[Picture]:
    for file, split in (("trainval", "train"), ("test", "test")):
        for line in _lines(root / "data" / f"images_variant_{file}.txt"):
            number, variant = line.split(" ", 1)  # variants hold spaces themselves
            yield Picture(root / "data" / "images" / f"{number}.jpg", aircraft_name(variant), split)


_READERS = {
    "aircraft": _aircraft, "bird": _birds, "car": _cars, "dog": _dogs, "flower": _flowers, "pet": _pets,
}  # fmt: skip
assert set(_READERS) == set(DATA_SETS)
