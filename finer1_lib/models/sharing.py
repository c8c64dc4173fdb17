"""What rollouts of one prompt have in common is computed once: the image's features, and the prompt itself.

    8 rollouts over one image: 1 pass of the vision tower, 1 of the language model over the prompt,
                               8 over the completions, which attend to the prompt's keys and values
    under checkpointing and with Unsloth, which keep no keys and values, one row instead, if the prompt is long:
    tokens   p1 p2 p3 | a1 a2 | b1 b2 b3      a sees the prompt and a, b sees the prompt and b
    places    0  1  2 |  3  4 |  3  4  5      M-RoPE goes on from the prompt for each

Rows have a prompt in common where they share one `Encoded` OBJECT. The results are those of the plain path to
float rounding, gradients included. Source: the model is called as in transformers' Qwen2_5_VLModel.forward.
"""

import math
import weakref
from typing import Any, Mapping, NamedTuple, Sequence

from finer1_lib.core.faces import Later
from finer1_lib.models.encoding import Encoded, pad

torch, transformers = Later("torch"), Later("transformers")
PACKED_FROM = 256  # tokens of a prompt: with shorter ones the mask takes more memory than rows apart
ROOM = 64  # tokens a cache grows by: keys and values are copied once in so many steps, not in every one
_KEPT: "weakref.WeakKeyDictionary[Any, tuple]" = weakref.WeakKeyDictionary()  # tower -> (its state, features)


def unwrap_base(model: Any) -> Any:
    """The Qwen2_5_VLForConditionalGeneration inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def forget_positions(model: Any) -> None:
    """Drop the M-RoPE offsets that the last forward left in the model: they belong to that batch alone."""
    for module in model.modules():
        if hasattr(module, "rope_deltas"):
            module.rope_deltas = None


def distinct(rows: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """The different objects among rows, in order of appearance, and the place of each row's among them."""
    places: dict[int, int] = {}
    where = [places.setdefault(id(row), len(places)) for row in rows]
    return list({id(row): row for row in rows}.values()), where


def shares_prompts(base: Any) -> bool:
    """Whether this model can continue from a prompt that was computed before."""
    checkpointing = base.training and base.is_gradient_checkpointing  # it runs without a cache
    return not checkpointing and not hasattr(base, "for_inference")  # Unsloth's model makes its own


def embed(base: Any, ids: "torch.Tensor", rows: Sequence[Encoded]) -> "torch.Tensor":
    """(B, L, D) embeddings of (B, L) padded ids, image features in place. Raises: ValueError: no match."""
    embedded = base.get_input_embeddings()(ids)
    here = ids == base.config.image_token_id
    seeing = [row for row in rows if row.pixels is not None]
    _, where = distinct([row.pixels for row in seeing])
    features = picture_features(base, list(dict(zip(where, seeing)).values()))  # a row of each
    found, given = int(here.sum()), sum(len(features[k]) for k in where)
    if found != given:
        raise ValueError(f"{found} image tokens in the batch, but features for {given}")
    if not where:
        return embedded
    placed = torch.cat([features[k] for k in where]).to(embedded.dtype)
    return embedded.masked_scatter(here[..., None].expand_as(embedded), placed)


def picture_features(base: Any, rows: Sequence[Encoded]) -> "list[torch.Tensor]":
    """The (image tokens, D) output of vision tower and merger for each row's images; no two rows share one.

    A tower that trains is run with gradient, all rows in one pass. Features of a frozen one are cached while
    its weights and the pixels live, of each image by itself: they are bit-identical after a resume.
    """
    tower = base.model.visual
    weights = list(tower.named_parameters())
    if any(weight.requires_grad or "lora_" in name for name, weight in weights):
        _KEPT.pop(tower, None)
        return _tower(base, rows) if rows else []
    state = (torch.is_autocast_enabled(weights[0][1].device.type),
             tuple((weight.data_ptr(), weight._version) for _, weight in weights))
    if tower not in _KEPT or _KEPT[tower][0] != state:
        _KEPT[tower] = (state, torch.utils.weak.WeakTensorKeyDictionary())
    kept = _KEPT[tower][1]
    with torch.no_grad():
        for row in rows:
            if row.pixels not in kept:
                kept[row.pixels] = _tower(base, [row])[0]
    return [kept[row.pixels] for row in rows]


