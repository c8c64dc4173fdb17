"""The paper's orderings, and which of them hold in our runs.

Every two bars of Figure 3a, 3b and 3c that have a row of ours make an ordering, on seen and on unseen
sub-categories: "SFT above Zero-shot" on seen ones, below on unseen ones. Only the sign is compared:

    holds        our difference is significant (interval AND test, `scoring.reading`), with the paper's sign
    reversed     it is significant and has the other sign
    cannot tell  anything else; an ordering that is not reversed has not been shown to hold

A bar of the paper is a row of ours; SFT is two, since the paper trains all weights and our main comparison a
LoRA (its orderings count twice, and `findings` says so). Bars without a row are listed as left out.

Source: Fine-R1 (arXiv 2602.07605), Figures 3a to 3c.
"""

from itertools import combinations
from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.paper import facts as paper_facts

BARS: Mapping[str, Mapping[str, tuple[str, ...]]] = {  # figure -> bar, in the order drawn -> rows of ours
    "Figure 3a": {"Zero-shot": ("base",), "SFT": ("sft_answer_only", "full_sft_answer_only"),
                  "CLS-RL": ("base_cls_rl",), "No-Thinking RL": ("base_no_thinking_rl",),
                  "Fine-R1-3B": ("cot_sft_tapo",)},
    "Figure 3b": {"Zero-shot": ("base",), "CoT prompting": ("base_cot_prompt",),
                  "In-context learning": ("base-in_context",),
                  "SigLIP prompt ensembling": ("siglip-l-ensemble",), "Fine-R1-3B": ("cot_sft_tapo",)},
    "Figure 3c": {"CoT SFT": ("cot_sft",), "CoT SFT + Inter (as printed)": ("cot_sft_inter",),
                  "CoT SFT + Intra": ("cot_sft_intra",), "CoT SFT + DAPO (as printed)": ("cot_sft_dapo",),
                  "CoT SFT + TAPO": ("cot_sft_tapo",)},
}
COLUMNS = (
    "figure", "claim", "first", "second", "setting", "metric", "categories", "paper_difference", "difference",
    "low", "high", "p", "n", "reading", "holds", "remark")
CATEGORIES = ("seen", "unseen")
ALL_WEIGHTS = ", all weights"  # behind the name of a bar that is a second row of ours
TINY = 0.01  # a gap below one point: the paper gives no interval, so its sign alone says little
TINY_REMARK = "the paper's gap is below 1 point"
_KEYS = ("first", "second", "setting", "metric", "categories")


def measured(figure: str) -> tuple[str, str]:
    """(setting, metric) of a figure: ("closed_world", "accuracy")."""
    row = paper_facts.facts(figure).iloc[0]
    return row["setting"], row["metric"]


def figure_of(first: str, second: str) -> Optional[str]:
    """The figure that has a bar for each of the two models, or None."""
    for figure, bars in BARS.items():
        places = [[model in rows for rows in bars.values()] for model in (first, second)]
        if any(places[0]) and any(places[1]) and places[0] != places[1]:
            return figure
    return None


def paper_says(first: str, second: str) -> str:
    """The paper's values, second to first: "Figure 3a: 77.43 to 81.41 on seen, 71.94 to 65.82 on unseen"."""
    figure = figure_of(first, second)
    bars = [next(bar for bar, rows in BARS[figure].items() if model in rows) for model in (second, first)]
    values = [" to ".join(f"{paper_facts.value(figure, bar, kind):.2f}" for bar in bars) + f" on {kind}"
              for kind in CATEGORIES]
    printed = " (labels as printed)" if any("as printed" in bar for bar in bars) else ""
    return f"{figure}{printed}: {', '.join(values)}"


def claims(models: Iterable[str]) -> list[dict[str, Any]]:
    """The orderings that these models allow to check, `first` being the later bar: the columns that the paper
    fills, paper_difference as a fraction. A pair that two figures show is listed with the first of them.
    """
    models, found, known = set(models), [], set()
    for figure, bars in BARS.items():
        there = [(bar, model) for bar, rows in bars.items() for model in rows if model in models]
        setting, metric = measured(figure)
        for (low_bar, second), (bar, first) in combinations(there, 2):
            if bar == low_bar or (first, second, setting, metric) in known:
                continue
            known.add((first, second, setting, metric))
            for categories in CATEGORIES:
                low, high = (paper_facts.value(figure, one, categories) for one in (low_bar, bar))
                gap, remarks = round((high - low) / 100, 6), paper_facts.remarks(figure)
                said = [TINY_REMARK if abs(gap) < TINY else "",
                        *(remarks.get((figure, one), "") for one in (low_bar, bar))]
                side = "above" if gap > 0 else "below"
                found.append({
                    "figure": figure, "claim": f"{_short(bar, first)} {side} {_short(low_bar, second)}",
                    "first": first, "second": second, "setting": setting, "metric": metric,
                    "categories": categories, "paper_difference": gap,
                    "remark": "; ".join(dict.fromkeys(filter(None, said)))})
    return found


