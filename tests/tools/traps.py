"""What in the release's evaluation files changes a number without being seen: every trap, counted.

    rows = count_traps("FineR1_ICLR2026", ["bird", "pet"], seed=0)
    rows[0]  # {"trap": "questions", "data_set": "bird", "categories": "seen", "count": 3483, "of": 5794, ...}

`read_lists` refuses files that are not as they should be; this counts what is wrong in any. Each trap is a
function of one file's questions and of those of its data set; `TRAPS` lists them. Scorers and option orders
are those of the evaluation itself. Time and memory are linear: all 35,566 questions take seconds.

Source: eval/data/*.jsonl and eval/evaluation.py of the release (PKU-ICST-MIPL/FineR1_ICLR2026 at 84cdc5c);
finer1_lib/paper/README.md, items 1, 3, 9, 13 and 14.
"""

import re
from collections import Counter
from contextlib import suppress
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Callable, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

import typer

from finer1_lib.commands.terminal import Json, new_app, run_app, show_table, write_json
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import check_targets
from finer1_lib.core.statistics import clustered_mean
from finer1_lib.data.data_sets.catalogue import DATA_SETS, name_of_path
from finer1_lib.evaluation.requests import always_first
from finer1_lib.evaluation.scores.official import official_word
from finer1_lib.evaluation.scores.scoring import make_scorer
from finer1_lib.paper.release.questions import (
    KINDS, OPTIONS, Question, find_questions, read_questions)

COLUMNS = ("trap", "data_set", "categories", "count", "of", "what", "low", "high", "detail")
CONTROL_ORDERS = ("release", "shuffled")
# breeds that both data sets have under two names (the thirteen of one name are counted from the files)
TWO_NAMES = (("Leonberger", "Leonberg"), ("Basset Hound", "Basset"),
             ("German Shorthaired", "German Short Haired Pointer"))
WORDINGS = ("species", "model")


def true_spelling(question: Question) -> str:
    """A name with the hyphens that its image's folder still shows; the truth itself where it shows none.

    CUB writes what follows a hyphen in small letters (`001.Black_footed_Albatross`), Stanford Dogs keeps the
    hyphens (`n02086240-Shih-Tzu`).
    """
    folder = PurePosixPath(question.image_path).parent.name
    if question.data_set == "bird" and re.match(r"\d+\.", folder):
        return re.sub(r"_(?=[a-z])", "-", folder.split(".", 1)[1]).replace("_", " ")
    if question.data_set == "dog" and "-" in folder:
        return folder.split("-", 1)[1].replace("_", " ").title()
    return question.truth


class Part(NamedTuple):
    """One file."""

    data_set: str
    categories: str
    questions: Sequence[Question]  # its own
    whole: Sequence[Question]  # of its data set, seen and unseen
    paths: Mapping[str, str]  # {sub-category: the path of one of its images}, of the whole data set

    def row(self, trap: str, count: int, of: Optional[int], what: str, detail: str = "", **interval) -> dict:
        """A row of `COLUMNS`."""
        values = (trap, self.data_set, self.categories, count, of, what, None, None, detail)
        return {**dict(zip(COLUMNS, values)), **interval}

    def asked(self, trap: str, says: Callable[[Question], Any]) -> dict:
        """A row that counts the questions of which `says` is true, the commonest of its texts in `detail`."""
        found = [said for question in self.questions if (said := says(question))]
        texts = Counter(said for said in found if said is not True).most_common()
        told = few([f"{text} {count}" for text, count in texts], most=5)
        return self.row(trap, len(found), len(self.questions), "questions", told)

    def named(self, trap: str, found: Iterable[str], examples: Sequence[str]) -> dict:
        """A row that counts sub-categories."""
        return self.row(trap, len(list(found)), len(self.truths()), "sub-categories", few(examples))

    def truths(self, other: bool = False) -> set[str]:
        """The sub-categories asked for here, or on the other side."""
        return {one.truth for one in self.whole if (one.categories != self.categories) == other}

    def includes(self, truth: str, said: str) -> bool:
        """Whether the release's text inclusion accepts the answer `said` where `truth` is asked for."""
        record = {"completion": f"<answer>{said}</answer>", "sub_category": truth,
                  "image_id": self.paths[truth], "super_category": self.data_set}
        return _official().open(record)["text_inclusion"] == 1.0


