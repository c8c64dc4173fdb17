"""TAPOTrainer: TRL's GRPOTrainer with its whole rollout and its whole loss replaced.

TRL keeps the loop, the optimizer, accumulation, checkpoints and logs. Replaced are the two methods that make
the algorithm, because Unsloth rewrites what TRL calls inside them (its `compute_loss` never reaches
`_compute_loss`, its log-prob method has no gradient), and because TRL 1.15's own loss is a Triton kernel:

    _generate_and_score_completions  `rollouts.Sampler`: rollouts, rewards, advantages -> a dictionary of B rows
    compute_loss                     that dictionary's micro-batch -> `objective.tapo_loss`

The class is made on whatever `trl.GRPOTrainer` is when it is asked for, so it also sits on Unsloth's
rewritten one.

Source: METHOD 3; trainer.md 1.5 and 2 (which methods may be called, and why).
"""

import functools
from collections import defaultdict
from pathlib import Path
from typing import Any, Sequence

from finer1_lib.encoding import Encoded, Encoder, pad
from finer1_lib.generation import mix
from finer1_lib.models import LoadedModel
from finer1_lib.objective import tapo_loss
from finer1_lib.policy import score_completions
from finer1_lib.rollouts import Batch, Sampler
from finer1_lib.tapo import TapoConfig, TripletRow


@functools.lru_cache(maxsize=None)
def _trainer_class(base: type) -> type:
    import torch
    from transformers import TrainerCallback

    class SkipEmptyUpdates(TrainerCallback):
        """An update without tokens is none: AdamW would still decay weights and follow its momentum."""

        def __init__(self, trainer):
            self.trainer = trainer

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if self.trainer.update_tokens == 0:
                for parameter in self.trainer.model.parameters():
                    parameter.grad = None
                print(f"step {state.global_step + 1}: no group survived the filter, no update", flush=True)
            self.trainer.update_tokens = 0

    class TAPOTrainer(base):
        """See the module.

        Args:
            tapo: the settings; TRL's own are set by `build_trainer` to match.
            triplets: the prompts.
        """

        loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole update

        def __init__(self, *args, tapo: TapoConfig, triplets: Sequence[TripletRow], **kwargs):
            self.tapo, self.triplets = tapo, list(triplets)
            self.update_tokens = 0
            self._sums: dict[str, float] = defaultdict(float)  # token sums of this update
            self._gauges: dict[str, float] = {}                # of the rollout batch
            super().__init__(*args, **kwargs)
            self.sampler = Sampler(self.model, Encoder(self.processing_class), tapo, self.triplets,
                                   self._calculate_rewards, self.reward_weights)
            self.add_callback(SkipEmptyUpdates(self))

        def create_model_card(self, *args, **kwargs):
            """No card: a checkpoint is scratch."""

        def _send_telemetry(self):
            """No pings."""

        # Rollouts ----------------------------------------------------

        def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
            number = self.state.global_step // self.tapo.updates_per_rollout
            slots = [row["slot"] for row in inputs[:: self.tapo.group_size]]
            batch = self.sampler.batch(slots, number)
            self._gauges = batch.gauges
            result = self._as_rows(batch, len(slots))
            torch.manual_seed(mix(self.tapo.seed, number))  # TRL shuffles next, by the global generator
            return result

        def _as_rows(self, batch: Batch, want: int) -> dict[str, Any]:
            """Exactly `want` groups as one dictionary; TRL splits and shuffles it, so pictures are lists."""
            c, device = self.tapo, self.accelerator.device
            usable = batch.kept + (batch.dropped if c.nothing_survives == "keep" else [])
            groups = usable[:want]
            real = len(groups) * c.group_size
            groups += [(batch.kept + batch.dropped)[0]] * (want - len(groups))  # masked out below
            column = {key: [row for group in groups for row in getattr(group, key)]
                      for key in ("completions", "prompts", "negatives")}
            padded = pad(column["completions"], self._tokenizer.pad_token_id, "right")
            ids, mask = (tensor.to(device) for tensor in padded)
            mask[real:] = 0
            result = {
                "completion_ids": ids, "completion_mask": mask,
                "advantages": torch.cat([group.advantages for group in groups]).to(device),
                "prompts": column["prompts"], "num_items_in_batch": mask.sum()}
            if c.updates_per_rollout > 1:
                result["old_logp"] = self._score_without_gradient(column["prompts"], ids, mask)[0]
            if c.needs_negative:
                result["negatives"] = column["negatives"]
                if c.negative_branch == "stale":
                    scored = self._score_without_gradient(column["negatives"], ids, mask)
                    result["negative_logp"], result["negative_entropy"] = scored
            return result

        # Loss --------------------------------------------------------

        def _score(self, model, prompts: Sequence[Encoded], ids, mask) -> tuple:
            """(log-probabilities, entropies), (B, T) each, under the given pictures."""
            with self.accelerator.autocast():
                scored = score_completions(
                    self.accelerator.unwrap_model(model), prompts, ids, mask,
                    pad_token_id=self._tokenizer.pad_token_id, temperature=self.tapo.temperature)
            # -log pi of the drawn token is an estimate of the entropy; its gradient is another one
            return scored.logp, scored.entropy if self.tapo.entropy == "true" else -scored.logp

        def _score_without_gradient(self, prompts, ids, mask) -> tuple:
            size = self.tapo.micro_batch_size
            with torch.no_grad():
                parts = [self._score(self.model, prompts[k : k + size], ids[k : k + size], mask[k : k + size])
                         for k in range(0, len(ids), size)]
            return tuple(torch.cat(values) for values in zip(*parts))

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            c = self.tapo
            rows = inputs["completion_mask"].any(1).nonzero()[:, 0].tolist()
            if not rows:  # nothing but places that no group was left for
                return next(p for p in model.parameters() if p.requires_grad).sum() * 0.0
            mask = inputs["completion_mask"][rows]
            width = int(mask.sum(1).max())
            mask, ids = mask[:, :width], inputs["completion_ids"][rows, :width]
            logp, entropy = self._score(model, [inputs["prompts"][i] for i in rows], ids, mask)
            old = inputs["old_logp"][rows, :width] if "old_logp" in inputs else logp.detach()
            negative_logp = negative_entropy = None
            if "negative_logp" in inputs:
                negative_logp = inputs["negative_logp"][rows, :width]
                negative_entropy = inputs["negative_entropy"][rows, :width]
            elif c.needs_negative:
                negatives = [inputs["negatives"][i] for i in rows]
                negative_logp, negative_entropy = self._score(model, negatives, ids, mask)
            items = inputs["num_items_in_batch"] / c.updates_per_rollout if c.token_mean == "batch" else None
            terms = tapo_loss(
                logp, old, inputs["advantages"][rows], mask, clip_low=c.clip_low, clip_high=c.clip_high,
                dual_clip=c.dual_clip, gamma=c.gamma, eta1=c.eta1, eta2=c.eta2, entropy=entropy,
                logp_negative=negative_logp, entropy_negative=negative_entropy, items=items)
            self.update_tokens += int(mask.sum())
            gauges = {"ratio": terms.ratio, "clip_share": terms.clipped, "entropy": entropy}
            if c.needs_negative:
                gauges |= {"divergence": terms.divergence, "entropy_negative": negative_entropy}
            self._sums["tokens"] += float(mask.sum())
            for name, values in gauges.items():
                self._sums[name] += float((values.detach() * mask).sum())
            parts = 1 if c.token_mean == "batch" else self.current_gradient_accumulation_steps
            return terms.loss / parts

        def _compute_loss(self, model, inputs):
            return self.compute_loss(model, inputs)

        def log(self, logs: dict[str, float], start_time: Any = None) -> None:
            if "loss" in logs:
                tokens = self._sums.pop("tokens", 0.0)
                logs = {**logs, **self._gauges, **{k: v / tokens for k, v in self._sums.items() if tokens}}
                self._sums.clear()
            super().log(logs, start_time)

    return TAPOTrainer


