"""What in the release's evaluation files changes a number without being seen: every trap, counted.

    rows = count_traps("FineR1_ICLR2026", ["bird", "pet"], seed=0)
    rows[0]  # {"trap": "questions", "data_set": "bird", "categories": "seen", "count": 3483, "of": 5794, ...}

`read_lists` refuses files that are not as they should be; this counts what is wrong in any. Each trap is a
function of one file's questions and of those of its data set; `TRAPS` lists them. Scorers and option orders
are those of the evaluation itself. Time and memory are linear: the six data sets' 35,566 questions take seconds.

Source: eval/data/*.jsonl and eval/evaluation.py of the release (PKU-ICST-MIPL/FineR1_ICLR2026 at 84cdc5c);
finer1_lib/paper/README.md, items 1, 3, 9, 13 and 14.
"""

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.statistics import clustered_mean
from finer1_lib.data.data_sets.catalogue import DATA_SETS, name_of_path
from finer1_lib.evaluation.requests import always_first
from finer1_lib.evaluation.scores.official import official_word
from finer1_lib.evaluation.scores.scoring import make_scorer
from finer1_lib.paper.release.questions import (
    KINDS, OPTIONS, Question, find_questions, read_questions, true_spelling,
)  # fmt: skip

COLUMNS = ("trap", "data_set", "categories", "count", "of", "what", "low", "high", "detail")


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

    def rows_where(self, trap: str, found: Sequence[str], detail: str = "") -> dict:
        """A row that counts questions, with the commonest reasons in `detail`."""
        return self.row(trap, len(found), len(self.questions), "questions", detail or commonest(found))


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many there are beyond them."""
    return "; ".join(names[:most]) + (f"; {len(names) - most} more" if len(names) > most else "")


def commonest(reasons: Sequence[str]) -> str:
    """The commonest reasons, each with its count."""
    return few([f"{reason} {count}" for reason, count in Counter(reasons).most_common()], most=5)


def table(rows: Sequence[Mapping]) -> tuple[list[str], list[list[str]]]:
    """Titles and lines for the terminal: a line for each trap and data set, the sides beside each other."""
    sides = [side for side in ("seen", "unseen", "all") if any(row["categories"] == side for row in rows)]
    lines: dict[tuple, dict] = {}
    for row in rows:
        line = lines.setdefault((row["trap"], row["data_set"], row["what"]), {"examples": ""})
        of = "" if row["of"] is None else f" of {row['of']}"
        interval = "" if row["low"] is None else f" ({100 * row['low']:.1f} to {100 * row['high']:.1f} %)"
        line[row["categories"]] = f"{row['count']}{of}{interval}"
        line["examples"] = line["examples"] or row["detail"]
    order = {trap: place for place, trap in enumerate(dict.fromkeys(key[0] for key in lines))}
    return ["trap", "data set", "counted", *sides, "examples"], [
        [trap.replace("_", " "), data_set, what, *(line.get(side, "") for side in sides), line["examples"]]
        for (trap, data_set, what), line in sorted(lines.items(), key=lambda item: order[item[0][0]])
    ]


CONTROL_ORDERS = ("release", "shuffled")
# breeds that both data sets have under two names (the thirteen of one name are counted from the files)
TWO_NAMES = (("Leonberger", "Leonberg"), ("Basset Hound", "Basset"),
             ("German Shorthaired", "German Short Haired Pointer"))  # fmt: skip
WORDINGS = ("species", "model")


def count_traps(folder: "str | Path", words: Sequence[str] = (), *, seed: int = 0) -> list[dict]:
    """Every trap in the evaluation files of some data sets; without `words`, of all whose files are there.

    `folder` is a checkout of the release, its eval/data, or any folder with the files; `seed` is of the
    shuffle and of the bootstrap. Rows of `COLUMNS`: `count` of `of` things called `what`; low and high (shares) where
    a trap has an interval over whole sub-categories; examples in `detail`.

    Raises: UserError: a file that is missing, or a line that is not a question.
    """
    words = list(words) or [word for word in DATA_SETS if find_questions(folder, word, "seen", must=False)]
    if not words:
        raise UserError(f"no evaluation file (bird_seen.jsonl, ...) is in {folder} or in its eval/data; give "
                        "a checkout of the release, or name the data sets")  # fmt: skip
    rows, sets = [], {}
    for word in words:
        sides = {kind: read_questions(find_questions(folder, word, kind), word, kind) for kind in KINDS}
        sets[word] = [question for side in sides.values() for question in side]
        paths = {question.truth: question.image_path for question in sets[word]}
        parts = [Part(word, kind, sides[kind], sets[word], paths) for kind in KINDS]
        for trap in TRAPS:
            rows += [row for part in parts for row in trap(part)]
        rows += _always_first(parts, seed)
    return rows + list(_across(sets))


def _questions(part: Part) -> Iterator[dict]:
    """How many there are, of how many in the official test split; the smallest and the largest class."""
    known = DATA_SETS.get(part.data_set)
    yield part.row("questions", len(part.questions), known.test if known else len(part.whole), "questions")
    sizes = Counter(question.truth for question in part.questions)
    classes = len({question.truth for question in part.whole})
    yield part.row("sub_categories", len(sizes), classes, "sub-categories")
    for trap, size in (("smallest_class", min(sizes.values())), ("largest_class", max(sizes.values()))):
        names = [name for name, count in sizes.items() if count == size]
        yield part.row(trap, size, None, "questions", few(names))


def _options(part: Part) -> Iterator[dict]:
    """The truth in front; options that are not four different names of the data set with the truth in."""
    known = {question.truth for question in part.whole}
    first = [question for question in part.questions if question.options[:1] == (question.truth,)]
    yield part.row("truth_first", len(first), len(part.questions), "questions")
    yield part.rows_where("options_not_four_different", [
        f"{len(set(q.options))} different" for q in part.questions
        if not len(set(q.options)) == len(q.options) == OPTIONS])  # fmt: skip
    yield part.rows_where("truth_not_offered", [q.truth for q in part.questions if q.truth not in q.options])
    yield part.rows_where("foreign_option", [
        next(o for o in q.options if o not in known) for q in part.questions
        if set(q.options) - known])  # fmt: skip
    sides: dict[str, set] = {}
    for question in part.whole:
        sides.setdefault(question.truth, set()).add(question.categories)
    here = {part.categories}
    other = [q for q in part.questions if any(not here & sides.get(option, here) for option in q.options)]
    yield part.row("other_side_among_options", len(other), len(part.questions), "questions")


def _containment(part: Part) -> Iterator[dict]:
    """A wrong option that contains the truth counts as right in the closed world (evaluation.py:144)."""
    found = []
    for q in part.questions:
        longer = [o for o in q.options if o.lower() != q.truth.lower() and q.truth.lower() in o.lower()]
        found += [f"{q.truth} in {option}" for option in longer[:1]]
    yield part.rows_where("distractor_contains_truth", found)


def _sides(part: Part) -> Iterator[dict]:
    """Sub-categories that are seen and unseen, images with two questions."""
    here = {question.truth for question in part.questions}
    there = {question.truth for question in part.whole if question.categories != part.categories}
    both = sorted(here & there)
    yield part.row("on_both_sides", len(both), len(here), "sub-categories", few(both))
    times = Counter(question.image_path for question in part.whole)
    twice = [q.image_path for q in part.questions if times[q.image_path] > 1]
    yield part.rows_where("picture_asked_twice", twice)


def _super_category(part: Part) -> Iterator[dict]:
    """The word that the release guesses from the path, where it is another (evaluation.py:227-236)."""
    guessed = [official_word(question.image_path) for question in part.questions]
    yield part.rows_where("another_super_category_word", [word for word in guessed if word != part.data_set])


def _hyphens(part: Part) -> Iterator[dict]:
    """Names whose true spelling text inclusion never matches: the release removed their hyphens."""
    spelled = {question.truth: true_spelling(question) for question in part.questions}
    never = {truth for truth, said in spelled.items() if not _included(part, truth, said)}
    examples = few(sorted(spelled[truth] for truth in never))
    yield part.row("never_matched_as_spelled", len(never), len(spelled), "sub-categories", examples)
    yield part.rows_where("never_matched_as_spelled", [q.truth for q in part.questions if q.truth in never])


def _other_names(part: Part) -> Iterator[dict]:
    """Text inclusion that accepts another sub-category's full name, and pairs that do so mutually.

    Of cars it drops the last two words (evaluation.py:245-246), so two years of one model have one name.
    """
    names = sorted({question.truth for question in part.whole})
    own = sorted({question.truth for question in part.questions})
    takes = {}
    for truth in own:
        if others := [name for name in names if name != truth and _included(part, truth, name)]:
            takes[truth] = others
    examples = few([f"{others[0]} for {truth}" for truth, others in takes.items()])
    yield part.row("accepts_another_name", len(takes), len(own), "sub-categories", examples)
    yield part.rows_where("accepts_another_name", [q.truth for q in part.questions if q.truth in takes])
    mutual = {}
    for truth, others in takes.items():
        if back := [name for name in others if _included(part, name, truth)]:
            mutual[truth] = back
    there = {question.truth for question in part.whole if question.categories != part.categories}
    yield part.row("not_told_apart", len(mutual), len(own), "sub-categories", few(sorted(mutual)))
    straddling = [truth for truth, others in mutual.items() if there & set(others)]
    yield part.row("not_told_apart_from_the_other_side", len(straddling), len(own), "sub-categories",
                   few(straddling))  # fmt: skip


def _included(part: Part, truth: str, said: str) -> bool:
    """Whether the release's text inclusion accepts the answer `said` where `truth` is asked for."""
    record = {"completion": f"<answer>{said}</answer>", "sub_category": truth, "image_id": part.paths[truth],
              "super_category": part.data_set}  # fmt: skip
    return _official().open(record)["text_inclusion"] == 1.0


