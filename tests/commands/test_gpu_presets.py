"""The presets for GPUs: the models they name, what is trained of them, whether they fit, values' sources."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tools import gpu_hours
from tools.gpu_hours import GPUS, PRESETS, TIGHT, completion_of, estimates, reading, stage_seconds, table

from finer1_lib.models.trainable import Trainable
from finer1_lib.runs.presets import make_plan
from finer1_lib.training.memory import TOKENS_PER_WORD, work_of
from finer1_lib.training.model_shapes import KNOWN, known_config, on_meta, shape_of

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted({name for name, _ in PRESETS})
THREE, SEVEN = KNOWN


@pytest.fixture(scope="module")
def plans():
    return {name: make_plan(ROOT, name).parameters for name in NAMES}


@pytest.mark.parametrize(("name", "count", "adapter"), [
    (THREE, 3_754_622_976, 36 * 2 * (2 * 2048 + 2 * (2048 + 256) + 2 * 2048 + 3 * (2048 + 11008))),
    (SEVEN, 8_292_166_656, 28 * 2 * (2 * 3584 + 2 * (3584 + 512) + 2 * 3584 + 3 * (3584 + 18944)))])
def test_the_models_counted_on_the_meta_device(name, count, adapter):
    """Every weight by its exact number; a LoRA's by hand: rank x (inputs + outputs) of seven linears."""
    shape = shape_of(name)
    assert shape.parameters == count == sum(p.numel() for p in on_meta(known_config(name)).parameters())
    assert shape.trained(Trainable("lora", 2, 2)) == adapter
    assert shape.counts["head"] == (0 if name == THREE else shape.vocab * shape.hidden)  # 3B: the embedding


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("vision", [False, True])
def test_what_peft_targets_and_what_stays_frozen(name, vision):
    from peft import LoraConfig, get_peft_model

    kind = Trainable("lora", 4, 4, vision_tower=vision, projector=vision)
    model = get_peft_model(on_meta(known_config(name)), LoraConfig(
        r=4, lora_alpha=4, target_modules=kind.targets, task_type="CAUSAL_LM"), low_cpu_mem_usage=True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == shape_of(name).trained(kind)
    assert all("lora_" in name and "lm_head" not in name for name in trained)
    parts = {re.search(r"language_model|visual\.blocks|visual\.merger", name)[0] for name in trained}
    assert parts == {"language_model", *(["visual.blocks", "visual.merger"] if vision else [])}
    layers = shape_of(name).layers
    assert sum("language_model" in name for name in trained) == layers * 7 * 2  # two factors of seven linears


@pytest.mark.parametrize("name", KNOWN)
def test_full_training_trains_the_requested_parts(name):
    shape = shape_of(name)
    rest = shape.counts["vision"] + shape.counts["projector"]
    assert shape.trained(Trainable("full")) == shape.parameters - rest
    assert shape.trained(Trainable("full", vision_tower=True)) == shape.parameters - shape.counts["projector"]
    assert shape.trained(Trainable("full", vision_tower=True, projector=True)) == shape.parameters


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_asks_for_a_known_model_at_a_pinned_revision(plans, name):
    checkpoint, at, revision = plans[name]["00_miniature_world"]["base_checkpoint"].partition("@")
    assert at and revision == KNOWN[checkpoint]["revision"]
    assert checkpoint == (SEVEN if name == "paper_7b" else THREE)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_divide_and_the_cap_holds_the_rationales(plans, name):
    """What 02 and 03 would refuse when they start; 826 words, the longest rationale, fit under 03's cap."""
    from finer1_lib.training.methods import check_methods
    from finer1_lib.training.tapo_config import make_config

    sft, tapo = plans[name]["02_cot_sft"], plans[name]["03_tapo"]
    make_config(**{key: tapo[key] for key in (
        "n_anchor", "n_positive", "steps", "prompts_per_step", "updates_per_rollout", "micro_batch_size",
        "max_new_tokens", "accuracy_reward", "nothing_survives", "max_sampling_rounds")})
    check_methods(tapo["methods"])
    assert sft["batch_size"] % sft["micro_batch_size"] == 0 and not sft["settings_compared"]
    words = plans[name]["01_data"]["teacher_words"] if completion_of(plans[name]) else 826
    assert tapo["max_new_tokens"] >= words * TOKENS_PER_WORD
    assert plans[name]["04_evaluation"]["max_new_tokens"] >= tapo["max_new_tokens"]


@pytest.mark.parametrize(("name", "gpu"), PRESETS, ids=str)
def test_a_preset_fits_its_gpu(plans, name, gpu):
    """All with room to spare but one: the paper's stage 2 of 3B with all weights is at the edge of 80 GB."""
    found = estimates(plans[name], GPUS[gpu])
    shares = {stage: most / GPUS[gpu].memory for stage, (most, _) in found.items()}
    tight = {stage for stage, share in shares.items() if share > TIGHT}
    assert tight == ({"03_tapo"} if (name, gpu) == ("paper_3b", "A100") else set())
    assert max(shares.values()) < 1
    assert all(hours > 0 for _, hours in found.values())


def test_seven_billion_weights_cannot_be_trained_on_one_gpu(plans):
    """Why paper_7b has an adapter: what training holds alone is more than any GPU of the table has."""
    values = {**plans["paper_7b"], "02_cot_sft": {**plans["paper_7b"]["02_cot_sft"], "finetuning": "full"}}
    most = estimates(values, GPUS["H200"])["03_tapo"][0]
    assert most > max(gpu.memory for gpu in GPUS.values())


@pytest.mark.parametrize("name", ["paper_3b", "paper_7b"])
def test_every_value_of_the_paper_names_its_source(name):
    ours = {"run_name", "seed", "extends", "data_root", "card_pictures", "images_per_sub_category",
            "settings_compared", "wrong_turns", "checkpoints_every", "layers"}  # nothing of the paper's
    for file in (ROOT / "params" / name).glob("*.yaml"):
        for line in file.read_text(encoding="utf-8").splitlines():
            key, colon, rest = line.partition(":")
            if colon and not line.startswith("#") and key not in ours:
                assert re.search(r"# .*(paper|release|our choice)", rest), f"{file.name}: {line}"


PAPER = {  # Fine-R1 (arXiv 2602.07605), Section 5.1; where it is silent the release, as the files' comments say
    "02_cot_sft": dict(finetuning="full", full_learning_rate=5e-6, cot_epochs=10, weight_decay=0.1,
                       warmup_steps=6, batch_size=64, train_vision_tower=False, train_projector=False),
    "03_tapo": dict(n_anchor=5, n_positive=5, gamma=0.01, eta1=0.03, eta2=0.03, learning_rate=1e-6,
                    prompts_per_step=128, updates_per_rollout=3, max_sampling_rounds=20, temperature=1.0,
                    top_p=0.99, max_new_tokens=2048, max_pixels=1280 * 28 * 28, min_pixels=256 * 28 * 28),
    "01_data": dict(num_shots=4, images_per_class=0,
                    data_sets=["aircraft", "bird", "car", "dog", "flower", "pet"]),
}


def test_the_papers_values(plans):
    for stage, values in PAPER.items():
        assert {key: plans["paper_3b"][stage][key] for key in values} == values
    epochs = {name: plans[name]["03_tapo"]["steps"] * 128 / (3 * 452) for name in ("paper_3b", "paper_7b")}
    assert epochs == {"paper_3b": pytest.approx(10, abs=0.15), "paper_7b": pytest.approx(5, abs=0.15)}


# Hours -------------------------------------------------------


def test_hours_by_hand(plans):
    """One prompt, ten tokens: 36 layers x 0.8 ms a step outweigh 3B's 6.2 GB at 60 % of 2039 GB/s (5 ms)."""
    work = work_of("04_evaluation", dict(batch_size=1, max_new_tokens=10, max_pixels=784))
    assert gpu_hours.writing(shape_of(THREE), work, 1, GPUS["A100"]) == pytest.approx(10 * 36 * 0.8e-3)
    assert gpu_hours.writing(shape_of(THREE), work, 5, GPUS["A100"]) == pytest.approx(50 * 36 * 0.8e-3)
    shape = shape_of(THREE)
    numbers = shape.counts["linears"] + shape.counts["embedding"]
    expected = (2 * 100 * numbers + 2 * 4 * shape.counts["vision"]) / (0.3 * 312e12)  # a picture of one token
    assert reading(shape, work, 1, 100, GPUS["A100"]) == pytest.approx(expected)


def test_hours_with_vllm_by_hand():
    """No completion waits: 100 of 0.7 x 1,000 tokens; the H200 writes as much faster as its memory is."""
    work, shape = work_of("04_evaluation", dict(batch_size=64, max_new_tokens=1000, max_pixels=784)), shape_of(THREE)
    rate = 4000 * 3.1e9 / (shape.counts["linears"] + shape.counts["embedding"])
    assert gpu_hours.writing(shape, work, 100, GPUS["A100"], "vllm") == pytest.approx(100 * 700 / rate)
    assert gpu_hours.writing(shape, work, 100, GPUS["H200"], "vllm") == pytest.approx(
        100 * 700 / rate * 2039 / 4800)
    # without it a batch takes as many steps as its longest: 1.5 x 700, but at most the cap
    assert gpu_hours.writing(shape, work, 1, GPUS["A100"]) == pytest.approx(1000 * 36 * 0.8e-3)


def test_rows_that_share_a_long_prompt_read_it_once():
    work = replace(work_of("02_cot_sft", {}), text=100, picture=900)
    shape, gpu = shape_of(THREE), GPUS["A100"]
    apart, packed = (reading(shape, work, 10, 1100, gpu, together=size) for size in (1, 10))
    numbers = shape.counts["linears"] + shape.counts["embedding"]
    assert packed == pytest.approx((2 * 2000 * numbers + 2 * 900 * 4 * shape.counts["vision"]) / (0.3 * 312e12))
    assert packed < 0.2 * apart
    work = replace(work, text=1, picture=1)  # two tokens in common do not pay for attention over all
    long = reading(shape, work, 10, 9000, gpu, together=10)
    assert long == pytest.approx(reading(shape, work, 10, 9000, gpu), rel=1e-3)


def test_a_backward_pass_costs_one_forward_more_or_two():
    """2 operations forward; 2 backward past frozen weights, 4 with theirs; 2 more to compute layers anew."""
    def factor(**parameters):
        work = replace(work_of("02_cot_sft", parameters), picture=0)
        once, train = (reading(shape_of(THREE), work, 1, 100, GPUS["A100"], train) for train in (False, True))
        return train / once

    assert factor() == pytest.approx(2) and factor(gradient_checkpointing=True) == pytest.approx(3)
    assert factor(finetuning="full") == pytest.approx(3) and factor(backend="unsloth") == pytest.approx(3)
    assert factor(finetuning="full", gradient_checkpointing=True) == pytest.approx(4)


def test_hours_grow_with_the_work_and_shrink_with_the_gpu(plans):
    values, shape = plans["single_gpu_80gb"], shape_of(THREE)

    def seconds(stage, gpu="A100", **changes):
        return stage_seconds(stage, {**values, stage: {**values[stage], **changes}}, shape, GPUS[gpu])

    one = seconds("03_tapo")
    assert seconds("03_tapo", steps=2 * values["03_tapo"]["steps"]) == pytest.approx(2 * one)
    assert seconds("03_tapo", methods=["dapo"]) < one / 2 < seconds("03_tapo", methods=["tapo"])
    assert seconds("03_tapo", "H200") < one < seconds("03_tapo", "4090")
    assert seconds("04_evaluation", images_per_class=1) < seconds("04_evaluation") < seconds(
        "04_evaluation", images_per_class=0)
    assert seconds("02_cot_sft", cot_epochs=20) > seconds("02_cot_sft")


def test_the_table(plans):
    lines = table(ROOT)
    assert len(lines) == 2 + len(PRESETS) and len({line.count("|") for line in lines}) == 1
    assert [line.split("|")[1].strip() for line in lines if "(tight)" in line] == ["`paper_3b`"]


def test_the_table_of_params_is_computed():
    assert "\n".join(table(ROOT)) in (ROOT / "params" / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_the_same_numbers():
    """README.md shows some presets in fewer columns: peak GB and hours of 02 / 03 / 04, hours of 03 / 04 with vLLM."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([\w ,]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text, flags=re.M)
    computed = {tuple(line.strip("| ").split(" | ")[:2]): line.strip("| ").split(" | ")[2:] for line in table(ROOT)}
    seen = 0
    for presets, gpu, *cells in rows:
        if (presets.split(", ")[0], gpu) in computed:
            for preset, *figures in zip(*(cell.split(", ") for cell in (presets, *cells)), strict=True):
                assert " / ".join(figures).split(" / ") == computed[preset, gpu], preset
                seen += 1
    assert seen >= 4
