"""The release's evaluation questions, read as they are: only their form is checked.

So the traps in them can be counted. What an evaluation reads is `evaluation_files.read_lists`, which refuses
files that are not as they should be.

Source: the release's eval/data/*.jsonl (data.md 2).
"""

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Optional

from finer1_lib.errors import UserError
from finer1_lib.user_files import parse_json


class Question(NamedTuple):
    """A line of an evaluation file, with the data set and the side that the file's name says."""

    data_set: str
    categories: str
    image_path: str
    question: str
    options: tuple[str, ...]
    truth: str


def find_questions(folder: "str | Path", word: str, kind: str, must: bool = True) -> Optional[Path]:
    """The file of a data set's "seen" or "unseen" questions; None (or a UserError) if it is not there."""
    name = f"{word}_{kind}.jsonl"
    places = [Path(folder).expanduser() / "eval" / "data" / name, Path(folder).expanduser() / name]
    found = next((path for path in places if path.is_file()), None)
    if found is None and must:
        raise UserError(f"{name} is neither in {folder} nor in its eval/data; give a checkout of the release")
    return found


def read_questions(path: Path, word: str, kind: str) -> list[Question]:
    """A file's questions; only their form is checked."""
    questions = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line.decode("utf-8"))
            texts = [row[key] for key in ("image_path", "question", "ground_truth")]
            options = tuple(row["options"]) if isinstance(row["options"], list) else ()
        except (ValueError, KeyError, TypeError):
            texts, options = [], ()
        if not options or not all(isinstance(text, str) and text for text in (*texts, *options)):
            raise UserError(f"{path}, line {number}: not a question with image_path, question, options and "
                            "ground_truth; take the release's file as it is")  # fmt: skip
        questions.append(Question(word, kind, texts[0], texts[1], options, texts[2]))
    if not questions:
        raise UserError(f"{path}: no questions; take the release's file as it is")
    return questions


def true_spelling(question: Question) -> str:
    """A name with the hyphens that its picture's folder still shows; the truth itself where it shows none.

    CUB writes what follows a hyphen in small letters (`001.Black_footed_Albatross`), Stanford Dogs keeps the
    hyphens (`n02086240-Shih-Tzu`).
    """
    folder = PurePosixPath(question.image_path).parent.name
    if question.data_set == "bird" and re.match(r"\d+\.", folder):
        return re.sub(r"_(?=[a-z])", "-", folder.split(".", 1)[1]).replace("_", " ")
    if question.data_set == "dog" and "-" in folder:
        return folder.split("-", 1)[1].replace("_", " ").title()
    return question.truth
