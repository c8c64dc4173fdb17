"""The release's evaluation files: which sub-categories are seen and unseen, and every question.

A data set has two files of JSON lines, `bird_seen.jsonl` and `bird_unseen.jsonl`:

    {"image_path": "bird_200/images/001.Black_footed_Albatross/..jpg", "question": "What kind of bird is it?",
     "options": ["Black Footed Albatross", .., .., ..], "ground_truth": "Black Footed Albatross"}

`read_lists` reads them from a checkout, their folder or their address, checks them as a whole and refuses
what differs from the release; `release_items` aligns them with the images on the disk by file name.
`read_questions` checks the form alone, so that `traps` can count what is wrong in any file.

    files = read_lists("FineR1_ICLR2026", ["bird", "pet"], cache="cache")
    table = assign_shots(table, files.lists, seed=0, num_shots=4)
    items = release_items(files, table)

Source: eval/data/*.jsonl of the release (PKU-ICST-MIPL/FineR1_ICLR2026 at 84cdc5c).
"""

import hashlib
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, Callable, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.files import atomic_write_bytes, parse_json
from finer1_lib.core.network import client_options, settings_named
from finer1_lib.data.data_sets.catalogue import DATA_SETS, find_images

pandas = Later("pandas")


KINDS = ("seen", "unseen")
OPTIONS = 4
TIME_OUT = 60  # seconds without a byte
COLUMNS = ["data_set", "categories", "image_path", "question", "options", "ground_truth"]


class Question(NamedTuple):
    """A line of an evaluation file, with data set and side from the file's name."""

    data_set: str
    categories: str
    image_path: str
    question: str
    options: tuple[str, ...]
    truth: str


class ReleaseFiles(NamedTuple):
    """What the evaluation files of some data sets contain, in the files' order."""

    rows: "pandas.DataFrame"  # of `COLUMNS`, a row per question; options with the truth first
    lists: dict[str, dict[str, list[str]]]  # {data set: {"seen": [...], "unseen": [...]}}
    complete: dict[str, bool]  # {data set: whether it has the release's counts}


def find_questions(folder: "str | Path", word: str, kind: str, must: bool = True) -> Optional[Path]:
    """The file of a data set's "seen" or "unseen" questions; None (or a UserError) if it is not there."""
    name, folder = f"{word}_{kind}.jsonl", Path(folder).expanduser()
    found = next((path for path in (folder / "eval" / "data" / name, folder / name) if path.is_file()), None)
    if found is None and must:
        raise UserError(f"{name} is neither in {folder} nor in its eval/data; give a checkout of the release,"
                        " its eval/data, or that folder's address")
    return found


def read_questions(path: Path, word: str, kind: str) -> list[Question]:
    """A file's questions; only their form is checked."""
    return [Question(word, kind, path, question, tuple(options), truth)
            for path, question, options, truth in _rows(path.read_bytes(), str(path), _form)]


def read_lists(release: str, words: Sequence[str], cache: "str | Path | None" = None, *,
               allow_incomplete: bool = False) -> ReleaseFiles:
    """Read and check the two files of each data set, e.g. of ["bird", "pet"].

    `release` is a checkout, its eval/data, any folder with the files, or their http(s) address, which needs a
    `cache` folder. `allow_incomplete` accepts other counts than the release's. UserError for a file or line
    that is not as the release's, and for a sub-category or image that is on both sides.
    """
    rows, lists, complete = [], {}, {}
    for word in words:
        read = {kind: _rows(*_fetch(release, f"{word}_{kind}.jsonl", cache), _problem) for kind in KINDS}
        names = {kind: list(dict.fromkeys(row[-1] for row in part)) for kind, part in read.items()}
        own = [(word, kind, *row) for kind, part in read.items() for row in part]
        _check(word, own, names)
        found, known = (len(own), *map(len, names.values())), DATA_SETS.get(word)
        expected = (known.test, known.seen, known.unseen) if known else found
        complete[word] = found == expected
        if not complete[word] and not allow_incomplete:
            here, there = ("{} questions on {} seen and {} unseen sub-categories".format(*counts)
                           for counts in (found, expected))
            raise UserError(f"{release}: {word} has {here}, the release {there}; take the whole files, or set "
                            "allow_incomplete")
        rows, lists[word] = rows + own, names
    return ReleaseFiles(pandas.DataFrame(rows, columns=COLUMNS), lists, complete)


