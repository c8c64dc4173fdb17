"""Completions of one prompt in ONE row, where no cache can be shared: checkpointing, Unsloth's model.

    tokens   p1 p2 p3 | a1 a2 | b1 b2 b3      a sees the prompt and a, b sees the prompt and b
    places    0  1  2 |  3  4 |  3  4  5      M-RoPE goes on from the prompt for each

The prompt is read once, at the price of a dense mask (L x L) and of attention over all of L: it pays for long
prompts (`packs_prompts`; measured in tests/benchmarks/benchmark_packing.py). Source: the same log-probabilities as whole rows (Fine-R1, arXiv 2602.07605, Section 4.2).
"""

from typing import Any, Sequence

from finer1_lib.core.faces import Later
from finer1_lib.models.encoding import Encoded, pad
from finer1_lib.models.sharing import distinct, embed, positions

torch = Later("torch")


def packs_prompts(base: Any, prompts: Sequence[Encoded], lengths: Sequence[int]) -> bool:
    """Whether one row a distinct prompt is less work than one a completion (`lengths` of their tokens).

    Work is counted in pairs of tokens in attention, 4 D operations each; a token's linear layers (two of D x D,
    three of D x I) are (2 D + 3 I) / 2 such pairs. Only "sdpa" attention takes a mask of our own.
    """
    text, (rows, where) = base.config.get_text_config(), distinct(prompts)
    if text._attn_implementation != "sdpa" or len(rows) == len(prompts):
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
