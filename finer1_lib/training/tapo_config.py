"""The settings of TAPO: every switch between the paper's text, the release's code and the kit's default.

Three presets cover where the paper and its release differ (or leave something open); sizes, rates and weights
are the same settings for all three:

    make_config("kit", steps=40)   make_config("paper_text", steps=40)   make_config("official_release", ...)

Source: Fine-R1 (arXiv 2602.07605), Sections 4.2 and 5.1; release TAPO/examples/configs/config_tapo.yaml,
TAPO/examples/tapo/tapo_3b.sh.
"""

import dataclasses
from typing import Any, Mapping, NamedTuple

from finer1_lib.core.errors import UserError
from finer1_lib.data.triplets import Picture
from finer1_lib.models.vllm_engine import ENGINES
from finer1_lib.training.objective import DIVERGENCES
from finer1_lib.training.rewards import ACCURACY, FORMATS

# Of the rollouts, every one that was sampled, before any group is discarded; the same for the updates that
# share a rollout batch.
ROLLOUT_METRICS = {
    "reward": "mean of 0.9 accuracy + 0.1 format: the curve to watch",
    "reward_std": "its standard deviation within a group, on average: what advantages are made of",
    "accuracy": "share that the reward calls right",
    "accuracy_std": "standard deviation between groups: high where prompts are all right or all wrong",
    "accuracy_anchor": "accuracy of the rollouts over anchors",
    "accuracy_positive": "accuracy of the rollouts over positives",
    "accuracy_strict": "share that is strictly right, whatever the reward pays for: far below accuracy, the"
                       " reward is being hacked",
    "format_rate": "share in the required form",
    "zero_variance_share": "share of groups all right or all wrong: nothing to learn from",
    "sampling_rounds": "how often groups were sampled to fill the batch",
    "kept_share": "groups trained on, of the groups wanted",
    "length": "mean tokens of a completion",
    "truncated_share": "share cut at the limit: near 1, the policy rambles",
}
ENGINE_METRICS = {  # of a rollout batch, logged where an engine samples
    "engine_gap": "mean |log pi of the engine - log pi of the trainer| of the sampled tokens (nats): more than"
                  " rounding, the engine samples another policy",
    "engine_gap_max": "the largest of them",
}
# Of the tokens of an update.
UPDATE_METRICS = {
    "ratio_anchor": "mean pi / pi_old of tokens drawn over anchors; 1 in a batch's first update",
    "ratio_positive": "the same for positives",
    "clip_share_anchor": "share of tokens over anchors whose gradient a clip took away",
    "clip_share_positive": "the same for positives",
    "divergence": "mean divergence of own from negative image: how much the words depend on the image",
    "entropy": "mean entropy of the next token under the own image (nats); near 0, all rollouts are alike;"
               " rising with the divergence, the policy collapses",
    "entropy_negative": "the same under the negative image",
    "entropy_sampled": "mean -log pi of the drawn tokens under the own image",
}
COUNTS = {  # of a rollout batch, written with its first update; the budget adds them up
    "rollouts_sampled": "rollouts sampled, the discarded ones included",
    "rollouts_trained": "rollouts that the updates of this batch learn from",
    "tokens_sampled": "their tokens",
    "seconds_rollout": "seconds for sampling and rewarding",
    "seconds_scoring": "seconds for scoring without gradient (pi_old, a stale negative)",
}
METRICS = {**ROLLOUT_METRICS, **UPDATE_METRICS, "grad_norm": "gradient norm before it is clipped", **COUNTS,
          "seconds_update": "seconds for forward, backward and optimizer"}
LOG_COLUMNS = ("step", "loss", "learning_rate", *METRICS, "seconds")
SHOWN = ("reward", "reward_std", "accuracy", "accuracy_std", "accuracy_strict", "format_rate",
         "zero_variance_share", "sampling_rounds", "kept_share", "ratio_anchor", "ratio_positive",
         "clip_share_anchor", "clip_share_positive", "divergence", "entropy", "entropy_negative",
         "entropy_sampled", "length", "truncated_share", "grad_norm", "seconds_rollout", "seconds_scoring",
         "seconds_update")


