"""Log-probabilities, entropies and divergences of tokens, without ever holding a whole logit matrix.

Logits exist for `chunk` rows at a time only, in the forward and again in the backward pass: 10,000 tokens of
a vocabulary of 150,000 would be 6 GB of them. With z = hidden @ weight^T / temperature and p = softmax(z):

    log p_y             gradient to z:  1[y] - p
    H = -sum p log p                    -p (log p + H)
    KL(p || q)                          p (log p - log q - KL)  to the logits of p,  q - p  to those of q

Source: our choice (trainer.md 2); the derivatives are worked out here and tested by finite differences.
"""

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def logp_and_entropy(
    hidden: "torch.Tensor", weight: "torch.Tensor", targets: "torch.Tensor", temperature: float = 1.0,
    chunk: int = 1024,
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Log-probability of each target and entropy of each distribution, straight from hidden states.

    Args:
        hidden: (N, D) states of the last layer.
        weight: (V, D) of the output head (tied to the embeddings or not).
        targets: (N,) token ids.
        temperature: the logits are divided by it.
        chunk: rows of logits that exist at a time.

    Returns:
        (logp (N,), entropy (N,)) float32 (float64 for float64 input), with gradients for `hidden` and, if it
        asks for one, for `weight`.
    """
    return _functions()[0].apply(hidden, weight, targets, temperature, chunk)


def full_divergence(
    hidden: "torch.Tensor", hidden_negative: "torch.Tensor", weight: "torch.Tensor",
    temperature: float = 1.0, chunk: int = 1024,
) -> "torch.Tensor":
    """KL(p || q) of each pair of next-token distributions over the whole vocabulary (nats).

    Args:
        hidden: (N, D) states that give p, under the own picture.
        hidden_negative: (N, D) states that give q, under the negative picture.
        weight: (V, D) of the output head.
        temperature, chunk: as for `logp_and_entropy`.

    Returns:
        (N,) float32 (float64 for float64 input), with gradients for both states and for `weight`.
    """
    return _functions()[1].apply(hidden, hidden_negative, weight, temperature, chunk)


@functools.lru_cache(maxsize=None)
def _functions() -> "tuple[Any, Any]":
    """The two autograd functions, made on first use so that importing this module does not import torch."""
    import torch

    def log_softmax(hidden, weight, temperature):
        logits = hidden.to(weight.dtype) @ weight.t()  # under autocast the states may be wider than the head
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return torch.log_softmax(logits / temperature, -1)

    def wide(hidden):
        return torch.float64 if hidden.dtype == torch.float64 else torch.float32

    def expectation(p, values):
        return (p * values).nan_to_num(0.0).sum(-1)  # 0 * -inf of a hard zero

    class LogProbability(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, weight, targets, temperature, chunk):
            ctx.set_materialize_grads(False)  # an entropy that is only looked at costs no backward
            chosen, entropies = [], []
            for start in range(0, len(targets), chunk):
                logs = log_softmax(hidden[start : start + chunk], weight, temperature)
                chosen.append(logs.gather(-1, targets[start : start + chunk, None])[:, 0])
                entropies.append(-expectation(logs.exp(), logs))
            empty = hidden.new_zeros(0, dtype=wide(hidden))  # so that no tokens at all are no special case
            logp, entropy = torch.cat([empty, *chosen]), torch.cat([empty, *entropies])
            ctx.save_for_backward(hidden, weight, targets, entropy)
            ctx.temperature, ctx.chunk = temperature, chunk
            return logp, entropy

        @staticmethod
        def backward(ctx, grad_logp, grad_entropy):
            hidden, weight, targets, entropy = ctx.saved_tensors
            grads = _Gradients(ctx, weight, hidden)
            for start in range(0, len(targets), ctx.chunk):
                rows = slice(start, start + ctx.chunk)
                logs = log_softmax(hidden[rows], weight, ctx.temperature)
                p = logs.exp()
                grad = torch.zeros_like(p)
                if grad_logp is not None:
                    grad -= p * grad_logp[rows, None]
                    grad.scatter_add_(-1, targets[rows, None], grad_logp[rows, None])
                if grad_entropy is not None:
                    grad -= grad_entropy[rows, None] * (p * (logs + entropy[rows, None])).nan_to_num(0.0)
                grads.add(0, rows, grad / ctx.temperature)
            return grads.states[0], grads.weight, None, None, None

    class Divergence(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, other, weight, temperature, chunk):
            values = [hidden.new_zeros(0, dtype=wide(hidden))]
            for start in range(0, len(hidden), chunk):
                logs = log_softmax(hidden[start : start + chunk], weight, temperature)
                values.append(expectation(logs.exp(), logs - log_softmax(
                    other[start : start + chunk], weight, temperature)))
            kl = torch.cat(values)
            ctx.save_for_backward(hidden, other, weight, kl)
            ctx.temperature, ctx.chunk = temperature, chunk
            return kl

        @staticmethod
        def backward(ctx, grad_kl):
            hidden, other, weight, kl = ctx.saved_tensors
            grads = _Gradients(ctx, weight, hidden, other)
            for start in range(0, len(kl), ctx.chunk):
                rows = slice(start, start + ctx.chunk)
                logs, other_logs = (log_softmax(h[rows], weight, ctx.temperature) for h in (hidden, other))
                p, scale = logs.exp(), grad_kl[rows, None] / ctx.temperature
                grads.add(0, rows, scale * (p * (logs - other_logs - kl[rows, None])).nan_to_num(0.0))
                grads.add(1, rows, scale * (other_logs.exp() - p))
            return (*grads.states, grads.weight, None, None)

    class _Gradients:
        """Gradients of states and head, summed chunk by chunk from the gradients of the logits."""

        def __init__(self, ctx, weight, *states):
            self._weight, self._hidden = weight, states
            self.states = [torch.zeros_like(state) for state in states]
            wanted = ctx.needs_input_grad[len(states)]  # the head follows the states among the arguments
            # wide while it is summed: many chunks' worth of half-precision rounding would add up
            self._sum = torch.zeros_like(weight, dtype=wide(states[0])) if wanted else None

        def add(self, which, rows, grad):
            hidden = self._hidden[which]
            self.states[which][rows] = (grad.to(self._weight.dtype) @ self._weight).to(hidden.dtype)
            if self._sum is not None:
                self._sum += grad.t() @ hidden[rows].to(grad.dtype)

        @property
        def weight(self):
            return None if self._sum is None else self._sum.to(self._weight.dtype)

    return LogProbability, Divergence
