"""Which neighbour is answered for which: the answers about the sub-categories of one genus, counted.

    truth        answered          count   n
    Rock Wren    Rock Wren           5     10     right
    Rock Wren    House Wren          3     10     a neighbour of its genus
    Rock Wren    another genus       1     10     a name that is known, of elsewhere
    Rock Wren    no known name       1     10     or no single answer

A sub-category whose genus nobody knows takes no part. Of cars and aircraft "genus" is what the taxonomy puts
there: the maker, the family.

Source: our choice.
"""

from typing import Any, Iterable, Mapping

from finer1_lib.errors import UserError
from finer1_lib.rewards import normalise
from finer1_lib.scores.aliases import name_of, same_name, table_for
from finer1_lib.scores.answers import answer_of
from finer1_lib.scores.cars import labels_of
from finer1_lib.scores.samples import settle

ELSEWHERE, UNKNOWN, OTHERS = "another genus", "no known name", "others of the genus"
_COLUMNS = ("model", "setting", "super_category", "genus", "truth", "categories", "answered", "count", "n")
_KEYS = list(_COLUMNS[:-2])


def count_confusions(
    records: Iterable[Mapping], taxonomy: Mapping[str, Mapping[str, str]], *, rank: str = "genus"
):
    """What was answered for each sub-category, by model and setting.

    Args:
        records: lines of records.jsonl; the closed world is read in the shuffled order, and of several
            samples the majority.
        taxonomy: sub-category -> rank -> value, as in `01_data/taxonomy.json`.
        rank: what makes two sub-categories neighbours.

    Returns:
        DataFrame of model, setting, super_category, genus, truth, categories, answered (the truth, a
        neighbour's name, `ELSEWHERE` or `UNKNOWN`), count, n (answers about the truth); a row for each answer
        that was given.

    Raises:
        UserError: the taxonomy knows this rank of none of the sub-categories asked about.
    """
    import pandas as pd

    records = [record for record in settle(records) if record["option_order"] in (None, "shuffled")]
    genus = {normalise(name): ranks[rank] for name, ranks in taxonomy.items() if ranks.get(rank)}
    spelled = {normalise(name): name for name in [*taxonomy, *(record["sub_category"] for record in records)]}
    rows = []
    for record in records:
        own = genus.get(normalise(record["sub_category"]))
        if own is not None:
            answered = _answered(record, own, genus, spelled)
            known = [record[key] for key in ("model", "setting", "super_category")]
            rows.append((*known, own, record["sub_category"], record["categories"], answered))
    if records and not rows:
        raise UserError(f"the taxonomy gives no {rank} to any sub-category asked about: nothing to confuse")
    counted = pd.DataFrame(rows, columns=_KEYS).groupby(_KEYS, sort=False).size().reset_index(name="count")
    n = counted.groupby(["model", "setting", "super_category", "truth"])["count"].transform("sum")
    return counted.assign(n=n)[list(_COLUMNS)]


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
    """How each model's answers fall: right, a neighbour, another genus, no known name.

    Args:
        table: of `count_confusions`.

    Returns:
        DataFrame of model, setting, right, neighbour, elsewhere, unknown (fractions of n), n.
    """
    kinds = {ELSEWHERE: "elsewhere", UNKNOWN: "unknown"}
    kind = table["answered"].map(kinds).fillna("neighbour")
    table = table.assign(kind=kind.mask(table["answered"] == table["truth"], "right"))
    counts = table.pivot_table(
        index=["model", "setting"], columns="kind", values="count", aggfunc="sum", fill_value=0, sort=False)
    counts = counts.reindex(columns=["right", "neighbour", "elsewhere", "unknown"], fill_value=0)
    n = counts.sum(axis=1)
    shares = counts.div(n, axis=0).assign(n=n).reset_index()
    return shares.rename_axis(columns=None)


def most_confused(table, model: str, setting: str, *, most: int = 4) -> list[tuple[str, str]]:
    """The genera in which a model most often answered a neighbour for the truth.

    Args:
        table: of `count_confusions`.
        most: how many at the most.

    Returns:
        (super_category, genus) pairs, the most errors first; genera without any are left out.
    """
    part = table[(table["model"] == model) & (table["setting"] == setting)]
    errors = part[_is_neighbour(part)].groupby(["super_category", "genus"])["count"].sum()
    ordered = sorted(errors.items(), key=lambda entry: (-entry[1], entry[0]))
    return [key for key, _ in ordered[:most]]


def confusion_matrix(table, model: str, setting: str, super_category: str, genus: str, *, most: int = 10):
    """What was answered for each sub-category of a genus, as shares of the answers about it.

    Args:
        table: of `count_confusions`.
        most: of a larger genus so many sub-categories, those with the most errors inside the genus; answers
            that name one of the others are counted together.

    Returns:
        DataFrame, a row a truth (fractions that sum to 1) and a column a name, then `OTHERS` where some were
        left out, `ELSEWHERE` and `UNKNOWN`; its `attrs` hold n and categories of each truth.

    Raises:
        UserError: the model was not asked about this genus.
    """
    part = table[(table["model"] == model) & (table["setting"] == setting)
                 & (table["super_category"] == super_category) & (table["genus"] == genus)]  # fmt: skip
    if not len(part):
        raise UserError(f"{model} was asked about no {super_category} of the genus {genus!r} in {setting}")
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
    known: dict[str, Any] = part.groupby("truth")[["n", "categories"]].first().loc[kept].to_dict()
    shares = counts.div(counts.sum(axis=1), axis=0).rename_axis(index=None, columns=None)
    shares.attrs = known
    return shares


def _is_neighbour(table):
    return (table["answered"] != table["truth"]) & ~table["answered"].isin([ELSEWHERE, UNKNOWN])