class TripletRow(NamedTuple):
    """One prompt with its three images and its label."""

    anchor: Picture
    positive: Picture
    negative: Picture
    prompt: str
    sub_category: str


SWITCHES = {"score_positive_under": ("anchor", "positive"), "negative_branch": ("fresh", "stale"),
            "divergence": DIVERGENCES, "entropy": ("true", "sampled"), "token_mean": ("batch", "micro_batch"),
            "accuracy_reward": tuple(ACCURACY), "format_reward": tuple(FORMATS),
            "nothing_survives": ("skip", "keep", "stop"), "engine": ENGINES}
PRESETS: dict[str, dict[str, Any]] = {
    "kit": {},
    "paper_text": dict(
        score_positive_under="anchor", negative_branch="fresh", divergence="paper", entropy="sampled",
        dual_clip=0.0, token_mean="batch", accuracy_reward="contains_response", nothing_survives="skip"),
    "official_release": dict(
        score_positive_under="positive", negative_branch="stale", divergence="k3", entropy="sampled",
        dual_clip=3.0, token_mean="micro_batch", accuracy_reward="contains_answer", nothing_survives="keep",
        max_sampling_rounds=0),
}


@dataclasses.dataclass(frozen=True)
class TapoConfig:
    """Settings of one run, checked when they are made (UserError).

    Source: Section 5.1: 5 + 5 rollouts, lr 1e-6 for all weights, weight decay 0.01, 128 prompts a step, three
    steps a rollout batch, 20 rounds; release config_tapo.yaml:37-86 and tapo_3b.sh:32-47: gamma 0.01, etas
    0.03, clip 0.2 / 0.28, temperature 1, top-p 0.99, gradient norm 1.
    """

    n_anchor: int = 5  # rollouts over the anchor; one group with those over the positive
    n_positive: int = 5
    gamma: float = 0.01  # weight of the divergence
    eta1: float = 0.03  # weights of the two entropies
    eta2: float = 0.03
    clip_low: float = 0.2  # the ratio stays within [1 - clip_low, 1 + clip_high]
    clip_high: float = 0.28
    dual_clip: float = 3.0  # a token with A < 0 has at most -A times this as its loss; 0 for no limit
    mask_truncated: bool = False  # rollouts cut at max_new_tokens count for the mean, not the loss
    score_positive_under: str = "anchor"  # the image under which rollouts of the positive are scored
    negative_branch: str = "fresh"  # in every update, with gradient; "stale": once per rollout, without
    divergence: str = "k3"  # a kind of `objective.divergence`, or "full", the exact KL over the vocabulary
    entropy: str = "true"  # of the whole distribution, or "sampled": -log pi of the drawn token
    token_mean: str = "batch"  # over an update, or over each "micro_batch" and then over these
    accuracy_reward: str = "strict"  # a key of `rewards.ACCURACY`
    format_reward: str = "thinking"  # a key of `rewards.FORMATS`
    # Where no group of a rollout batch has both right and wrong rollouts: "skip" the update and log it,
    # "stop" with an error, or "keep" a sampling round that left nothing, at zero advantage (only divergence
    # and entropies act on it; as in the release).
    nothing_survives: str = "skip"
    max_sampling_rounds: int = 20  # of a rollout batch, the first included; 0 is no limit and needs "keep"
    temperature: float = 1.0
    top_p: float = 0.99
    max_new_tokens: int = 2048
    steps: int = 100
    prompts_per_step: int = 8  # groups per optimizer step
    updates_per_rollout: int = 2  # optimizer steps that share one rollout batch; divides steps
    micro_batch_size: int = 16  # rollouts per forward; divides prompts_per_step * (n_anchor + n_positive)
    generation_batch_size: int = 64  # rollouts generated at a time
    learning_rate: float = 1e-5  # of AdamW, constant after the warm-up
    weight_decay: float = 0.01
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    checkpoints_every: int = 5  # rollout batches between checkpoints
    seed: int = 0  # of prompts, rollouts and order
    engine: str = "transformers"  # what samples the rollouts; "vllm" gets the live weights before every batch

    def __post_init__(self) -> None:
        for name, known in SWITCHES.items():
            if getattr(self, name) not in known:
                raise UserError(f"TAPO: {name} {getattr(self, name)!r}: one of {', '.join(known)}")
        check_signs("TAPO", self, "n_positive gamma eta1 eta2 clip_low clip_high dual_clip weight_decay"
                    " warmup_steps max_sampling_rounds")
        for wrong, message in (
            (self.group_size < 2, "n_anchor + n_positive must be at least 2, one alone has no advantage"),
            (0 < self.dual_clip <= 1 + self.clip_high,
             f"dual_clip {self.dual_clip} must be above 1 + clip_high, or 0 for none"),
            (self.top_p > 1 or self.clip_low >= 1,
             f"top_p {self.top_p} must be at most 1 and clip_low {self.clip_low} below 1"),
            (not self.max_sampling_rounds and self.nothing_survives != "keep",
             "max_sampling_rounds 0 (no limit) could go on for ever unless nothing_survives is 'keep': set a"
             " limit"),
            (self.divergence == "full" and self.negative_branch == "stale",
             "divergence 'full' needs the negative's whole distribution: set negative_branch to 'fresh'"),
            (self.rows_per_step % self.micro_batch_size,
             f"micro_batch_size {self.micro_batch_size} must divide the {self.rows_per_step} rollouts of a"
             " step (prompts_per_step times n_anchor + n_positive)"),
            (self.steps % self.updates_per_rollout,
             f"updates_per_rollout {self.updates_per_rollout} must divide steps {self.steps}"),
        ):
            if wrong:
                raise UserError(f"TAPO: {message}")

    @property
    def group_size(self) -> int:  # rollouts of one prompt
        return self.n_anchor + self.n_positive

    @property
    def rows_per_step(self) -> int:  # rollouts an optimizer step trains on
        return self.prompts_per_step * self.group_size

    @property
    def needs_negative(self) -> bool:  # whether the negative image enters the loss at all
        return bool(self.gamma or self.eta2)


