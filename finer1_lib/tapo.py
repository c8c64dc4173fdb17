"""Stage 2: TAPO, what it is trained on, what it tells while it trains, and the call that runs it.

One rollout batch of the variant `kit`, for 16 triplets and 4 + 4 rollouts, two updates of 8 triplets:

    4 rollouts over the anchor, 4 over the positive  -> one group of 8 rewards -> 8 advantages
    groups whose rollouts are all right or all wrong -> thrown away, others sampled in their place
    128 rollouts scored under their ANCHOR           -> pi_old, once
    64 of them under their ANCHOR and their NEGATIVE -> `objective.tapo_loss` -> an update, twice

Settings are in `tapo_config`, the trainer in `tapo_trainer`, the baselines (the same trainer with other
numbers) in `baselines`.

Source: METHOD 3; paper section 4.2 and 5.1.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence

from finer1_lib import checkpoints
from finer1_lib.distortions import Picture, masked, noised
from finer1_lib.encoding import ImageFile
from finer1_lib.errors import UserError
from finer1_lib.models import LoadedModel, has_trainable, load_trained
from finer1_lib.out_of_memory import mended
from finer1_lib.prompts import PROMPTS, question_for
from finer1_lib.tapo_config import PRESETS, SWITCHES, TapoConfig, make_config

__all__ = [
    "GAUGES", "LOG_COLUMNS", "PRESETS", "SWITCHES", "TapoConfig", "TripletRow", "make_config", "train_tapo",
    "triplet_rows",
]  # fmt: skip

# Of the rollouts, every one that was sampled, before any group is thrown away; the same for the updates that
# share a rollout batch.
ROLLOUT_GAUGES = {
    "reward": "mean of 0.9 accuracy + 0.1 format: the curve to watch",
    "reward_std": "its standard deviation within a group, on average: what advantages are made of",
    "accuracy": "share that the reward calls right",
    "accuracy_std": "standard deviation between groups: high where prompts are all right or all wrong",
    "accuracy_anchor": "accuracy of the rollouts over anchors",
    "accuracy_positive": "accuracy of the rollouts over positives",
    "accuracy_strict": "share that is strictly right, whatever the reward pays for: far below accuracy, the"
                       " reward is being gamed",
    "format_rate": "share in the asked form",
    "zero_variance_share": "share of groups all right or all wrong: nothing to learn from",
    "sampling_rounds": "how often groups were sampled to fill the batch",
    "kept_share": "groups trained on, of the groups asked for",
    "length": "mean tokens of a completion",
    "truncated_share": "share cut at the limit: near 1, the policy rambles",
}
# Of the tokens of an update.
UPDATE_GAUGES = {
    "ratio_anchor": "mean pi / pi_old of tokens drawn over anchors; 1 in a batch's first update",
    "ratio_positive": "the same for positives",
    "clip_share_anchor": "share of tokens over anchors whose gradient a clip took away",
    "clip_share_positive": "the same for positives",
    "divergence": "mean divergence of own from negative picture: how much the words depend on the picture",
    "entropy": "mean entropy of the next token under the own picture (nats); near 0, all rollouts are alike;"
               " rising with the divergence, the policy is falling apart",
    "entropy_negative": "the same under the negative picture",
    "entropy_sampled": "mean -log pi of the drawn tokens under the own picture",
}
COUNTS = {  # of a rollout batch, written with its first update; the budget adds them up
    "rollouts_sampled": "rollouts sampled, the thrown away ones included",
    "rollouts_trained": "rollouts that the updates of this batch learn from",
    "tokens_sampled": "their tokens",
    "seconds_rollout": "seconds for sampling and rewarding",
    "seconds_scoring": "seconds for scoring without gradient (pi_old, a stale negative)",
}
GAUGES = {**ROLLOUT_GAUGES, **UPDATE_GAUGES, "grad_norm": "gradient norm before it is clipped", **COUNTS,
          "seconds_update": "seconds for forward, backward and optimizer"}
LOG_COLUMNS = ("step", "loss", "learning_rate", *GAUGES, "seconds")
SHOWN = ("reward", "reward_std", "accuracy", "accuracy_std", "accuracy_strict", "format_rate",
         "zero_variance_share", "sampling_rounds", "kept_share", "ratio_anchor", "ratio_positive",
         "clip_share_anchor", "clip_share_positive", "divergence", "entropy", "entropy_negative",
         "entropy_sampled", "length", "truncated_share", "grad_norm", "seconds_rollout", "seconds_scoring",
         "seconds_update")


class TripletRow(NamedTuple):
    """One prompt with its three pictures and its label."""

    anchor: Picture
    positive: Picture
    negative: Picture
    prompt: str
    sub_category: str


def triplet_rows(
    table: Any, image_root: "str | Path", prompt: str = "cot_open", *, positive: str = "same_sub_category",
    negative: str = "look_alike", noise: float = 0.3, mask_share: float = 0.6, seed: int = 0,
) -> list[TripletRow]:
    """The rows of `triplets.parquet` as training prompts.

    Args:
        table: DataFrame with image_id, positive_id, negative_id, super_category, sub_category.
        image_root: folder the ids are relative to.
        prompt: name of a prompt without options; evaluation should use the same.
        positive: "same_sub_category" (TAPO), or "noised": the anchor itself under noise (NoisyRollout).
        negative: "look_alike" (TAPO), or "masked": the anchor itself with blackened patches (PAPO).
        noise, mask_share, seed: of these distortions.

    Raises:
        UserError: another kind of positive or negative.
    """
    root = str(image_root)
    for name, value, known in (("positive", positive, ("same_sub_category", "noised")),
                               ("negative", negative, ("look_alike", "masked"))):
        if value not in known:
            raise UserError(f"{name} {value!r}: one of {', '.join(known)}")
    rows = []
    for row in table.itertuples():
        anchor = ImageFile(root, row.image_id)
        rows.append(TripletRow(
            anchor,
            noised(anchor, noise, seed) if positive == "noised" else ImageFile(root, row.positive_id),
            masked(anchor, mask_share, seed) if negative == "masked" else ImageFile(root, row.negative_id),
            PROMPTS[prompt].text(question=question_for(row.super_category)), row.sub_category))
    return rows


def train_tapo(
    loaded: LoadedModel, rows: Sequence[TripletRow], config: TapoConfig, out_dir: "str | Path", *,
    metrics_path: "str | Path | None" = None, progress: Optional[checkpoints.Progress] = None,
) -> LoadedModel:
    """Train what is trainable in `loaded` onward and write it to `out_dir`; a finished one is loaded instead.

    Killed at any moment, the same call goes on from the last checkpoint and ends with the same weights:
    everything drawn is a function of the seed and the step.

    Args:
        loaded: what to start from: CoT SFT's weights, or a fresh adapter for RL from the base model.
        rows: the triplets; each is a prompt.
        out_dir: the folder of the adapter or, after full fine-tuning, of the whole checkpoint.
        metrics_path: one row of `LOG_COLUMNS` a step; by default `metrics_<name>.csv` beside it.
        progress: as `Stage.progress`; told `SHOWN` at every step.

    Returns:
        The same model, trained.

    Raises:
        UserError: no triplets, nothing trainable, a folder that holds another training, or no memory left.
    """
    from finer1_lib.tapo_trainer import build_trainer

    out_dir = Path(out_dir)
    if not rows:
        raise UserError(f"{out_dir.name}: there are no triplets to train on")
    if not has_trainable(loaded):
        raise UserError(
            f"{out_dir.name}: nothing in the model is trainable; load what CoT SFT trained, or call"
            " models.make_trainable")
    data = [[*(picture[1:] for picture in row[:3]), row.prompt, row.sub_category] for row in rows]
    identity = checkpoints.identity_of(loaded, dataclasses.asdict(config), data)
    if not checkpoints.finished(out_dir, identity):
        path = Path(metrics_path or out_dir.with_name(f"metrics_{out_dir.name}.csv"))
        with mended("training", loaded, training=True, micro_batch_size=config.micro_batch_size,
                    divides=config.rows_per_step, max_new_tokens=config.max_new_tokens):
            trainer = build_trainer(loaded, rows, config, checkpoints.scratch(out_dir))
            checkpoints.run_training(
                trainer, loaded, out_dir, identity, columns=LOG_COLUMNS, metrics_path=path,
                progress=progress, shown=SHOWN)
    return load_trained(loaded, out_dir)
