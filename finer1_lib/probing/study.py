"""The choices of notebook 05: checkpoints, layers and items, every probe on them, guards for empty data.

    models = choose_models(...)                       who is probed, what is compared, at which layers
    plans = make_plans(...)                           what is probed, and a note for everything left out
    study = Study(models, plans, states, seed=0)
    study.h1(); study.h2(20); study.h3()              the paper's three hypotheses (Section 5.4)
    study.rows, study.comparisons, study.items        what they gave, at the layer of the summary

Every layer chooses its own regularisation (a strength from another layer would bend the curve), and only the
layer that the parameters name is tested: the best of many was chosen for being the best.
"""

from functools import partial
from itertools import product
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from finer1_lib.core.errors import UserError
from finer1_lib.core.faces import Later
from finer1_lib.core.statistics import has_interval
from finer1_lib.evaluation.entries import (
    Entry, all_entries, check_rows, find_entry, labels_of, start_of, weights_at, with_more)
from finer1_lib.evaluation.scores.scoring import pick, reading
from finer1_lib.models.checkpoint_files import read_config
from finer1_lib.probing import attributes, items, probes, rows
from finer1_lib.probing.swaps import check_wrong_names

pd = Later("pandas")
MEASURES = {  # metric: what its probe measures ("reading" or "use"), its label in tables and figures
    "h1_probe_accuracy": ("reading", "sub-category, image tokens (H1)"),
    "attribute_image_accuracy": ("reading", "attributes, image tokens"),
    "attribute_prompt_accuracy": ("reading", "attributes, last prompt token"),
    "name_prompt_accuracy": ("use", "sub-category, last prompt token"),
    "h3_auc": ("use", "right from wrong name (H3)"),
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


def layer_count(checkpoint: str) -> int:
    """Number of layers of a checkpoint, from its configuration: its blocks, and the embeddings."""
    return read_config(checkpoint).get_text_config().num_hidden_layers + 1


def check_same_layers(counts: Mapping[str, int]) -> int:
    """The number of layers of all checkpoints, {model: of `layer_count`}; UserError for unequal ones."""
    first, *others = counts.items()
    for model, count in others:
        if count != first[1]:
            raise UserError(f"{model} has {count} layers and {first[0]} {first[1]}: probe models of one size "
                            "in a run; fix more_models or probed_models")
    return first[1]


def chosen_layers(layers: Sequence[int], layer: int, count: int) -> tuple[int, list[int]]:
    """The layer to report and the layers to probe ([] for all), of so many; negative ones count from the end.

    Raises: UserError: a layer that the model does not have.
    """
    for number in [layer, *layers]:
        if not -count <= number < count:
            raise UserError(f"layer {number} does not exist: the model has 0 (the embeddings) to {count - 1} "
                            f"or, from the end, -1 to {-count}; fix layer or layers")
    at = layer % count
    return at, sorted({number % count for number in layers} | {at}) if layers else list(range(count))


class Models(NamedTuple):
    """Who is probed, `pairs` (first, second) to compare, layers `depths`, the summary's layer `at`."""

    labels: Mapping[str, str]
    probed: list[Entry]
    pairs: list[tuple[str, str]]
    at: int
    depths: list[int]


def choose_models(trained: Sequence[Mapping], more: Sequence[Any], models: Sequence[str], base: str, *,
                  wanted_layers: Sequence[int], layer: int, wrong_names: str = "any") -> Models:
    """Check names and layers before any work; `trained` are the rows of 03's models.json.

    Raises: UserError: an unknown or repeated model, a layer that does not exist, models of two sizes.
    """
    check_wrong_names(wrong_names)
    known = all_entries(trained)
    entries = with_more(known, more)
    probed = entries_to_probe(entries, [*models, *(entry.model for entry in entries[len(known):])])
    check_rows(probed, base)
    count = check_same_layers({e.model: layer_count(weights_at(e, base)[0]) for e in probed})
    at, depths = chosen_layers(wanted_layers, layer, count)
    return Models(labels_of(entries), probed, pairs_to_compare(probed), at, depths)


class Plans(NamedTuple):
    """What is probed: images, names, questions, attributes; and notes on what is left out."""

    h1: Any
    h2: Any
    h3: Any
    attributes: Any
    notes: list[str]


def make_plans(table: Any, guide: Mapping, taxonomy: Mapping, *, most: int, train_images: int,
               test_images: int, num_images: int, num_folds: int, wrong_names: str, seed: int,
               states: Callable[[Any], Any]) -> Plans:
    """The items of all probes, the same for every checkpoint and layer.

    From images.parquet, guide.json (or {}) and taxonomy.json; `most` sub-categories of each super-category, 0
    for all. For `wrong_names` "near", `states` gives the image states of H1's plan, by which names look near.
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


def probe_layers(states: Mapping[str, Mapping[str, Any]], what: str, depths: Sequence[int],
                 probe: Callable[[Any], Any]) -> Any:
    """The items of one probe, from states [N, D] to a DataFrame, with the columns model and layer.

    `states` are {model: of `Probed.everything`, or arrays [layers, items, hidden]}; `what` names those that
    are read, and a model without them is left out.
    """
    parts = [probe(np.asarray(found[what][depth])).assign(model=model, layer=depth)
             for model, found in states.items() if what in found for depth in depths]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["model", "layer"])


class Study:
    """All probes of the chosen models, each on the same items at every layer.

    `states` are {model: `features.Probed.everything`}. `curves` are the rows of layers.csv, `comparisons` the
    tests at the summary's layer, `items` what the CSV files hold at that layer.
    """

    def __init__(self, models: Models, plans: Plans, states: Mapping[str, Mapping], *, seed: int) -> None:
        self.models, self.plans, self.states, self.seed = models, plans, states, seed
        self.curves, self.comparisons = [], []
        self.items = {"attribute_items": pd.DataFrame()}
        self._measured: dict[str, Any] = {}  # metric of `MEASURES`: its items at the summary's layer

    @property
    def rows(self) -> list[dict]:
        """Rows of the summary, in the order in which the probes ran."""
        return rows.at_layer(self.curves, self.models.at)

    def table(self, metric: str, **where: Any) -> Any:
        """Summary rows of one metric, averaged over super-categories, as a DataFrame."""
        return pick(self.rows, metric=metric, dataset="average", **where)

    def averages(self, *metrics: str) -> Any:
        """Rows of layers.csv over all super-categories and sub-categories."""
        part = rows.layers_table(self.curves)
        return part[(part["dataset"] == "average") & (part["categories"] == "all")
                    & part["metric"].isin(metrics)]

    def _curve(self, found: Any, metric: str, **more: Any) -> Any:
        """Keep the curves of one probe's items; those at the summary's layer."""
        self.curves += rows.curve(found, metric, self.models.at, seed=self.seed, **more)
        return found[found["layer"] == self.models.at]

    def _compare(self, found: Any, metric: str, variant: Optional[str] = None) -> None:
        self.comparisons += rows.compare_models(found, metric, reference=self.models.probed[0].model,
                                                seed=self.seed, variant=variant)

    def _who(self, what: str, depths: Optional[Sequence[int]] = None, **fit: Any) -> Any:
        """The sub-category, read from one kind of states."""
        return probe_layers(self.states, what, depths or self.models.depths,
                            lambda x: items.probe_h1(self.plans.h1, x, seed=self.seed, **fit))

    def _variants(self, metric: str, own: str, probe: Callable, plans: Mapping[tuple, Any]) -> dict:
        """{variant: items at the summary's layer} of {(states, variant): plan}; the probe is None, `own`."""
        parts = {}
        for (what, variant), plan in plans.items():
            found = probe_layers(self.states, what, self.models.depths, partial(probe, plan, seed=self.seed))
            parts[variant] = self._curve(found, metric, variant=variant).assign(variant=variant or own)
        self.items[f"{metric[:2]}_items"] = pd.concat(parts.values(), ignore_index=True)
        return parts

    def h1(self) -> Any:
        """H1, sight: the sub-category from the image tokens; returns the comparisons."""
        found = self._curve(self._who("images"), "h1_probe_accuracy", controls=items.CONTROLS)
        self.items["h1_items"] = self._measured["h1_probe_accuracy"] = found
        self._compare(found, "h1_probe_accuracy")
        return pd.DataFrame(self.comparisons)

    def h1_by_adam(self, epochs: int) -> Any:
        """H1 with the paper's classifier, at the summary's layer; the accuracies, none for 0 epochs."""
        if not epochs:
            return pd.DataFrame()
        found = self._who("images", [self.models.at], fit=partial(probes.adam_probe, epochs=epochs))
        self._curve(found, "h1_probe_accuracy", variant="adam", controls=["adam_best_test"])
        self._compare(found, "h1_probe_accuracy", "adam")
        self.items["h1_adam_items"] = found
        shown = self.table("h1_probe_accuracy", categories="all")
        return shown[shown["variant"].isin(["adam", "adam_best_test"])]

    def h2(self, repeats: int) -> Any:
        """H2, knowledge: names of one genus against others, and the control without the last word."""
        parts = self._variants("h2_genus_gap", "name", partial(items.probe_h2, repeats=repeats), {
            ("names", None): self.plans.h2, ("epithets", "epithet_only"): items.with_epithet(self.plans.h2)})
        for variant, part in parts.items():
            self._compare(part, "h2_genus_gap", variant)
        self.h2_names = parts[None]
        return self.table("h2_genus_gap", categories="all").dropna(axis=1, how="all")

    def h3(self) -> Any:
        """H3, deployment: right from wrong names, and the same without the image and over another image.

        With near wrong names, the rows of the two kinds of wrong name are added, from the same scores.
        """
        plan = self.plans.h3
        asked = self._measured["h3_auc"] = self._variants("h3_auc", "image", items.probe_h3, {
            ("questions", None): plan, ("text_only", "text_only"): plan,
            ("swapped_image", "swapped_image"): plan})[None]
        for kind in plan["wrong_name"].unique():
            if kind != "any":
                self._curve(asked[asked["wrong_name"] == kind], "h3_auc", variant=f"wrong_name_{kind}")
        self._compare(asked, "h3_auc")
        return self.table("h3_auc", categories="all").dropna(axis=1, how="all")

    @property
    def pictured(self) -> Optional[str]:
        """The super-category that the image of H3 shows."""
        return min(self.plans.h3["super_category"], default=None)

    def picture(self, layer: Optional[int] = None) -> Any:
        """H3 as in Figure 3: two principal components of one super-category's questions, with the AUC."""
        layer = self.models.at if layer is None else layer
        here = (self.plans.h3["super_category"] == self.pictured).to_numpy()
        shown = pick(rows.at_layer(self.curves, layer), metric="h3_auc", dataset=self.pictured,
                     categories="all", variant=None)
        parts = [rows.principal_components(self.states[row.model]["questions"][layer][here],
                                           self.plans.h3[here], row.model, row.value)
                 for row in shown.itertuples()]
        return pd.concat(parts) if parts else pd.DataFrame()

    def picture_elsewhere(self) -> tuple[Optional[int], Any]:
        """(layer, image) at the layer that is best on what the image does not show; (None, empty) if none."""
        layer = rows.layer_for_the_image(self.curves, self.models.probed[0].model, self.pictured)
        return (None, pd.DataFrame()) if layer is None else (layer, self.picture(layer))

    def control_by_layer(self) -> str:
        """In words: how far H3 over another image is from guessing, over all models and layers."""
        control = self.averages("h3_auc")
        control = control[(control["variant"] == "swapped_image") & (control["low"] < control["high"])]
        if not len(control):
            return "H3 has no control here."  # layer 0 alone is 0.5 for certain
        away = control[(control["low"] > 0.5) | (control["high"] < 0.5)]
        low, high = control["value"].min(), control["value"].max()
        return (f"H3 over another image lies from {low:.2f} to {high:.2f}; {len(away)} of {len(control)} "
                "intervals leave out 0.5 (models and layers share the questions, so their errors go together)")

    def attributes(self) -> Any:
        """Averages of the attributes at both places, and of the sub-category at the last prompt token."""
        metrics, plan, depths = attributes.METRICS, self.plans.attributes, self.models.depths
        if len(plan):
            probe = partial(attributes.probe_attributes, plan, seed=self.seed)
            found = pd.concat([probe_layers(self.states, place, depths, probe).assign(place=place)
                               for place in metrics], ignore_index=True)
            self.items["attribute_items"], shares = found, attributes.image_shares(found)
            for place, metric in metrics.items():
                self._measured[metric] = self._curve(shares[shares["place"] == place], metric,
                                                     controls=items.CONTROLS)
        self._measured["name_prompt_accuracy"] = self._curve(
            self._who("prompts"), "name_prompt_accuracy", controls=items.CONTROLS)
        return self.averages(*metrics.values(), "name_prompt_accuracy")

    def attribute_tables(self) -> tuple[Any, dict[str, Any], Any]:
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

    def changes(self) -> Any:
        """changes.csv: every measure of reading and use, for every pair."""
        return changes(self._measured, self.models.pairs, seed=self.seed)

    def attribute_changes(self) -> tuple[Any, Any, str]:
        """(attribute_differences.csv, its clear rows, a line per pair); empty without a guide."""
        found = self.items["attribute_items"]
        if not len(found):
            return found, found, ""
        found = self.items["attribute_items"] = found[found["layer"] == self.models.at]
        table = attributes.attribute_differences(found, self.models.pairs, seed=self.seed)
        lines = [f"{first} minus {second}: changed are {attribute_findings(table, first, second)}"
                 for first, second in self.models.pairs]
        return table, table[table["reading"] != "cannot tell"], "\n".join(lines)

    def in_words(self, changed: Any, attribute_changed: Any) -> dict[str, str]:
        """What the closing table of the notebook reports: a sentence per hypothesis and control."""
        h1 = self.items["h1_items"]
        full = len(h1) > 0 and h1.groupby("model")["correct"].mean().min() > 0.98
        last, before = [(self.models.probed[0].model, "nothing"), *self.models.pairs][-1]
        metrics, tell = ("h1_probe_accuracy", "h2_genus_gap", "h3_auc"), partial(
            rows.findings, self.rows, self.comparisons)
        return {**{metric: tell(metric) for metric in metrics},
                **{f"{metric}_verdict": rows.verdict(self.comparisons, metric) for metric in metrics},
                "pair": f"{last} minus {before}",
                "ceiling": "The probe is at its ceiling, so better sight could not be shown." if full else "",
                "epithets": tell("h2_genus_gap", "epithet_only"),
                "changes": findings(changed, last, before),
                "attributes": attribute_findings(attribute_changed, last, before)
                if len(attribute_changed) else "none was probed"}

    def tables(self) -> dict[str, Any]:
        """The CSV files of the probes by name; of the attributes' items the columns that identify them."""
        kept = [name for name in ("model", "place", "image_id", "attribute", "value", "unit", "correct",
                                  "shuffled_labels") if name in self.items["attribute_items"]]
        return {**self.items, "attribute_items": self.items["attribute_items"][kept],
                "layers": rows.layers_table(self.curves), "comparisons": pd.DataFrame(self.comparisons)}


def changes(measured: Mapping[str, Any], pairs: Sequence[tuple[str, str]], *, seed: int) -> Any:
    """Every measure of every pair, first minus second, from {metric of `MEASURES`: items of all models}.

    An AUC has no p: its reading is by interval alone. There is no correction for their number: of twenty
    intervals at 95 % one leaves zero out by luck.
    """
    found = []
    for (first, second), (metric, (kind, label)) in product(pairs, MEASURES.items()):
        if len(measured.get(metric, ())):
            e = rows.difference(measured[metric], metric, first, second, seed=seed)
            found.append({"first": first, "second": second, "kind": kind, "metric": metric, "label": label,
                          "difference": e.value, "p": e.p, **e.as_row(), "reading": reading(e)})
    return pd.DataFrame(found, columns=["first", "second", "kind", "metric", "label", "difference", "low",
                                        "high", "p", "n", "reading"])


def findings(table: Any, first: str, second: str) -> str:
    """One pair in words, in points: "attributes, image tokens -2.0 [-4.1, +0.1]: cannot tell; ..."."""
    words = []
    for row in table[(table["first"] == first) & (table["second"] == second)].itertuples():
        span = f"[{100 * row.low:+.1f}, {100 * row.high:+.1f}]" if has_interval(row.low) else "no interval"
        words.append(f"{row.label} {100 * row.difference:+.1f} {span}: **{row.reading}**")
    return "; ".join(words) or "was left out (see the notes above)"


def attribute_findings(table: Any, first: str, second: str) -> str:
    """How many attributes of one pair a test finds changed (of `attribute_differences`), and which."""
    here = table[(table["first"] == first) & (table["second"] == second)]
    clear = [f"{row.super_category}, {row.attribute}, {PLACE_LABELS[row.place]} {100 * row.difference:+.0f}"
             for row in here[here["reading"] != "cannot tell"].itertuples()]
    return f"{len(clear)} of {len(here)}" + (f" ({'; '.join(clear)} points)" if clear else "")


def saved(stage: Any, name: str, draw: Callable, data: Any, *arguments: Any, **options: Any) -> Any:
    """Draw a table and keep figure and table in the stage's folder; None, and nothing kept, for no rows."""
    if not len(data):
        return None
    figure = draw(data, *arguments, **options)
    stage.figure(figure, name, data)
    return figure
