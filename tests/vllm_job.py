"""What a real vLLM does, in a process of its own (its import changes torch and trl): `vllm_job.py FOLDER`.

Run by models/test_vllm_engine.py; prints one line `FOUND {json}`. FOLDER is of `training_cases.prepare`, with an
adapter `start_miniature` of the miniature's base.
"""

import json
import sys
from pathlib import Path

import training_cases as cases

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import PROMPTS, question_for, user_message
from finer1_lib.miniature.base import WEIGHTS

SIZES = ((112, 112), (84, 140), (203, 99), (41, 200))  # the last two are resized by the processor
LIMIT = 64  # new tokens
found: dict = {}


def chats(folder: Path) -> list:
    """Sixteen questions over noise of four sizes, and two without an image."""
    from PIL import Image

    text = PROMPTS["cot_open"].text(question=question_for("bird"))
    rows = []
    for number in range(16):
        name = f"{number}.png"
        Image.effect_noise(SIZES[number % 4], 20 + 5 * number).convert("RGB").save(folder / name)
        rows.append(user_message(text, ImageFile(str(folder), name)))
    return rows + [user_message(text), user_message("Describe the bird.")]


def answers(loaded, rows: list) -> None:
    """Greedy answers with and without the adapter, and draws: against the kit's own generation and scores."""
    import torch

    from finer1_lib import models
    from finer1_lib.models import generation, vllm_engine
    from finer1_lib.models.encoding import Encoder, pad
    from finer1_lib.models.log_probabilities import score_completions

    for name, model in (("adapter", loaded), ("base", models.load(WEIGHTS))):
        own, theirs = (one.generate(model, rows, max_new_tokens=LIMIT) for one in (generation, vllm_engine))
        found[f"greedy_{name}"] = [one == other for one, other in zip(own, theirs)]
        found[f"distinct_{name}"] = len({one.text for one in own})
    engine, encode = vllm_engine.open_engine(loaded, max_new_tokens=LIMIT), Encoder(loaded.processor)
    encoded = [encode(chat) for chat in rows]
    pad_id = loaded.processor.tokenizer.pad_token_id

    def draw(order):
        drawn = engine.sample([rows[i] for i in order], [encoded[i] for i in order], seeds=[2**62 + i for i in order],
                              max_new_tokens=LIMIT, temperature=1.0, top_p=0.99)
        return {i: one for i, one in zip(order, drawn)}

    def gap() -> float:
        drawn = list(draw(range(len(rows))).values())
        ids, mask = pad([one.ids for one in drawn], pad_id, "right")
        with torch.no_grad():
            logp = score_completions(loaded.model, encoded, ids, mask, pad_token_id=pad_id).logp
        return max(float((line[: len(one.logp)] - torch.tensor(one.logp)).abs().max())
                   for one, line in zip(drawn, logp))

    engine.push(loaded.model)
    found["gap"] = gap()
    found["same_in_another_order"] = draw(range(len(rows))) == dict(sorted(draw(range(len(rows))[::-1]).items()))
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            if "lora_B" in name:
                weight += 0.02 * torch.randn_like(weight)
    found["gap_stale"] = gap()
    engine.push(loaded.model)
    found["gap_pushed"] = gap()


def training(folder: Path) -> None:
    """Six steps of TAPO at once and with a stop between; then with pushes left out."""
    import csv

    from finer1_lib.models import vllm_engine
    from finer1_lib.training import rewards

    rewards.accuracy_reward = cases.sometimes_right

    def train(out: str, progress=None, **changes):
        loaded = cases.start(folder, WEIGHTS, "start_miniature")
        cases.train("tapo", folder, folder / out, progress, loaded, engine="vllm", max_new_tokens=LIMIT, **changes)
        rows = list(csv.DictReader((folder / f"metrics_{out}.csv").open()))
        weights = {name: value.detach().clone() for name, value in loaded.model.named_parameters() if "lora_" in name}
        return weights, rows

    def stop(step, total, label="", **values):
        if step == 4:
            raise KeyboardInterrupt

    whole, rows = train("whole")
    found["gaps"] = [float(row["engine_gap_max"]) for row in rows]
    found["ratios"] = [float(row["ratio_anchor"]) for row in rows[::2]]
    try:
        train("stopped", stop)
    except KeyboardInterrupt:
        pass
    resumed, again = train("stopped")
    found["resumed"] = all(bool((whole[name] == resumed[name]).all()) for name in whole)
    timed = ("seconds", "seconds_rollout", "seconds_scoring", "seconds_update")
    found["resumed_rows"] = all(one[key] == other[key] for one, other in zip(rows, again, strict=True)
                                for key in one if key not in timed)
    push, pushes = vllm_engine.VllmEngine.push, []

    def once(self, model):
        pushes.append(model)
        if len(pushes) == 1:
            push(self, model)

    vllm_engine.VllmEngine.push = once
    found["push_left_out"] = refusal(lambda: train("unpushed"))
    vllm_engine.VllmEngine.push = push


def failures(loaded, rows: list) -> None:
    """An engine that fails while it answers, one whose processor reads another prompt, and a long prompt."""
    from finer1_lib.models import vllm_engine

    engine = vllm_engine.open_engine(loaded, max_new_tokens=LIMIT)
    found["too_long"] = refusal(lambda: engine.sample(rows[:1], [_Row([5] * 40_000, None)], seeds=[0],
                                                      max_new_tokens=LIMIT, temperature=0.0, top_p=1.0))
    row = vllm_engine.Encoder(loaded.processor)(rows[0])
    mark = loaded.model.config.image_token_id
    short = row._replace(ids=[token for i, token in enumerate(row.ids) if token != mark or i % 2])
    found["other_prompt"] = refusal(lambda: engine.sample(
        rows[:1], [short], seeds=[0], max_new_tokens=LIMIT, temperature=0.0, top_p=1.0))

    def die(*args, **options):
        raise RuntimeError("EngineCore died\nwith a trace")

    engine._llm.generate = die
    found["died"] = refusal(lambda: vllm_engine.generate(loaded, rows[:2], max_new_tokens=LIMIT))
    found["closed"] = vllm_engine._OPEN["engine"] is None


class _Row:
    def __init__(self, ids, pixels):
        self.ids, self.pixels = ids, pixels


def refusal(call) -> str:
    try:
        call()
    except UserError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    loaded = cases.start(folder, WEIGHTS, "start_miniature")
    (folder / "noise").mkdir()
    rows = chats(folder / "noise")
    answers(loaded, rows)
    training(folder)
    failures(loaded, rows)
    print("FOUND " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
