"""Hidden states of the language model, pooled over a part of the prompt: the probes' raw material.

Layer 0 are the embeddings (with the picture's features in place), layer k the output of block k; the last one
comes after the final norm, as transformers gives it. Negative numbers count from the end.

Source: METHOD 5 (H1: mean over the image tokens of the last layer; H2: mean over a name's tokens; H3: last
token).
"""

from typing import TYPE_CHECKING, Any, Optional, Sequence

from finer1_lib.encoding import Encoded, Encoder, pad, vision_inputs
from finer1_lib.generation import evaluating, forget_positions
from finer1_lib.policy import unwrap_base

if TYPE_CHECKING:
    import numpy

    from finer1_lib.models import LoadedModel

WHERE = ("image", "last", "span")


def pooled_states(
    loaded: "LoadedModel", prompts: Sequence[Sequence[dict]], *, layers: Sequence[int], where: str = "image",
    spans: Optional[Sequence[str]] = None, add_generation_prompt: bool = True, batch_size: int = 32,
) -> "numpy.ndarray":
    """Mean state of the chosen tokens of every prompt, per layer.

    Args:
        loaded: of `models.load`.
        prompts: conversations as for `generate`.
        layers: numbers of layers; 0 are the embeddings, -1 is the last.
        where: "image" (all image tokens), "last" (the prompt's last token) or "span".
        spans: for "span", one text per prompt; the tokens of its last occurrence are meant.
        add_generation_prompt: end the prompt with the start of the assistant's turn.
        batch_size: prompts a forward.

    Returns:
        (layers, prompts, hidden) float32, layers in the order given.

    Raises:
        ValueError: an unknown `where`, a layer that does not exist, a prompt without image or without its
        span.
    """
    import numpy
    import torch

    if where not in WHERE or (where == "span") != (spans is not None):
        raise ValueError(f"where={where!r}: one of {', '.join(WHERE)}; spans go with where='span' alone")
    encode = Encoder(loaded.processor)
    image_id = loaded.model.config.image_token_id
    rows, chosen = [], []
    for number, messages in enumerate(prompts):
        text, pixels, grid = encode.render(messages, add_generation_prompt)
        tokens = encode.tokenizer(text, add_special_tokens=False, return_offsets_mapping=where == "span")
        rows.append(Encoded(tokens["input_ids"], pixels, grid))
        if where == "image":
            picked = [i for i, token in enumerate(tokens["input_ids"]) if token == image_id]
        elif where == "last":
            picked = [len(tokens["input_ids"]) - 1]
        else:
            picked = _span_tokens(text, spans[number], tokens["offset_mapping"])
        if not picked:
            raise ValueError(f"prompt {number} has no {'image' if where == 'image' else repr(spans[number])}")
        chosen.append(picked)
    backbone, device = unwrap_base(loaded.model).model, next(loaded.model.parameters()).device
    result: Any = None
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    with evaluating(loaded.model), torch.no_grad():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            ids, mask = pad([rows[i].ids for i in batch], loaded.processor.tokenizer.pad_token_id, "right")
            ids, mask = ids.to(device), mask.to(device)
            forget_positions(loaded.model)
            states = backbone(
                input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True,
                **vision_inputs([rows[i] for i in batch], ids, image_id)).hidden_states
            if not all(-len(states) <= layer < len(states) for layer in layers):
                raise ValueError(f"layers {list(layers)}: the model has 0 to {len(states) - 1}")
            if result is None:
                result = numpy.zeros((len(layers), len(rows), states[0].shape[-1]), "float32")
            for k, layer in enumerate(layers):
                for place, i in enumerate(batch):
                    result[k, i] = states[layer][place, chosen[i]].float().mean(0).cpu().numpy()
    return numpy.zeros((len(layers), 0, 0), "float32") if result is None else result


def _span_tokens(text: str, span: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Indices of the tokens that overlap the last occurrence of `span`."""
    start = text.rfind(span)
    if start < 0 or not span:
        return []
    end = start + len(span)
    return [i for i, (first, last) in enumerate(offsets) if first < end and last > start]