def check_signs(stage: str, config: Any, may_be_zero: str) -> None:
    """Raises: UserError: a number of a configuration (other than its seed) is negative, or zero unless named."""
    for name, value in vars(config).items():
        zero = name in may_be_zero.split()
        if name != "seed" and type(value) in (int, float) and not (value >= 0 if zero else value > 0):
            raise UserError(f"{stage}: {name} is {value}: it must {'not be negative' if zero else 'be positive'}")


_FIELDS = {field.name for field in dataclasses.fields(TapoConfig)}


def make_config(preset: str = "kit", **settings: Any) -> TapoConfig:
    """A preset's settings with some replaced; what the paper does not state, "paper_text" takes from "kit".

    Raises: UserError: an unknown preset or setting.
    """
    if preset not in PRESETS:
        raise UserError(f"TAPO: preset {preset!r}: one of {', '.join(PRESETS)}")
    if unknown := sorted(set(settings) - _FIELDS):
        raise UserError(f"TAPO has no setting {', '.join(unknown)}")
    return TapoConfig(**{**PRESETS[preset], **settings})


def tapo_config_from(parameters: Mapping[str, Any], **settings: Any) -> TapoConfig:
    """From a stage's parameters that are named as fields, then `settings`. Raises: UserError: a bad value."""
    return make_config("kit", **{**{name: parameters[name] for name in _FIELDS & set(parameters)}, **settings})


def preset_table(config: TapoConfig) -> Any:
    """DataFrame: a column a preset, a row each switch that `PRESETS` sets in `config`."""
    import pandas
    made = pandas.DataFrame({preset: vars(dataclasses.replace(config, **changes))
                             for preset, changes in PRESETS.items()}, dtype=object)
    return made.loc[["dual_clip", "max_sampling_rounds", *(name for name in SWITCHES if name != "engine")]]
