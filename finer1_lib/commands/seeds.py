"""Pool runs that differ only in seed; intervals account for variance across seeds and across sub-categories.

The seed is of all notebooks: images, shots, rationales, training and test images change with it. The interval
is of 2,000 resamples of the seeds (each with all that its run answered) and, in each super-category, of the
sub-categories, the SAME ones for every seed drawn: a sub-category is as hard in one run as in the other.
Draws of so few vary too little: the deviation of R seeds is stretched by sqrt(R / (R - 1)), that of sub-
categories to Student's t. Over 400 simulated experiments with three seeds and 40 sub-categories, for seeds
that differ not at all, a little and much, 95 % intervals contained the truth in 99, 99, 96 % (here), 93, 87,
73 % (sub-categories alone), 88, 92, 93 % (seeds alone). scipy.stats.bootstrap resamples rows, not the two
sides of a crossed table.

Source: Owen 2007, "The pigeonhole bootstrap" (doi 10.1214/07-AOAS122).
"""

from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_write_bytes, read_json, read_jsonl
from finer1_lib.core.plots import file_of
from finer1_lib.core.statistics import (LEVEL, RESAMPLES, Estimate, cluster_weights, paired_difference,
                                        reach_of)
from finer1_lib.evaluation.entries import Entry, labels_of, pairs_of
from finer1_lib.evaluation.plots import seed_dots
from finer1_lib.evaluation.scores.scoring import main_reading, make_scorer, reading, score_records
from finer1_lib.evaluation.scores.similarity import make_similarity
from finer1_lib.evaluation.summary import CATEGORIES, MAIN_SETTINGS, entries_in, percent
from finer1_lib.paper.orderings import claims, judge
from finer1_lib.runs.chain import NEEDS, find_run
from finer1_lib.runs.fingerprints import is_current, read_record, recorded_file
from finer1_lib.runs.provenance import clean_this_process
from finer1_lib.training.methods import label_of

STAGE = "04_evaluation"
RECORDS, GUIDE = f"{STAGE}/records.jsonl", "01_data/guide.json"


class Run(NamedTuple):
    """One finished run; `scores` are the `strict` ones of `score_records` in the main reading."""

    name: str
    seed: int
    entries: Sequence[Entry]
    scores: Any
    commit: Optional[str]


def read_runs(names: Sequence[str], output_root: Optional[str] = None) -> list[Run]:
    """Read finished runs and refuse those that may not be pooled.

    Raises: UserError: fewer than two runs, one that has not finished 04, parameters that differ in more than
    the seed, equal seeds, other sub-categories or other models.
    """
    if len(names) < 2:
        raise UserError("seeds pools several runs: name at least two, as in `finer1 seeds miniature seed1`")
    folders = [find_run(output_root, name) for name in names]
    first, *others = map(_settings, folders)
    for name, other in zip(names[1:], others):
        for key in first.keys() | other.keys():
            one, two = (found.get(key, "(not set)") for found in (first, other))
            if one != two:
                raise UserError(
                    f"runs {names[0]} and {name} differ in {key} ({one} and {two}): only seeds may differ")
    known = [_seed(folder) for folder in folders]
    for place, seed in enumerate(known):
        if seed in known[:place]:
            one, two = names[known.index(seed)], names[place]
            raise UserError(f"runs {one} and {two} have the same seed {seed}: one run twice")
    runs = list(map(_read, folders, known))
    same = {"sub-categories": ["super_category", "sub_category", "categories"], "models": ["model"]}
    for run, (what, columns) in product(runs[1:], same.items()):
        one, two = (set(one.scores[columns].itertuples(index=False, name=None)) for one in (runs[0], run))
        if one != two:
            raise UserError(f"runs {runs[0].name} and {run.name} were not evaluated on the same {what}")
    return runs


def _settings(folder: Path) -> dict[str, Any]:
    """{"03_tapo.steps": 32, ...} of the stages up to 04, without seeds and names.
    Nor the settings of 03's failure modes (shown there and used by no later stage) and 04's further orders of
    the options (only the shuffled one is pooled).
    """
    if not is_current(folder, STAGE, outputs=False):  # each file read is compared with its hash
        raise UserError(f"run {folder.name!r} has not finished {STAGE}: run it to the end first")
    return {f"{stage}.{key}": value for stage in (*NEEDS[STAGE], STAGE)
            for key, value in read_record(folder / stage, "parameters")["parameters"].items()
            if key not in ("seed", "run_name") and not key.startswith(("wrong_turn", "option_order"))}


