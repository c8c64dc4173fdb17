"""Log-probabilities of completions under a model, from its backbone's hidden states: one path for SFT and
TAPO.

Neither `model(...).logits` nor TRL's or Unsloth's own log-prob methods are used. TRL 1.15's losses are Triton
kernels (no CPU), Unsloth's method returns no gradient, and what `.logits` holds depends on environment
variables there. The backbone's last hidden states and the head's weight are the same tensors on every path.

Source: our choice (trainer.md 2).
"""

from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Sequence

from finer1_lib.encoding import Encoded, pad, vision_inputs
from finer1_lib.generation import forget_positions
from finer1_lib.objective import logp_and_entropy

if TYPE_CHECKING:
    import torch


class Scored(NamedTuple):
    """What a model says of given tokens: two tensors of one shape, 0 where nothing was asked."""

    logp: "torch.Tensor"
    entropy: "torch.Tensor"


def unwrap_base(model: Any) -> Any:
    """The Qwen2_5_VLForConditionalGeneration inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def score_tokens(
    model: Any, ids: "torch.Tensor", mask: "torch.Tensor", scored: "torch.Tensor", vision: Mapping[str, Any],
    *, temperature: float = 1.0, chunk: int = 1024,
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
        chunk: rows of logits that exist at a time.

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
    logp, entropy = logp_and_entropy(
        states[:, :-1][real], base.get_output_embeddings().weight, ids[:, 1:][real], temperature, chunk)
    where = torch.nn.functional.pad(real, (1, 0))
    empty = torch.zeros(ids.shape, dtype=logp.dtype, device=ids.device)
    return Scored(empty.masked_scatter(where, logp), empty.masked_scatter(where, entropy))


def score_completions(
    model: Any, prompts: Sequence[Encoded], completion_ids: "torch.Tensor", completion_mask: "torch.Tensor",
    *, pad_token_id: int, temperature: float = 1.0, chunk: int = 1024,
) -> Scored:
    """Log-probability and entropy of every completion token given its prompt.

    Args:
        model: as for `score_tokens`.
        prompts: B encoded prompts; their lengths, and their pictures' token counts, may differ.
        completion_ids: (B, T) right-padded.
        completion_mask: (B, T), 1 on real tokens.

    Returns:
        Two (B, T) tensors, 0 where there is no token.
    """
    import torch

    device, width = completion_ids.device, completion_ids.shape[1]
    prompt_ids, prompt_mask = (t.to(device) for t in pad([p.ids for p in prompts], pad_token_id, "left"))
    ids = torch.cat([prompt_ids, completion_ids], 1)
    completion_mask = completion_mask.to(prompt_mask.dtype)
    mask = torch.cat([prompt_mask, completion_mask], 1)
    scored = torch.cat([torch.zeros_like(prompt_mask), completion_mask], 1)
    vision = vision_inputs(prompts, ids, unwrap_base(model).config.image_token_id)
    result = score_tokens(model, ids, mask, scored, vision, temperature=temperature, chunk=chunk)
    return Scored(result.logp[:, -width:], result.entropy[:, -width:])