@cache
def _official() -> Any:
    return make_scorer("official")


def _wording(part: Part) -> Iterator[dict]:
    """Question templates, what they ask for, and how the release's prompt prints them."""
    asked = Counter(question.question for question in part.questions)
    shares = f"{min(asked.values())} to {max(asked.values())} questions each"
    yield part.row("templates", len(asked), None, "wordings", shares)
    for word in WORDINGS:
        said = [q for q in part.questions if re.search(rf"\b{word}\b", q.question)]
        yield part.row(f"asks_for_{word}", len(said), len(part.questions), "questions")
    ending = [q for q in part.questions if q.question.endswith("?")]
    yield part.row("question_mark_before_comma", len(ending), len(part.questions), "questions")
    yield part.rows_where("option_in_double_quotes", [
        next(o for o in q.options if repr(o)[0] == '"') for q in part.questions
        if any(repr(o)[0] == '"' for o in q.options)])  # fmt: skip


def _order(part: Part) -> Iterator[dict]:
    """Whether a class's questions are consecutive: then the first lines of a file are a few classes."""
    runs = 1 + sum(a.truth != b.truth for a, b in zip(part.questions, part.questions[1:]))
    classes = len({question.truth for question in part.questions})
    yield part.row("runs_of_one_class", runs, classes, "sub-categories",
                   "grouped by class" if runs == classes else "mixed")