def _seed(folder: Path) -> int:
    seeds = {read_record(folder / stage, "seed")["seed"] for stage in (*NEEDS[STAGE], STAGE)}
    if len(seeds) > 1:
        listed = ", ".join(map(str, sorted(seeds)))
        raise UserError(f"the stages of run {folder.name!r} have several seeds ({listed}): give it one")
    return seeds.pop()


def _read(folder: Path, seed: int) -> Run:
    stage, records = read_record(folder / STAGE), read_jsonl(recorded_file(folder, RECORDS))
    guide = read_json(recorded_file(folder, GUIDE)) if (folder / GUIDE).exists() else None
    similar = make_similarity(stage["parameters"].get("text_similarity", "auto"), guide or None)
    scores = score_records(records, [make_scorer("strict", similarity=similar)])
    return Run(folder.name, seed, entries_in(folder), main_reading(scores), stage.get("git_commit"))


def pool(runs: Sequence[Run], *, seed: int = 0) -> dict[str, Any]:
    """All that is reported of several runs, ready for JSON; `seed` is of the resampling.

    rows: n counts images of all seeds together, clusters sub-categories; per_seed is in the order of the runs.
    differences: p flips the signs of whole sub-categories, all seeds together. orderings: `orderings.judge`.
    """
    labels = labels_of(runs[0].entries)
    scored = runs[0].scores.groupby("setting")["model"].agg(set)  # an encoder has no open world
    models = [model for model in labels if model in set().union(*scored)]
    rows, differences = [], []
    for (setting, metric, _), categories in product(MAIN_SETTINGS, CATEGORIES):
        here, where = scored.get(setting, set()), dict(setting=setting, metric=metric, categories=categories)
        rows += [{"model": model, "label": label_of(model, labels), **where,
                  **_pooled([_cell(run, model, **where) for run in runs], seed)}
                 for model in models if model in here]
        differences += [_difference(runs, first, second, seed, **where)
                        for first, second in pairs_of(runs[0].entries) if {first, second} <= here]
    claimed = claims(models)
    compared = [_difference(runs, row["first"], row["second"], seed, setting=row["setting"],
                            metric=row["metric"], categories=row["categories"]) for row in claimed]
    return {"runs": [{"run": run.name, "seed": run.seed, "git_commit": run.commit} for run in runs],
            "rows": rows, "differences": differences,
            "orderings": judge(claimed, [{**row, "difference": row.pop("value")} for row in compared])}


def _cell(run: Run, model: str, **where: str) -> Any:
    """One run's scores of one model in one setting, metric and kind of categories, by item."""
    scores = run.scores
    for column, wanted in {"model": model, **where}.items():
        scores = scores[scores[column] == wanted]
    return scores.sort_values("item_id", ignore_index=True)


def _difference(runs: Sequence[Run], first: str, second: str, seed: int, **where: str) -> dict[str, Any]:
    """The first model minus the second on the same items, over all seeds, with interval, p and reading."""
    minus = []
    for run in runs:
        one, two = _cell(run, first, **where), _cell(run, second, **where)
        if one["item_id"].tolist() != two["item_id"].tolist():
            raise UserError(f"run {run.name!r}: {first} and {second} were not evaluated on the same items")
        minus.append(one.assign(value=one["value"] - two["value"]))
    return {"first": first, "second": second, **where, **_pooled(minus, seed, -1.0)}


def _pooled(cells: Sequence[Any], seed: int, lowest: float = 0.0) -> dict[str, Any]:
    """The estimate over all seeds as part of a row; with p-value and reading if it is of a difference."""
    columns = [[list(cell[name]) for cell in cells] for name in ("value", "sub_category", "super_category")]
    estimate = crossed_mean(*columns, seed=seed, lowest=lowest)
    own = [float(cell.groupby("super_category")["value"].mean().mean()) for cell in cells]
    found = {**estimate.as_row(), "clusters": estimate.clusters, "per_seed": own}
    if lowest == 0:
        return found
    flat, inside, around = map(list, map(chain.from_iterable, columns))
    p = paired_difference(flat, [0.0] * len(flat), inside, around, seed=seed).p
    return {**found, "p": p, "reading": reading(replace(estimate, p=p))}


