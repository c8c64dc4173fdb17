"""Three probes that ask why training helped: better sight (H1), more knowledge (H2), better deployment (H3)?

Everything here takes arrays and gives arrays, so that planted data can test it; `probing.features` fetches
the states of a checkpoint, `probing.statistics` puts intervals and equivalence tests on what comes out.

Where we depart from the paper and why:
* H1 picks its regularisation on a validation split; the paper reports the best TEST accuracy over epochs.
* H3 is a number (AUC of a cross-validated separator) beside the PCA picture, and its questions are asked in
  swaps (`probing.swaps`), so that neither the image nor the name alone tells right from wrong. A swap lies
  wholly in one fold. Were only the image's side kept together, a name would be mostly right in
  the training folds and mostly wrong in the test fold, and a separator that reads names would miss 0.5.

Source: paper section 5.4 and Table 4; METHOD 5; the lineage of H1 and H2 is in the audit, 1.F.

H1 in the paper's own way: a linear layer by 500 epochs of Adam, and what choosing the epoch is worth.

    one fit on a part of the training images       the epoch that is best on the other part
    one fit on all of them                         read at that epoch: `correct`
                                                   and at the epoch best on the TEST images: `adam_best_test`

The paper reports the second reading, which is the best of 500 looks at the test images. Both are of the same
weights' course, so their difference is what that choice is worth.

Source: paper 5.4 (H1: Adam, learning rate 1e-4, batch 512, 500 epochs, best test accuracy); METHOD 5 (a
validation split instead). States are taken as they are, since no scaling is told of.
"""

from typing import Any, Optional, Sequence

import numpy as np

from finer1_lib.core.errors import UserError

RATE, BATCH, EPOCHS = 1e-4, 512, 500


def adam_probe(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *, seed: int,
    epochs: int = EPOCHS, share: float = 0.25, rate: float = RATE, batch: int = BATCH, device: str = "auto",
) -> dict[str, Any]:
    """Fit the paper's classifier and read it at two epochs.

    Args:
        train_x, test_x: [N, D] and [M, D] mean-pooled image-token states.
        train_y, test_y: [N] and [M] sub-categories; at least two images of each in train.
        seed: of the validation split, the first weights and the order of the images.
        epochs: passes over the training images.
        share: of the training images for validation.
        rate, batch: of Adam.
        device: "auto" is the GPU where there is one.

    Returns:
        `correct`, `adam_best_test`: [M] bool per test image; `epoch`, `best_epoch`: where they were read (from
        1; of equals the first); `validation_accuracy` at `epoch`.

    Raises:
        UserError: no epochs.
    """
    if epochs < 1:
        raise UserError(f"h1_adam_epochs is {epochs}: give 0 to leave the paper's classifier out, or more")
    held_out = validation_mask(np.asarray(train_y), share, seed)
    names = np.unique(np.concatenate([train_y, test_y]))
    train_codes, test_codes = (np.searchsorted(names, np.asarray(y)) for y in (train_y, test_y))
    fit = dict(classes=len(names), seed=seed, epochs=epochs, rate=rate, batch=batch, device=device)
    part, rest = ((train_x[here], train_codes[here]) for here in (~held_out, held_out))
    trial = _course(*part, *rest, **fit)
    whole = _course(train_x, train_codes, test_x, test_codes, **fit)
    epoch, best = (int(course.mean(axis=1).argmax()) for course in (trial, whole))
    return {"correct": whole[epoch], "adam_best_test": whole[best], "epoch": epoch + 1,
            "best_epoch": best + 1, "validation_accuracy": float(trial[epoch].mean())}


def _course(x, y, other_x, other_y, *, classes, seed, epochs, rate, batch, device) -> np.ndarray:
    """[epochs, M] bool: which of the other items are classified right after each epoch."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    x, other_x = (torch.as_tensor(np.ascontiguousarray(part), dtype=torch.float32, device=device)
                  for part in (x, other_x))
    y, other_y = (torch.as_tensor(part, device=device) for part in (y, other_y))
    draw = torch.Generator().manual_seed(seed)
    bound = x.shape[1] ** -0.5  # torch's own start of a linear layer, without its global generator
    weight, bias = ((2 * bound * torch.rand(shape, generator=draw) - bound).to(device).requires_grad_()
                    for shape in ((classes, x.shape[1]), (classes,)))
    steps, right = torch.optim.Adam([weight, bias], lr=rate), []
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=draw).to(device)
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            steps.zero_grad()
            torch.nn.functional.cross_entropy(x[rows] @ weight.T + bias, y[rows]).backward()
            steps.step()
        with torch.no_grad():
            right.append(((other_x @ weight.T + bias).argmax(1) == other_y).cpu())
    return torch.stack(right).numpy()


STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse regularisation strengths a validation split chooses from
NUM_OTHERS = 4                       # names of other genera per name in H2 (METHOD 5)
MIN_SUB_CATEGORIES = 2               # fewer classes are no classification (H1)
MIN_SWAPS = 3                        # fewer leave no fold to train, to validate and to test on (H3)


def validation_mask(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Mark a share of every class (at least one item, never all of them) for validation.

    Args:
        labels: [N] class of every item; every class needs two items.
        share: wanted share of each class.

    Returns:
        [N] bool, True for validation.

    Raises:
        ValueError: if a class has a single item.
    """
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        if len(where) < 2:
            raise ValueError(f"class {label!r} has one item: none is left to train on beside validation")
        mask[rng.permutation(where)[: min(len(where) - 1, max(1, round(share * len(where))))]] = True
    return mask


