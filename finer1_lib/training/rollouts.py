"""Rollouts of triplets: n_anchor over the anchor and n_positive over the positive, rewarded as one group.

Dynamic sampling: a group whose rollouts are all right or all wrong teaches nothing; it is dropped and another
prompt is sampled in its place, for a limited number of rounds; then `TapoConfig.nothing_survives` decides.
Images take the memory (the paper's rollout batch has 384 triplets; one image of 1280 image tokens is 24 MB):
positives are freed once they have been sampled from, dropped groups once others fill the batch. Everything
drawn is a function of (seed, rollout batch, round), so a resumed run draws what an uninterrupted one would.

Source: Fine-R1 (arXiv 2602.07605), Section 4.2 (intra-class augmentation), Section 5.1 (at most 20 rounds);
DAPO (arXiv 2503.14476), dynamic sampling; release TAPO/verl/trainer/ray_trainer.py:561-677.
"""

import itertools
import random
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Sequence

from finer1_lib.core.completions import strict
from finer1_lib.core.errors import UserError
from finer1_lib.core.prompts import user_message
from finer1_lib.models.encoding import Encoded, Encoder
from finer1_lib.models.generation import cut_batches, ending_ids, mix, sample_ids
from finer1_lib.models.out_of_memory import memory_advice
from finer1_lib.training.objective import group_advantages

if TYPE_CHECKING:
    import torch

    from finer1_lib.training.tapo_config import TapoConfig, TripletRow


class Group(NamedTuple):
    """The rollouts of one triplet, ready for the loss."""

    varied: bool  # some were right and some wrong
    accuracy: "torch.Tensor"  # (rollouts,)
    advantages: "torch.Tensor"  # (rollouts,)
    completions: list[list[int]]  # token ids of each
    prompts: list[Encoded]  # the encoded prompt each is scored under
    negatives: list[Encoded]  # the prompt over the negative image, as often; empty where the loss has no use
    truncated: list[bool]  # whether each was cut at the limit
    engine_logp: list[list[float]] = []  # an engine's raw log-probabilities of each; empty without an engine


class Batch(NamedTuple):
    """One rollout batch: kept groups, dropped ones (as many as it lacks), its metrics and counts so far."""

    kept: list[Group]
    dropped: list[Group]
    metrics: dict[str, float]
    counts: dict[str, float]