def left_out(models: Iterable[str]) -> dict[str, list[str]]:
    """{figure: its bars without a row among these models}; figures without such a bar are not in it."""
    models = set(models)
    absent = {figure: [_short(bar) for bar, rows in bars.items() if not models & set(rows)]
              for figure, bars in BARS.items()}
    return {figure: bars for figure, bars in absent.items() if bars}


def holds(reading: str, paper_difference: float) -> str:
    """"holds", "reversed" or "cannot tell", from `scoring.reading` of our difference and the paper's."""
    sign = {"higher": 1, "lower": -1}.get(reading, 0) * paper_difference
    return "holds" if sign > 0 else "reversed" if sign < 0 else "cannot tell"


def judge(claimed: Sequence[Mapping], comparisons: Iterable[Mapping]) -> list[dict[str, Any]]:
    """Each of `claims` with our difference and what follows from it.

    `comparisons` has the columns that we fill, and `_KEYS`, for each claim; further keys are kept.
    """
    ours = {tuple(row[key] for key in _KEYS): dict(row) for row in comparisons}
    judged = []
    for claim in claimed:
        row = {**ours[tuple(claim[key] for key in _KEYS)], **claim}
        row["holds"] = holds(row["reading"], claim["paper_difference"])
        judged.append({**{column: row[column] for column in COLUMNS}, **row})
    return judged


def table(scores, *, seed: int, scorer: str = "strict"):
    """The orderings of one run's `score_records`: a DataFrame of `COLUMNS`, differences as fractions."""
    import pandas as pd

    from finer1_lib.evaluation.scores.scoring import compare_all
    claimed, rows = claims(scores["model"]), []
    for setting, metric in dict.fromkeys((claim["setting"], claim["metric"]) for claim in claimed):
        pairs = dict.fromkeys((claim["first"], claim["second"]) for claim in claimed
                              if (claim["setting"], claim["metric"]) == (setting, metric))
        found = compare_all(scores, pairs, metrics=[(setting, metric)], scorer=scorer, seed=seed)
        rows += found.to_dict("records")
    return pd.DataFrame(judge(claimed, rows), columns=list(COLUMNS))


def findings(orderings, models: Iterable[str]) -> str:
    """How many of the `table`'s orderings hold, how many are reversed, and what was left out of `models`."""
    counts, absent = orderings["holds"].value_counts(), left_out(models)
    tiny = sum(TINY_REMARK in remark for remark in orderings["remark"])
    once = orderings.assign(claim=orderings["claim"].str.replace(ALL_WEIGHTS, ""))
    twice = int(once.duplicated(["figure", "claim", "categories"]).sum())
    text = (f"Of {len(orderings)} orderings {counts.get('holds', 0)} hold, {counts.get('reversed', 0)} are "
            f"reversed and {counts.get('cannot tell', 0)} are undecided; by less than one point in "
            f"the paper: {tiny}.")
    text += f" {twice} of them repeat an ordering of SFT, for the row with all weights." if twice else ""
    listed = "; ".join(f"{figure}: {', '.join(bars)}" for figure, bars in absent.items())
    return text + (f" Left out, because this run has no row for them: {listed}." if absent else "")


def bars_of(rows: Iterable[Mapping], figure: str, scorer: str = "strict"):
    """The rows of summary.json that a figure draws, in the paper's order, of shuffled options only.

    A DataFrame of figure, bar (the paper's name) and the summary's columns.
    """
    import pandas as pd

    from finer1_lib.evaluation.summary import KEYS
    setting, metric = measured(figure)
    wanted = {"dataset": "average", "setting": setting, "metric": metric, "scorer": scorer}.items()
    chosen = [row for row in rows if row["option_order"] in (None, "shuffled") and wanted <= row.items()]
    found = [{"figure": figure, "bar": _short(bar, model), **row}
             for bar, models in BARS[figure].items() for model in models
             for row in chosen if row["model"] == model]
    return pd.DataFrame(found, columns=["figure", "bar", *KEYS])


def _short(bar: str, model: str = "") -> str:
    """A bar's name on one line: "+ Inter" for "CoT SFT + Inter (as printed)"."""
    name = bar.removesuffix(" (as printed)").removesuffix("-3B").replace("CoT SFT + ", "+ ")
    return name + ALL_WEIGHTS if model.startswith("full_") else name