def crossed_mean(values: Sequence[Sequence[float]], clusters: Sequence[Sequence], groups: Sequence[Sequence],
                 *, seed: int = 0, lowest: float = 0.0) -> Estimate:
    """Mean over seeds of the unweighted mean over groups, with the interval described above.

    For each seed its scores (at most 1, at least `lowest`: 0 for scores, -1 for differences), and sub-category
    and super-category of each; every seed has the same ones. There is no interval where a group has a single
    sub-category or there is a single seed; where all scores are equal it is the exact one of `statistics`.
    """
    import numpy as np
    from scipy.stats import norm
    keys = {key: code for code, key in enumerate(sorted(set(zip(groups[0], clusters[0]))))}
    sums, sizes = np.zeros((2, len(values), len(keys)))
    for r, (scores, inside, around) in enumerate(zip(values, clusters, groups)):
        codes = [keys[key] for key in zip(around, inside)]
        np.add.at(sums[r], codes, scores)
        np.add.at(sizes[r], codes, 1)
    kinds, group_of, members = np.unique([group for group, _ in keys], return_inverse=True, return_counts=True)
    count, seeds, rng = len(keys), len(values), np.random.default_rng(seed)
    own = [group_of == kind for kind in range(len(kinds))]
    value = float(np.mean([(sums[:, here].sum(1) / sizes[:, here].sum(1)).mean() for here in own]))
    known = Estimate(value, None, None, int(sizes.sum()), count)
    if members.min() < 2 or seeds < 2:
        return known
    flat, inside, around = (list(chain.from_iterable(column)) for column in (values, clusters, groups))
    if np.ptp(flat) == 0:  # a bootstrap of equal values would claim certainty
        exact = paired_difference(flat, np.zeros(len(flat)), inside, around, seed=seed)
        return replace(known, low=max(lowest, exact.low), high=exact.high)
    tail = (1 - LEVEL) / 2
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    drawn = 1 / seeds + np.sqrt(seeds / (seeds - 1)) * (drawn - 1 / seeds)  # (resamples, seeds)
    stretch = reach_of(count, len(kinds), tail) / norm.ppf(1 - tail)
    weights = 1 + stretch * (cluster_weights(group_of, rng) - 1)  # (resamples, clusters)
    parts = []
    for here in own:
        inner = np.ascontiguousarray(weights[:, here])
        parts.append((drawn * (inner @ sums[:, here].T) / (inner @ sizes[:, here].T)).sum(1))
    low, high = np.clip(np.quantile(np.mean(parts, axis=0), [tail, 1 - tail]), lowest, 1.0)
    return replace(known, low=float(min(low, value)), high=float(max(high, value)))


def tables(pooled: Mapping[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """The printed tables of `pool`, in percent: {title: (column titles, lines)}; no values of the paper."""
    def cells(row: Mapping[str, Any]) -> list[str]:
        each = ", ".join(f"{100 * value:.1f}" for value in row["per_seed"])
        return [row["setting"].replace("_", " "), row["categories"], percent(row), each]

    seeds = ", ".join(str(run["seed"]) for run in pooled["runs"])
    labels = {row["model"]: row["label"] for row in pooled["rows"]}
    means = [[row["label"], *cells(row), str(row["n"])] for row in pooled["rows"]]
    minus = [[f"{labels[row['first']]} minus {labels[row['second']]}", *cells(row), f"{row['p']:.2g}",
              row["reading"]] for row in pooled["differences"]]
    orders = [[row["figure"], row["claim"], *cells({**row, "value": row["difference"]})[1:],
               f"{row['p']:.2g}", row["holds"]] for row in pooled["orderings"]]
    titles = ["setting", "categories", "mean [95 % interval]", f"seeds {seeds}"]
    return {"percent right, strict scorer, mean over seeds": (["model", *titles, "n"], means),
            "paired differences, in points": (["difference", *titles, "p", "reading"], minus),
            "the paper's orderings, our differences in points": (
                ["figure", "the paper has", *titles[1:], "p", "here"], orders)}


def draw(pooled: Mapping[str, Any], path: Path) -> None:
    """Write the figure of `plots.seed_dots`.

    Raises: UserError: a file type that matplotlib does not write.
    """
    import pandas as pd
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--figure {path}: the name must end in .png, .pdf or .svg")
    clean_this_process()
    figure = seed_dots(pd.DataFrame(pooled["rows"]), {row["model"]: row["label"] for row in pooled["rows"]})
    atomic_write_bytes(path, file_of(figure, path.suffix[1:]))
