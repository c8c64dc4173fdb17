"""Log-probabilities, entropies and divergences of tokens, without ever holding a whole logit matrix.

Logits exist for `chunk` rows at a time only, in the forward and again in the backward pass: 10,000 tokens of
a vocabulary of 150,000 would be 6 GB of them. With z = hidden @ weight^T / temperature and p = softmax(z):

    log p_y             gradient to z:  1[y] - p
    H = -sum p log p                    -p (log p + H)
    KL(p || q)                          p (log p - log q - KL)  to the logits of p,  q - p  to those of q

By hand, because `torch.utils.checkpoint` for each chunk needs 31 % more peak memory (4,096 tokens, 16,000
words), TRL's losses are Triton kernels (no CPU), and Unsloth's log-prob method returns no gradient.
Source: Fine-R1 (arXiv 2602.07605), Section 4.2: pi_theta(o_t | ...) and the two images' KL divergence.
"""

import functools
from typing import Any, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.faces import Later
from finer1_lib.models.encoding import Encoded, pad
from finer1_lib.models.sharing import (distinct, embed, forget_positions, packs_prompts, positions, read_prompts,
                                       shares_prompts, states_of_packed, unwrap_base)

torch, transformers = Later("torch"), Later("transformers")
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
                 vision: Mapping[str, Any], *, temperature: float = 1.0, chunk: int = 0) -> Scored:
    """Log-probability of chosen tokens given everything before them, and the entropy of each distribution.

    `ids` (B, L) are padded on either side; `scored` (B, L) is true on the tokens to score, never in the first
    column; `vision` is of `encoding.vision_inputs`; `chunk` 0 means `logit_rows` of the vocabulary. Returns
    two (B, L) tensors, float32 (float64 for a float64 model).
    """
    base = unwrap_base(model)
    forget_positions(base)
    # With images the model computes M-RoPE from the grids; for text alone the padding must not count.
    positions = {} if vision else {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[None].expand(3, -1, -1)}
    states = base.model(
        input_ids=ids, attention_mask=mask, use_cache=False, **positions, **vision).last_hidden_state
    real = torch.nn.functional.pad(scored[:, 1:].bool(), (1, 0))
    before = states[:, :-1][real[:, 1:]]  # the state before a token predicts it
    return _score(base, before, ids, real, temperature, chunk)


def _score(base: Any, states: "torch.Tensor", ids: "torch.Tensor", real: "torch.Tensor", temperature: float,
           chunk: int) -> Scored:
    """The tokens `ids[real]`, each predicted by its row of `states` (N, D)."""
    head = base.get_output_embeddings().weight
    logp, entropy = logp_and_entropy(states, head, ids[real], temperature, chunk or logit_rows(len(head)))
    empty = logp.new_zeros(ids.shape)
    return Scored(empty.masked_scatter(real, logp), empty.masked_scatter(real, entropy), states)


def score_completions(model: Any, prompts: Sequence[Encoded], completion_ids: "torch.Tensor",
                      completion_mask: "torch.Tensor", *, pad_token_id: int, temperature: float = 1.0,
                      chunk: int = 0, keep_states: bool = False) -> Scored:
    """Log-probability and entropy of every completion token given its prompt, as two (B, T) tensors.

    Rows that share one `Encoded` object share its forward pass (`sharing`). Completions are (B, T),
    right-padded, their mask 1 on real tokens; `keep_states`: return `Scored.states` too.
    Raises: ValueError: an image token in a completion: no image belongs to it.
    """
    base, mask = unwrap_base(model), completion_mask.long()
    forget_positions(base)
    if (completion_ids == base.config.image_token_id).any():
        raise ValueError("an image token in a completion: no image belongs to it")
    read = _whole_rows
    if len(distinct(prompts)[0]) < len(prompts):
        read = (_after_shared_prompts if shares_prompts(base) else
                states_of_packed if packs_prompts(base, prompts, mask.sum(1).tolist()) else _whole_rows)
    states = read(base, prompts, completion_ids, mask, pad_token_id)
    forget_positions(base)
    found = _score(base, states[mask.bool()], completion_ids, mask.bool(), temperature, chunk)
    return found if keep_states else found._replace(states=None)


def _after_shared_prompts(base: Any, prompts: Sequence[Encoded], completion_ids: "torch.Tensor",
                          completion_mask: "torch.Tensor", pad_token_id: int) -> "torch.Tensor":
    """(B, T, D) states that predict each completion token; every distinct prompt is read once."""
    read = read_prompts(base, prompts, pad_token_id, transformers.DynamicCache())
    # The input before each token: the prompt's last one, then the completion without its own last one.
    ids = torch.cat([read.last_ids, completion_ids[:, :-1]], 1)
    steps = torch.arange(ids.shape[1], device=ids.device)
    return base.model(
        inputs_embeds=base.get_input_embeddings()(ids), position_ids=read.last_positions + steps,
        attention_mask=torch.cat([read.mask, completion_mask[:, :-1]], 1), past_key_values=read.cache,
        use_cache=True).last_hidden_state


