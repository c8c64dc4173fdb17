"""Stage 2: TAPO, what it is trained on, what it logs, and the call that runs it. One rollout batch of "kit":

    4 rollouts over the anchor, 4 over the positive  -> one group of 8 rewards -> 8 advantages
    groups whose rollouts are all right or all wrong -> discarded, others sampled in their place
    128 rollouts scored under their ANCHOR           -> pi_old, once
    64 of them under their ANCHOR and their NEGATIVE -> `objective.tapo_loss` -> an update, twice

TAPOTrainer is TRL's GRPOTrainer, which keeps the loop, optimizer, accumulation, checkpoints and logs. Replaced
are the two methods that are the algorithm: `_generate_and_score_completions` (by `rollouts.Sampler`; it returns
a dictionary of rows) and `compute_loss` (their micro-batch to `objective.tapo_loss`). Unsloth rewrites what TRL
calls inside them, and TRL 1.15's own loss is a Triton kernel (no CPU).

Source: Fine-R1 (arXiv 2602.07605), Sections 4.2 and 5.1.
"""

import time
from pathlib import Path
from typing import Any, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import PROMPTS, question_for
from finer1_lib.data.triplets import masked, noised
from finer1_lib.models.encoding import Encoded, Encoder, pad
from finer1_lib.models.generation import mix
from finer1_lib.models.log_probabilities import Scored, full_divergence, logit_rows, score_completions
from finer1_lib.models.sharing import bundle, unbundle, unwrap_base
from finer1_lib.models.trainable import LoadedModel
from finer1_lib.models.vllm_engine import check_engine, check_gap, open_engine
from finer1_lib.training import checkpoints
from finer1_lib.training.objective import divergence, sampled_entropy, tapo_loss
from finer1_lib.training.rewards import reward_functions
from finer1_lib.training.rollouts import Batch, Group, Sampler
from finer1_lib.training.tapo_config import COUNTS, ENGINE_METRICS, LOG_COLUMNS, SHOWN, TapoConfig, TripletRow


