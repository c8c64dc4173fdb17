"""How near an error is: an answer's path through a taxonomy and the truth's; the confusions of a genus.

    bird      order > family > genus > name              Passeriformes > Troglodytidae > Salpinctes > Rock Wren
    aircraft  maker > genus (the family) > name          Boeing > Boeing 737 > Boeing 737-200
    car       genus (the make) > model > body > year > name
    drawn     super-category > genus > name

An answer that is a sub-category (by its name or an alias) has its path, one that names an inner node
("Salpinctes", "a bird", "Chevy Tahoe SUV 2012"; articles, and a car's body and year, are skipped) the path
down to it; any other, and none, has no node and counts as 0. Of the path y of the truth and y' of the answer,
L levels:

    path_<rank>     y'_l = y_l                           the share right at each rank
    path_hca        all levels right                     hierarchical consistent accuracy
    path_tor        right pairs of neighbours / (L - 1)  top-down overlap ratio
    path_f1         F1 of the two sets of nodes
    path_depth      right levels / L: depth of the lowest common ancestor
    path_near_miss  the right genus, another name

A node is right only below right nodes: two cars of one year are not nearer for that. A rank that the truth
lacks is not counted. TARA's path overlap ratio (POR), of levels queried separately, would equal path_depth
here.
"""

import re
from itertools import accumulate
from typing import Iterable, Mapping, Optional, Sequence

from finer1_lib.core.completions import forms, normalise
from finer1_lib.core.errors import UserError
from finer1_lib.data.answers import answer_of
from finer1_lib.data.names import cars_in, labels_of, name_of, same_name, table_for
from finer1_lib.data.taxonomy import GENUS, NAME, Taxonomy
from finer1_lib.evaluation.scores.samples import settle
from finer1_lib.evaluation.scores.scoring import SCORE_COLUMNS

ORDER = ("super_category", "order", "maker", "family", GENUS, "model", "body", "year")  # root first
SHARED = ("body", "year")  # values that every make has: by themselves they name no node
LETTERS = 3  # an answer by itself has at least so many signs, not digits alone: "TL" or "500" may be anything
Path = dict[str, str]  # rank -> value, root first
_ARTICLE = re.compile(r"^(?:an?|the) ")
_JOINING = frozenset({"and", "or", "nor", "not", "no", "vs", "by", "mix"})


class Tree:
    """The paths of one super-category's names; taxonomy: {sub_category: {rank: value}} of its names."""

    def __init__(self, word: str, taxonomy: Taxonomy) -> None:
        ranks = [rank for rank in ORDER if any(rank in known for known in taxonomy.values())]
        if ranks == [GENUS]:
            ranks = ["super_category", GENUS]
        self.ranks, self._word, self._paths = (*ranks, NAME), word, {}
        for name, known in taxonomy.items():
            values = {**known, "super_category": word, NAME: name}
            path = {rank: normalise(values[rank]) for rank in self.ranks if values.get(rank)}
            self._paths[normalise(name)] = path
        self._inner: dict[str, Optional[Path]] = {}
        for path in self._paths.values():
            nodes: Path = {}
            for rank, value in list(path.items())[:-1]:
                above = list(nodes.values())[-1:]
                nodes = {**nodes, rank: value}
                for said in () if rank in SHARED else _spellings(value, *above):
                    known = self._inner.setdefault(said, nodes)
                    if known is not None and known != nodes:
                        self._inner[said] = None  # two nodes of one name: the answer does not say which

    def path_of(self, text: Optional[str]) -> Path:
        """The nodes that an answer names, {} for none."""
        if text is None:
            return {}
        said = [normalise(form) for form in (name_of(self._word, text) or "", *forms(text))]
        for one in (*said, _ARTICLE.sub("", said[-1]), said[-1].replace(" ", "")):
            alone = len(one) > LETTERS or len(one) == LETTERS and not one.isdigit()
            inner = self._inner.get(one) if alone or one == normalise(self._word) else None
            if found := self._paths.get(one) or inner:
                return found
        return self._car(text) if "year" in self.ranks else {}

    def _car(self, text: str) -> Path:
        """Make and model in everyday words, with whatever body and year; of a list or a denial nothing."""
        said = cars_in(text)
        named = [" ".join(model) for model in said.models] or list(said.makes)
        makes = said.makes | {make for make, _ in said.models}
        odd = any(len(word) > LETTERS or word in _JOINING for word in said.rest)  # "LE" and "V6" are trims
        one = len(makes) == len(named) == 1 and not odd and "?" not in text
        return self._inner.get(normalise(named[0])) or {} if one else {}


