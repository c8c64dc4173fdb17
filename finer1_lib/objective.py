"""The TAPO objective as pure functions of tensors; log-probabilities that never hold a whole logit matrix.

Shapes: B rollouts, T completion tokens, `mask` (B, T) with 1 on real tokens. A group is the n_anchor +
n_positive rollouts of one triplet; they share one mean and one standard deviation:

    >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))  # two from the anchor, two from the positive
    tensor([[ 0.8660, -0.8660, -0.8660,  0.8660]])

The loss of one token under the anchor image, with d = log pi(o | negative) - log pi(o | anchor):

    L = clipped surrogate - gamma * (exp(d) - d - 1) + eta1 * H(anchor) + eta2 * H(negative)

    so gradient descent raises the divergence between the two images' distributions (use the picture!) and
    lowers both entropies (which keeps the divergence from being bought by mere noise).

Source: METHOD 3, column `kit`; paper Eq. 2-4; release TAPO/verl/trainer/core_algos.py (clip-higher, dual
clip, low_var_kl with its clamps).
"""

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

if TYPE_CHECKING:
    import torch

LOG_RATIO_LIMIT = 20.0  # [R] core_algos.py: log r is held within +-20 before exp,
DIVERGENCE_LIMIT = 10.0  # and the k3 value within +-10


def group_advantages(rewards: "torch.Tensor", eps: float = 1e-6) -> "torch.Tensor":
    """(r - mean) / (std + eps) within each group; std is the unbiased one.

    Args:
        rewards: (groups, rollouts of a group), anchor and positive rollouts alike.

    Returns:
        Same shape; zeros where all rewards of a group are equal.

    Source: METHOD 3 (ONE group); unbiased std over the group and eps: release core_algos.py (audit E2).
    """
    mean = rewards.mean(-1, keepdim=True)
    # The mean of equal floats can be off by one digit, which eps would blow up: such a group gets exact
    # zeros.
    varied = (rewards != rewards[..., :1]).any(-1, keepdim=True)
    return (rewards - mean) / (rewards.std(-1, keepdim=True) + eps) * varied


def clipped_surrogate(
    ratio: "torch.Tensor", advantages: "torch.Tensor", clip_low: float, clip_high: float,
    dual_clip: float = 0.0,
) -> "tuple[torch.Tensor, torch.Tensor]":
    """The policy loss of every token: max(-A r, -A clip(r)), and at most -A * dual_clip where A < 0.

    Args:
        ratio: (B, T) pi / pi_old of the sampled tokens.
        advantages: (B,) or (B, T).
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        dual_clip: C > 1, or 0 for none.

    Returns:
        (loss (B, T), clipped (B, T) bool: where a clip took the gradient away).

    Source: METHOD 3 (clip 0.2 / 0.28, dual clip C = 3); release core_algos.py.
    """
    import torch

    a = advantages if advantages.dim() == 2 else advantages[:, None]
    plain, held = -a * ratio, -a * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss, clipped = torch.maximum(plain, held), held > plain
    if dual_clip:
        ceiling = -a * dual_clip
        dual = (a < 0) & (loss > ceiling)
        loss, clipped = torch.where(dual, ceiling.expand_as(loss), loss), clipped | dual
    return loss, clipped