def _tower(base: Any, rows: Sequence[Encoded]) -> "list[torch.Tensor]":
    """One pass of the tower over all images of all rows; one tensor a row."""
    device = next(base.model.visual.parameters()).device
    pixels, grids = (torch.cat(parts).to(device) for parts in zip(*((row.pixels, row.grid) for row in rows)))
    images = iter(base.model.get_image_features(pixels, grids).pooler_output)
    return [torch.cat([next(images) for _ in row.grid]) for row in rows]


def positions(base: Any, ids: "torch.Tensor", mask: "torch.Tensor",
              rows: Sequence[Encoded]) -> "tuple[torch.Tensor, torch.Tensor]":
    """M-RoPE positions by the model's rule: (3, B, L), and what to add to a later token's place, (B, 1)."""
    grids = [row.grid for row in rows if row.grid is not None]
    return base.model.get_rope_index(
        ids, (ids == base.config.image_token_id).int(), torch.cat(grids).to(ids.device) if grids else None,
        attention_mask=mask)


class Prompts(NamedTuple):  # that the model has read but for their last token
    cache: Any  # keys and values
    mask: "torch.Tensor"  # (B, P), left-padded
    last_ids: "torch.Tensor"  # (B, 1)
    last_positions: "torch.Tensor"  # M-RoPE, (3, B, 1)


def read_prompts(base: Any, prompts: Sequence[Encoded], pad_token_id: int, cache: Any) -> Prompts:
    """Run the model over each distinct prompt once, and give its keys and values to every row that has it.

    The last token is left to the caller: it is the input that predicts the first new one. The model's M-RoPE
    offsets are left as `generate` needs them. Prompts have at least two tokens; `cache` is an empty one.
    """
    rows, where = distinct(prompts)
    device = base.get_input_embeddings().weight.device
    ids, mask = (t.to(device) for t in pad([row.ids for row in rows], pad_token_id, "left"))
    embedded = embed(base, ids, rows)
    places, offsets = positions(base, ids, mask, rows)
    base.model(
        inputs_embeds=embedded[:, :-1], attention_mask=mask[:, :-1], position_ids=places[:, :, :-1],
        past_key_values=cache, use_cache=True)
    pick = torch.tensor(where, device=device)
    cache.batch_select_indices(pick)
    base.model.rope_deltas = offsets[pick]
    return Prompts(cache, mask[pick], ids[pick, -1:], places[:, pick, -1:])


def packs_prompts(base: Any, prompts: Sequence[Encoded], lengths: Sequence[int]) -> bool:
    """Whether one row a distinct prompt is less work than one a completion (`lengths` of their tokens).

    Work is counted in pairs of tokens in attention, 4 D operations each; a token's linear layers (two of D x D,
    three of D x I) are (2 D + 3 I) / 2 such pairs. Only "sdpa" attention takes a mask of our own.
    """
    text, (rows, where) = base.config.get_text_config(), distinct(prompts)
    if text._attn_implementation != "sdpa" or min(len(row.ids) for row in rows) < PACKED_FROM:
        return False
    linear = text.hidden_size + 1.5 * text.intermediate_size
    whole = max(len(row.ids) for row in rows) + max(lengths)
    packed = max(len(row.ids) + sum(n for n, at in zip(lengths, where) if at == u) for u, row in enumerate(rows))
    return len(rows) * packed * (linear + packed) < len(prompts) * whole * (linear + whole)


