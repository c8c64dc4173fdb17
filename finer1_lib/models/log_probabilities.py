"""Log-probabilities, entropies and divergences of tokens, without ever holding a whole logit matrix.

Logits exist for `chunk` rows at a time only, in the forward and again in the backward pass: 10,000 tokens of
a vocabulary of 150,000 would be 6 GB of them. With z = hidden @ weight^T / temperature and p = softmax(z):

    log p_y             gradient to z:  1[y] - p
    H = -sum p log p                    -p (log p + H)
    KL(p || q)                          p (log p - log q - KL)  to the logits of p,  q - p  to those of q

Written by hand and tested by finite differences: `torch.utils.checkpoint` for each chunk gives equal values
in 12 lines, but needs 31 % more peak memory (N = 4,096 tokens, V = 16,000 words). One path for SFT and TAPO:
TRL's losses are Triton kernels (no CPU), Unsloth's log-prob method returns no gradient, and what
`model(...).logits` holds depends on environment variables there.

Source: Fine-R1 (arXiv 2602.07605), Section 4.2: pi_theta(o_t | ...) and the two images' KL divergence.
"""

import functools
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.models.encoding import Encoded, pad
from finer1_lib.models.sharing import (
    distinct, embed, forget_positions, positions, read_prompts, shares_prompts, unwrap_base,
)  # fmt: skip

if TYPE_CHECKING:
    import torch

LOGIT_BYTES = 2**27  # of one float32 copy of the logits that exist at a time; a handful of copies are made


