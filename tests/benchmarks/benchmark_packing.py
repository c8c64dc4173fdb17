"""Completions of one prompt in one row against a row each, under gradient checkpointing: time and equality.

    PYTHONPATH=tests .venv/bin/python -m benchmarks.benchmark_packing

Forward and backward of the mean log-probability, in turns in one process; ten completions of 120 tokens over
one image of growing size. "chosen" is what `sharing.packs_prompts` decides by itself.
"""

import statistics
import time

from finer1_lib import models
from finer1_lib.core.prompts import user_message
from finer1_lib.miniature.base import WEIGHTS
from finer1_lib.models import log_probabilities, sharing
from finer1_lib.models.encoding import Encoder, set_pixels
from finer1_lib.models.sharing import unwrap_base

SIZES = ((196, 168), (588, 560), (1008, 980))  # pixels: 42, 420 and 1,260 image tokens
COMPLETIONS, TOKENS = 10, 120


def measure(repeats: int = 3) -> list[dict[str, float]]:
    """A row an image size: prompt tokens, seconds of both, their ratio, differences, what the kit chooses."""
    import torch
    from PIL import Image

    loaded = models.load(WEIGHTS, device="cpu", dtype="float32")
    set_pixels(loaded.processor, 28 * 28, 2 * 1008 * 980)
    encode, base = Encoder(loaded.processor), unwrap_base(loaded.model)
    loaded.model.train()
    loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.randint(200, 1000, (COMPLETIONS, TOKENS), generator=torch.Generator().manual_seed(0))
    found, decide = [], sharing.packs_prompts

    def once(prompt, packed: bool):
        log_probabilities.packs_prompts = lambda *given: packed
        loaded.model.zero_grad()
        began = time.perf_counter()
        logp = log_probabilities.score_completions(
            loaded.model, [prompt] * COMPLETIONS, ids, torch.ones_like(ids), pad_token_id=0).logp
        logp.mean().backward()
        seconds = time.perf_counter() - began
        return seconds, logp.detach(), torch.cat([p.grad.flatten() for p in loaded.model.parameters()
                                                  if p.grad is not None])

    try:
        for size in SIZES:
            prompt = encode(user_message("What is it?", Image.effect_noise(size, 60).convert("RGB")))
            turns = [[once(prompt, packed) for packed in (False, True)] for _ in range(repeats)]
            (apart, logp, gradient), (_, logp_packed, gradient_packed) = turns[0]
            found.append({
                "prompt tokens": len(prompt.ids), "rows apart (s)": statistics.median(a[0] for a, _ in turns),
                "packed (s)": statistics.median(b[0] for _, b in turns),
                "ratio": statistics.median(b[0] / a[0] for a, b in turns),
                "log-probability apart": float((logp - logp_packed).abs().max()),
                "gradient apart": float((gradient - gradient_packed).norm() / gradient.norm()),
                "chosen": decide(base, [prompt] * COMPLETIONS, [TOKENS] * COMPLETIONS)})
    finally:
        log_probabilities.packs_prompts = decide
    return found


if __name__ == "__main__":
    for row in measure():
        print({name: round(value, 9) for name, value in row.items()}, flush=True)
