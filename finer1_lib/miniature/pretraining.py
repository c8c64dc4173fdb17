"""Pretrains the miniature's base model from scratch on two CPU cores, in about an hour, resumably.

Two phases, one optimizer: first the vision tower alone learns to distinguish the attributes through linear
heads that are discarded afterwards; then the whole model learns to describe images and to read the field
guide. All randomness of a step is a function of (seed, step), so a killed run resumes with the same numbers.
"""

import copy
import math
import random
import time
from pathlib import Path
from typing import Any, Callable

from finer1_lib.core.faces import Later
from finer1_lib.core.files import atomic_directory, atomic_write_json
from finer1_lib.miniature.base import make_model, make_processor, make_tokenizer
from finer1_lib.miniature.drawing import SIZE, draw_specimen
from finer1_lib.miniature.pretraining_data import draw_specimen_values, image_sample, text_sample

np, torch = Later("numpy"), Later("torch")

POOL = 20_000        # images drawn once; mirrored, shifted and re-lit at every use
LOOK_BATCH = 32      # images of a step of the vision tower
TELL_IMAGES = 32     # images of a step of the whole model
TELL_TOKENS = 2_600  # padded tokens of one text batch
CHECKPOINT_EVERY = 250


def draw_pool(guide: dict, count: int, seed: int) -> tuple[Any, list]:
    """`count` images, uint8 (count, 3, SIZE, SIZE), and what each shows: [(super_category, attributes)]."""
    rng = random.Random(f"pool-{seed}")
    specimens = [draw_specimen_values(guide, rng) for _ in range(count)]
    pixels = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
    for index, specimen in enumerate(specimens):
        pixels[index] = torch.from_numpy(np.array(draw_specimen(*specimen, rng))).permute(2, 0, 1)
    return pixels, specimens


def augment(pixels: Any, rng: random.Random) -> Any:
    """Mirror, shift by up to 5 pixels and re-light a uint8 batch (B, 3, S, S); attributes do not change."""
    out = pixels.clone()
    for index in range(len(out)):
        image = out[index].flip(-1) if rng.random() < 0.5 else out[index]
        image = torch.roll(image, (rng.randint(-5, 5), rng.randint(-5, 5)), (1, 2))
        out[index] = (image.float() * rng.uniform(0.9, 1.1)).clamp(0, 255).to(torch.uint8)
    return out


def build_tokenizer(guide: dict, seed: int) -> Any:
    """The tokenizer, trained on a draw of the pretraining texts, in which every name and value occurs."""
    rng = random.Random(f"tokenizer-{seed}")
    samples = [text_sample(guide, rng) for _ in range(8000)]
    samples += [image_sample(guide, draw_specimen_values(guide, rng), rng) for _ in range(2000)]
    return make_tokenizer([text for sample in samples for text in (sample["user"], sample["assistant"])])


def encode(samples: list[dict], processor: Any, image_tokens: int = 0) -> dict[str, Any]:
    """Token ids, mask, labels (-100 outside the assistant's turn), token types of a batch, right-padded."""
    from torch.nn.utils.rnn import pad_sequence
    tokenizer = processor.tokenizer
    rows, labels = [], []
    for sample in samples:
        content = [{"type": "image"}] * bool(image_tokens) + [{"type": "text", "text": sample["user"]}]
        chat = [{"role": "user", "content": content}]
        prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
        head = tokenizer(prompt.replace("<|image_pad|>", "<|image_pad|>" * image_tokens)).input_ids
        tail = tokenizer(sample["assistant"] + "<|im_end|>").input_ids
        rows.append(torch.tensor(head + tail))
        labels.append(torch.tensor([-100] * len(head) + tail))
    ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    types = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).long()
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types,
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100)}


def text_batches(guide: dict, processor: Any, seed: int, chunk: int) -> list[list[dict]]:
    """Batches of similar length from one chunk of 160 text samples, in random order."""
    rng = random.Random(f"text-{seed}-{chunk}")
    samples = [text_sample(guide, rng) for _ in range(160)]
    lengths = [len(processor.tokenizer(s["user"] + s["assistant"]).input_ids) + 12 for s in samples]
    batches: list[list[dict]] = [[]]
    for length, sample in sorted(zip(lengths, samples), key=lambda pair: pair[0]):
        if batches[-1] and length * (len(batches[-1]) + 1) > TELL_TOKENS:
            batches.append([])
        batches[-1].append(sample)
    rng.shuffle(batches)
    return batches


def token_loss(model: Any, batch: dict[str, Any], **vision: Any) -> Any:
    """Mean cross-entropy over the assistant's tokens; logits are computed for these alone."""
    fields = {key: batch[key] for key in ("input_ids", "attention_mask", "mm_token_type_ids")}
    states = model.model(**fields, **vision, use_cache=False).last_hidden_state[:, :-1]
    labels = batch["labels"][:, 1:]
    kept = labels != -100
    return torch.nn.functional.cross_entropy(model.lm_head(states[kept]), labels[kept])


