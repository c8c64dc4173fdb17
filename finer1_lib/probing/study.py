"""The choices of notebook 05: checkpoints, layers and items, every probe on them, guards for empty data.

    models = choose_models(...)                       who is probed, what is compared, at which layers
    plans = make_plans(...)                           what is probed, and a note for everything left out
    study = Study(models, plans, states, seed=0)
    study.h1(); study.h2(20); study.h3()              the paper's three hypotheses (Section 5.4)
    study.rows, study.comparisons, study.items        what they gave, at the layer of the summary
    study.averages("h3_auc")                          the curves over layers

An empty plan gives empty tables, and `saved` draws no figure of an empty table.
"""

from functools import partial
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.statistics import has_interval, paired_difference
from finer1_lib.evaluation.entries import (
    Entry, all_entries, check_rows, find_entry, labels_of, start_of, weights_at, with_more,
)  # fmt: skip
from finer1_lib.evaluation.scores.scoring import pick, reading
from finer1_lib.probing import attributes, items, layers, probes, rows
from finer1_lib.probing.rows import CLUSTERS, auc_difference, counts_of
from finer1_lib.probing.swaps import check_wrong_names


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


class Models(NamedTuple):
    """Who is probed, `pairs` (first, second) to compare, layers `depths`, the summary's layer `at`."""

    labels: Mapping[str, str]
    probed: list[Entry]
    pairs: list[tuple[str, str]]
    at: int
    depths: list[int]


def choose_models(
    trained: Sequence[Mapping], more: Sequence[Any], models: Sequence[str], base: str, *,
    wanted_layers: Sequence[int], layer: int, wrong_names: str = "any",
) -> Models:
    """Check names and layers before any work.

    Args:
        trained: rows of 03's models.json; more: `more_models`; base: the base checkpoint.
        models: `probed_models`, the one to compare with first.

    Raises: UserError: an unknown or repeated model, a layer that does not exist, models of two sizes.
    """
    check_wrong_names(wrong_names)
    known = all_entries(trained)
    entries = with_more(known, more)
    probed = entries_to_probe(entries, [*models, *(entry.model for entry in entries[len(known):])])
    check_rows(probed, base)
    count = layers.check_same_layers({e.model: layers.layer_count(weights_at(e, base)[0]) for e in probed})
    at, depths = layers.chosen_layers(wanted_layers, layer, count)
    return Models(labels_of(entries), probed, pairs_to_compare(probed), at, depths)


class Plans(NamedTuple):
    """What is probed: images, names, questions, attributes; and notes on what is left out."""

    h1: Any
    h2: Any
    h3: Any
    attributes: Any
    notes: list[str]


def make_plans(
    table: Any, guide: Mapping, taxonomy: Mapping, *, most: int, train_images: int, test_images: int,
    num_images: int, num_folds: int, wrong_names: str, seed: int, states: Callable[[Any], Any],
) -> Plans:
    """The items of all probes, the same for every checkpoint and layer.

    Args:
        table: images.parquet; guide: guide.json or {}; taxonomy: taxonomy.json.
        most: sub-categories of each super-category, 0 for all.
        states: from H1's plan to the image states by which the nearest-looking names are found; called for
            `wrong_names` "near" alone.
    """
    names = [*guide.get("sub_categories", ()), *taxonomy]
    ordered = {name: taxonomy[name] for name in names if name in taxonomy}
    some, notes = items.some_sub_categories(table, most, seed=seed)
    h1, h1_notes = items.plan_h1(some, train_images=train_images, test_images=test_images, seed=seed)
    h2, h2_notes = items.plan_h2(ordered, table)
    looks = items.looks_of(h1, states(h1)) if wrong_names == "near" and len(h1) else None
    h3, h3_notes = items.plan_h3(some, num_images=num_images, num_folds=num_folds, seed=seed,
                                 wrong_names=wrong_names, taxonomy=ordered, looks=looks)
    planned, attribute_notes = attributes.plan_attributes(h1, guide, seed=seed)
    return Plans(h1, h2, h3, planned, [*notes, *h1_notes, *h2_notes, *h3_notes, *attribute_notes])


