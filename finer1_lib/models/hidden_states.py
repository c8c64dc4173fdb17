"""Hidden states of the language model, pooled over a part of the prompt: the probes' raw material.

Layer 0 are the embeddings (with the image's features in place), layer k the output of block k; the last one
comes after the final norm, as transformers gives it. Negative numbers count from the end.

Source: Fine-R1 (arXiv 2602.07605), Section 5.4: H1 reads the mean over the image tokens of the last layer, H2
the mean over a name's tokens, H3 the last token.
"""

from typing import Iterator, Optional, Sequence, Union

from finer1_lib.core.faces import Later
from finer1_lib.models.encoding import Encoded, Encoder, pad, vision_inputs
from finer1_lib.models.generation import evaluating, in_half
from finer1_lib.models.out_of_memory import memory_advice
from finer1_lib.models.sharing import forget_positions, unwrap_base
from finer1_lib.models.trainable import LoadedModel

numpy, torch = Later("numpy"), Later("torch")
WHERE = ("image", "last", "span")
FORWARD_TOKENS = 8192  # in one forward: 37 layers of a 3B model's states for as many take 1.2 GB in 16 bits


def pooled_states(loaded: LoadedModel, prompts: Sequence[Sequence[dict]], *,
                  layers: Optional[Sequence[int]] = None, where: Union[str, Sequence[str]] = "image",
                  spans: Optional[Sequence[str]] = None, add_generation_prompt: bool = True,
                  batch_size: int = 32) -> "numpy.ndarray":
    """Mean state of the chosen tokens of every prompt: (layers, prompts, hidden) float32, layers as given.

    `where`: "image" (all image tokens), "last" (the prompt's last token) or "span" (the last occurrence of
    the prompt's text in `spans`); several at once give (places, layers, prompts, hidden). `layers` None: all.
    Raises: ValueError: an unknown `where` or layer, a prompt without its image or span. UserError: no memory.
    """
    places = (where,) if isinstance(where, str) else tuple(where)
    if not places or not set(places) <= set(WHERE) or ("span" in places) != (spans is not None):
        raise ValueError(f"where={where!r}: of {', '.join(WHERE)}; spans go with where='span' alone")
    encode, image_id = Encoder(loaded.processor), loaded.model.config.image_token_id
    rows, chosen = [], []
    for number, messages in enumerate(prompts):
        text, pixels, grid = encode.render(messages, add_generation_prompt)
        tokens = encode.tokenizer(text, add_special_tokens=False, return_offsets_mapping="span" in places)
        ids = tokens["input_ids"]
        rows.append(Encoded(ids, pixels, grid))
        chosen.append([])
        for place in places:
            found = [len(ids) - 1]
            if place == "image":
                found = [i for i, token in enumerate(ids) if token == image_id]
            elif place == "span":
                found = _span_tokens(text, spans[number], tokens["offset_mapping"])
            chosen[-1].append(found)
            if not found:
                what = "image" if place == "image" else repr(spans[number])
                raise ValueError(f"prompt {number} has no {what}")
    backbone, device = unwrap_base(loaded.model).model, next(loaded.model.parameters()).device
    filling, result = loaded.processor.tokenizer.pad_token_id, None
    with evaluating(loaded.model), torch.no_grad():
        for batch in _batches([len(row.ids) for row in rows], batch_size):
            ids, mask = (t.to(device) for t in pad([rows[i].ids for i in batch], filling, "right"))
            forget_positions(loaded.model)
            with memory_advice("reading states", loaded, prompts=len(batch)), in_half(loaded):
                states = backbone(
                    input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True,
                    **vision_inputs([rows[i] for i in batch], ids, image_id)).hidden_states
            wanted = range(len(states)) if layers is None else layers
            if not all(-len(states) <= layer < len(states) for layer in wanted):
                raise ValueError(f"layers {list(wanted)}: the model has 0 to {len(states) - 1}")
            if result is None:
                result = numpy.zeros((len(places), len(wanted), len(rows), states[0].shape[-1]), "float32")
            share = torch.zeros((len(places), *ids.shape))  # of each token in the mean
            for line, i in enumerate(batch):
                for place, picked in enumerate(chosen[i]):
                    share[place, line, picked] = 1 / len(picked)
            share = share.to(device)
            for k, layer in enumerate(wanted):
                means = torch.einsum("pbt,btd->pbd", share, states[layer].float())
                result[:, k, batch] = means.cpu().numpy()
    if result is None:
        result = numpy.zeros((len(places), len(layers or ()), 0, 0), "float32")
    return result[0] if isinstance(where, str) else result


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of prompts of similar length, at most `most` and `FORWARD_TOKENS` padded tokens together."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) == most or (len(batch) + 1) * lengths[i] > FORWARD_TOKENS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _span_tokens(text: str, span: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Indices of the tokens that overlap the last occurrence of `span`."""
    start = text.rfind(span)
    if start < 0 or not span:
        return []
    end = start + len(span)
    return [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
