"""Log-probabilities of completions under a model, from its backbone's hidden states: one path for SFT and
TAPO.

Neither `model(...).logits` nor TRL's or Unsloth's own log-prob methods are used. TRL 1.15's losses are Triton
kernels (no CPU), Unsloth's method returns no gradient, and what `.logits` holds depends on environment
variables there. The backbone's last hidden states and the head's weight are the same tensors on every path.

Source: our choice (trainer.md 2).
"""

from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.encoding import Encoded, pad
from finer1_lib.objective import logp_and_entropy
from finer1_lib.sharing import (
    distinct, embed, forget_positions, positions, read_prompts, shares_prompts, unwrap_base)

if TYPE_CHECKING:
    import torch

LOGIT_BYTES = 2**27  # of one float32 copy of the logits that exist at a time; a handful of copies are made


def logit_rows(vocabulary: int) -> int:
    """Rows of logits to hold at a time: 1,024 up to 32,768 words, 220 for Qwen2.5-VL's 151,936."""
    return max(64, min(1024, LOGIT_BYTES // (4 * vocabulary)))


class Scored(NamedTuple):
    """What a model says of given tokens.

    Attributes:
        logp, entropy: tensors of one shape, 0 where nothing was asked.
        states: (N, D) of the last layer, those that predict the tokens asked for, row by row; or None.
    """

    logp: "torch.Tensor"
    entropy: "torch.Tensor"
    states: "Optional[torch.Tensor]" = None


def score_tokens(
    model: Any, ids: "torch.Tensor", mask: "torch.Tensor", scored: "torch.Tensor", vision: Mapping[str, Any],
    *, temperature: float = 1.0, chunk: int = 0,
) -> Scored:
    """Log-probability of chosen tokens given everything before them, and the entropy of each one's
    distribution.

    Args:
        model: (PEFT) model; gradients flow unless the caller switched them off.
        ids: (B, L) token ids, padded on either side.
        mask: (B, L), 1 on real tokens.
        scored: (B, L), true on the tokens to score; never true in the first column.
        vision: pixel_values, image_grid_thw and mm_token_type_ids; {} for text alone. Without the token types
            transformers would fall back to plain 1-D positions, silently.
        temperature: the logits are divided by it.
        chunk: rows of logits that exist at a time; 0 for `logit_rows` of the vocabulary.

    Returns:
        Two (B, L) tensors, float32 (float64 for a float64 model).
    """
    import torch

    base = unwrap_base(model)
    forget_positions(base)
    # With pictures the model computes M-RoPE from the grids; text alone needs positions that know of the
    # padding.
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


def score_completions(
    model: Any, prompts: Sequence[Encoded], completion_ids: "torch.Tensor", completion_mask: "torch.Tensor",
    *, pad_token_id: int, temperature: float = 1.0, chunk: int = 0, keep_states: bool = False,
) -> Scored:
    """Log-probability and entropy of every completion token given its prompt.

    Rows that share one `Encoded` object share one pass of the vision tower, and one of the language model
    over the prompt where the model allows it (`finer1_lib.sharing`).

    Args:
        model: as for `score_tokens`.
        prompts: B encoded prompts; their lengths, and their pictures' token counts, may differ.
        completion_ids: (B, T) right-padded.
        completion_mask: (B, T), 1 on real tokens.
        chunk: as for `score_tokens`.
        keep_states: also return the states that predict the real tokens.

    Returns:
        Two (B, T) tensors, 0 where there is no token; with `keep_states` the (N, D) states too, row by row.

    Raises:
        ValueError: an image token in a completion: no picture belongs to it.
    """
    import torch

    base = unwrap_base(model)
    forget_positions(base)
    mask = completion_mask.long()
    if (completion_ids == base.config.image_token_id).any():
        raise ValueError("an image token in a completion: no picture belongs to it")
    shared = shares_prompts(base) and len(distinct(prompts)[0]) < len(prompts)
    states = (_after_shared_prompts if shared else _whole_rows)(
        base, prompts, completion_ids, mask, pad_token_id)
    forget_positions(base)
    real = mask.bool()
    asked = states[real]
    head = base.get_output_embeddings().weight
    logp, entropy = logp_and_entropy(
        asked, head, completion_ids[real], temperature, chunk or logit_rows(len(head)))
    empty = torch.zeros(mask.shape, dtype=logp.dtype, device=logp.device)
    return Scored(empty.masked_scatter(real, logp), empty.masked_scatter(real, entropy),
                  asked if keep_states else None)


def _after_shared_prompts(
    base: Any, prompts: Sequence[Encoded], completion_ids: "torch.Tensor", completion_mask: "torch.Tensor",
    pad_token_id: int,
) -> "torch.Tensor":
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


def _whole_rows(
    base: Any, prompts: Sequence[Encoded], completion_ids: "torch.Tensor", completion_mask: "torch.Tensor",
    pad_token_id: int,
) -> "torch.Tensor":
    """The same states from whole rows of prompt and completion; every distinct picture is seen once."""
    import torch

    device, width = completion_ids.device, completion_ids.shape[1]
    prompt_ids, prompt_mask = (t.to(device) for t in pad([p.ids for p in prompts], pad_token_id, "left"))
    ids, mask = torch.cat([prompt_ids, completion_ids], 1), torch.cat([prompt_mask, completion_mask], 1)
    states = base.model(
        inputs_embeds=embed(base, ids, prompts), attention_mask=mask, use_cache=False,
        position_ids=positions(base, ids, mask, prompts)[0]).last_hidden_state
    return states[:, -width - 1 : -1]