def states_of_packed(base: Any, prompts: Sequence[Encoded], completion_ids: "torch.Tensor",
                     completion_mask: "torch.Tensor", pad_token_id: int) -> "torch.Tensor":
    """(B, T, D) states that predict each completion token, from one row for each distinct prompt.

    `completion_ids` (B, T) are right-padded, their mask 1 on real tokens; what belongs to padding is of no use.
    """
    rows, where = distinct(prompts)
    device, count = completion_ids.device, [len(row.ids) for row in rows]
    ids, parts = [list(row.ids) for row in rows], [[0] * size for size in count]
    places = []  # (3, tokens) of each row
    for row in rows:
        alone = torch.tensor([row.ids], device=device)
        places.append(positions(base, alone, torch.ones_like(alone), [row])[0][:, 0])
    last = [row.max() for row in places]
    before = torch.zeros(completion_ids.shape, dtype=torch.long)  # the place whose state predicts a token
    tokens, lengths = completion_ids.tolist(), completion_mask.sum(1).tolist()
    for i, (u, length) in enumerate(zip(where, lengths)):
        start = len(ids[u])
        before[i, :length] = torch.tensor([count[u] - 1, *range(start, start + length)])[:length]
        ids[u] += tokens[i][:length]
        parts[u] += [i + 1] * length
        after = last[u] + 1 + torch.arange(length, device=device)
        places[u] = torch.cat([places[u], after.expand(3, -1)], 1)
    whole, part = (pad(lists, fill, "right")[0].to(device) for lists, fill in ((ids, pad_token_id), (parts, -1)))
    place = torch.nn.utils.rnn.pad_sequence([row.T for row in places], batch_first=True).permute(2, 0, 1)
    causal = torch.ones(part.shape[1], part.shape[1], dtype=torch.bool, device=device).tril()
    own = (part[:, None, :] == 0) | (part[:, :, None] == part[:, None, :])  # padding sees itself: no row is empty
    states = base.model(
        inputs_embeds=embed(base, whole, rows), attention_mask=(causal & own)[:, None], position_ids=place,
        use_cache=False).last_hidden_state
    return states[torch.tensor(where, device=device)[:, None], before.to(device)]


def preallocated_cache() -> Any:
    """A cache for `generate` that copies its contents once in `ROOM` tokens, not at each; no gradients."""
    class PreallocatedLayer(transformers.cache_utils.DynamicLayer):
        """Keys and values are views of a larger piece of memory; the same values as DynamicLayer's."""

        def update(self, key_states, value_states, *args, **kwargs):
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.held = []
            old = self.get_seq_length()
            new = old + key_states.shape[-2]
            both = (key_states, value_states)
            if not self.held or self.held[0].shape[0] != len(key_states) or self.held[0].shape[-2] < new:
                self.held = [states.new_empty(*states.shape[:2], new + ROOM, states.shape[-1])
                             for states in both]
                if old:
                    self.held[0][:, :, :old], self.held[1][:, :, :old] = self.keys, self.values
            for held, states in zip(self.held, both):
                held[:, :, old:new] = states
            self.keys, self.values = (held[:, :, :new] for held in self.held)
            return self.keys, self.values

        def batch_select_indices(self, indices):
            super().batch_select_indices(indices)
            self.held = []  # the selection lies elsewhere

    cache = transformers.DynamicCache()
    cache.layer_class_to_replicate = PreallocatedLayer
    return cache


def bundle(rows: Mapping[str, Any], group_size: int, micro_batch_size: int) -> dict[str, Any]:
    """A rollout batch whose first dimension is bundles of rows, for TRL to shuffle and split.

    Were that dimension rows, TRL would scatter a group over all micro-batches, where it could share nothing.
    A bundle's size divides both sizes; `rows` are (B, ...) tensors, lists of B and single numbers.
    """
    size = math.gcd(group_size, micro_batch_size)
    return {name: [value[k : k + size] for k in range(0, len(value), size)] if isinstance(value, list)
            else value.unflatten(0, (-1, size)) if value.ndim else value for name, value in rows.items()}


def unbundle(bundles: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of `bundle` again."""
    return {name: sum(value, []) if isinstance(value, list) else value.flatten(0, 1) if value.ndim else value
            for name, value in bundles.items()}
