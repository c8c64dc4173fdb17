"""Probes at every layer: the same recipe at each, curves of what can be read where.

    at, depths = chosen_layers([], -1, layer_count(base))         the layer to report, the layers to probe
    items = probe_layers(states, "images", depths, probe)         one row per item, model and layer
    curves = curve(items, "h1_probe_accuracy", at, seed=0)        rows of layers.csv
    rows = at_layer(curves, at)                                   rows of the summary

Every layer chooses its own regularisation: a strength taken from another layer would bend the curve. No layer
but the one that the parameters name is tested: the best of many layers was chosen for being the best. (The
paper reads the last layer alone.)
"""

from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from finer1_lib.core.errors import UserError
from finer1_lib.models.checkpoint_files import read_config
from finer1_lib.probing.rows import CATEGORIES, rows_of

COLUMNS = ("metric", "model", "layer", "dataset", "categories", "variant", "value", "low", "high", "n")


def layer_count(checkpoint: str) -> int:
    """Number of layers of a checkpoint, from its configuration: its blocks, and the embeddings."""
    return read_config(checkpoint).get_text_config().num_hidden_layers + 1


def chosen_layers(layers: Sequence[int], layer: int, count: int) -> tuple[int, list[int]]:
    """The layer to report and the layers to probe, counted from 0.

    Args:
        layers: negative ones count from the end; [] for all. `layer`, the summary's, is always among them.
        count: of `layer_count`.

    Raises: UserError: a layer that the model does not have.
    """
    for number in [layer, *layers]:
        if not -count <= number < count:
            raise UserError(f"layer {number} does not exist: the model has 0 (the embeddings) to {count - 1} "
                            f"or, from the end, -1 to {-count}; fix layer or layers")
    at = layer % count
    return at, sorted({number % count for number in layers} | {at}) if layers else list(range(count))


def check_same_layers(counts: Mapping[str, int]) -> int:
    """The number of layers of all checkpoints, {model: of `layer_count`}; refuse (UserError) unequal ones."""
    first, *others = counts.items()
    for model, count in others:
        if count != first[1]:
            raise UserError(f"{model} has {count} layers and {first[0]} {first[1]}: probe models of one size "
                            "in a run; fix more_models or probed_models")
    return first[1]


def probe_layers(
    states: Mapping[str, Mapping[str, np.ndarray]], what: str, depths: Sequence[int],
    probe: Callable[[np.ndarray], Any],
):
    """The items of one probe on every model and layer, with the columns model and layer.

    Args:
        states: {model: states of `Probed.everything`, or arrays [layers, items, hidden]}.
        what: which of the states; a model without them is left out.
        probe: from states [N, D] to items, a DataFrame.
    """
    import pandas as pd

    parts = [probe(np.asarray(found[what][depth])).assign(model=model, layer=depth)
             for model, found in states.items() if what in found for depth in depths]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["model", "layer"])


def curve(
    items, metric: str, at: int, *, seed: int, controls: Sequence[str] = (), variant: Optional[str] = None
) -> list[dict[str, Any]]:
    """Summary rows (`rows.rows_of`) of every model and layer, with the key layer.

    Args:
        at: the summary's layer: seen, unseen and all there; elsewhere all together.
        controls: columns of items that hold controls, and their names as variants.
        variant: name of the control that all items are of, None for the probe itself.
    """
    rows = []
    for (model, depth), part in items.groupby(["model", "layer"], sort=False):
        kinds = CATEGORIES if depth == at else ("all",)
        for column, name in ((None, variant), *((control, control) for control in controls)):
            found = rows_of(part, model=model, metric=metric, column=column, variant=name, seed=seed,
                            kinds=kinds)
            rows += [{**row, "layer": int(depth)} for row in found]
    return rows


def at_layer(curves: Sequence[Mapping[str, Any]], at: int) -> list[dict[str, Any]]:
    """The rows of one layer, without its number: rows of the summary."""
    return [{key: value for key, value in row.items() if key != "layer"}
            for row in curves if row["layer"] == at]


def layers_table(curves: Sequence[Mapping[str, Any]]):
    """layers.csv as a DataFrame."""
    import pandas as pd

    return pd.DataFrame(list(curves), columns=list(COLUMNS))


def layer_for_the_image(curves: Sequence[Mapping[str, Any]], reference: str, shown: str) -> Optional[int]:
    """The layer where the reference's AUC is best on the super-categories that the image does NOT show.

    Chosen on the questions that are shown, the best of many layers would look better than it is. The earliest
    of equals; None where there is no other super-category.
    """
    means: dict[int, list[float]] = {}
    wanted = {"metric": "h3_auc", "model": reference, "categories": "all", "variant": None}
    for row in curves:
        if all(row[key] == value for key, value in wanted.items()):
            if row["dataset"] not in (shown, "average"):
                means.setdefault(row["layer"], []).append(row["value"])
    return max(sorted(means), key=lambda depth: float(np.mean(means[depth]))) if means else None