@cache
def _official() -> Any:
    return make_scorer("official")


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many there are beyond them."""
    return "; ".join(names[:most]) + (f"; {len(names) - most} more" if len(names) > most else "")


def table(rows: Sequence[Mapping]) -> tuple[list[str], list[list[str]]]:
    """Titles and lines for the terminal: a line for each trap and data set, the sides beside each other."""
    sides = [side for side in ("seen", "unseen", "all") if any(row["categories"] == side for row in rows)]
    traps = list(dict.fromkeys(row["trap"] for row in rows))
    lines: dict[tuple, dict] = {}
    for row in sorted(rows, key=lambda row: traps.index(row["trap"])):
        key = row["trap"].replace("_", " "), row["data_set"], row["what"]
        line = lines.setdefault(key, {"examples": ""})
        of = "" if row["of"] is None else f" of {row['of']}"
        interval = "" if row["low"] is None else f" ({100 * row['low']:.1f} to {100 * row['high']:.1f} %)"
        line[row["categories"]] = f"{row['count']}{of}{interval}"
        line["examples"] = line["examples"] or row["detail"]
    return ["trap", "data set", "counted", *sides, "examples"], [
        [*key, *(line.get(side, "") for side in sides), line["examples"]] for key, line in lines.items()]


def count_traps(folder: "str | Path", words: Sequence[str] = (), *, seed: int = 0) -> list[dict]:
    """Every trap in the evaluation files of some data sets; without `words`, of all whose files are there.

    `folder` is a checkout of the release, its eval/data, or any folder with the files; `seed` is of the
    shuffle and of the bootstrap. Rows of `COLUMNS`: `count` of `of` things called `what`; low and high
    (shares) where a trap has an interval over whole sub-categories; examples in `detail`. UserError for a
    missing file or a line that is not a question.
    """
    words = list(words) or [word for word in DATA_SETS if find_questions(folder, word, "seen", must=False)]
    if not words:
        raise UserError(f"no evaluation file (bird_seen.jsonl, ...) is in {folder} or in its eval/data; give "
                        "a checkout of the release, or name the data sets")
    rows, sets = [], {}
    for word in words:
        sides = {kind: read_questions(find_questions(folder, word, kind), word, kind) for kind in KINDS}
        sets[word] = [question for side in sides.values() for question in side]
        paths = {question.truth: question.image_path for question in sets[word]}
        parts = [Part(word, kind, sides[kind], sets[word], paths) for kind in KINDS]
        rows += [row for trap in TRAPS for part in parts for row in trap(part)]
        rows += _always_first(parts, seed)
    return rows + list(_across(sets))


def _questions(part: Part) -> Iterator[dict]:
    """How many there are, of how many in the official test split; the smallest and the largest class."""
    known = DATA_SETS.get(part.data_set)
    yield part.row("questions", len(part.questions), known.test if known else len(part.whole), "questions")
    sizes = Counter(question.truth for question in part.questions)
    yield part.row("sub_categories", len(sizes), len(part.paths), "sub-categories")
    for trap, size in (("smallest_class", min(sizes.values())), ("largest_class", max(sizes.values()))):
        names = [name for name, count in sizes.items() if count == size]
        yield part.row(trap, size, None, "questions", few(names))


def _options(part: Part) -> Iterator[dict]:
    """The truth in front; options that are not four different names of the data set with the truth in."""
    elsewhere = part.truths(other=True) - part.truths()
    yield part.asked("truth_first", lambda q: q.options[:1] == (q.truth,))
    yield part.asked("options_not_four_different", lambda q: (
        not len(set(q.options)) == len(q.options) == OPTIONS and f"{len(set(q.options))} different"))
    yield part.asked("truth_not_offered", lambda q: q.truth not in q.options and q.truth)
    yield part.asked("foreign_option", lambda q: next((o for o in q.options if o not in part.paths), None))
    yield part.asked("other_side_among_options", lambda q: not elsewhere.isdisjoint(q.options))


def _containment(part: Part) -> Iterator[dict]:
    """A wrong option that contains the truth counts as right in the closed world (evaluation.py:144)."""
    yield part.asked("distractor_contains_truth", lambda q: next(
        (f"{q.truth} in {o}" for o in q.options if q.truth.lower() in o.lower() != q.truth.lower()), None))


def _sides(part: Part) -> Iterator[dict]:
    """Sub-categories that are seen and unseen, images with two questions."""
    both = sorted(part.truths() & part.truths(other=True))
    yield part.named("on_both_sides", both, both)
    times = Counter(question.image_path for question in part.whole)
    yield part.asked("picture_asked_twice", lambda q: times[q.image_path] > 1 and q.image_path)


def _super_category(part: Part) -> Iterator[dict]:
    """The word that the release guesses from the path, where it is another (evaluation.py:227-236)."""
    guessed = {question.image_path: official_word(question.image_path) for question in part.questions}
    yield part.asked("another_super_category_word",
                     lambda q: guessed[q.image_path] != part.data_set and guessed[q.image_path])


def _hyphens(part: Part) -> Iterator[dict]:
    """Names whose true spelling text inclusion never matches: the release removed their hyphens."""
    spelled = {question.truth: true_spelling(question) for question in part.questions}
    never = {truth: said for truth, said in spelled.items() if not part.includes(truth, said)}
    yield part.named("never_matched_as_spelled", never, sorted(never.values()))
    yield part.asked("never_matched_as_spelled", lambda q: q.truth in never and q.truth)


def _other_names(part: Part) -> Iterator[dict]:
    """Text inclusion that accepts another sub-category's full name, and pairs that do so mutually.

    Of cars it drops the last two words (evaluation.py:245-246), so two years of one model have one name.
    """
    takes = {truth: [name for name in sorted(part.paths) if name != truth and part.includes(truth, name)]
             for truth in sorted(part.truths())}
    takes = {truth: others for truth, others in takes.items() if others}
    examples = [f"{names[0]} for {truth}" for truth, names in takes.items()]
    yield part.named("accepts_another_name", takes, examples)
    yield part.asked("accepts_another_name", lambda q: q.truth in takes and q.truth)
    mutual = {truth: {name for name in others if part.includes(name, truth)} for truth, others in takes.items()}
    alike = [truth for truth, names in mutual.items() if names]
    yield part.named("not_told_apart", alike, alike)
    straddling = [truth for truth in alike if mutual[truth] & part.truths(other=True)]
    yield part.named("not_told_apart_from_the_other_side", straddling, straddling)


def _wording(part: Part) -> Iterator[dict]:
    """Question templates, what they ask for, and how the release's prompt prints them."""
    asked = Counter(question.question for question in part.questions)
    shares = f"{min(asked.values())} to {max(asked.values())} questions each"
    yield part.row("templates", len(asked), None, "wordings", shares)
    for word in WORDINGS:
        yield part.asked(f"asks_for_{word}", lambda q: bool(re.search(rf"\b{word}\b", q.question)))
    yield part.asked("question_mark_before_comma", lambda q: q.question.endswith("?"))
    yield part.asked("option_in_double_quotes",
                     lambda q: next((o for o in q.options if repr(o)[0] == '"'), None))


