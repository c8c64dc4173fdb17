"""For tests of the exercises: stand-ins for what a notebook has made by then, and the mistakes to plant."""

import math

from finer1_lib.runs.chain import STAGES


def _world():
    import pandas as pd

    from finer1_lib.data.guide import distance
    from finer1_lib.miniature.world import make_guide

    reading = pd.DataFrame([
        {"categories": "seen", "value": 1.0, "low": 0.959, "n": 90},
        {"categories": "unseen", "value": 0.967, "low": 0.886, "n": 60},
        {"categories": "unseen", "value": 1.0, "low": 0.940, "n": 60},
    ])  # fmt: skip
    return {"reading": reading, "guide": make_guide(), "distance": distance}


def _data():
    from finer1_lib import data
    from finer1_lib.data.rationales.filters import write_rationale
    from finer1_lib.data.rationales.quality import misread
    from finer1_lib.miniature.world import make_guide

    guide = make_guide()
    name, entry = next(iter(guide["sub_categories"].items()))
    (first, truth), (second, other) = list(entry["attributes"].items())[2:4]
    wrong = next(v for v in guide["super_categories"]["bird"]["attributes"][first] if v != truth)
    concepts = [(f"{other} {second}", True), (f"{wrong} {first}", False), (f"{truth} {first}", False)]
    comparison = f"{name}: {truth} {first} (differs); Marlo Wren: {wrong} {first}"
    text = write_rationale(f"{wrong} {first}", [name, "Marlo Wren"], comparison, name)
    return {
        "guide": guide, "data": data, "misread": misread, "attempts": 3,
        "kept": [{"text": text, "sub_category": name}],
        "example": {"image_id": "a.png", "sub_category": name},
        "chosen": {"a.png": [{"concept": c, "score": -1.0, "kept": kept} for c, kept in concepts]},
        "false_concept": f"{wrong} {first}",
    }  # fmt: skip


def _cot_sft():
    import pandas as pd

    log = pd.DataFrame({"model": ["cot_sft", "sft_answer_only"] * 2, "loss": [1.0, 2.0, 0.05, 0.001]})
    row = {"gauge": "open_world", "categories": "unseen", "label": "x", "value": 0.5, "low": 0.4, "high": 0.6}
    return {
        "log": log, "changes": pd.DataFrame([{**row, "n": 40}]), "math": math,
        "moved": 144_000, "lora_rank": 8, "finetuning": "lora",
        "p_of_each_token": [1e-9, 0.5, 0.2, 0.9, 0.6, 0.8], "is_completion": [False] * 3 + [True] * 3,
        "by_hand": 0.28,
    }  # fmt: skip


def _tapo():
    import torch

    from finer1_lib.training import methods
    from finer1_lib.training.objective import divergence, group_advantages
    from finer1_lib.training.tapo_config import make_config

    return {
        "n_anchor": 4, "n_positive": 4, "kit": make_config("kit", n_anchor=4, n_positive=4),
        "baselines": methods, "torch": torch, "math": math, "divergence_of": divergence,
        "group_advantages": group_advantages,
    }  # fmt: skip


def _evaluation():
    from finer1_lib.evaluation.requests import shown_options
    from finer1_lib.evaluation.scores.scoring import make_scorer

    names = ["Dunen Wren", "Marlo Wren", "Berish Wren", "Kolic Wren"]
    items = [{"item_id": str(k), "sub_category": names[0], "options": names} for k in range(5)]
    said = ["Dunen Wren", "Marlo Wren", "Marlo Wren, Dunen Wren"]
    of_all = {"sub_category": names[0], "super_category": "bird", "image_id": "bird/a.png", "options": names}
    records = [
        {**of_all, "completion": f"<answer>{answer}</answer>", "item_id": str(k), "setting": "closed_world"}
        for k, answer in enumerate(said)
    ]
    scorers = [make_scorer("official"), make_scorer("strict")]
    return {"records": records, "scorers": scorers, "items": items, "seed": 0, "shown_options": shown_options}


def _probing():
    import numpy as np

    from finer1_lib import probing
    from finer1_lib.data.taxonomy import taxonomy_of
    from finer1_lib.miniature.world import make_guide

    return {"np": np, "probing": probing, "taxonomy": taxonomy_of(make_guide()), "seed": 0}


STAND_INS = dict(zip(STAGES, (_world, _data, _cot_sft, _tapo, _evaluation, _probing)))

