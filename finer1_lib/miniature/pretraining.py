"""Pretrains the miniature's base model from scratch on two CPU cores, in about an hour, resumably.

Two phases, one optimizer: first the vision tower alone learns to distinguish the attributes through linear
heads that are thrown away afterwards; then the whole model learns to describe images and to read the field
guide. All randomness of a step is a function of (seed, step), so a killed run resumes with the same numbers.
"""

import math
import random
import time
from pathlib import Path
from typing import Any, Callable, Iterator

from finer1_lib.core.files import atomic_directory, atomic_write_json
from finer1_lib.miniature import pretraining_data
from finer1_lib.miniature.base import make_model, make_processor, make_tokenizer
from finer1_lib.miniature.drawing import SIZE, draw_specimen

POOL = 20_000          # pictures drawn once; mirrored, shifted and re-lit at every use
LOOK_BATCH = 32
TELL_IMAGES = 32
TELL_TOKENS = 2_600    # padded tokens of one text batch
CHECKPOINT_EVERY = 250


def chat(user: str, with_image: bool) -> list[dict]:
    """A one-turn conversation in the form that processors take."""
    content = [{"type": "image"}] * with_image + [{"type": "text", "text": user}]
    return [{"role": "user", "content": content}]


def draw_pool(guide: dict, count: int, seed: int) -> tuple[Any, list]:
    """`count` pictures as a uint8 tensor (count, 3, SIZE, SIZE) and what each shows, [(super_category, attributes)]."""
    import numpy as np
    import torch

    rng = random.Random(f"pool-{seed}")
    specimens = [pretraining_data.draw_specimen_values(guide, rng) for _ in range(count)]
    pixels = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
    for index, (super_category, attributes) in enumerate(specimens):
        picture = np.array(draw_specimen(super_category, attributes, rng))
        pixels[index] = torch.from_numpy(picture).permute(2, 0, 1)
    return pixels, specimens


def augment(pixels: Any, rng: random.Random) -> Any:
    """Mirror, shift by up to 5 pixels and re-light a batch (B, 3, S, S) of uint8 pictures; attributes stay what they are."""
    import torch

    out = pixels.clone()
    for index in range(len(out)):
        picture = out[index].flip(-1) if rng.random() < 0.5 else out[index]
        picture = torch.roll(picture, (rng.randint(-5, 5), rng.randint(-5, 5)), (1, 2))
        out[index] = (picture.float() * rng.uniform(0.9, 1.1)).clamp(0, 255).to(torch.uint8)
    return out


def patches(pixels: Any, processor: Any) -> tuple[Any, Any]:
    """The image processor's own result for a batch: pixel_values (B * patches, 1176) and image_grid_thw (B, 3)."""
    fields = processor.image_processor(images=list(pixels), return_tensors="pt")
    return fields["pixel_values"], fields["image_grid_thw"]


def build_tokenizer(guide: dict, seed: int) -> Any:
    """The tokenizer, trained on a draw of the diet's texts; every name and every value occurs in it."""
    rng = random.Random(f"tokenizer-{seed}")
    samples = [pretraining_data.text_sample(guide, rng) for _ in range(8000)]
    samples += [pretraining_data.image_sample(guide, pretraining_data.draw_specimen_values(guide, rng), rng) for _ in range(2000)]
    return make_tokenizer([text for sample in samples for text in (sample["user"], sample["assistant"])])


def encode(samples: list[dict], processor: Any, image_tokens: int = 0) -> dict[str, Any]:
    """Token ids, mask, labels (-100 outside the assistant's turn) and token types of a batch, right-padded."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    tokenizer = processor.tokenizer
    image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    rows, labels = [], []
    for sample in samples:
        prompt = processor.apply_chat_template(chat(sample["user"], bool(image_tokens)), add_generation_prompt=True)
        prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * image_tokens)
        head = tokenizer(prompt).input_ids
        tail = tokenizer(sample["assistant"] + "<|im_end|>").input_ids
        rows.append(torch.tensor(head + tail))
        labels.append(torch.tensor([-100] * len(head) + tail))
    ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == image_id).long(),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100)}


def text_batches(guide: dict, processor: Any, seed: int, chunk: int) -> Iterator[list[dict]]:
    """Batches of similar length out of one chunk of 160 text samples, in random order."""
    rng = random.Random(f"text-{seed}-{chunk}")
    samples = [pretraining_data.text_sample(guide, rng) for _ in range(160)]
    length = {id(s): len(processor.tokenizer(s["user"] + s["assistant"]).input_ids) + 12 for s in samples}
    samples.sort(key=lambda s: length[id(s)])
    batches, batch = [], []
    for sample in samples:
        if batch and length[id(sample)] * (len(batch) + 1) > TELL_TOKENS:
            batches.append(batch)
            batch = []
        batch.append(sample)
    batches.append(batch)
    rng.shuffle(batches)
    yield from batches


def token_loss(model: Any, batch: dict[str, Any], **vision: Any) -> Any:
    """Mean cross-entropy over the assistant's tokens; logits are computed for these alone."""
    import torch

    fields = {key: batch[key] for key in ("input_ids", "attention_mask", "mm_token_type_ids")}
    states = model.model(**fields, **vision, use_cache=False).last_hidden_state[:, :-1]
    labels = batch["labels"][:, 1:]
    kept = labels != -100
    return torch.nn.functional.cross_entropy(model.lm_head(states[kept]), labels[kept])