def _order(part: Part) -> Iterator[dict]:
    """Whether a class's questions are consecutive: then the first lines of a file are a few classes."""
    runs = 1 + sum(a.truth != b.truth for a, b in pairwise(part.questions))
    classes = len(part.truths())
    how = "grouped by class" if runs == classes else "mixed"
    yield part.row("runs_of_one_class", runs, classes, "sub-categories", how)


def _paths(part: Part) -> Iterator[dict]:
    """Questions whose path carries another name than the truth (birds, dogs, pets carry one)."""
    def wrong(question: Question) -> Any:
        with suppress(ValueError, IndexError):
            if name_of_path(question.data_set, question.image_path) == question.truth:
                return None
        return question.image_path

    if part.data_set in ("bird", "dog", "pet"):
        yield part.asked("path_says_another_name", wrong)


TRAPS: tuple[Callable[[Part], Iterator[dict]], ...] = (
    _questions, _options, _containment, _sides, _super_category, _hyphens, _other_names, _wording, _order, _paths)


def _always_first(parts: Sequence[Part], seed: int) -> Iterator[dict]:
    """What a policy that takes the first option scores, in the release's order and shuffled."""
    items = [{"item_id": q.image_path, "image_id": q.image_path, "super_category": q.data_set, "width": 1,
              "sub_category": q.truth, "categories": q.categories, "question": q.question, "height": 1,
              "options": list(q.options)} for part in parts for q in part.questions]
    for order in CONTROL_ORDERS:
        records = always_first(items, [order], seed)
        for part in [*parts, parts[0]._replace(categories="all")]:
            own = [record for record in records if part.categories in ("all", record["categories"])]
            right = [_official().closed(record)["accuracy"] for record in own]
            mean = clustered_mean(right, [record["sub_category"] for record in own], seed=seed)
            yield part.row(f"always_first_{order}", int(sum(right)), len(right), "questions",
                           low=mean.low, high=mean.high)


def _across(sets: dict[str, Sequence[Question]]) -> Iterator[dict]:
    """Names that two data sets share, and breeds that are seen in one and unseen in the other."""
    sides = {word: {q.truth: q.categories for q in questions} for word, questions in sets.items()}
    for one, other in combinations(sides, 2):
        both = sorted(sides[one].keys() & sides[other].keys())
        pair = Part(f"{one} and {other}", "all", [], [], {})
        yield pair.row("same_name_in_two_data_sets", len(both), None, "names", few(both))
        pairs = [(name, name) for name in both]
        if {one, other} == {"dog", "pet"}:
            pairs += [names if one == "pet" else names[::-1] for names in TWO_NAMES]
        cross = [f"{a} ({sides[one][a]}) and {b} ({sides[other][b]})" for a, b in pairs
                 if a in sides[one] and b in sides[other] and sides[one][a] != sides[other][b]]
        yield pair.row("seen_here_unseen_there", len(cross), len(pairs), "names", few(cross))


app = new_app()


@app.command()
def main(folder: Annotated[str, typer.Argument(help="A checkout of the release, or the folder of its files.")],
         words: Annotated[list[str] | None, typer.Argument(
             help="Data sets, e.g. bird pet.", show_default="those there")] = None,
         seed: Annotated[int, typer.Option(min=0, help="Of the shuffle of the options.")] = 0,
         json_file: Json = None) -> None:
    """Count the traps in the release's evaluation files: the truth first, distractors that contain it, ...

    Example: finer1 traps FineR1_ICLR2026 bird pet --json traps.json
    """
    check_targets(json_file)
    rows = count_traps(folder, words or (), seed=seed)
    show_table(f"traps: {folder}", *table(rows))
    write_json(json_file, rows)


if __name__ == "__main__":
    run_app(app)