def _spellings(value: str, *above: str) -> set[str]:
    """ "camry" and "toyota camry"; a number may stand close, "dc9"."""
    said = {value, " ".join([*above, value])}
    return said | {one.replace(" ", "") for one in said if any(map(str.isdigit, one))}


def path_scores(truth: Path, said: Path) -> dict[str, float]:
    """The module's metrics of one answer; `said` is {} for an answer that names nothing."""
    alike = (said.get(rank) == value for rank, value in truth.items())
    right = list(accumulate(alike, lambda above, here: above and here))
    levels, whole, pairs = len(right), float(all(right)), sum(one and two for one, two in zip(right, right[1:]))
    genus = dict(zip(truth, right)).get(GENUS, False)
    return {**{f"path_{rank}": float(hit) for rank, hit in zip(truth, right)}, "path_hca": whole,
            "path_tor": pairs / (levels - 1) if levels > 1 else whole,
            "path_f1": 2 * sum(right) / (levels + len(said)), "path_depth": sum(right) / levels,
            "path_near_miss": float(genus and not right[-1])}


def trees_of(records: Iterable[Mapping], taxonomy: Taxonomy,
             names: Mapping[str, Iterable[str]] = {}) -> dict[str, Tree]:
    """{super_category: its tree}, of the names in labels, options and `names` that the taxonomy knows.

    names: {super_category: all its sub-categories}. UserError: the taxonomy knows none of the records' names.
    """
    found: dict[str, dict] = {}
    for record in records:
        word = record["super_category"]
        own = found.setdefault(word, dict.fromkeys(names.get(word, ())))
        own |= dict.fromkeys((record["sub_category"], *(record.get("options") or ())))
    known = {word: inside for word, own in found.items()
             if (inside := {name: taxonomy[name] for name in own if name in taxonomy})}
    if not known:
        raise UserError("the taxonomy knows none of the sub-categories in the records: near misses cannot be "
                        "measured; give 01_data a taxonomy_file")
    return {word: Tree(word, inside) for word, inside in known.items()}


def hierarchy_scores(records: Sequence[Mapping], taxonomy: Taxonomy, names: Mapping[str, Iterable[str]] = {}):
    """Every metric of every question in the main reading, in the columns of `scoring.score_records`.

    Of several samples the majority's answer counts. taxonomy: {sub_category: {rank: value}}, 01's
    taxonomy.json; questions about a name without a genus are left out, ranks outside `ORDER` ignored. names
    and errors: of `trees_of`.
    """
    main = list(filter(_in_main_reading, records))
    return scores_in(trees_of(main, taxonomy, names), taxonomy, main)


def _in_main_reading(record: Mapping) -> bool:
    return record["option_order"] in (None, "shuffled")


def scores_in(trees: Mapping[str, Tree], taxonomy: Taxonomy, records: Iterable[Mapping]):
    """`hierarchy_scores` with trees of `trees_of`: those of a whole file, of which `records` may be a part."""
    import pandas as pd
    rows = []
    for record in filter(_in_main_reading, settle(records)):
        tree, label = trees.get(record["super_category"]), record["sub_category"]
        if tree is not None and taxonomy.get(label, {}).get(GENUS):
            known = [record[column] for column in SCORE_COLUMNS]
            found = path_scores(tree.path_of(label), tree.path_of(answer_of(record)))
            rows += [(*known, "strict", metric, value) for metric, value in found.items()]
    return pd.DataFrame(rows, columns=[*SCORE_COLUMNS, "scorer", "metric", "value"])


ELSEWHERE, UNKNOWN, OTHERS = "another genus", "no known name", "others of the genus"