class _Heads:
    """Linear probes of every attribute on the mean image token, used in the first phase only."""

    def __init__(self, guide: dict, width: int) -> None:
        self.keys = [(kind, key, values) for kind, rules in guide["super_categories"].items()
                     for key, values in rules["attributes"].items()]
        self.layer = torch.nn.Sequential(
            torch.nn.LayerNorm(width), torch.nn.Linear(width, sum(len(v) for *_, v in self.keys)))

    def loss(self, tokens: Any, specimens: list) -> Any:
        """Sum over attributes of the mean cross-entropy; `tokens` is (B, image tokens, width)."""
        total, scores = 0.0, self.layer(tokens.mean(1)).split([len(values) for *_, values in self.keys], -1)
        for (kind, key, values), part in zip(self.keys, scores):
            target = torch.tensor([values.index(a[key]) if s == kind else -100 for s, a in specimens])
            if (target >= 0).any():
                total = total + torch.nn.functional.cross_entropy(part, target, ignore_index=-100)
        return total


def learning_rate(step: int, total: int, peak: float, warm_up: int = 100) -> float:
    """Linear warm-up, then cosine to 3 % of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up))))


def pretrained_base(guide: dict, scratch: Path, checkpoint: Path, *, progress: Callable[..., None],
                    look_steps: int = 2000, tell_steps: int = 3300, peak: float = 1.5e-3, pool: int = POOL,
                    seed: int = 0) -> str:
    """The folder `checkpoint` of a base and its guide, pretrained on that guide unless it exists.

    First `look_steps` of the vision tower alone, then `tell_steps` of the whole model, a batch of images (of
    `pool` drawn beforehand) and one of text each. `scratch` holds `state.pt`, to resume from (read with
    weights_only). Every 25 steps progress(step, total, phase, name=value, ..).
    """
    if checkpoint.exists():
        return str(checkpoint)
    scratch.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(guide, seed)
    processor = make_processor(tokenizer, SIZE)
    model = make_model(tokenizer, seed)
    heads = _Heads(guide, model.config.text_config.hidden_size)
    weights = list(model.parameters()) + list(heads.layer.parameters())
    optimizer = torch.optim.AdamW(weights, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    parts = {"model": model, "heads": heads.layer, "optimizer": optimizer}
    state_file, first = scratch / "state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        first = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    pixels, specimens = draw_pool(guide, pool, seed)
    total, started, sums = look_steps + tell_steps, time.time(), {}
    texts: tuple[int, list] = (-1, [])  # (chunk, its batches)
    for step in range(first, total):
        looking = step < look_steps
        rng = random.Random(f"step-{seed}-{step}")
        chosen = [rng.randrange(pool) for _ in range(LOOK_BATCH if looking else TELL_IMAGES)]
        shown = [specimens[i] for i in chosen]
        fields = processor.image_processor(images=list(augment(pixels[chosen], rng)), return_tensors="pt")
        values, grid = fields["pixel_values"], fields["image_grid_thw"]  # (B * patches, 1176), (B, 3)
        if looking:
            tokens = torch.cat(model.model.get_image_features(values, grid).pooler_output)
            losses = {"attributes": heads.loss(tokens.view(len(chosen), -1, tokens.shape[-1]), shown)}
        else:
            batch = encode([image_sample(guide, specimen, rng) for specimen in shown], processor,
                           int(grid[0].prod()) // 4)
            losses = {"image": token_loss(model, batch, pixel_values=values, image_grid_thw=grid)}
            chunk, at = divmod(step - look_steps, 9)
            if chunk != texts[0]:
                texts = chunk, text_batches(guide, processor, seed, chunk)
            losses["text"] = token_loss(model, encode(texts[1][at % len(texts[1])], processor))
        loss = sum(losses.values())
        now, length = (step, look_steps) if looking else (step - look_steps, tell_steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(now, length, peak)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        for name, value in losses.items():
            sums.setdefault(name, []).append(value.item())
        if (step + 1) % 25 == 0:
            means = {name: sum(values) / len(values) for name, values in sums.items()}
            progress(step + 1, total, "look" if looking else "tell", **means, seconds=time.time() - started)
            sums = {}
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == total:
            _save_state(state_file, parts, step + 1)
    with atomic_directory(checkpoint) as folder:  # bf16 safetensors; the live model stays float32
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
        processor.save_pretrained(folder)
        atomic_write_json(folder / "guide.json", guide)
    return str(checkpoint)


def _save_state(path: Path, parts: dict[str, Any], step: int) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"step": step} | states, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
