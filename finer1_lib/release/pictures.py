"""Which picture on the disk the release means by a path such as `bird_200/images/001.Name/Name_0046_18.jpg`.

The release keeps the data sets under folder names of its own, evaluation and training pictures apart, so a
picture is known by its data set, its split and its file's name without the ending: each archive gives a name
once in a split (Cars numbers its training and its test pictures alike, both from 00001). A name proves
nothing: whoever asks compares the label. Pictures of copies that have lost their names are never found.

Source: the release's paths (data.md 2.1, 3.1) and the archives' file names (data.md 1.3, 2.2).
"""

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional

from finer1_lib.data_sets.catalogue import DATA_SETS
from finer1_lib.errors import UserError

if TYPE_CHECKING:
    import pandas

Picture = Mapping[str, Any]


def word_of(path: str) -> str:
    """The data set of a path of the release, by its first folder: "oxford-pet-train/..." is "pet".

    Raises:
        UserError: the first folder names none of the six, or more than one.
    """
    first = PurePosixPath(path).parts[0].lower() if path else ""
    words = [word for word in DATA_SETS if word in first]
    if len(words) != 1:
        raise UserError(f"{path!r}: its first folder names none of the data sets {', '.join(DATA_SETS)}")
    return words[0]


def find_pictures(
    word: str, table: "pandas.DataFrame", split: str
) -> Callable[[str], Optional[Picture]]:
    """A function from the release's path to the row of that picture, or to None.

    Args:
        word: the data set; one that is not of the paper's is looked up by the whole path.
        table: image_id, super_category, sub_category, split (and what else the rows are to hold).
        split: "train" or "test"; pictures of the other split are never found.

    Raises:
        UserError: two pictures of the split have one name.
    """
    rows = table[(table["super_category"] == word) & (table["split"] == split)]
    known: dict[str, Picture] = {}
    for row in rows.to_dict("records"):
        key = _key(word, row["image_id"].partition("#")[0])
        if key in known:
            raise UserError(f"{known[key]['image_id']} and {row['image_id']}: two {split} pictures of one "
                            "name; remove one of the two")
        known[key] = row
    return lambda path: known.get(_key(word, path))


def _key(word: str, path: str) -> str:
    """What a picture is known by within its split."""
    return PurePosixPath(path).stem if word in DATA_SETS else path