def _varied(accuracy: "torch.Tensor") -> bool:
    return bool(accuracy.min() != accuracy.max())


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
    """Samples groups from the policy `model` (its mode is restored) and rewards them. `reward` is (columns,
    prompts, completions, completion ids) -> (rollouts, 2) accuracy and format; `weights` (2,) are theirs.
    `engine` (a `vllm_engine.VllmEngine`) samples in the model's place.
    """

    def __init__(self, model: Any, encoder: Encoder, config: "TapoConfig", triplets: "Sequence[TripletRow]",
                 reward: Callable[..., "torch.Tensor"], weights: "torch.Tensor", engine: Any = None) -> None:
        self.model, self.encode, self.config, self.triplets = model, encoder, config, triplets
        self.reward, self.weights, self.engine = reward, weights, engine

    def batch(self, slots: Sequence[int], number: int) -> Batch:
        """Fill rollout batch `number` (from 0): as many kept groups as slots, or more, if the rounds allow.
        `slots` are places in the endless order of prompts. Raises: UserError: nothing survived and "stop".
        """
        c, want, began = self.config, len(slots), time.monotonic()
        rows = [planned_row(slot, len(self.triplets), c.seed) for slot in slots]
        tried: set[int] = set()
        kept: list[Group] = []
        dropped: list[Group] = []
        sampled: "list[torch.Tensor]" = []  # (rollouts,) accuracies of every group, dropped ones included
        sums: dict[str, float] = defaultdict(float)
        if self.engine:
            self.engine.push(self.model)  # this batch's policy
        for rounds in itertools.count(1):
            tried.update(rows)
            groups = self.groups(rows, (c.seed, number, rounds), sums)
            sampled += [group.accuracy for group in groups]
            varied = [group for group in groups if group.varied]  # dynamic sampling: neither all 0 nor all 1
            if not varied and c.nothing_survives == "keep":  # release ray_trainer.py:653-654
                kept += [group._replace(advantages=group.advantages * 0) for group in groups]
            else:
                kept += varied
                dropped += [group for group in groups if not group.varied]
            del dropped[max(0, want - len(kept)) :], groups  # and with them their images
            if len(kept) >= want or rounds == c.max_sampling_rounds:
                break
            draw = random.Random(f"{c.seed}/replacements/{number}/{rounds}")
            rows = replacement_rows(want - len(kept), len(self.triplets), tried, draw)
        if self.engine:
            self.engine.sleep()
        if not kept and c.nothing_survives == "stop":
            raise UserError(f"TAPO: in rollout batch {number + 1} all rollouts of every group were alike in {rounds}"
                            " rounds (all right or all wrong): raise temperature, take another start, or set"
                            " nothing_survives to 'skip'")
        count = sums.pop("rollouts")
        accuracies = [float(accuracy.mean()) for accuracy in sampled]
        mean = sum(accuracies) / len(accuracies)
        metrics = {
            **{name: sums[name] / count for name in ("reward", "accuracy", "accuracy_strict", "format_rate",
                                                     "length", "truncated_share")},
            "reward_std": sums["reward_std"] / len(sampled),
            "accuracy_std": (sum((a - mean) ** 2 for a in accuracies) / len(accuracies)) ** 0.5,
            **{f"accuracy_{half}": sum(float(accuracy[part].mean()) for accuracy in sampled) / len(sampled)
               for half, part in (("anchor", slice(c.n_anchor)), ("positive", slice(c.n_anchor, None)))
               if c.n_positive or half == "anchor"},
            "zero_variance_share": sum(not _varied(accuracy) for accuracy in sampled) / len(sampled),
            "sampling_rounds": float(rounds), "kept_share": len(kept) / want}
        return Batch(kept, dropped, metrics, {
            "rollouts_sampled": count, "rollouts_trained": float(min(len(kept), want) * c.group_size),
            "tokens_sampled": sums["length"], "seconds_rollout": time.monotonic() - began})

    def groups(self, rows: Sequence[int], seed: tuple[int, ...], sums: dict[str, float]) -> list[Group]:
        """One group for each row; `sums` collects the metrics' sums over all rollouts."""
        c, size = self.config, self.config.group_size
        triplets = [self.triplets[row] for row in rows]
        anchors = [self._encoded(t, t.anchor) for t in triplets]
        positives = [self._encoded(t, t.positive) if c.n_positive else None for t in triplets]
        # Intra-class augmentation (Section 4.2): n1 rollouts over x and n2 over x_pos are ONE group.
        completions, engine_logp = self._complete(
            [p for a, b in zip(anchors, positives) for p in [a] * c.n_anchor + [b] * c.n_positive],
            [user_message(t.prompt, image) for t in triplets
             for image in [t.anchor] * c.n_anchor + [t.positive] * c.n_positive], seed)
        if c.score_positive_under == "anchor":  # Eq. 2-4 write x_*; the release scores under the positive
            positives.clear()
        columns = [{"sub_category": t.sub_category} for t in triplets for _ in range(size)]
        queries = [user_message(t.prompt) for t in triplets for _ in range(size)]
        texts = self.encode.tokenizer.batch_decode(completions, skip_special_tokens=True)
        answers = [[{"role": "assistant", "content": text}] for text in texts]
        parts = self.reward(columns, queries, answers, completions).cpu()
        reward = (parts * self.weights.cpu()).sum(-1)
        ends = set(ending_ids(self.model, self.encode.tokenizer))
        truncated = [not ids or ids[-1] not in ends for ids in completions]
        for name, values in (("reward", reward), ("accuracy", parts[:, 0]), ("format_rate", parts[:, 1]),
                             ("reward_std", reward.view(-1, size).std(1))):
            sums[name] += float(values.sum())
        sums["accuracy_strict"] += sum(strict(text, row["sub_category"]) for text, row in zip(texts, columns))
        sums["length"] += sum(len(ids) for ids in completions)
        sums["truncated_share"] += sum(truncated)
        sums["rollouts"] += len(completions)
        groups = []
        for g, triplet in enumerate(triplets):
            own, accuracy = slice(g * size, (g + 1) * size), parts[g * size : (g + 1) * size, 0]
            scored_as = anchors[g] if c.score_positive_under == "anchor" else positives[g]
            negatives = [self._encoded(triplet, triplet.negative)] * size if c.needs_negative else []
            groups.append(Group(
                _varied(accuracy), accuracy, group_advantages(reward[None, own])[0], completions[own],
                [anchors[g]] * c.n_anchor + [scored_as] * c.n_positive, negatives, truncated[own], engine_logp[own]))
        return groups

    def _complete(self, prompts: Sequence[Encoded], chats: Sequence[list], seed: tuple[int, ...]) -> tuple:
        """(token ids of each completion, an engine's log-probabilities of them, none without an engine)."""
        c = self.config
        if self.engine:
            drawn = self.engine.sample(
                chats, prompts, seeds=[mix(*seed, place) for place in range(len(prompts))],
                max_new_tokens=c.max_new_tokens, temperature=c.temperature, top_p=c.top_p)
            return [one.ids for one in drawn], [one.logp for one in drawn]
        completions: list[Any] = [None] * len(prompts)
        for number, part in enumerate(cut_batches([len(p.ids) for p in prompts], c.generation_batch_size)):
            with memory_advice("sampling rollouts", final=False, prompts=len(part)):
                drawn = sample_ids(
                    self.model, self.encode.tokenizer, [prompts[i] for i in part], seed=(*seed, number),
                    max_new_tokens=c.max_new_tokens, temperature=c.temperature, top_p=c.top_p)
            for i, ids in zip(part, drawn):
                completions[i] = ids
        return completions, []

    def _encoded(self, triplet: "TripletRow", image: Any) -> Encoded:
        return self.encode(user_message(triplet.prompt, image))