class Study:
    """All probes of the chosen models, each on the same items at every layer.

    Args:
        states: {model: `features.Probed.everything`}.

    Attributes:
        curves: rows of layers.csv; comparisons: tests at the summary's layer against the first model.
        items: {name: items at the summary's layer}, what the CSV files hold.
    """

    def __init__(self, models: Models, plans: Plans, states: Mapping[str, Mapping], *, seed: int) -> None:
        import pandas as pd

        self.models, self.plans, self.states, self.seed = models, plans, states, seed
        self.curves, self.comparisons = [], []
        self.items = {"attribute_items": pd.DataFrame()}
        self._shares = pd.DataFrame()

    @property
    def rows(self) -> list[dict]:
        """Rows of the summary, in the order in which the probes ran."""
        return layers.at_layer(self.curves, self.models.at)

    def table(self, metric: str, **where: Any):
        """Summary rows of one metric, averaged over super-categories, as a DataFrame."""
        return pick(self.rows, metric=metric, dataset="average", **where)

    def averages(self, *metrics: str):
        """Rows of layers.csv over all super-categories and sub-categories."""
        part = layers.layers_table(self.curves)
        part = part[(part["dataset"] == "average") & (part["categories"] == "all")]
        return part[part["metric"].isin(metrics)]

    def _every_layer(self, what: str, probe: Callable, depths: Optional[Sequence[int]] = None):
        return layers.probe_layers(self.states, what, depths or self.models.depths, probe)

    def _curve(self, found: Any, metric: str, **more: Any) -> None:
        self.curves += layers.curve(found, metric, self.models.at, seed=self.seed, **more)

    def _compare(self, found: Any, metric: str, variant: Optional[str] = None) -> None:
        self.comparisons += rows.compare_models(found, metric, reference=self.models.probed[0].model,
                                                seed=self.seed, variant=variant)

    def _here(self, found: Any):
        return found[found["layer"] == self.models.at]

    def _who(self, states: Any, **fit: Any):
        return items.probe_h1(self.plans.h1, states, seed=self.seed, **fit)

    def h1(self):
        """H1, sight: the sub-category from the image tokens; returns the comparisons."""
        import pandas as pd

        found = self._every_layer("images", self._who)
        self._curve(found, "h1_probe_accuracy", controls=items.CONTROLS)
        self.items["h1_items"] = self._here(found)
        self._compare(self.items["h1_items"], "h1_probe_accuracy")
        return pd.DataFrame(self.comparisons)

    def h1_by_adam(self, epochs: int):
        """H1 with the paper's classifier, at the summary's layer; the accuracies, none for 0 epochs."""
        import pandas as pd

        if not epochs:
            return pd.DataFrame()
        fit = partial(probes.adam_probe, epochs=epochs)
        found = self._every_layer("images", lambda x: self._who(x, fit=fit), [self.models.at])
        self._curve(found, "h1_probe_accuracy", variant="adam", controls=["adam_best_test"])
        self._compare(found, "h1_probe_accuracy", "adam")
        self.items["h1_adam_items"] = found
        shown = self.table("h1_probe_accuracy", categories="all")
        return shown[shown["variant"].isin(["adam", "adam_best_test"])]

    def h2(self, repeats: int):
        """H2, knowledge: names of one genus against others, and the control without the last word."""
        plans = {"names": self.plans.h2, "epithets": items.with_epithet(self.plans.h2)}
        parts = self._variants(
            "h2_genus_gap", "h2_items", {"names": None, "epithets": "epithet_only"}, "name",
            lambda what, x: items.probe_h2(plans[what], x, seed=self.seed, repeats=repeats))
        for variant, part in parts.items():
            self._compare(part, "h2_genus_gap", variant)
        self.h2_names = parts[None]
        return self.table("h2_genus_gap", categories="all").dropna(axis=1, how="all")

    def h3(self):
        """H3, deployment: right from wrong names, and the same without the image and over another image.

        With near wrong names, the rows of the two kinds of wrong name are added, from the same scores.
        """
        variants = {"questions": None, "text_only": "text_only", "swapped_image": "swapped_image"}
        asked = self.h3_asked = self._variants(
            "h3_auc", "h3_items", variants, "image",
            lambda what, x: items.probe_h3(self.plans.h3, x, seed=self.seed))[None]
        for kind in self.plans.h3["wrong_name"].unique():
            if kind != "any":
                self._curve(asked[asked["wrong_name"] == kind], "h3_auc", variant=f"wrong_name_{kind}")
        self._compare(asked, "h3_auc")
        return self.table("h3_auc", categories="all").dropna(axis=1, how="all")

    def _variants(self, metric: str, name: str, variants: Mapping, own: str, probe: Callable) -> dict:
        """{variant: items at the summary's layer}: the probe (None, called `own` in the table), controls."""
        import pandas as pd

        parts = {}
        for what, variant in variants.items():
            found = self._every_layer(what, partial(probe, what))
            self._curve(found, metric, variant=variant)
            parts[variant] = self._here(found).assign(variant=variant or own)
        self.items[name] = pd.concat(parts.values(), ignore_index=True)
        return parts

    def picture(self, layer: Optional[int] = None):
        """H3 as in Figure 3: two principal components of one super-category's questions, with the AUC."""
        import pandas as pd

        group, parts = self.pictured, []
        layer = self.models.at if layer is None else layer
        here = (self.plans.h3["super_category"] == group).to_numpy()
        for row in pick(layers.at_layer(self.curves, layer), metric="h3_auc", dataset=group, categories="all",
                        variant=None).itertuples() if group else ():
            parts.append(rows.principal_components(self.states[row.model]["questions"][layer][here],
                                                   self.plans.h3[here], row.model, row.value))
        return pd.concat(parts) if parts else pd.DataFrame()

    @property
    def pictured(self) -> Optional[str]:
        """The super-category that the image of H3 shows."""
        return min(self.plans.h3["super_category"], default=None)

    def picture_elsewhere(self):
        """(layer, image) at the layer that is best on what the image does not show; (None, empty) if none."""
        import pandas as pd

        layer = layers.layer_for_the_image(self.curves, self.models.probed[0].model, self.pictured)
        return (None, pd.DataFrame()) if layer is None else (layer, self.picture(layer))

    def control_by_layer(self) -> str:
        """In words: how far H3 over another image is from guessing, over all models and layers."""
        by_layer = self.averages("h3_auc")
        control = by_layer[by_layer["variant"] == "swapped_image"]
        control = control[control["low"] < control["high"]]  # layer 0 is 0.5 for certain
        if not len(control):
            return "H3 has no control here."
        away = control[(control["low"] > 0.5) | (control["high"] < 0.5)]
        low, high = control["value"].min(), control["value"].max()
        return (f"H3 over another image lies from {low:.2f} to {high:.2f}; {len(away)} of {len(control)} "
                "intervals leave out 0.5 (models and layers share the questions, so their errors go together)")

    def attributes(self):
        """Averages of the attributes at both places, and of the sub-category at the last prompt token."""
        import pandas as pd

        metrics, plan = attributes.METRICS, self.plans.attributes
        if len(plan):
            found = pd.concat([self._every_layer(place, lambda x: attributes.probe_attributes(
                plan, x, seed=self.seed)).assign(place=place) for place in metrics], ignore_index=True)
            self._shares, self.items["attribute_items"] = attributes.image_shares(found), found
            for place, metric in metrics.items():
                part = self._shares[self._shares["place"] == place]
                self._curve(part, metric, controls=attributes.CONTROLS)
        self._named = self._every_layer("prompts", self._who)
        self._curve(self._named, "name_prompt_accuracy", controls=items.CONTROLS)
        return self.averages(*metrics.values(), "name_prompt_accuracy")

    def attribute_tables(self):
        """(attributes.csv, {place: its rows}, the summary's layer in percent); empty without a guide."""
        found = self.items["attribute_items"]
        if not len(found):
            return found, {}, found
        table = attributes.attribute_table(found, seed=self.seed)
        held = table[(table["layer"] == self.models.at) & table["variant"].isna()].pivot_table(
            index=["super_category", "attribute", "held_out"], columns=["place", "model"], values="value",
            sort=False)
        places = {place: table[table["place"] == place] for place in attributes.METRICS}
        return table, places, (100 * held).round().astype(int)

    def changes(self):
        """changes.csv: every measure of reading and use, for every pair."""
        measured = {"h1_probe_accuracy": self.items["h1_items"], "h3_auc": self.h3_asked,
                    "name_prompt_accuracy": self._here(self._named)}
        if len(self._shares):
            here = self._here(self._shares)
            measured |= {metric: here[here["place"] == place] for place, metric in attributes.METRICS.items()}
        return changes(measured, self.models.pairs, seed=self.seed)

    def attribute_changes(self):
        """(attribute_differences.csv, its clear rows, a line per pair); empty without a guide."""
        found = self.items["attribute_items"]
        if not len(found):
            return found, found, ""
        found = self.items["attribute_items"] = self._here(found)
        table = attributes.attribute_differences(found, self.models.pairs, seed=self.seed)
        lines = [f"{first} minus {second}: changed are {attribute_findings(table, first, second)}"
                 for first, second in self.models.pairs]
        return table, table[table["reading"] != "cannot tell"], "\n".join(lines)

    def in_words(self, changed: Any, attribute_changed: Any) -> dict[str, str]:
        """What the closing table of the notebook reports: a sentence per hypothesis and control."""
        h1 = self.items["h1_items"]
        full = len(h1) > 0 and h1.groupby("model")["correct"].mean().min() > 0.98
        last, before = [(self.models.probed[0].model, "nothing"), *self.models.pairs][-1]
        single = (attribute_findings(attribute_changed, last, before) if len(attribute_changed)
                  else "none was probed")
        found = {metric: rows.findings(self.rows, self.comparisons, metric)
                 for metric in ("h1_probe_accuracy", "h2_genus_gap", "h3_auc")}
        verdicts = {f"{metric}_verdict": rows.verdict(self.comparisons, metric) for metric in found}
        return {**found, **verdicts, "pair": f"{last} minus {before}",
                "ceiling": "The probe is at its ceiling, so better sight could not be shown." if full else "",
                "epithets": rows.findings(self.rows, self.comparisons, "h2_genus_gap", "epithet_only"),
                "changes": findings(changed, last, before), "attributes": single}

    def tables(self) -> dict[str, Any]:
        """The CSV files of the probes by name; of the attributes' items the columns that identify them."""
        import pandas as pd

        kept = [name for name in ("model", "place", "image_id", "attribute", "value", "unit", "correct",
                                  "shuffled_labels") if name in self.items["attribute_items"]]
        return {**self.items, "attribute_items": self.items["attribute_items"][kept],
                "layers": layers.layers_table(self.curves), "comparisons": pd.DataFrame(self.comparisons)}


def saved(stage: Any, name: str, draw: Callable, data: Any, *arguments: Any, **options: Any):
    """Draw a table and keep figure and table in the stage's folder; None, and nothing kept, for no rows."""
    if not len(data):
        return None
    figure = draw(data, *arguments, **options)
    stage.figure(figure, name, data)
    return figure
