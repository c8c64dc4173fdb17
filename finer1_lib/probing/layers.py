"""Probes at every layer: the same recipe at each, curves of what can be read where.

    at, depths = chosen_layers([], -1, layer_count(base))         the layer to report, the layers to probe
    items = probe_layers(states, "images", depths, probe)         one row per item, model and layer
    curves = curve(items, "h1_probe_accuracy", at, seed=0)        rows of layers.csv
    rows = at_layer(curves, at)                                   rows of the summary

Every layer chooses its own regularisation, as the last one does: probes are cheap beside the states (a fifth
of a second for 400 images of 192 numbers), and a strength borrowed from another layer would bend the curve.
There is no test a layer: differences are tested at the one layer that the parameters name, and a layer that
stands out among many was picked by its height.

Source: METHOD 5 (H3 as AUC per layer), audit F2 (over layers, not only a picture); the rest is our choice.
"""

from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from finer1_lib.core.errors import UserError
from finer1_lib.probing.rows import CATEGORIES, rows_of

COLUMNS = ("metric", "model", "layer", "dataset", "categories", "variant", "value", "low", "high", "n")


def layer_count(checkpoint: str) -> int:
    """Numbers of layers that `hidden_states` knows of a checkpoint: its blocks, and the embeddings.

    Only its configuration is read, no weights.

    Raises:
        UserError: there is none.
    """
    from finer1_lib.models.checkpoint_files import read_config

    return read_config(checkpoint).get_text_config().num_hidden_layers + 1


def chosen_layers(layers: Sequence[int], layer: int, count: int) -> tuple[int, list[int]]:
    """The layer to report and the layers to probe, counted from 0.

    Args:
        layers: layers to probe, negative ones from the end; [] for all. `layer` is always among them.
        layer: the layer whose numbers go to the summary.
        count: of `layer_count`.

    Raises:
        UserError: a layer that the model does not have.
    """
    for number in [layer, *layers]:
        if not -count <= number < count:
            raise UserError(f"layer {number} does not exist: the model has 0 (the embeddings) to {count - 1} "
                            f"or, from the end, -1 to {-count}; mend layer or layers")
    at = layer % count
    return at, sorted({number % count for number in layers} | {at}) if layers else list(range(count))


def check_same_layers(counts: Mapping[str, int]) -> int:
    """The number of layers of all checkpoints, {model: of `layer_count`}; refuse (UserError) unequal ones."""
    first, *others = counts.items()
    for model, count in others:
        if count != first[1]:
            raise UserError(f"{model} has {count} layers and {first[0]} {first[1]}: probe models of one size "
                            "in a run; mend more_models or probed_models")
    return first[1]


def probe_layers(
    states: Mapping[str, Mapping[str, np.ndarray]], what: str, depths: Sequence[int],
    probe: Callable[[np.ndarray], Any],
):
    """One probe on every model and layer.

    Args:
        states: {model: states of `Probed.everything`, or arrays [layers, items, hidden]}.
        what: which of the states; a model that lacks them is left out.
        depths: layers, counted from 0.
        probe: from [N, D] states to items, a DataFrame, e.g. `lambda x: probe_h1(plan, x, seed=seed)`.

    Returns:
        The items of all with the columns model and layer; no rows, and these two columns, where no model has
        such states.
    """
    import pandas as pd

    parts = [probe(np.asarray(found[what][depth])).assign(model=model, layer=depth)
             for model, found in states.items() if what in found for depth in depths]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["model", "layer"])


def curve(
    items, metric: str, at: int, *, seed: int, controls: Sequence[str] = (), variant: Optional[str] = None
) -> list[dict[str, Any]]:
    """Summary rows (`probing.rows.rows_of`) of every model and layer, with the key layer.

    Args:
        items: of `probe_layers`.
        metric: a key of `probing.rows.COLUMNS`.
        at: the layer whose rows go to the summary: seen and unseen stand apart there; elsewhere all together.
        controls: columns of items that hold controls, and their names as variants.
        variant: name of the control that all items are of, None for the probe itself.
        seed: of the intervals.
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
    """The layer where the reference's AUC is best on the super-categories that the picture does NOT show.

    Chosen on the pictured questions, the best of many layers would look better than it is; chosen on others,
    it is a layer like any other as far as the picture knows.

    Args:
        curves: rows with the metric h3_auc.
        reference: the model it is chosen by, "base".
        shown: the super-category of the picture.

    Returns:
        The layer (the earliest of equals); None where no other super-category was asked about.
    """
    means: dict[int, list[float]] = {}
    wanted = {"metric": "h3_auc", "model": reference, "categories": "all", "variant": None}
    for row in curves:
        if all(row[key] == value for key, value in wanted.items()):
            if row["dataset"] not in (shown, "average"):
                means.setdefault(row["layer"], []).append(row["value"])
    return max(sorted(means), key=lambda depth: float(np.mean(means[depth]))) if means else None
