"""H1 in the paper's own way: a linear layer by 500 epochs of Adam, and what choosing the epoch is worth.

    one fit on a part of the training images       the epoch that is best on the other part
    one fit on all of them                         read at that epoch: `correct`
                                                   and at the epoch best on the TEST images: `adam_best_test`

The paper reports the second reading, which is the best of 500 looks at the test images. Both are of the same
weights' course, so their difference is what that choice is worth.

Source: paper 5.4 (H1: Adam, learning rate 1e-4, batch 512, 500 epochs, best test accuracy); METHOD 5 (a
validation split instead). States are taken as they are, since no scaling is told of.
"""

from typing import Any

import numpy as np

from finer1_lib.errors import UserError
from finer1_lib.probing.probes import validation_mask

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
