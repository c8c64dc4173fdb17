"""The similarity of answers by the release's method and by the kit's: four passes per answer, or each text once.

    answer, label, word, label  ->  4 passes of one text; the same label 40 times is embedded 80 times
    all texts                   ->  each once, 64 a pass

The tower has random weights of the real size (SigLIP base), so that nothing is downloaded: its cost does
not depend on what it knows. Both methods use it in the same way, padded to 64 tokens.

Source: release eval/evaluation.py:46-66 (one text a pass), :239-240 (four passes an answer).
"""

import time
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

# SigLIP base's text tower (google/siglip-base-patch16-256, config.json)
BASE_SIZE = {"vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
             "num_attention_heads": 12, "max_position_embeddings": 64}


def random_tower(folder: "str | Path", tokenizer: Any, size: Mapping[str, int] = BASE_SIZE, seed: int = 0) -> Path:
    """A folder with a SigLIP text tower of random weights and any tokenizer of at most as many words."""
    import torch
    from transformers import SiglipTextConfig, SiglipTextModel

    torch.manual_seed(seed)
    config = SiglipTextConfig(**size, projection_size=size["hidden_size"], bos_token_id=0, eos_token_id=1)
    SiglipTextModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def one_by_one(tower: "str | Path", triples: Sequence[tuple[str, str, str]]) -> tuple[float, list[float]]:
    """(seconds, cosines) of (answer, label, word): answer and label, word and label; a text a pass, so four."""
    import torch
    from transformers import AutoTokenizer, SiglipTextModel

    tokenizer, model = AutoTokenizer.from_pretrained(tower), SiglipTextModel.from_pretrained(tower).eval()

    def embed(text: str) -> Any:
        inputs = tokenizer([text], padding="max_length", truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            pooled = model(input_ids=inputs["input_ids"]).pooler_output
        return torch.nn.functional.normalize(pooled.float(), dim=-1)[0]

    embed("a")  # to warm up
    values, began = [], time.perf_counter()
    for answer, label, word in triples:
        values += [float(embed(answer) @ embed(label)), float(embed(word) @ embed(label))]
    return time.perf_counter() - began, values


def in_batches(tower: "str | Path", triples: Sequence[tuple[str, str, str]]) -> tuple[float, list[float]]:
    """The same by the kit's `SiglipSimilarity`."""
    from finer1_lib.models.encoders import SiglipSimilarity

    similarity = SiglipSimilarity(str(tower))
    began = time.perf_counter()
    similarity.prepare(text for triple in triples for text in triple)
    values = [similarity(text, label) for answer, label, word in triples for text in (answer, word)]
    return time.perf_counter() - began, values


def measure_similarity(tower: "str | Path", triples: Sequence[tuple[str, str, str]],
                       say: Optional[Any] = None) -> dict[str, Any]:
    """Seconds of both ways, ready for JSON; `apart` is the greatest difference of their cosines."""
    seconds, values = {}, {}
    for name, way in (("kit", in_batches), ("release", one_by_one)):
        seconds[name], values[name] = way(tower, triples)
        if say:
            say(f"similarity, {name}: {len(triples)} answers in {seconds[name]:.1f} s")
    return {**seconds, "answers": len(triples), "texts": len({text for triple in triples for text in triple}),
            "ratio": seconds["release"] / seconds["kit"],
            "apart": max(abs(a - b) for a, b in zip(values["release"], values["kit"]))}