def triplet_rows(table: Any, image_root: "str | Path", prompt: str = "cot_open", *,
                 positive: str = "same_sub_category", negative: str = "look_alike", noise: float = 0.3,
                 mask_share: float = 0.6, seed: int = 0) -> list[TripletRow]:
    """The rows of `triplets.parquet` as training prompts; `prompt` names one without options. A "noised" positive
    is the anchor under noise (NoisyRollout), a "masked" negative the anchor with blackened patches (PAPO).
    Raises: UserError: another kind of positive or negative.
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


def train_tapo(loaded: LoadedModel, rows: Sequence[TripletRow], config: TapoConfig, out_dir: "str | Path", *,
               metrics_path: "str | Path | None" = None,
               progress: Optional[checkpoints.Progress] = None) -> LoadedModel:
    """Continue training `loaded` and write it to `out_dir`; a finished training is loaded instead. Killed at any
    moment, the same call resumes and ends with the same weights: everything drawn is a function of the seed and
    the step. `metrics_path` (by default `metrics_<name>.csv` beside `out_dir`) gets a row of `LOG_COLUMNS` a
    step, `progress` the values of `SHOWN`. Raises: UserError: as `checkpoints.run_training`.
    """
    out_dir = Path(out_dir)
    data = [[*(picture[1:] for picture in row[:3]), row.prompt, row.sub_category] for row in rows]
    return checkpoints.run_training(
        loaded, out_dir, config, data, lambda folder: build_trainer(loaded, rows, config, folder),
        columns=(*LOG_COLUMNS, *(ENGINE_METRICS if config.engine != "transformers" else ())),
        metrics_path=Path(metrics_path or out_dir.with_name(f"metrics_{out_dir.name}.csv")),
        progress=progress, shown=SHOWN, divides=config.rows_per_step, max_new_tokens=config.max_new_tokens)


def make_tapo_trainer_class() -> type:
    """TAPOTrainer on the current `trl.GRPOTrainer`: TRL's own, or the one Unsloth rewrote."""
    import torch
    import trl
    from transformers import TrainerCallback

    class SkipEmptyUpdates(TrainerCallback):
        """An update without tokens is skipped: AdamW would still decay weights and apply its momentum."""

        def __init__(self, trainer):
            self.trainer = trainer

        def on_step_begin(self, args, state, control, **kwargs):
            self.trainer.step_began = time.monotonic()

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if self.trainer.update_tokens == 0:
                for parameter in self.trainer.model.parameters():
                    parameter.grad = None
                print(f"step {state.global_step + 1}: no group survived the filter, no update", flush=True)
            self.trainer.update_tokens = 0

    @checkpoints.quiet
    class TAPOTrainer(trl.GRPOTrainer):
        """See the module; TRL's own settings are set by `build_trainer` to match `tapo`."""

        loss_is_scaled_for_ga = True  # compute_loss divides by an update's share of the batch's tokens

        def __init__(self, *args, tapo: TapoConfig, triplets: Sequence[TripletRow], engine: Any = None, **kwargs):
            self.tapo, self.triplets = tapo, list(triplets)
            self.update_tokens, self.step_began = 0, 0.0
            self._sums: dict[str, tuple] = {}  # (sum, tokens) of this update's metrics
            self._rollout_metrics: dict[str, float] = {}
            self._counts: dict[str, float] = {}  # of the rollout batch, logged once
            super().__init__(*args, **kwargs)
            self.sampler = Sampler(self.model, Encoder(self.processing_class), tapo, self.triplets,
                                   self._calculate_rewards, self.reward_weights, engine)
            self.add_callback(SkipEmptyUpdates(self))

        def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
            number = self.state.global_step // self.tapo.updates_per_rollout
            slots = [row["slot"] for row in inputs[:: self.tapo.group_size]]
            with self.accelerator.autocast():  # as for scoring: weights trained in full are float32
                batch = self.sampler.batch(slots, number)
            began = time.monotonic()
            result = self._as_rows(batch, len(slots))
            self._rollout_metrics = {**batch.metrics, **self._engine_gap(batch.kept[: len(slots)], result)}
            self._counts = {**batch.counts, "seconds_scoring": time.monotonic() - began}
            torch.manual_seed(mix(self.tapo.seed, number))  # TRL shuffles next, by the global generator
            return bundle(result, self.tapo.group_size, self.tapo.micro_batch_size)

        def _prepare_inputs(self, generation_batch):
            return unbundle(super()._prepare_inputs(generation_batch))

        def _as_rows(self, batch: Batch, want: int) -> dict[str, Any]:
            """Exactly `want` groups as one dictionary; TRL splits and shuffles it, so pictures are lists."""
            c, device = self.tapo, self.accelerator.device
            groups = batch.kept[:want]
            real = len(groups) * c.group_size
            groups += [(batch.kept + batch.dropped)[0]] * (want - len(groups))  # masked out below
            column = {key: [row for group in groups for row in getattr(group, key)]
                      for key in ("completions", "prompts", "negatives", "truncated")}
            padded = pad(column["completions"], self._tokenizer.pad_token_id, "right")
            ids, mask = (tensor.to(device) for tensor in padded)
            mask[real:] = 0
            if c.mask_truncated:
                mask[torch.tensor(column["truncated"], device=device)] = 0
            half = [False] * c.n_anchor + [True] * c.n_positive
            result = {
                "completion_ids": ids, "completion_mask": mask,
                "advantages": torch.cat([group.advantages for group in groups]).to(device),
                "from_positive": torch.tensor(half * want, device=device),
                "prompts": column["prompts"], "num_items_in_batch": mask.sum()}
            if c.updates_per_rollout > 1:  # else pi_old is pi itself; never the engine's
                result["old_logp"] = self._score_without_gradient(column["prompts"], ids, mask).logp
            if c.needs_negative:
                result["negatives"] = column["negatives"]
                if c.negative_branch == "stale":  # release dp_actor.py:175: without gradient
                    scored = self._score_without_gradient(column["negatives"], ids, mask)
                    result["negative_logp"], result["negative_entropy"] = scored.logp, scored.entropy
            return result

        def _engine_gap(self, groups: Sequence[Group], result: dict[str, Any]) -> dict[str, float]:
            """How far an engine's log-probabilities are from the trainer's, over what both saw alike.
            Raises: UserError: farther than rounding: it samples another policy than the one trained.
            """
            c = self.tapo
            # a rollout over the positive that is scored under the anchor has no such pair
            alike = c.n_anchor if c.score_positive_under == "anchor" else c.group_size
            theirs = {g * c.group_size + i: torch.tensor(group.engine_logp[i])
                      for g, group in enumerate(groups) if group.engine_logp for i in range(alike)}
            places = [i for i in theirs if result["completion_mask"][i].any()]  # what the loss leaves out, too
            if not places:
                return {}
            if "old_logp" in result and c.temperature == 1:
                ours = result["old_logp"][places]
            else:  # the engine's are those before temperature
                ours = self._score_without_gradient(
                    [result["prompts"][i] for i in places], result["completion_ids"][places],
                    result["completion_mask"][places], temperature=1.0).logp
            apart = torch.cat([(row[: len(theirs[i])].cpu() - theirs[i]).abs() for i, row in zip(places, ours)])
            return check_gap(float(apart.mean()), float(apart.max()), self.sampler.engine.dtype)

        # Loss --------------------------------------------------------
        def _score(self, model, prompts: Sequence[Encoded], ids, mask, keep_states: bool = False,
                   temperature: Optional[float] = None) -> Scored:
            """Log-probabilities and true entropies, (B, T) each, under the given pictures."""
            with self.accelerator.autocast():
                return score_completions(
                    self.accelerator.unwrap_model(model), prompts, ids, mask, keep_states=keep_states,
                    pad_token_id=self._tokenizer.pad_token_id, temperature=temperature or self.tapo.temperature)

        def _score_without_gradient(self, prompts, ids, mask, **options) -> Scored:
            size = self.tapo.micro_batch_size
            with torch.no_grad():
                parts = [self._score(self.model, prompts[k : k + size], ids[k : k + size], mask[k : k + size],
                                     **options) for k in range(0, len(ids), size)]
            return Scored(torch.cat([p.logp for p in parts]), torch.cat([p.entropy for p in parts]))

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            c = self.tapo
            rows = inputs["completion_mask"].any(1).nonzero()[:, 0].tolist()
            if not rows:  # nothing but places that no group was left for
                return next(p for p in model.parameters() if p.requires_grad).sum() * 0.0
            mask = inputs["completion_mask"][rows]
            width = int(mask.sum(1).max())
            mask, ids = mask[:, :width], inputs["completion_ids"][rows, :width]
            full = c.divergence == "full" and c.needs_negative
            # log pi(o | q, x*) and, for the inter-class term, log pi(o | q, x_neg) (Section 4.2)
            own = self._score(model, [inputs["prompts"][i] for i in rows], ids, mask, full)
            old = inputs["old_logp"][rows, :width] if "old_logp" in inputs else own.logp.detach()
            other = None
            if "negative_logp" in inputs:
                other = Scored(*(inputs[f"negative_{name}"][rows, :width] for name in ("logp", "entropy")))
            elif c.needs_negative:
                other = self._score(model, [inputs["negatives"][i] for i in rows], ids, mask, full)
            apart = None if other is None else self._apart(model, own, other, mask)
            # Eq. 4: one mean over all tokens of the update; the release's is per micro-batch
            items = inputs["num_items_in_batch"] / c.updates_per_rollout if c.token_mean == "batch" else None
            terms = tapo_loss(
                own.logp, old, inputs["advantages"][rows], mask, clip_low=c.clip_low, clip_high=c.clip_high,
                dual_clip=c.dual_clip, gamma=c.gamma, eta1=c.eta1, eta2=c.eta2, apart=apart,
                entropy=self._entropy(own), items=items,
                entropy_negative=None if other is None else self._entropy(other))
            self.update_tokens += int(mask.sum())
            self._measure(terms, own, other, apart, mask, inputs["from_positive"][rows])
            parts = 1 if c.token_mean == "batch" else self.current_gradient_accumulation_steps
            return terms.loss / parts

        def _entropy(self, scored: Scored):
            return scored.entropy if self.tapo.entropy == "true" else sampled_entropy(scored.logp)

        def _apart(self, model, own: Scored, other: Scored, mask):
            if self.tapo.divergence != "full":
                return divergence(self.tapo.divergence, own.logp, other.logp, mask)
            head = unwrap_base(self.accelerator.unwrap_model(model)).get_output_embeddings().weight
            values = full_divergence(
                own.states, other.states, head, self.tapo.temperature, logit_rows(len(head)))
            return torch.zeros_like(own.logp).masked_scatter(mask.bool(), values)

        # Metrics -----------------------------------------------------
        def _measure(self, terms, own, other, apart, mask, from_positive) -> None:
            """Add this micro-batch's token sums; `log` divides them by the tokens they are sums of."""
            every = {"entropy": own.entropy, "entropy_sampled": -own.logp}
            if other is not None:
                every |= {"divergence": apart, "entropy_negative": other.entropy}
            self._add("", every, mask)
            halves = {"ratio": terms.ratio, "clip_share": terms.clipped}
            self._add("_anchor", halves, mask * ~from_positive[:, None])
            self._add("_positive", halves, mask * from_positive[:, None])

        def _add(self, half: str, values: dict, mask) -> None:
            for name, value in values.items():
                total, tokens = self._sums.get(name + half, (0.0, 0))
                total += float((value.detach() * mask).sum())
                self._sums[name + half] = (total, tokens + int(mask.sum()))

        def log(self, logs: dict[str, float], start_time: Any = None) -> None:
            if "loss" in logs:
                means = {name: total / tokens for name, (total, tokens) in self._sums.items() if tokens}
                # What belongs to a whole rollout batch is logged with its first update alone.
                counts, self._counts = self._counts or dict.fromkeys(COUNTS, 0.0), {}
                spent = counts["seconds_rollout"] + counts["seconds_scoring"]
                update = time.monotonic() - self.step_began - spent
                logs = {**logs, **self._rollout_metrics, **means, **counts, "seconds_update": update}
                self._sums.clear()
            super().log(logs, start_time)

        def _compute_loss(self, model, inputs):
            return self.compute_loss(model, inputs)

    return TAPOTrainer


