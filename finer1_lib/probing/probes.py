"""Three probes of why training helps: better sight (H1), more knowledge (H2), better deployment (H3)?

    H1  linear_probe, adam_probe        sub-category from the image tokens    paper: 84.26 -> 85.00 (no gain)
    H2  genus_gaps                      names of one genus, closer?           paper: 0.0088, 0.0531 (p 0.70)
    H3  cross_validated_scores          right or wrong name of an image       paper: Figure 3, an image

All functions take arrays and return arrays, so planted data can test them; `features` fetches the states and
`rows` adds intervals and equivalence tests.
Source: Fine-R1 (arXiv 2602.07605), Section 5.4, Table 4 and Figure 3.
"""

from typing import Any, Optional, Sequence

import numpy as np

from finer1_lib.core.errors import UserError

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse regularisation strengths a validation split chooses from
NUM_OTHERS = 4                       # names of other genera per name in H2 (Section 5.4)
MIN_SUB_CATEGORIES = 2               # fewer classes are no classification (H1)
MIN_SWAPS = 3                        # fewer leave no fold to train, to validate and to test on (H3)


def validation_mask(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """[N] bool: a share of every class (one item at least, never all) is for validation; ValueError for a
    class of one item.
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


def choose_strength(x: np.ndarray, y: np.ndarray, held_out: np.ndarray,
                    strengths: Sequence[float] = STRENGTHS) -> tuple[float, float]:
    """(strength, accuracy) best on the part `held_out` [N] bool; of equals the most regularised."""
    accuracies = {strength: float(separator(strength).fit(x[~held_out], y[~held_out])
                                  .score(x[held_out], y[held_out])) for strength in sorted(strengths)}
    best = max(accuracies, key=accuracies.get)
    return best, accuracies[best]


def linear_probe(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *,
                 seed: int, share: float = 0.25, strengths: Sequence[float] = STRENGTHS) -> dict:
    """H1 (Section 5.4): can a linear classifier read the sub-category from mean image-token states [N, D]?

    Logistic regression is convex and solved, its strength chosen on a validation split (two images of each
    class at least); the paper reports the best TEST accuracy of 500 epochs (`adam_probe`). `correct`,
    `majority`, `shuffled_labels`: [M] bool, the probe and its two controls per test image.
    """
    train_y, test_y = np.asarray(train_y), np.asarray(test_y)
    strength, validation = choose_strength(train_x, train_y, validation_mask(train_y, share, seed), strengths)
    probe = separator(strength).fit(train_x, train_y)
    shuffled = np.random.default_rng(seed + 1).permutation(train_y)
    names, counts = np.unique(train_y, return_counts=True)
    return {"correct": probe.predict(test_x) == test_y, "majority": names[counts.argmax()] == test_y,
            "shuffled_labels": separator(strength).fit(train_x, shuffled).predict(test_x) == test_y,
            "strength": strength, "validation_accuracy": validation}


def genus_gaps(states: np.ndarray, genera: Sequence[str], *, seed: int, repeats: int = 1,
               num_others: int = NUM_OTHERS) -> np.ndarray:
    """H2: cosine of a name to one name of its genus, minus its mean cosine to four of other genera: [S].

    From the state [S, D] and genus of each name; nan without a mate in the genus or `num_others` outside it.
    The draws depend on seed and genera alone, so two checkpoints are compared over the same pairs. The paper
    does not say which embedding it takes, and draws once; here `repeats` draws are averaged.
    Source: Fine-R1, Section 5.4 (H2): 0.0088 and 0.0531, t = -0.3872, p = 0.6993.
    """
    genera, rng = np.asarray(genera), np.random.default_rng(seed)
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    cosine, gaps = unit @ unit.T, np.full(len(genera), np.nan)
    for i, genus in enumerate(genera):
        mates = np.flatnonzero((genera == genus) & (np.arange(len(genera)) != i))
        others = np.flatnonzero(genera != genus)
        if len(mates) == 0 or len(others) < num_others:
            continue
        gaps[i] = np.mean([  # Section 5.4: one of its genus, four of other genera
            cosine[i, rng.choice(mates)] - cosine[i, rng.choice(others, num_others, replace=False)].mean()
            for _ in range(repeats)
        ])
    return gaps


def grouped_folds(groups: Sequence, num_folds: int, seed: int,
                  strata: Optional[Sequence] = None) -> np.ndarray:
    """[N] folds: whole groups in turn, stratum by stratum; at most as many folds as groups."""
    groups = np.asarray(groups)
    strata = np.zeros(len(groups)) if strata is None else np.asarray(strata)
    rng, order = np.random.default_rng(seed), []
    for stratum in np.unique(strata):
        order += list(rng.permutation(np.unique(groups[strata == stratum])))
    number = {group: place % min(num_folds, len(order)) for place, group in enumerate(order)}
    return np.array([number[group] for group in groups])


def cross_validated_scores(x: np.ndarray, right: np.ndarray, groups: np.ndarray, folds: np.ndarray, *,
                           seed: int, strengths: Sequence[float] = STRENGTHS) -> np.ndarray:
    """H3 (Section 5.4): score every question by a linear separator that saw no question of its fold: [N].

    From the last states [N, D] of "Is the species NAME?", whether the name is right, its swap and fold. A
    whole swap is in one fold: were only images grouped, a name would be mostly right in training and mostly
    wrong in the test fold. The scores are comparable within a fold only: separators share no scale. (The
    paper plots two principal components of these states, Figure 3, without a number.)
    Raises: ValueError: fewer than `MIN_SWAPS` swaps.
    """
    right, groups = np.asarray(right), np.asarray(groups)
    if len(np.unique(groups)) < MIN_SWAPS:
        raise ValueError(f"{len(np.unique(groups))} swaps: at least {MIN_SWAPS} are needed")
    scores = np.empty(len(right))
    for fold in np.unique(folds):
        train = folds != fold
        held_out = grouped_folds(groups[train], 4, seed) == 0  # whole swaps here too
        strength, _ = choose_strength(x[train], right[train], held_out, strengths)
        scores[~train] = separator(strength).fit(x[train], right[train]).decision_function(x[~train])
    return scores


RATE, BATCH, EPOCHS = 1e-4, 512, 500  # Section 5.4


def adam_probe(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, *, seed: int,
               epochs: int = EPOCHS, share: float = 0.25, rate: float = RATE, batch: int = BATCH,
               device: str = "auto") -> dict[str, Any]:
    """H1 with the paper's recipe, read at two epochs: chosen on a validation split, and best on the test.

    The paper reports the second reading, the best of 500 looks at the test images; the difference is what
    that choice is worth. `correct`, `adam_best_test`: [M] bool per test image, read at `epoch`, `best_epoch`
    (from 1; of equals the first). States are not scaled, as the paper names no scaling.
    Source: Fine-R1, Section 5.4 (H1): Adam, learning rate 1e-4, batch 512, 500 epochs, best test accuracy.
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
    """[epochs, M] bool: which of the other items are classified right after each epoch.
    The layer is two tensors and not torch.nn.Linear, whose initial weights come from torch's global random
    numbers: this run must neither depend on them nor move them.
    """
    import torch
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    x, other_x = (torch.as_tensor(np.ascontiguousarray(part), dtype=torch.float32, device=device)
                  for part in (x, other_x))
    y, other_y = (torch.as_tensor(part, device=device) for part in (y, other_y))
    draw = torch.Generator().manual_seed(seed)
    bound = x.shape[1] ** -0.5  # the initial range of torch.nn.Linear
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