def logit_rows(vocabulary: int) -> int:
    """Rows of logits to hold at a time: 1,024 up to 32,768 words, 220 for Qwen2.5-VL's 151,936."""
    return max(64, min(1024, LOGIT_BYTES // (4 * vocabulary)))


class Scored(NamedTuple):
    """Log-probabilities and entropies of one shape, 0 where no token is scored."""

    logp: "torch.Tensor"
    entropy: "torch.Tensor"
    states: "Optional[torch.Tensor]" = None  # (N, D) of the last layer: they predict the scored tokens


def score_tokens(model: Any, ids: "torch.Tensor", mask: "torch.Tensor", scored: "torch.Tensor",
                 vision: Mapping[str, Any], *, temperature: float = 1.0,
                 chunk: int = 0) -> Scored:  # fmt: skip
    """Log-probability of chosen tokens given everything before them, and the entropy of each distribution.

    `ids` (B, L) are padded on either side; `scored` (B, L) is true on the tokens to score, never in the first
    column; `vision` is of `encoding.vision_inputs`; `chunk` 0 means `logit_rows` of the vocabulary. Returns
    two (B, L) tensors, float32 (float64 for a float64 model).
    """
    import torch

    base = unwrap_base(model)
    forget_positions(base)
    # With images the model computes M-RoPE from the grids; for text alone the padding must not count.
    positions = {} if vision else {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[None].expand(3, -1, -1)}
    states = base.model(
        input_ids=ids, attention_mask=mask, use_cache=False, **positions, **vision).last_hidden_state
    real = scored[:, 1:].bool()  # the state before a token predicts it
    head = base.get_output_embeddings().weight
    logp, entropy = logp_and_entropy(
        states[:, :-1][real], head, ids[:, 1:][real], temperature, chunk or logit_rows(len(head)))
    where = torch.nn.functional.pad(real, (1, 0))
    empty = torch.zeros(ids.shape, dtype=logp.dtype, device=ids.device)
    return Scored(empty.masked_scatter(where, logp), empty.masked_scatter(where, entropy))


def score_completions(model: Any, prompts: Sequence[Encoded], completion_ids: "torch.Tensor",
                      completion_mask: "torch.Tensor", *, pad_token_id: int, temperature: float = 1.0,
                      chunk: int = 0, keep_states: bool = False) -> Scored:  # fmt: skip
    """Log-probability and entropy of every completion token given its prompt, as two (B, T) tensors.

    Rows that share one `Encoded` object share its forward pass (`sharing`). Completions are (B, T),
    right-padded, their mask 1 on real tokens; `keep_states`: return `Scored.states` too.

    Raises: ValueError: an image token in a completion: no image belongs to it.
    """
    import torch

    base = unwrap_base(model)
    forget_positions(base)
    mask = completion_mask.long()
    if (completion_ids == base.config.image_token_id).any():
        raise ValueError("an image token in a completion: no image belongs to it")
    shared = shares_prompts(base) and len(distinct(prompts)[0]) < len(prompts)
    read = _after_shared_prompts if shared else _whole_rows
    states = read(base, prompts, completion_ids, mask, pad_token_id)
    forget_positions(base)
    real = mask.bool()
    predicting = states[real]
    head = base.get_output_embeddings().weight
    logp, entropy = logp_and_entropy(
        predicting, head, completion_ids[real], temperature, chunk or logit_rows(len(head)))
    empty = torch.zeros(mask.shape, dtype=logp.dtype, device=logp.device)
    return Scored(empty.masked_scatter(real, logp), empty.masked_scatter(real, entropy),
                  predicting if keep_states else None)


def _after_shared_prompts(base: Any, prompts: Sequence[Encoded], completion_ids: "torch.Tensor",
                          completion_mask: "torch.Tensor", pad_token_id: int) -> "torch.Tensor":  # fmt: skip
    """(B, T, D) states that predict each completion token; every distinct prompt is read once."""
    import torch
    from transformers import DynamicCache

    read = read_prompts(base, prompts, pad_token_id, DynamicCache())
    # The input before each token: the prompt's last one, then the completion without its own last one.
    ids = torch.cat([read.last_ids, completion_ids[:, :-1]], 1)
    steps = torch.arange(ids.shape[1], device=ids.device)
    return base.model(
        inputs_embeds=base.get_input_embeddings()(ids), position_ids=read.last_positions + steps,
        attention_mask=torch.cat([read.mask, completion_mask[:, :-1]], 1), past_key_values=read.cache,
        use_cache=True).last_hidden_state


def _whole_rows(base: Any, prompts: Sequence[Encoded], completion_ids: "torch.Tensor",
                completion_mask: "torch.Tensor", pad_token_id: int) -> "torch.Tensor":  # fmt: skip
    """The same states from whole rows of prompt and completion; every distinct image is encoded once."""
    import torch

    device, width = completion_ids.device, completion_ids.shape[1]
    prompt_ids, prompt_mask = (t.to(device) for t in pad([p.ids for p in prompts], pad_token_id, "left"))
    ids, mask = torch.cat([prompt_ids, completion_ids], 1), torch.cat([prompt_mask, completion_mask], 1)
    states = base.model(
        inputs_embeds=embed(base, ids, prompts), attention_mask=mask, use_cache=False,
        position_ids=positions(base, ids, mask, prompts)[0]).last_hidden_state
    return states[:, -width - 1 : -1]


def logp_and_entropy(hidden: "torch.Tensor", weight: "torch.Tensor", targets: "torch.Tensor",
                     temperature: float = 1.0,
                     chunk: int = 1024) -> "tuple[torch.Tensor, torch.Tensor]":  # fmt: skip
    """Log-probability of each target (N,) and entropy of each distribution, straight from hidden states.

    From hidden (N, D) and the output head's weight (V, D), `chunk` rows of logits at a time. Returns (N,) and
    (N,) float32 (float64 for float64 input), with gradients for `hidden` and, if it requires one, `weight`.
    """
    return _functions()[0].apply(hidden, weight, targets, temperature, chunk)


def full_divergence(hidden: "torch.Tensor", hidden_negative: "torch.Tensor", weight: "torch.Tensor",
                    temperature: float = 1.0, chunk: int = 1024) -> "torch.Tensor":  # fmt: skip
    """KL(p || q) of each pair of next-token distributions over the whole vocabulary (nats), (N,).

    `hidden` (N, D) gives p, under the anchor image, `hidden_negative` q, under the negative image. Gradients
    flow to both and to `weight`; the rest is as for `logp_and_entropy`.
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
            ctx.set_materialize_grads(False)  # an entropy that is only logged costs no backward
            chosen, entropies = [], []
            for start in range(0, len(targets), chunk):
                logs = log_softmax(hidden[start : start + chunk], weight, temperature)
                # log p_y and H = -sum p log p
                chosen.append(logs.gather(-1, targets[start : start + chunk, None])[:, 0])
                entropies.append(-expectation(logs.exp(), logs))
            empty = hidden.new_zeros(0, dtype=wide(hidden))  # so that no tokens at all is not a special case
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
                    grad -= p * grad_logp[rows, None]  # 1[y] - p
                    grad.scatter_add_(-1, targets[rows, None], grad_logp[rows, None])
                if grad_entropy is not None:
                    # -p (log p + H)
                    grad -= grad_entropy[rows, None] * (p * (logs + entropy[rows, None])).nan_to_num(0.0)
                grads.add(0, rows, grad / ctx.temperature)
            return grads.states[0], grads.weight, None, None, None

    class Divergence(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hidden, other, weight, temperature, chunk):
            values = [hidden.new_zeros(0, dtype=wide(hidden))]
            for start in range(0, len(hidden), chunk):
                logs = log_softmax(hidden[start : start + chunk], weight, temperature)
                # KL(p || q) = sum p (log p - log q)
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
                # p (log p - log q - KL) to the logits of p, q - p to those of q
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