def _paths(part: Part) -> Iterator[dict]:
    """Questions whose path carries another name than the truth (birds, dogs, pets carry one)."""
    if part.data_set in ("bird", "dog", "pet"):
        wrong = [q.image_path for q in part.questions if _path_name(q) != q.truth]
        yield part.rows_where("path_says_another_name", wrong)


TRAPS: tuple[Callable[[Part], Iterator[dict]], ...] = (
    _questions, _options, _containment, _sides, _super_category, _hyphens, _other_names, _wording, _order,
    _paths,
)  # fmt: skip


def _path_name(question: Question) -> Optional[str]:
    try:
        return name_of_path(question.data_set, question.image_path)
    except (ValueError, IndexError):
        return None


def _always_first(parts: Sequence[Part], seed: int) -> Iterator[dict]:
    """What a policy that takes the first option scores, in the release's order and shuffled."""
    items = [
        {"item_id": q.image_path, "image_id": q.image_path, "super_category": q.data_set, "width": 1,
         "sub_category": q.truth, "categories": q.categories, "question": q.question, "height": 1,
         "options": list(q.options)} for part in parts for q in part.questions]  # fmt: skip
    for order in CONTROL_ORDERS:
        records = always_first(items, [order], seed)
        for part in [*parts, parts[0]._replace(categories="all")]:
            own = [r for r in records if part.categories in ("all", r["categories"])]
            right = [_official().closed(record)["accuracy"] for record in own]
            mean = clustered_mean(right, [record["sub_category"] for record in own], seed=seed)
            yield part.row(f"always_first_{order}", int(sum(right)), len(right), "questions", low=mean.low,
                           high=mean.high)  # fmt: skip


def _across(sets: dict[str, Sequence[Question]]) -> Iterator[dict]:
    """Names that two data sets share, and breeds that are seen in one and unseen in the other."""
    sides = {word: {q.truth: q.categories for q in questions} for word, questions in sets.items()}
    words = list(sides)
    for one, other in ((a, b) for i, a in enumerate(words) for b in words[i + 1 :]):
        both = sorted(sides[one].keys() & sides[other].keys())
        pair = Part(f"{one} and {other}", "all", [], [], {})
        yield pair.row("same_name_in_two_data_sets", len(both), None, "names", few(both))
        pairs = [(name, name) for name in both]
        if {one, other} == {"dog", "pet"}:
            pairs += [names if one == "pet" else names[::-1] for names in TWO_NAMES]
        cross = [f"{a} ({sides[one][a]}) and {b} ({sides[other][b]})" for a, b in pairs
                 if a in sides[one] and b in sides[other] and sides[one][a] != sides[other][b]]  # fmt: skip
        yield pair.row("seen_here_unseen_there", len(cross), len(pairs), "names", few(cross))