def count_confusions(records: Iterable[Mapping], taxonomy: Mapping[str, Mapping[str, str]], *,
                     rank: str = "genus"):
    """What was answered for each sub-category, by model and setting, in the main reading.

    DataFrame of model, setting, super_category, genus, truth, categories, answered (the truth, a neighbour's
    name, `ELSEWHERE` or `UNKNOWN`), count, n (answers about the truth). `rank` defines neighbours (of cars
    and aircraft "genus" is the make, the family); sub-categories without one are left out.
    Raises: UserError: the taxonomy has this rank for none of the sub-categories.
    """
    import pandas as pd
    records = list(filter(_in_main_reading, settle(records)))
    genus = {normalise(name): ranks[rank] for name, ranks in taxonomy.items() if ranks.get(rank)}
    spelled = {normalise(name): name for name in [*taxonomy, *(record["sub_category"] for record in records)]}
    keys = ["model", "setting", "super_category", "genus", "truth", "categories", "answered"]
    rows = [(*(record[key] for key in keys[:3]), own, record["sub_category"], record["categories"],
             _answered(record, own, genus, spelled))
            for record in records if (own := genus.get(normalise(record["sub_category"]))) is not None]
    if records and not rows:
        raise UserError(f"the taxonomy gives no {rank} to any sub-category in the records: no confusions")
    counted = pd.DataFrame(rows, columns=keys).groupby(keys, sort=False).size().reset_index(name="count")
    asked = counted.groupby(["model", "setting", "super_category", "truth"])["count"]
    return counted.assign(n=asked.transform("sum"))


def _answered(record: Mapping, own: str, genus: Mapping[str, str], spelled: Mapping[str, str]) -> str:
    said, word, truth = answer_of(record) or "", record["super_category"], record["sub_category"]
    if same_name(table_for(word, truth), said, truth):  # another name of it is no confusion
        return truth
    official = name_of(word, said) or (min(labels_of(said), default=None) if word == "car" else None)
    said = normalise(official or said)
    if genus.get(said) == own:
        return spelled[said]
    return ELSEWHERE if said in spelled else UNKNOWN


def answer_shares(table):
    """Each model's answers: model, setting, right, neighbour, elsewhere, unknown (fractions of n), n."""
    kind = table["answered"].map({ELSEWHERE: "elsewhere", UNKNOWN: "unknown"}).fillna("neighbour")
    table = table.assign(kind=kind.mask(table["answered"] == table["truth"], "right"))
    counts = table.pivot_table(
        index=["model", "setting"], columns="kind", values="count", aggfunc="sum", fill_value=0, sort=False)
    counts = counts.reindex(columns=["right", "neighbour", "elsewhere", "unknown"], fill_value=0)
    n = counts.sum(axis=1)
    return counts.div(n, axis=0).assign(n=n).reset_index().rename_axis(columns=None)


def most_confused(table, model: str, setting: str, *, most: int = 4) -> list[tuple[str, str]]:
    """(super_category, genus) pairs in which a model most often answered a neighbour, most errors first."""
    part = table[(table["model"] == model) & (table["setting"] == setting)]
    errors = part[_is_neighbour(part)].groupby(["super_category", "genus"])["count"].sum()
    ordered = sorted(errors.items(), key=lambda entry: (-entry[1], entry[0]))
    return [key for key, _ in ordered[:most]]


def confusion_matrix(table, model: str, setting: str, super_category: str, genus: str, *, most: int = 10):
    """What was answered for each sub-category of a genus, as shares of the answers about it.

    A row for each truth (fractions that sum to 1), a column for each name, then `OTHERS`, `ELSEWHERE` and
    `UNKNOWN`; `attrs` hold n and categories of each truth. Of a larger genus the `most` sub-categories with
    the most errors are shown. UserError: the model was not queried about this genus.
    """
    part = table[(table["model"] == model) & (table["setting"] == setting)
                 & (table["super_category"] == super_category) & (table["genus"] == genus)]
    if not len(part):
        raise UserError(f"{model} was not queried about {super_category}, genus {genus!r}, in {setting}")
    truths, names = sorted(set(part["truth"])), {*part["truth"], *part["answered"]} - {ELSEWHERE, UNKNOWN}
    errors = part[_is_neighbour(part)].groupby("truth")["count"].sum().to_dict()
    kept = sorted(sorted(truths, key=lambda name: -errors.get(name, 0))[:most])
    # the rows' own names first, so that the diagonal holds the right answers
    shown = [*kept, *sorted(names - set(kept))][: max(most, len(kept))]
    columns = [*shown, *([OTHERS] if names - set(shown) else []), ELSEWHERE, UNKNOWN]
    answered = part["answered"].where(part["answered"].isin(columns), OTHERS)
    counts = part.assign(answered=answered).pivot_table(
        index="truth", columns="answered", values="count", aggfunc="sum", fill_value=0)
    counts = counts.reindex(index=kept, columns=columns, fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0).rename_axis(index=None, columns=None)
    shares.attrs = part.groupby("truth")[["n", "categories"]].first().loc[kept].to_dict()
    return shares


def _is_neighbour(table):
    return (table["answered"] != table["truth"]) & ~table["answered"].isin([ELSEWHERE, UNKNOWN])
