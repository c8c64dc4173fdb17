"""Stage 2: TAPO's settings, its data, and the call that trains an adapter onward from CoT SFT.

One optimizer step of the variant `kit`, for 8 triplets and 4 + 4 rollouts:

    4 rollouts over the anchor, 4 over the positive  -> one group of 8 rewards -> 8 advantages
    groups whose rollouts are all right or all wrong -> thrown away, others sampled in their place
    all 64 rollouts scored under their ANCHOR and under their NEGATIVE -> `objective.tapo_loss`

The trainer itself is `finer1_lib.tapo_trainer`; baselines are the same trainer with other numbers
(`baselines`).

Source: METHOD 3 (the switch table: column `kit` is the default here); paper section 4.2 and 5.1.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence

from finer1_lib import checkpoints
from finer1_lib.encoding import ImageFile
from finer1_lib.errors import UserError
from finer1_lib.models import LoadedModel, attach_adapter
from finer1_lib.prompts import PROMPTS, question_for

# What each switch may be. A value of the paper's or the release's that is not built yet is named as such
# below.
SWITCHES = {
    "score_positive_under": ("anchor", "positive"),
    "negative_branch": ("fresh", "stale"),
    "divergence": ("k3",),
    "entropy": ("true", "sampled"),
    "token_mean": ("batch", "micro_batch"),
    "accuracy_reward": ("strict", "contains_answer", "contains_response"),
    "nothing_survives": ("skip", "keep"),
}
NOT_BUILT = {"divergence": ("paper",)}
PRESETS: dict[str, dict[str, Any]] = {"kit": {}}
PRESETS_NOT_BUILT = ("paper_text", "official_release")
GAUGES = {
    "reward": "mean of 0.9 accuracy + 0.1 format over all rollouts sampled: the curve to watch",
    "accuracy": "share of all rollouts with the right answer",
    "format_rate": "share of all rollouts in the form <think>..</think><answer>..</answer>",
    "zero_variance_share": "share of sampled groups that were all right or all wrong: nothing to learn from",
    "sampling_rounds": "how often groups were sampled to fill the step",
    "kept_share": "groups trained on, of the groups asked for",
    "ratio": "mean pi / pi_old; 1 where every rollout is used once",
    "clip_share": "share of tokens whose gradient a clip took away",
    "divergence": "mean k3 between anchor and negative: how much the answer depends on the picture",
    "entropy": "mean entropy per token under the scoring image (nats); near 0, all rollouts are alike",
    "entropy_negative": "the same under the negative image",
    "length": "mean tokens of a completion",
    "truncated_share": "share of completions cut at the limit",
}
LOG_COLUMNS = ("step", "loss", "grad_norm", "learning_rate", *GAUGES, "seconds")


class TripletRow(NamedTuple):
    """One prompt with its three pictures and its label."""

    anchor: ImageFile
    positive: ImageFile
    negative: ImageFile
    prompt: str
    sub_category: str


@dataclasses.dataclass(frozen=True)
class TapoConfig:
    """Settings of one run; whatever is not built is refused.

    Attributes:
        n_anchor, n_positive: rollouts over the anchor and over the positive; one group together.
        gamma, eta1, eta2: weights of the divergence and of the two entropies.
        clip_low, clip_high: the ratio stays within [1 - clip_low, 1 + clip_high].
        dual_clip: the loss of a token with A < 0 is at most -A times this; 0 switches it off.
        score_positive_under: the picture under which rollouts of the positive are scored.
        negative_branch: "fresh" recomputes it in every update, with gradient; "stale" once per rollout,
            without.
        divergence: "k3".
        entropy: "true" of the whole distribution, or "sampled", -log pi of the drawn token.
        token_mean: over the whole "batch" of an update, or over each "micro_batch" and then over these.
        accuracy_reward: `rewards.ACCURACY`.
        nothing_survives: "skip" the update, or "keep" the groups at zero advantage.
        max_sampling_rounds: how often a step's groups are sampled at most, the first time included.
        temperature, top_p, max_new_tokens: of the rollouts.
        steps: optimizer steps.
        prompts_per_step: groups per optimizer step.
        updates_per_rollout: optimizer steps that share one rollout batch; divides steps.
        micro_batch_size: rollouts per forward; divides prompts_per_step * (n_anchor + n_positive).
        generation_batch_size: rollouts generated at a time.
        learning_rate, weight_decay, warmup_steps, max_grad_norm: of AdamW, constant after the warm-up.
        checkpoints_every: rollout batches between checkpoints.
        seed: of prompts, rollouts and order.

    Source: METHOD 3. The paper: 5 + 5 rollouts, lr 1e-6 for all weights, weight decay 0.01, 128 prompts a
    step, three steps a rollout batch, 20 rounds; the release: gamma 0.01, etas 0.03, temperature 1, top-p
    0.99, gradient norm 1.
    """

    n_anchor: int = 5
    n_positive: int = 5
    gamma: float = 0.01
    eta1: float = 0.03
    eta2: float = 0.03
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 3.0
    score_positive_under: str = "anchor"
    negative_branch: str = "fresh"
    divergence: str = "k3"
    entropy: str = "true"
    token_mean: str = "batch"
    accuracy_reward: str = "strict"
    nothing_survives: str = "skip"
    max_sampling_rounds: int = 20
    temperature: float = 1.0
    top_p: float = 0.99
    max_new_tokens: int = 2048
    steps: int = 100
    prompts_per_step: int = 8
    updates_per_rollout: int = 1
    micro_batch_size: int = 16
    generation_batch_size: int = 64
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    checkpoints_every: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in SWITCHES.items():
            value = getattr(self, name)
            if value in NOT_BUILT.get(name, ()):
                raise UserError(f"TAPO: {name} {value!r} is not built yet: use {' or '.join(known)}")
            if value not in known:
                raise UserError(f"TAPO: {name} {value!r}: one of {', '.join(known)}")
        positive = ("n_anchor", "max_sampling_rounds", "temperature", "top_p", "max_new_tokens", "steps",
                    "prompts_per_step", "updates_per_rollout", "micro_batch_size", "generation_batch_size",
                    "learning_rate", "max_grad_norm", "checkpoints_every")
        for name in positive:
            if not getattr(self, name) > 0:
                raise UserError(f"TAPO: {name} is {getattr(self, name)}: it must be positive")
        for name in ("n_positive", "gamma", "eta1", "eta2", "clip_low", "clip_high", "weight_decay",
                     "warmup_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"TAPO: {name} is {getattr(self, name)}: it must not be negative")
        if self.group_size < 2:
            raise UserError("TAPO: n_anchor + n_positive must be at least 2, one alone has no advantage")
        if self.dual_clip and self.dual_clip <= 1 + self.clip_high:
            raise UserError(f"TAPO: dual_clip {self.dual_clip} must be above 1 + clip_high, or 0 for none")
        if self.top_p > 1 or self.clip_low >= 1:
            raise UserError(
                f"TAPO: top_p {self.top_p} must be at most 1 and clip_low {self.clip_low} below 1")
        if self.rows_per_step % self.micro_batch_size:
            raise UserError(
                f"TAPO: micro_batch_size {self.micro_batch_size} must divide the {self.rows_per_step}"
                " rollouts of a step (prompts_per_step times n_anchor + n_positive)")
        if self.steps % self.updates_per_rollout:
            raise UserError(
                f"TAPO: updates_per_rollout {self.updates_per_rollout} must divide steps {self.steps}")

    @property
    def group_size(self) -> int:
        """Rollouts of one prompt."""
        return self.n_anchor + self.n_positive

    @property
    def rows_per_step(self) -> int:
        """Rollouts an optimizer step trains on."""
        return self.prompts_per_step * self.group_size

    @property
    def needs_negative(self) -> bool:
        """Whether the negative picture enters the loss at all."""
        return bool(self.gamma or self.eta2)


def make_config(preset: str = "kit", **settings: Any) -> TapoConfig:
    """A preset's settings with some of them replaced.

    Raises:
        UserError: an unknown preset or setting, or one that is not built yet.
    """
    if preset in PRESETS_NOT_BUILT:
        raise UserError(f"TAPO: the preset {preset!r} is not built yet: use {', '.join(PRESETS)}")
    if preset not in PRESETS:
        raise UserError(f"TAPO: preset {preset!r}: one of {', '.join(PRESETS)}")
    unknown = sorted(set(settings) - {field.name for field in dataclasses.fields(TapoConfig)})
    if unknown:
        raise UserError(f"TAPO has no setting {', '.join(unknown)}")
    return TapoConfig(**{**PRESETS[preset], **settings})


def triplet_rows(table: Any, image_root: "str | Path", prompt: str = "cot_open") -> list[TripletRow]:
    """The rows of `triplets.parquet` as training prompts.

    Args:
        table: DataFrame with image_id, positive_id, negative_id, super_category, sub_category.
        image_root: folder the ids are relative to.
        prompt: name of a prompt without options; evaluation should use the same.
    """
    root = str(image_root)
    return [
        TripletRow(ImageFile(root, row.image_id), ImageFile(root, row.positive_id),
                   ImageFile(root, row.negative_id),
                   PROMPTS[prompt].text(question=question_for(row.super_category)), row.sub_category)
        for row in table.itertuples()
    ]


def train_tapo(
    loaded: LoadedModel, rows: Sequence[TripletRow], config: TapoConfig, out_dir: "str | Path", *,
    metrics_path: "str | Path | None" = None, progress: Optional[checkpoints.Progress] = None,
) -> LoadedModel:
    """Train the adapter of `loaded` onward and write it to `out_dir`; a finished one is loaded instead.

    Killed at any moment, the same call goes on from the last checkpoint and ends with the same weights:
    everything drawn is a function of the seed and the step.

    Args:
        loaded: with the adapter to start from (CoT SFT's, or a fresh one for RL from the base model).
        rows: the triplets; each is a prompt.
        out_dir: the adapter's folder.
        metrics_path: one row of `LOG_COLUMNS` a step; by default `metrics_<name>.csv` beside it.
        progress: as `Stage.progress`.

    Returns:
        The same model with the trained adapter.

    Raises:
        UserError: no triplets, no adapter, or a folder that holds another training.
    """
    from finer1_lib.tapo_trainer import build_trainer

    out_dir = Path(out_dir)
    if not rows:
        raise UserError(f"{out_dir.name}: there are no triplets to train on")
    if not hasattr(loaded.model, "peft_config"):
        raise UserError(f"{out_dir.name}: the model has no adapter to train; load CoT SFT's or add a new one")
    data = [[*(image.image_id for image in row[:3]), row.prompt, row.sub_category] for row in rows]
    identity = checkpoints.identity_of(loaded, dataclasses.asdict(config), data)
    if not checkpoints.finished_adapter(out_dir, identity):
        trainer = build_trainer(loaded, rows, config, checkpoints.scratch(out_dir))
        path = Path(metrics_path or out_dir.with_name(f"metrics_{out_dir.name}.csv"))
        checkpoints.run_training(
            trainer, loaded, out_dir, identity, columns=LOG_COLUMNS, metrics_path=path, progress=progress,
            shown=("reward", "accuracy", "kept_share", "length", "seconds"))
    return attach_adapter(loaded, out_dir)
