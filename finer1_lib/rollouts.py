"""Rollouts of triplets: n_anchor over the anchor and n_positive over the positive, rewarded as one group.

    triplet -> 4 completions over the anchor + 4 over the positive -> 8 rewards -> 8 advantages (one mean, one
    std)

Dynamic sampling: a group whose rollouts are all right or all wrong teaches nothing; it is dropped and another
prompt is sampled in its place, for a limited number of rounds.

Everything drawn here is a function of (seed, rollout batch, round), so that a resumed run draws what an
uninterrupted one would have.

Source: METHOD 3 (intra-class augmentation, dynamic sampling; at most 20 rounds [P]); audit E2, E10.
"""

import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Sequence

from finer1_lib.encoding import Encoded, Encoder, user_message
from finer1_lib.generation import cut_batches, ending_ids, sample_ids
from finer1_lib.objective import group_advantages

if TYPE_CHECKING:
    import torch

    from finer1_lib.tapo import TapoConfig, TripletRow


class Group(NamedTuple):
    """The rollouts of one triplet, ready for the loss.

    Attributes:
        varied: some were right and some wrong.
        accuracy: (rollouts,) of each.
        advantages: (rollouts,).
        completions: token ids of each.
        prompts: the encoded prompt each is scored under.
        negatives: the prompt over the negative picture, as often; empty where the loss has no use for it.
    """

    varied: bool
    accuracy: "torch.Tensor"
    advantages: "torch.Tensor"
    completions: list[list[int]]
    prompts: list[Encoded]
    negatives: list[Encoded]


class Batch(NamedTuple):
    """What one rollout batch gave: groups to train on, groups without variance, and its gauges."""

    kept: list[Group]
    dropped: list[Group]
    gauges: dict[str, float]


def planned_row(slot: int, count: int, seed: int) -> int:
    """The row at a place of the endless order of prompts: all rows, shuffled anew every `count` places."""
    order = list(range(count))
    random.Random(f"{seed}/prompts/{slot // count}").shuffle(order)
    return order[slot % count]


def replacement_rows(number: int, count: int, tried: set[int], draw: random.Random) -> list[int]:
    """Rows to sample in place of dropped groups: untried ones first; when all were tried, any."""
    fresh = [row for row in range(count) if row not in tried]
    draw.shuffle(fresh)
    return (fresh + [draw.randrange(count) for _ in range(number)])[:number]


class Sampler:
    """Samples and rewards groups.

    Args:
        model: the policy; its mode is restored.
        encoder: of its processor.
        config: the run's settings.
        triplets: all prompts.
        reward: (columns, prompts, completions, completion ids) -> (rollouts, 2) accuracy and format.
        weights: (2,) of the two.
    """

    def __init__(self, model: Any, encoder: Encoder, config: "TapoConfig", triplets: "Sequence[TripletRow]",
                 reward: Callable[..., "torch.Tensor"], weights: "torch.Tensor") -> None:
        self.model, self.encode, self.config, self.triplets = model, encoder, config, triplets
        self.reward, self.weights = reward, weights

    def batch(self, slots: Sequence[int], number: int) -> Batch:
        """Fill one rollout batch.

        Args:
            slots: places in the endless order of prompts, as many as groups are wanted.
            number: of the rollout batch in the run, from 0.

        Returns:
            At least as many kept groups as slots, unless the rounds ran out.
        """
        c, want = self.config, len(slots)
        rows = [planned_row(slot, len(self.triplets), c.seed) for slot in slots]
        tried: set[int] = set()
        kept: list[Group] = []
        dropped: list[Group] = []
        sums: dict[str, float] = defaultdict(float)
        for rounds in range(1, c.max_sampling_rounds + 1):
            tried.update(rows)
            for group in self.groups(rows, (c.seed, number, rounds), sums):
                (kept if group.varied else dropped).append(group)
            if len(kept) >= want:
                break
            draw = random.Random(f"{c.seed}/replacements/{number}/{rounds}")
            rows = replacement_rows(want - len(kept), len(self.triplets), tried, draw)
        count = sums.pop("rollouts")
        return Batch(kept, dropped, {
            **{name: total / count for name, total in sums.items()}, "sampling_rounds": float(rounds),
            "kept_share": len(kept) / want, "zero_variance_share": len(dropped) / (len(kept) + len(dropped))})

    def groups(self, rows: Sequence[int], seed: tuple[int, ...], sums: dict[str, float]) -> list[Group]:
        """One group for each row; `sums` collects the gauges' sums over all rollouts."""
        c, size = self.config, self.config.group_size
        triplets = [self.triplets[row] for row in rows]
        anchors = [self._encoded(t, t.anchor) for t in triplets]
        positives = [self._encoded(t, t.positive) if c.n_positive else None for t in triplets]
        completions = self._complete(
            [p for a, b in zip(anchors, positives) for p in [a] * c.n_anchor + [b] * c.n_positive], seed)
        columns = [{"sub_category": t.sub_category} for t in triplets for _ in range(size)]
        asked = [user_message(t.prompt) for t in triplets for _ in range(size)]
        texts = self.encode.tokenizer.batch_decode(completions, skip_special_tokens=True)
        answers = [[{"role": "assistant", "content": text}] for text in texts]
        parts = self.reward(columns, asked, answers, completions).cpu()
        reward = (parts * self.weights.cpu()).sum(-1)
        ends = set(ending_ids(self.model, self.encode.tokenizer))
        for name, values in (("reward", reward), ("accuracy", parts[:, 0]), ("format_rate", parts[:, 1])):
            sums[name] += float(values.sum())
        sums["length"] += sum(len(ids) for ids in completions)
        sums["truncated_share"] += sum(not ids or ids[-1] not in ends for ids in completions)
        sums["rollouts"] += len(completions)
        groups = []
        for g, triplet in enumerate(triplets):
            own = slice(g * size, (g + 1) * size)
            scored_as = anchors[g] if c.score_positive_under == "anchor" else positives[g]
            negatives = [self._encoded(triplet, triplet.negative)] * size if c.needs_negative else []
            accuracy = parts[own, 0]
            groups.append(Group(
                bool(accuracy.min() != accuracy.max()), accuracy, group_advantages(reward[None, own])[0],
                completions[own], [anchors[g]] * c.n_anchor + [scored_as] * c.n_positive, negatives))
        return groups

    def _complete(self, prompts: Sequence[Encoded], seed: tuple[int, ...]) -> list[list[int]]:
        c = self.config
        completions: list[Any] = [None] * len(prompts)
        for number, part in enumerate(cut_batches([len(p.ids) for p in prompts], c.generation_batch_size)):
            drawn = sample_ids(
                self.model, self.encode.tokenizer, [prompts[i] for i in part], seed=(*seed, number),
                max_new_tokens=c.max_new_tokens, temperature=c.temperature, top_p=c.top_p)
            for i, ids in zip(part, drawn):
                completions[i] = ids
        return completions

    def _encoded(self, triplet: "TripletRow", image: Any) -> Encoded:
        return self.encode(user_message(triplet.prompt, image))
