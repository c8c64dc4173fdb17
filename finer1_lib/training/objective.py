"""The TAPO objective as pure functions of tensors (log-probabilities come from `log_probabilities`).

Shapes: B rollouts, T completion tokens, `mask` (B, T) with 1 on real tokens. A group is the n_anchor +
n_positive rollouts of one triplet; they share one mean and one standard deviation:

    >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))  # two from the anchor, two from the positive
    tensor([[ 0.8660, -0.8660, -0.8660,  0.8660]])

The loss of one token under the anchor image, with D a divergence between the policy's distributions under the
two images: gradient descent raises D (use the image!) and lowers both entropies (D must not grow by mere noise).

    L = clipped surrogate - gamma * D + eta1 * H(anchor) + eta2 * H(negative)

Source: Fine-R1 (arXiv 2602.07605), Section 4.2, Eq. 2-4; release TAPO/verl/trainer/core_algos.py:448-521 and
567-601, TAPO/verl/workers/actor/dp_actor.py:272-379.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, Optional

if TYPE_CHECKING:
    import torch

DIVERGENCES = ("k1", "k2", "k3", "paper", "full")
LOG_RATIO_LIMIT = 20.0  # release core_algos.py:496, 599: log r is clamped to +-20 before exp,
DIVERGENCE_LIMIT = 10.0  # and the k3 value to 10 (line 601)


def group_advantages(rewards: "torch.Tensor", eps: float = 1e-6) -> "torch.Tensor":
    """(r - mean) / (std + eps) within each group, anchor and positive alike; the std is the unbiased one.
    `rewards` and the result are (groups, rollouts); zeros where all rewards of a group are equal.
    Source: Section 4.2 (one group of n1 + n2 rollouts); release core_algos.py:213-254.
    """
    mean = rewards.mean(-1, keepdim=True)
    # The mean of equal floats can be off by one digit, which eps would blow up: then exact zeros.
    varied = (rewards != rewards[..., :1]).any(-1, keepdim=True)
    return (rewards - mean) / (rewards.std(-1, keepdim=True) + eps) * varied


def clipped_surrogate(ratio: "torch.Tensor", advantages: "torch.Tensor", clip_low: float, clip_high: float,
                      dual_clip: float = 0.0) -> "tuple[torch.Tensor, torch.Tensor]":
    """The policy loss of every token: max(-A r, -A clip(r)), and at most -A * dual_clip where A < 0.

    `ratio` (B, T) is pi / pi_old, clipped to [1 - clip_low, 1 + clip_high]; `advantages` (B,) or (B, T);
    `dual_clip` > 1, or 0 for none, as in the paper. Returns: (loss, whether a clip removed the gradient), (B, T).
    Source: DAPO (arXiv 2503.14476), clip-higher; dual clip: arXiv 1912.09729; release core_algos.py:497-516.
    """
    import torch
    a = advantages if advantages.dim() == 2 else advantages[:, None]
    plain, held = -a * ratio, -a * ratio.clamp(1 - clip_low, 1 + clip_high)  # clip-higher: 0.2 and 0.28
    loss, clipped = torch.maximum(plain, held), held > plain
    if dual_clip:
        ceiling = -a * dual_clip  # release core_algos.py:511-516
        dual = (a < 0) & (loss > ceiling)
        loss, clipped = torch.where(dual, ceiling.expand_as(loss), loss), clipped | dual
    return loss, clipped


def divergence(kind: str, logp: "torch.Tensor", logp_negative: "torch.Tensor",
               mask: "torch.Tensor") -> "torch.Tensor":
    """How far pi(o | own image) is from pi(o | negative image), computed from the sampled tokens.

    With d = log pi_negative - log pi of a token, clamped to +-20, and r = exp(d):

    | kind  | value of a token | is, under the policy's own samples, an estimate of                       |
    |-------|------------------|--------------------------------------------------------------------------|
    | k1    | -d               | KL(pi to pi_negative), unbiased, negative for many a token; unbounded    |
    | k2    | d^2 / 2          | KL to second order; gradient d                                           |
    | k3    | r - d - 1        | KL, unbiased, never negative; clamped to 10, as in the release           |
    | paper | g - log g - 1    | chi^2 - KL; g = pi / pi_negative of the whole ROLLOUT, as it is printed  |

    (`full`, the exact KL over the vocabulary, needs the distributions: `full_divergence`.) Where a clamp
    holds a value, its gradient is zero. The paper's g is a product over a hundred tokens and soon beyond
    e^20; it is unbounded from above where k3's gradient is bounded by 1.

    `logp` and `logp_negative` are (B, T) log-probabilities of the same tokens. The result is (B, T); for
    "paper" every token of a rollout carries the rollout's value. Raises: ValueError: another kind.
    Source: Section 4.2 ("paper"); release core_algos.py:597-601 (k3 and its clamps); k1, k2, k3:
    http://joschu.net/blog/kl-approx.html.
    """
    log_ratio = logp_negative - logp
    if kind == "paper":
        log_g = -(log_ratio * mask).sum(1, keepdim=True).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return (log_g.exp() - log_g - 1).expand_as(logp)
    log_ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    if kind == "k3":
        return (log_ratio.exp() - log_ratio - 1).clamp(max=DIVERGENCE_LIMIT)
    raise ValueError(f"divergence {kind!r}: one of k1, k2, k3, paper")


def sampled_entropy(logp: "torch.Tensor") -> "torch.Tensor":
    """-log pi of the drawn token: an unbiased estimate of the entropy's VALUE. As a loss it is noise: on the
    policy's own samples its gradient is zero on average, and it lowers the surprise of whatever was drawn.
    Source: release TAPO/verl/workers/actor/dp_actor.py:272 and 359-360.
    """
    return -logp


def token_mean(values: "torch.Tensor", mask: "torch.Tensor", items: Any = None) -> "torch.Tensor":
    """sum(values * mask) / items: one mean over all tokens, so a long rollout weighs more than a short one.
    `items`: an update's share of its rollout batch's tokens (switch "batch": the same mean for any micro-batch
    size), or by default the mask's own, at least 1 ("micro_batch": short ones weigh more).
    Source: Eq. 4 (one mean over all tokens); release dp_actor.py:285 and 379 (a mean per micro-batch).
    """
    items = mask.sum() if items is None else items
    return (values * mask).sum() / (items.clamp(min=1) if hasattr(items, "clamp") else max(items, 1))


class TapoTerms(NamedTuple):
    """The loss of a batch and the per-token parts of its metrics (all but `loss` are detached)."""

    loss: "torch.Tensor"
    ratio: "torch.Tensor"
    clipped: "torch.Tensor"


def tapo_loss(logp: "torch.Tensor", old_logp: "torch.Tensor", advantages: "torch.Tensor",
              mask: "torch.Tensor", *, clip_low: float, clip_high: float, dual_clip: float,
              gamma: float = 0.0, eta1: float = 0.0, eta2: float = 0.0,
              apart: "Optional[torch.Tensor]" = None, entropy: "Optional[torch.Tensor]" = None,
              entropy_negative: "Optional[torch.Tensor]" = None, items: Any = None) -> TapoTerms:
    """The whole objective as a loss to minimise: the surrogate, the inter-class term and the two entropies.

    All (B, T) but `advantages` (B,). `logp` and `old_logp` are of the image the rollout is scored under, now
    and at rollout time (no gradient); `apart` is a divergence of any kind, raised with weight gamma; `items` as
    for `token_mean`. Raises: ValueError: a weight other than 0 without its tensor.
    Source: Section 4.2, Eq. 2-4; release dp_actor.py:336-379.
    """
    for weight, needed, name in ((gamma, apart, "apart"), (eta1, entropy, "entropy"),
                                 (eta2, entropy_negative, "entropy_negative")):
        if weight and needed is None:
            raise ValueError(f"{name} is needed: its weight is {weight}")
    # rho = pi / pi_old, both under the image the rollout is scored under (Eq. 2-4)
    ratio = (logp - old_logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    per_token, clipped = clipped_surrogate(ratio, advantages, clip_low, clip_high, dual_clip)
    if gamma:  # inter-class augmentation: away from the negative image's distribution
        per_token = per_token - gamma * apart
    if eta1:  # H(pi) and H(pi_negative) are lowered
        per_token = per_token + eta1 * entropy
    if eta2:
        per_token = per_token + eta2 * entropy_negative
    loss = token_mean(per_token, mask, items)  # Eq. 4: over all tokens
    return TapoTerms(loss, ratio.detach(), clipped.detach())