def _whole_rows(base: Any, prompts: Sequence[Encoded], completion_ids: "torch.Tensor",
                completion_mask: "torch.Tensor", pad_token_id: int) -> "torch.Tensor":
    """The same states from whole rows of prompt and completion; every distinct image is encoded once."""
    device, width = completion_ids.device, completion_ids.shape[1]
    prompt_ids, prompt_mask = (t.to(device) for t in pad([p.ids for p in prompts], pad_token_id, "left"))
    ids, mask = torch.cat([prompt_ids, completion_ids], 1), torch.cat([prompt_mask, completion_mask], 1)
    states = base.model(
        inputs_embeds=embed(base, ids, prompts), attention_mask=mask, use_cache=False,
        position_ids=positions(base, ids, mask, prompts)[0]).last_hidden_state
    return states[:, -width - 1 : -1]


def logp_and_entropy(hidden: "torch.Tensor", weight: "torch.Tensor", targets: "torch.Tensor",
                     temperature: float = 1.0, chunk: int = 1024) -> "tuple[torch.Tensor, torch.Tensor]":
    """Log-probability of each target (N,) and entropy of each distribution, straight from hidden states.

    From hidden (N, D) and the output head's weight (V, D), `chunk` rows of logits at a time. Returns (N,) and
    (N,) float32 (float64 for float64 input), with gradients for `hidden` and, if it requires one, `weight`.
    """
    def values(rows, logs):
        # log p_y and H = -sum p log p
        return logs.gather(-1, targets[rows, None])[:, 0], -_expectation(logs.exp(), logs)

    def gradients(rows, logs, grad_logp, grad_entropy, logp, entropy):
        p = logs.exp()
        grad = p.new_zeros(p.shape)
        if grad_logp is not None:
            grad -= p * grad_logp[rows, None]  # 1[y] - p
            grad.scatter_add_(-1, targets[rows, None], grad_logp[rows, None])
        if grad_entropy is not None:
            # -p (log p + H)
            grad -= grad_entropy[rows, None] * (p * (logs + entropy[rows, None])).nan_to_num(0.0)
        yield grad / temperature

    return _in_chunks()(values, gradients, chunk, temperature, weight, hidden)


def full_divergence(hidden: "torch.Tensor", hidden_negative: "torch.Tensor", weight: "torch.Tensor",
                    temperature: float = 1.0, chunk: int = 1024) -> "torch.Tensor":
    """KL(p || q) of each pair of next-token distributions over the whole vocabulary (nats), (N,).

    `hidden` (N, D) gives p, under the anchor image, `hidden_negative` q, under the negative image. Gradients
    flow to both and to `weight`; the rest is as for `logp_and_entropy`.
    """
    def values(rows, logs, other_logs):
        return (_expectation(logs.exp(), logs - other_logs),)  # KL(p || q) = sum p (log p - log q)

    def gradients(rows, logs, other_logs, grad_kl, kl):
        p, scale = logs.exp(), grad_kl[rows, None] / temperature
        # p (log p - log q - KL) to the logits of p, q - p to those of q
        yield scale * (p * (logs - other_logs - kl[rows, None])).nan_to_num(0.0)
        yield scale * (other_logs.exp() - p)

    return _in_chunks()(values, gradients, chunk, temperature, weight, hidden, hidden_negative)[0]


def _expectation(p: "torch.Tensor", values: "torch.Tensor") -> "torch.Tensor":
    return (p * values).nan_to_num(0.0).sum(-1)  # 0 * -inf of a hard zero


@functools.lru_cache(maxsize=None)
def _in_chunks() -> Any:
    """The autograd function of `values` and their `gradients` to the logits, a chunk of rows at a time.
    It is made on first use, so that importing this module does not import torch.
    """
    def logs_of(states, rows, weight, temperature):
        for hidden in states:
            logits = hidden[rows].to(weight.dtype) @ weight.t()  # under autocast states may be wider
            logits = logits if logits.dtype == torch.float64 else logits.float()
            yield torch.log_softmax(logits / temperature, -1)

    def wide(hidden):
        return torch.float64 if hidden.dtype == torch.float64 else torch.float32

    def pieces(hidden, chunk):  # without any token still one, of none
        return [slice(start, start + chunk) for start in range(0, max(1, len(hidden)), chunk)]

    class Chunked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values, gradients, chunk, temperature, weight, *states):
            ctx.set_materialize_grads(False)  # an entropy that is only logged costs no backward
            found = [values(rows, *logs_of(states, rows, weight, temperature))
                     for rows in pieces(states[0], chunk)]
            found = [torch.cat(parts).to(wide(states[0])) for parts in zip(*found)]
            ctx.save_for_backward(weight, *states, *found)
            ctx.given = gradients, chunk, temperature, len(states)
            return tuple(found)

        @staticmethod
        def backward(ctx, *grads):
            gradients, chunk, temperature, count = ctx.given
            if all(grad is None for grad in grads):
                return (None,) * (5 + count)
            weight, *saved = ctx.saved_tensors
            states, found = saved[:count], saved[count:]
            out = [torch.zeros_like(hidden) for hidden in states]
            # wide while it is summed: many chunks' worth of half-precision rounding would add up
            head = torch.zeros_like(weight, dtype=wide(states[0])) if ctx.needs_input_grad[4] else None
            for rows in pieces(states[0], chunk):
                logs = logs_of(states, rows, weight, temperature)
                for hidden, into, grad in zip(states, out, gradients(rows, *logs, *grads, *found)):
                    into[rows] = (grad.to(weight.dtype) @ weight).to(hidden.dtype)
                    if head is not None:
                        head += grad.t() @ hidden[rows].to(grad.dtype)
            return (None,) * 4 + (None if head is None else head.to(weight.dtype), *out)

    return Chunked.apply