def k3_divergence(logp: "torch.Tensor", logp_negative: "torch.Tensor") -> "torch.Tensor":
    """r - log r - 1 per token with r = pi(negative image) / pi(own image); never below zero.

    The value estimates KL(pi || pi_negative) under the policy's own samples. The clamps are the release's:
    beyond them the gradient is zero.

    Args:
        logp, logp_negative: (B, T) log-probabilities of the same tokens.

    Source: METHOD 3, columns `official_release` and `kit`; audit E4 (value and gradient).
    """
    log_ratio = (logp_negative - logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return (log_ratio.exp() - log_ratio - 1).clamp(-DIVERGENCE_LIMIT, DIVERGENCE_LIMIT)


def token_mean(values: "torch.Tensor", mask: "torch.Tensor", items: Any = None) -> "torch.Tensor":
    """Sum over real tokens divided by `items`, by default by their number (at least 1)."""
    items = mask.sum() if items is None else items
    return (values * mask).sum() / (items.clamp(min=1) if hasattr(items, "clamp") else max(items, 1))


class TapoTerms(NamedTuple):
    """The loss of a batch and the per-token pieces its gauges are made of (all but `loss` are detached)."""

    loss: "torch.Tensor"
    ratio: "torch.Tensor"
    clipped: "torch.Tensor"
    divergence: "torch.Tensor"


def tapo_loss(
    logp: "torch.Tensor", old_logp: "torch.Tensor", advantages: "torch.Tensor", mask: "torch.Tensor", *,
    clip_low: float, clip_high: float, dual_clip: float, gamma: float = 0.0, eta1: float = 0.0,
    eta2: float = 0.0, entropy: "Optional[torch.Tensor]" = None,
    logp_negative: "Optional[torch.Tensor]" = None, entropy_negative: "Optional[torch.Tensor]" = None,
    items: Any = None,
) -> TapoTerms:
    """The whole objective as a loss to minimise.

    Args:
        logp: (B, T) log-probabilities under the image the rollout is scored under.
        old_logp: (B, T) the same at rollout time, without gradient.
        advantages: (B,).
        mask: (B, T), 1 on real completion tokens.
        clip_low, clip_high, dual_clip: as in `clipped_surrogate`.
        gamma: weight of the divergence from the negative image's distribution (raised).
        eta1, eta2: weights of the two entropies (lowered).
        entropy, entropy_negative: (B, T), needed where eta1 or eta2 is not 0.
        logp_negative: (B, T), needed where gamma is not 0.
        items: number of tokens to divide by; by default the batch's own.

    Raises:
        ValueError: a weight without its tensor.

    Source: METHOD 3, L = -min(rho A, clip(rho) A) - gamma D + eta1 H(pi) + eta2 H(pi_neg).
    """
    import torch

    for weight, needed, name in ((gamma, logp_negative, "logp_negative"), (eta1, entropy, "entropy"),
                                 (eta2, entropy_negative, "entropy_negative")):
        if weight and needed is None:
            raise ValueError(f"{name} is needed: its weight is {weight}")
    ratio = (logp - old_logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    per_token, clipped = clipped_surrogate(ratio, advantages, clip_low, clip_high, dual_clip)
    divergence = torch.zeros_like(logp) if logp_negative is None else k3_divergence(logp, logp_negative)
    if gamma:
        per_token = per_token - gamma * divergence
    if eta1:
        per_token = per_token + eta1 * entropy
    if eta2:
        per_token = per_token + eta2 * entropy_negative
    loss = token_mean(per_token, mask, items)
    return TapoTerms(loss, ratio.detach(), clipped.detach(), divergence.detach())


def logp_and_entropy(
    hidden: "torch.Tensor", weight: "torch.Tensor", targets: "torch.Tensor", temperature: float = 1.0,
    chunk: int = 1024,
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Log-probability of each target and entropy of each distribution, straight from hidden states.

    Logits exist for `chunk` rows at a time only, in the forward and again in the backward pass: 10,000 tokens
    of a vocabulary of 150,000 would be 6 GB of them.

    Args:
        hidden: (N, D) states of the last layer.
        weight: (V, D) of the output head (tied to the embeddings or not).
        targets: (N,) token ids.
        temperature: the logits are divided by it.

    Returns:
        (logp (N,), entropy (N,)) float32 (float64 for float64 input), with gradients for `hidden` and, if it
        asks for one, for `weight`.

    Source: our choice (trainer.md 2); dlogp_y/dz = 1[y] - p, dH/dz = -p (log p + H).
    """
    return _chunked_function().apply(hidden, weight, targets, temperature, chunk)


@functools.lru_cache(maxsize=None)
def _chunked_function() -> Any:
    """The autograd function, made on first use so that importing this module does not import torch."""
    import torch

    def log_softmax(hidden, weight, temperature):
        logits = hidden.to(weight.dtype) @ weight.t()  # under autocast the states may be wider than the head
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return torch.log_softmax(logits / temperature, -1)

    class ChunkedLogProbability(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, weight, targets, temperature, chunk):
            chosen, entropies = [], []
            for start in range(0, len(targets), chunk):
                logs = log_softmax(hidden[start : start + chunk], weight, temperature)
                chosen.append(logs.gather(-1, targets[start : start + chunk, None])[:, 0])
                entropies.append(-(logs.exp() * logs).nan_to_num(0.0).sum(-1))  # 0 * -inf of a hard zero
            wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
            empty = hidden.new_zeros(0, dtype=wide)  # so that no tokens at all are no special case
            logp, entropy = torch.cat([empty, *chosen]), torch.cat([empty, *entropies])
            ctx.save_for_backward(hidden, weight, targets, entropy)
            ctx.temperature, ctx.chunk = temperature, chunk
            return logp, entropy

        @staticmethod
        def backward(ctx, grad_logp, grad_entropy):
            hidden, weight, targets, entropy = ctx.saved_tensors
            grad_hidden = torch.zeros_like(hidden)
            grad_weight = torch.zeros_like(weight, dtype=grad_logp.dtype) if ctx.needs_input_grad[1] else None
            for start in range(0, len(targets), ctx.chunk):
                rows = slice(start, start + ctx.chunk)
                logs = log_softmax(hidden[rows], weight, ctx.temperature)
                p = logs.exp()
                grad = -p * grad_logp[rows, None]
                grad.scatter_add_(-1, targets[rows, None], grad_logp[rows, None])
                grad -= grad_entropy[rows, None] * (p * (logs + entropy[rows, None])).nan_to_num(0.0)
                grad /= ctx.temperature
                grad_hidden[rows] = (grad.to(weight.dtype) @ weight).to(hidden.dtype)
                if grad_weight is not None:
                    grad_weight += grad.t() @ hidden[rows].to(grad.dtype)
            grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
            return grad_hidden, grad_weight, None, None, None

    return ChunkedLogProbability