def make_tapo_trainer_class() -> type:
    """TAPOTrainer on whatever `trl.GRPOTrainer` is by now: TRL's own, or the one Unsloth rewrote."""
    import trl

    return _trainer_class(trl.GRPOTrainer)


def build_trainer(loaded: LoadedModel, rows: Sequence[TripletRow], config: TapoConfig, folder: Path) -> Any:
    """The trainer of one run; its checkpoints go to `folder`, always between two rollout batches."""
    import trl
    from datasets import Dataset
    from transformers import PrinterCallback

    from finer1_lib.checkpoints import common_arguments
    from finer1_lib.rewards import reward_functions

    functions, weights = reward_functions(config.accuracy_reward)
    micro_batches = config.rows_per_step // config.micro_batch_size
    save_steps = config.checkpoints_every * config.updates_per_rollout
    arguments = trl.GRPOConfig(
        **common_arguments(loaded, folder, seed=config.seed, save_steps=save_steps), max_steps=config.steps,
        num_train_epochs=1, learning_rate=config.learning_rate, lr_scheduler_type="constant_with_warmup",
        warmup_steps=config.warmup_steps, weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm, per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=micro_batches,
        steps_per_generation=micro_batches * config.updates_per_rollout, num_iterations=1,
        num_generations=config.group_size, max_completion_length=config.max_new_tokens,
        temperature=config.temperature, top_p=config.top_p, top_k=0, beta=0.0, loss_type="dapo",
        epsilon=config.clip_low, epsilon_high=config.clip_high, reward_weights=weights, shuffle_dataset=False,
        mask_truncated_completions=False, use_vllm=False, vllm_importance_sampling_correction=False)
    # One row a group, in order: the dataset is the plan of prompts itself, so one pass is the whole training.
    slots = range(config.steps * config.prompts_per_step)
    plan = [{"prompt": [{"role": "user", "content": ""}], "slot": slot} for slot in slots]
    trainer = make_tapo_trainer_class()(
        model=loaded.model, args=arguments, reward_funcs=functions, train_dataset=Dataset.from_list(plan),
        processing_class=loaded.processor, tapo=config, triplets=rows)
    trainer.remove_callback(PrinterCallback)
    return trainer