def release_items(files: ReleaseFiles, table: "pandas.DataFrame", *,
                  allow_incomplete: bool = False) -> list[dict]:
    """The release's questions as lines of `items.jsonl`, each with its image, sorted by item_id.

    `table` has images.parquet's columns and the official split, which matters: training and test images of
    Stanford Cars share their file names. An item_id is the image_id up to "#"; options are in the release's
    order; release_path is of the six data sets alone. `allow_incomplete` leaves out questions whose image is
    missing. UserError for an image that is missing, is for training, or has another label or side.
    """
    items, missing = [], []
    for word, part in files.rows.groupby("data_set", sort=False):
        found = find_images(word, table, "test")
        if not any(found(path) for path in part["image_path"]):
            raise UserError(f"{word}: none of the release's {len(part)} images is here by its file name;"
                            " a copy without the original names cannot be used: take the archive")
        for row in part.to_dict("records"):
            path = row["image_path"]
            if (picture := found(path)) is None:
                missing.append(path)
                continue
            said = {"sub_category": row["ground_truth"], "categories": row["categories"]}
            for key, what in (("sub_category", "label"), ("categories", "side")):
                if picture[key] != said[key]:
                    raise UserError(
                        f"{path}: the release's {what} is {said[key]!r}, {picture['image_id']} has "
                        f"{picture[key]!r}; these are not the same images: take the official archive")
            items.append({
                "item_id": picture["image_id"].partition("#")[0], "image_id": picture["image_id"],
                "super_category": word, **said, "question": row["question"], "options": list(row["options"]),
                **({"release_path": path} if word in DATA_SETS else {})})
    if missing and not allow_incomplete:
        raise UserError(
            f"{len(missing)} of {len(files.rows)} images of the release's questions are not among the test "
            f"images, the first is {missing[0]}; complete the data set, or set allow_incomplete")
    return sorted(items, key=lambda item: item["item_id"])


def _fetch(release: str, name: str, cache: "str | Path | None") -> tuple[bytes, str]:
    """(a file's content, where it was found)."""
    release = str(release)
    if not release.startswith(("http://", "https://")):
        path = find_questions(release, *name.removesuffix(".jsonl").rsplit("_", 1))
        return path.read_bytes(), str(path)
    if cache is None:
        raise UserError(f"{release}: an address needs a cache folder for what is downloaded")
    address = f"{release.rstrip('/')}/{name}"
    kept = Path(cache) / hashlib.sha256(address.encode("utf-8")).hexdigest()[:16] / name
    if kept.is_file():
        return kept.read_bytes(), str(kept)
    content = _download(address)
    _rows(content, address, _problem)  # a page that says "not found" is never kept
    atomic_write_bytes(kept, content)
    return content, address


def _download(address: str) -> bytes:
    import httpx
    try:
        answer = httpx.get(address, timeout=TIME_OUT, follow_redirects=True, **client_options(address))
        answer.raise_for_status()
        return answer.content
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        why = f"{error}{settings_named(address)}"
        if isinstance(error, httpx.HTTPStatusError):
            why = f"{answer.status_code} {answer.reason_phrase}"
        raise UserError(f"{address}: cannot be downloaded ({why}); give the address of the raw files,"
                        " https://raw.githubusercontent.com/<owner>/<name>/<commit>/eval/data") from None


def _rows(content: bytes, where: str, problem: Callable[[Any], str]) -> list[list]:
    """[image_path, question, options, ground_truth] of each line, checked on its own by `problem`."""
    rows = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line.decode("utf-8"))
        except ValueError:
            row = None
        if wrong := problem(row):
            raise UserError(f"{where}, line {number}: {wrong}; take the release's file as it is")
        rows.append([row[key] for key in COLUMNS[2:]])
    if not rows:
        raise UserError(f"{where}: no questions; take the release's file as it is")
    return rows


def _form(row: Any) -> str:
    """What is wrong with the form of one line; "" if nothing is."""
    if not isinstance(row, dict):
        return "not a JSON object"
    texts = ("image_path", "question", "ground_truth")
    if absent := [key for key in texts if not isinstance(row.get(key), str) or not row[key].strip()]:
        return f"{absent[0]} is missing"
    options = row.get("options")
    named = isinstance(options, list) and options and all(isinstance(one, str) and one for one in options)
    return "" if named else "options is not a list of names"


def _problem(row: Any) -> str:
    """What is wrong with one line of the release; "" if nothing is."""
    if wrong := _form(row):
        return wrong
    path, options = PurePosixPath(row["image_path"]), row["options"]
    if path.is_absolute() or ".." in path.parts:
        return f"image_path {row['image_path']!r} is not a path below the data"
    if not len(options) == len(set(options)) == OPTIONS:
        return f"{len(set(options))} different options instead of {OPTIONS}"
    return "" if options[0] == row["ground_truth"] else "the first option is not the ground truth"


def _check(word: str, rows: Sequence[tuple], names: dict[str, list[str]]) -> None:
    """What no single line can show."""
    if both := sorted(set(names["seen"]) & set(names["unseen"])):
        raise UserError(f"{word}: {both[0]!r} is in the seen and in the unseen file")
    (path, times), = Counter(row[2] for row in rows).most_common(1)
    if times > 1:
        raise UserError(f"{word}: {path} has two questions")
    known = {*names["seen"], *names["unseen"]}
    if foreign := sorted({option for row in rows for option in row[4]} - known):
        raise UserError(f"{word}: the option {foreign[0]!r} is not a sub-category of the data set")