class _Heads:
    """Linear readings of every attribute from the mean image token; they exist only while the tower learns to see."""

    def __init__(self, guide: dict, width: int) -> None:
        import torch

        self.keys = [(s, k, v) for s, rules in guide["super_categories"].items() for k, v in rules["attributes"].items()]
        self.layer = torch.nn.Sequential(
            torch.nn.LayerNorm(width), torch.nn.Linear(width, sum(len(v) for *_, v in self.keys)))

    def loss(self, tokens: Any, specimens: list) -> Any:
        """Sum over attributes of the mean cross-entropy; `tokens` is (B, image tokens, width)."""
        import torch

        total, start, scores = 0.0, 0, self.layer(tokens.mean(1))
        for super_category, key, values in self.keys:
            target = torch.tensor([values.index(a[key]) if s == super_category else -100 for s, a in specimens])
            if (target >= 0).any():
                total = total + torch.nn.functional.cross_entropy(
                    scores[:, start:start + len(values)], target, ignore_index=-100)
            start += len(values)
        return total


def learning_rate(step: int, total: int, peak: float, warm_up: int = 100) -> float:
    """Linear warm-up, then cosine to 3 % of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up))))


def pretrain(guide: dict, scratch: Path, checkpoint: Path, *, look_steps: int = 2000, tell_steps: int = 3300,
             peak: float = 1.5e-3, pool: int = POOL, seed: int = 0, report: Callable[..., None] = print) -> Path:
    """Train the base model and save it as an ordinary checkpoint.

    Args:
        guide: the field guide to raise it on.
        scratch: where `state.pt` lies, to resume from (read back with weights_only).
        checkpoint: the folder to write at the end.
        look_steps: steps of the vision tower alone, 32 pictures each.
        tell_steps: steps of the whole model: one batch of pictures and one of text each.
        peak: the highest learning rate of both phases.
        pool: pictures drawn beforehand.
        seed: of everything.
        report: called as report(step, total, phase, {name: value}) every 25 steps.

    Returns:
        The checkpoint's folder: bf16 safetensors, processor, chat template, and the guide it was raised on.
    """
    import torch

    scratch.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(guide, seed)
    processor = make_processor(tokenizer, SIZE)
    model = make_model(tokenizer, seed)
    heads = _Heads(guide, model.config.text_config.hidden_size)
    groups = list(model.parameters()) + list(heads.layer.parameters())
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    state_file, first = scratch / "state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        heads.layer.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    pixels, specimens = draw_pool(guide, pool, seed)
    total, started, sums = look_steps + tell_steps, time.time(), {}
    waiting: dict[int, list] = {}
    for step in range(first, total):
        looking = step < look_steps
        rng = random.Random(f"step-{seed}-{step}")
        chosen = [rng.randrange(pool) for _ in range(LOOK_BATCH if looking else TELL_IMAGES)]
        shown = [specimens[i] for i in chosen]
        values, grid = patches(augment(pixels[chosen], rng), processor)
        if looking:
            tokens = torch.cat(model.model.get_image_features(values, grid).pooler_output)
            losses = {"attributes": heads.loss(tokens.view(len(chosen), -1, tokens.shape[-1]), shown)}
        else:
            told = [pretraining_data.image_sample(guide, specimen, rng) for specimen in shown]
            count = int(grid[0].prod()) // 4
            losses = {"image": token_loss(model, encode(told, processor, count), pixel_values=values, image_grid_thw=grid)}
            chunk, at = divmod(step - look_steps, 9)
            if chunk not in waiting:
                waiting = {chunk: list(text_batches(guide, processor, seed, chunk))}
            losses["text"] = token_loss(model, encode(waiting[chunk][at % len(waiting[chunk])], processor))
        loss = sum(losses.values())
        now, length = (step, look_steps) if looking else (step - look_steps, tell_steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(now, length, peak)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(groups, 1.0)
        optimizer.step()
        for name, value in losses.items():
            sums.setdefault(name, []).append(value.item())
        if (step + 1) % 25 == 0:
            report(step + 1, total, "look" if looking else "tell",
                   {**{k: sum(v) / len(v) for k, v in sums.items()}, "seconds": time.time() - started})
            sums = {}
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == total:
            _save_state(state_file, model, heads, optimizer, step + 1)
    return save_checkpoint(model, processor, guide, checkpoint)


def pretrained_base(guide: dict, scratch: Path, checkpoint: Path, *, progress: Callable[..., None], **settings: Any) -> str:
    """The folder of a base, pretrained unless it is there; `progress` and `settings` as of a stage and `pretrain`."""
    if not checkpoint.exists():
        pretrain(guide, scratch, checkpoint, **settings, report=lambda step, total, phase, values:
                 progress(step, total, phase, **values))
    return str(checkpoint)


def _save_state(path: Path, model: Any, heads: _Heads, optimizer: Any, step: int) -> None:
    import torch

    part = path.with_suffix(".part")
    torch.save({"model": model.state_dict(), "heads": heads.layer.state_dict(),
                "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(path)


def save_checkpoint(model: Any, processor: Any, guide: dict, directory: Path) -> Path:
    """Write an ordinary checkpoint, bf16 safetensors, whole or not at all; the live float32 model is left alone."""
    import copy

    import torch

    with atomic_directory(directory) as folder:
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
        processor.save_pretrained(folder)
        atomic_write_json(folder / "guide.json", guide)
    return directory
