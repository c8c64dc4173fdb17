"""Does training change what a model reads, or what it does with it? Probes of two checkpoints, side by side.

    reading  what the image tokens hold: the sub-category (H1), the attributes; and the attributes that have
             reached the last token of the prompt, before any reasoning
    use      the sub-category at that token, and whether a name fits the image (H3)

All of it on the same items for both checkpoints, at the one layer that the parameters name. The same question
for the traces themselves: `traces.changes`.
"""

from typing import Any, Mapping, NamedTuple, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.statistics import has_interval, paired_difference
from finer1_lib.evaluation.entries import Entry, find_entry, start_of
from finer1_lib.evaluation.scores.scoring import reading
from finer1_lib.probing.rows import CLUSTERS, auc_difference, counts_of


class Measure(NamedTuple):
    """What a probe measures: "reading" or "use", and its label in tables and figures."""

    kind: str
    label: str


MEASURES: Mapping[str, Measure] = {
    "h1_probe_accuracy": Measure("reading", "sub-category, image tokens (H1)"),
    "attribute_image_accuracy": Measure("reading", "attributes, image tokens"),
    "attribute_prompt_accuracy": Measure("reading", "attributes, last prompt token"),
    "name_prompt_accuracy": Measure("use", "sub-category, last prompt token"),
    "h3_auc": Measure("use", "right from wrong name (H3)"),
}
PLACE_LABELS = {"images": "image tokens", "prompts": "last prompt token"}


def entries_to_probe(entries: Sequence[Entry], models: Sequence[str]) -> list[Entry]:
    """The entries of `probed_models`; UserError where none, an unknown one, or one twice is named."""
    twice = sorted({model for model in models if list(models).count(model) > 1})
    if twice or not models:
        raise UserError(f"probed_models: {', '.join(twice)} is listed twice" if twice else
                        "probed_models is empty: name checkpoints, the one to compare with first")
    return [find_entry(entries, model) for model in models]


def pairs_to_compare(probed: Sequence[Entry]) -> list[tuple[str, str]]:
    """(first, second): every model against the first one named, and against its own start if probed."""
    models = [entry.model for entry in probed]
    pairs = [(model, models[0]) for model in models[1:]]
    pairs += [(entry.model, start) for entry in probed
              if (start := start_of(entry)) in models and entry.model != models[0]]
    return list(dict.fromkeys(pairs))


def changes(items: Mapping[str, Any], pairs: Sequence[tuple[str, str]], *, seed: int):
    """Every measure of every pair, first minus second.

    An AUC has no p: its reading is by interval alone. There is no correction for their number: of twenty
    intervals at 95 % one leaves zero out by luck.

    Args:
        items: {metric of `MEASURES`: its items at one layer, with the column model}; empty ones are left out.
    """
    import pandas as pd

    rows = []
    for first, second in pairs:
        for metric, measure in MEASURES.items():
            table = items.get(metric)
            if table is None or not len(table):
                continue
            one, two = (table[table["model"] == model] for model in (first, second))
            if metric == "h3_auc":
                e = auc_difference(counts_of(one), counts_of(two), seed=seed)
            else:
                e = paired_difference(one["correct"].to_numpy(), two["correct"].to_numpy(),
                                      list(one[CLUSTERS[metric]]), list(one["super_category"]), seed=seed)
            known = {"first": first, "second": second, "metric": metric, **measure._asdict()}
            rows.append({**known, "difference": e.value, "low": e.low, "high": e.high, "p": e.p, "n": e.n,
                         "reading": reading(e)})
    return pd.DataFrame(rows, columns=[
        "first", "second", "kind", "metric", "label", "difference", "low", "high", "p", "n", "reading"])


def findings(table, first: str, second: str) -> str:
    """One pair in words, in points: "attributes, image tokens -2.0 [-4.1, +0.1]: cannot tell; ..."."""
    words = []
    for row in table[(table["first"] == first) & (table["second"] == second)].itertuples():
        none = not has_interval(row.low)
        span = "no interval" if none else f"[{100 * row.low:+.1f}, {100 * row.high:+.1f}]"
        words.append(f"{row.label} {100 * row.difference:+.1f} {span}: **{row.reading}**")
    return "; ".join(words) or "was left out (see the notes above)"


def attribute_findings(table, first: str, second: str) -> str:
    """How many attributes of one pair a test finds changed (of `attribute_differences`), and which."""
    here = table[(table["first"] == first) & (table["second"] == second)]
    clear = [f"{row.super_category}, {row.attribute}, {PLACE_LABELS[row.place]} {100 * row.difference:+.0f}"
             for row in here[here["reading"] != "cannot tell"].itertuples()]
    return f"{len(clear)} of {len(here)}" + (f" ({'; '.join(clear)} points)" if clear else "")