def build_trainer(loaded: LoadedModel, rows: Sequence[TripletRow], config: TapoConfig, folder: Path) -> Any:
    """The trainer of one run; its checkpoints go to `folder`, always between two rollout batches."""
    import trl
    from datasets import Dataset
    check_engine(config.engine, load_in_4bit=getattr(loaded.model, "is_loaded_in_4bit", False))
    engine = open_engine(loaded, max_new_tokens=config.max_new_tokens) if config.engine == "vllm" else None
    rewards, weights = reward_functions(config.accuracy_reward, config.format_reward)
    micro_batches = config.rows_per_step // config.micro_batch_size
    arguments = trl.GRPOConfig(
        **checkpoints.common_arguments(
            loaded, folder, config, config.checkpoints_every * config.updates_per_rollout),
        max_steps=config.steps, num_train_epochs=1, lr_scheduler_type="constant_with_warmup",
        gradient_accumulation_steps=micro_batches, num_generations=config.group_size, num_iterations=1,
        steps_per_generation=micro_batches * config.updates_per_rollout, top_p=config.top_p, top_k=0,
        max_completion_length=config.max_new_tokens, temperature=config.temperature, beta=0.0,
        loss_type="dapo", epsilon=config.clip_low, epsilon_high=config.clip_high, reward_weights=weights,
        shuffle_dataset=False, mask_truncated_completions=False, use_vllm=False,
        vllm_importance_sampling_correction=False)
    # One row a group, in order: the dataset is the plan of prompts itself, so one pass is the whole training.
    plan = [{"prompt": [{"role": "user", "content": ""}], "slot": slot}
            for slot in range(config.steps * config.prompts_per_step)]
    return make_tapo_trainer_class()(
        model=loaded.model, args=checkpoints.one_device(arguments), reward_funcs=rewards,
        train_dataset=Dataset.from_list(plan), processing_class=loaded.processor, tapo=config, triplets=rows,
        engine=engine)