def separator(strength: float):
    """Standardised features into multinomial logistic regression: the linear probe of H1 and H3."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300, tol=1e-3))


def choose_strength(
    x: np.ndarray, y: np.ndarray, held_out: np.ndarray, strengths: Sequence[float] = STRENGTHS
) -> tuple[float, float]:
    """The regularisation that does best on a validation part.

    Args:
        x: [N, D] features; y: [N] labels; held_out: [N] bool, the validation part.

    Returns:
        (strength, its validation accuracy); of equals the smallest strength, the most regularised.
    """
    best = (strengths[0], -1.0)
    for strength in sorted(strengths):
        accuracy = float(separator(strength).fit(x[~held_out], y[~held_out]).score(x[held_out], y[held_out]))
        if accuracy > best[1]:
            best = (strength, accuracy)
    return best


def linear_probe(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *,
    seed: int, share: float = 0.25, strengths: Sequence[float] = STRENGTHS,
) -> dict:
    """H1: can a linear classifier read the sub-category off the image-token states?

    Args:
        train_x, test_x: [N, D] and [M, D] mean-pooled image-token states.
        train_y, test_y: [N] and [M] sub-categories; at least two images of each in train.
        seed: of the validation split and of the shuffled labels.

    Returns:
        `correct`, `majority`, `shuffled_labels`: [M] bool, the probe and its two controls per test image;
        `strength` and `validation_accuracy` of the chosen probe.

    Source: paper 5.4 (H1); validation split and controls METHOD 5; logistic regression instead of 500 epochs
    of Adam is our choice (a convex objective, solved).
    """
    train_y, test_y = np.asarray(train_y), np.asarray(test_y)
    strength, validation = choose_strength(train_x, train_y, validation_mask(train_y, share, seed), strengths)
    probe = separator(strength).fit(train_x, train_y)
    shuffled = np.random.default_rng(seed + 1).permutation(train_y)
    names, counts = np.unique(train_y, return_counts=True)
    return {
        "correct": probe.predict(test_x) == test_y,
        "majority": names[counts.argmax()] == test_y,
        "shuffled_labels": separator(strength).fit(train_x, shuffled).predict(test_x) == test_y,
        "strength": strength,
        "validation_accuracy": validation,
    }


def genus_gaps(
    states: np.ndarray, genera: Sequence[str], *, seed: int, repeats: int = 1, num_others: int = NUM_OTHERS
) -> np.ndarray:
    """H2: cosine of a name to one name of its genus, minus its mean cosine to four names of other genera.

    The draws depend on the seed and the genera alone, so two checkpoints are compared over the same pairs.

    Args:
        states: [S, D] state of each name; genera: [S] genus of each name.
        repeats: draws of mate and others averaged per name (the paper draws once).

    Returns:
        [S] gaps; nan for a name without a mate in its genus or with fewer than `num_others` outside it.

    Source: paper 5.4 (H2), Table 4; METHOD 5.
    """
    genera, rng = np.asarray(genera), np.random.default_rng(seed)
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    cosine, gaps = unit @ unit.T, np.full(len(genera), np.nan)
    for i, genus in enumerate(genera):
        mates = np.flatnonzero((genera == genus) & (np.arange(len(genera)) != i))
        others = np.flatnonzero(genera != genus)
        if len(mates) == 0 or len(others) < num_others:
            continue
        gaps[i] = np.mean([
            cosine[i, rng.choice(mates)] - cosine[i, rng.choice(others, num_others, replace=False)].mean()
            for _ in range(repeats)
        ])
    return gaps


def grouped_folds(
    groups: Sequence[int], num_folds: int, seed: int, strata: Optional[Sequence] = None
) -> np.ndarray:
    """Deal whole groups to folds in turn, stratum by stratum (seen and unseen evenly).

    Returns:
        [N] fold of every item; there are at most as many folds as groups.
    """
    groups = np.asarray(groups)
    strata = np.zeros(len(groups)) if strata is None else np.asarray(strata)
    rng, order = np.random.default_rng(seed), []
    for stratum in np.unique(strata):
        order += list(rng.permutation(np.unique(groups[strata == stratum])))
    number = {group: place % min(num_folds, len(order)) for place, group in enumerate(order)}
    return np.array([number[group] for group in groups])


def cross_validated_scores(
    x: np.ndarray, right: np.ndarray, groups: np.ndarray, folds: np.ndarray, *,
    seed: int, strengths: Sequence[float] = STRENGTHS,
) -> np.ndarray:
    """H3: score every question by a linear separator that saw no question of its fold.

    The strength is chosen within the training folds, on whole swaps too.

    Args:
        x: [N, D] last hidden states; right: [N] bool; groups: [N] swap; folds: [N] from `grouped_folds`.

    Returns:
        [N] decision values. Compare them within a fold only: separators of two folds share no scale.

    Raises:
        ValueError: if there are fewer than `MIN_SWAPS` swaps.

    Source: METHOD 5 (H3: a cross-validated separator, folds grouped by sub-category).
    """
    right, groups = np.asarray(right), np.asarray(groups)
    if len(np.unique(groups)) < MIN_SWAPS:
        raise ValueError(f"{len(np.unique(groups))} swaps: at least {MIN_SWAPS} are needed")
    scores = np.empty(len(right))
    for fold in np.unique(folds):
        train = folds != fold
        held_out = grouped_folds(groups[train], 4, seed) == 0
        strength, _ = choose_strength(x[train], right[train], held_out, strengths)
        scores[~train] = separator(strength).fit(x[train], right[train]).decision_function(x[~train])
    return scores