# Wrong functions, for the mistakes below.
WRONG = '''
import math

def itself_first(guide, name):
    return [name]

def only_one(guide, name):
    own = guide["sub_categories"][name]
    kin = [other for other, entry in guide["sub_categories"].items()
           if other != name and entry["super_category"] == own["super_category"]]
    gap = lambda other: sum(own["attributes"][key] != value for key, value
                            in guide["sub_categories"][other]["attributes"].items())
    return sorted(kin, key=gap)[:1]

def differs_anywhere(text, label):
    return "(differs)" in text

def differs_after_the_label(text, label):
    return "(differs)" in text.split(label + ":")[-1]

def by_tokens(p, completion, answer, weight):
    counted = [c * (weight if a else 1) for c, a in zip(completion, answer)]
    return -sum(w * math.log(q) for w, q in zip(counted, p)) / sum(completion)

def with_the_question(p, completion, answer, weight):
    return -sum(math.log(q) for q in p) / len(p)

def one_by_one(pictures):
    return [group_advantages(torch.tensor([rewards]))[0].tolist() for rewards in pictures]

def by_population(pictures):
    flat = sum(pictures, [])
    mean = sum(flat) / len(flat)
    std = (sum((x - mean) ** 2 for x in flat) / len(flat)) ** 0.5
    return [[(x - mean) / std for x in part] for part in pictures]

def contained(completion, label):
    return float(label in completion)

def contained_unless_denied(completion, label):
    return float(label in completion and "not " not in completion)

def across_genera(genera, seed):
    return list(zip(*[iter(sorted(genera))] * 2))

def everyone_with_everyone(genera, seed):
    return [(a, b) for a in genera for b in genera if a < b and genera[a] == genera[b]]
'''

PLANTED = [  # notebook, exercise, the mistake, what the check says of it; the usual mistake comes first
    ("00", 1, "answer_1 = 0", "never wrong in 60 images"),
    ("00", 1, "answer_1 = 94.0", "may be wrong"),
    ("00", 2, "answer_2 = 4", "the width does not go with one over n"),
    ("00", 2, "answer_2 = 0.5", "the new width"),
    ("00", 3, "look_alikes = only_one", "equally close"),
    ("00", 3, "look_alikes = itself_first", "itself"),
    ("01", 1, "answer_1 = false_concept", "compare the concept with the guide"),
    ("01", 1, "answer_1 = 'none'", "there is one"),
    ("01", 2, "answer_2 = 0.5", "up to 3 attempts"),
    ("01", 2, "answer_2 = 1 - 0.5 ** 3", "keep a rationale"),
    ("01", 2, "answer_2 = 0.5 / 3", "multiply"),
    ("01", 3, "denies_its_label = differs_anywhere", "OTHER candidates"),
    ("01", 3, "denies_its_label = differs_after_the_label", "OTHER candidates"),
    ("02", 1, "answer_1 = 'sft_answer_only'", "means over different tokens"),
    ("02", 1, "answer_1 = 'cot_sft'", "never taught"),
    ("02", 2, "answer_2 = moved", "fewer weights"),
    ("02", 2, "answer_2 = moved / 16", "not r squared"),
    ("02", 3, "weighted_loss = by_tokens", "sum of the weights"),
    ("02", 3, "weighted_loss = with_the_question", "question's tokens"),
    ("03", 1, "answer_1 = n_anchor", "half as many rollouts"),
    ("03", 2, "answer_2 = 1.2 - math.log(1.2) - 1", "whole rollout, not of one token"),
    ("03", 2, "answer_2 = 50 * (1.2 - math.log(1.2) - 1)", "multiply into one g"),
    ("03", 3, "three_images = one_by_one", "its own group"),
    ("03", 3, "three_images = by_population", "unbiased"),
    ("04", 1, "answer_1 = records[1]", "both scorers refuse"),
    ("04", 1, "answer_1 = records[0]", "both scorers accept"),
    ("04", 2, "answer_2 = 0.25", "ALL four"),
    ("04", 2, "answer_2 = 0.25 ** 4", "not independent draws"),
    ("04", 3, "forgiving = contained", "denies it"),
    ("04", 3, "forgiving = contained_unless_denied", "a list"),
    ("05", 1, "answer_1 = 'equal'", "not significant"),
    ("05", 1, "answer_1 = 'different'", "no difference is shown either"),
    ("05", 2, "answer_2 = 0.7", "LAST token"),
    ("05", 2, "answer_2 = 0", "wrong order"),
    ("05", 3, "swaps_within_genus = across_genera", "different genera"),
    ("05", 3, "swaps_within_genus = everyone_with_everyone", "in two groups"),
]
