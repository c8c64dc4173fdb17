"""The memory planner: its bytes against those of real steps, counted tensor by tensor; what it reads.

`LiveBytes` sees every operation below autograd and counts each storage from its birth to its death, so it
knows the true peak of tensor bytes of a step: forward under both pictures, backward, optimizer.
"""

import weakref
from dataclasses import replace

import pytest
import tiny_checkpoint
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from finer1_lib.core.errors import UserError
from finer1_lib.core.prompts import user_message
from finer1_lib.models.encoding import Encoder
from finer1_lib.models.log_probabilities import score_completions
from finer1_lib.models.trainable import Trainable
from finer1_lib.training import memory as memory_plan
from finer1_lib.training.memory import LOGIT_COPIES, Work, peak, rows
from finer1_lib.training.model_shapes import KNOWN, Mode, language_layer, measure, shape_of
from finer1_lib.training.objective import divergence, tapo_loss

THREE, SEVEN = KNOWN


class LiveBytes(TorchDispatchMode):
    """The bytes of all tensors made under it (or handed to `hold`) that are still alive, and their peak."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = weakref.WeakSet()

    def hold(self, tensor):
        storage = tensor.untyped_storage()
        if storage not in self.seen:
            self.seen.add(storage)
            self._change(storage.nbytes())
            weakref.finalize(storage, self._change, -storage.nbytes())

    def _change(self, count):
        self.now += count
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self.hold(tensor)
        return out


def built(hidden, layers, trainable, dtype=torch.float32, vocabulary=600):
    """A random Qwen2.5-VL (four heads, two of them keys'), trainable as asked; itself bare; its processor."""
    processor = tiny_checkpoint.tiny_processor()
    config = tiny_checkpoint.tiny_config(processor.tokenizer, hidden=hidden, layers=layers, vision_hidden=64,
                                         vision_layers=2)
    text, eighth = config.text_config, hidden // 4 // 2 // 8
    text.num_attention_heads, text.num_key_value_heads = 4, 2
    text.intermediate_size, text.vocab_size = 3 * hidden, vocabulary
    text.rope_parameters["mrope_section"] = [2 * eighth, 3 * eighth, 3 * eighth]
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).to(dtype)
    if trainable.full:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable.trains(name))
        return model.train(), model, processor
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(
        r=trainable.rank, lora_alpha=8, target_modules=trainable.targets, task_type="CAUSAL_LM"))
    return adapted.train(), model, processor


def measured(work, hidden, layers, half=False, vocabulary=600):
    """(peak of tensor bytes in a TAPO step of two micro-batches, of its last graph, between steps; shape)."""
    kind = work.trainable
    model, base, processor = built(hidden, layers, kind, torch.bfloat16 if half and not kind.full
                                   else torch.float32, vocabulary)
    if work.mode.checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    encode, each = Encoder(processor), work.micro_batch // work.prompts

    def prompts(first):
        pictures = [tiny_checkpoint.picture(seed=first + i) for i in range(work.prompts)]
        found = [encode(user_message("Which bird is it?" + "." * (i > 0), picture))
                 for i, picture in enumerate(pictures)]
        return [row for row in found for _ in range(each)]

    own, negative = prompts(0), prompts(50)
    assert (own[0].grid.prod() // 4, len(own[0].ids)) == (work.picture, work.text + work.picture)
    ids = torch.randint(20, 200, (work.micro_batch, work.completion))
    mask = torch.ones_like(ids)
    mask[0, work.completion // 2 :] = 0
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=False)
    count = LiveBytes()
    for tensor in model.parameters():
        count.hold(tensor)

    def score(given):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return score_completions(model, given, ids, mask, chunk=work.chunk,
                                     pad_token_id=processor.tokenizer.pad_token_id)

    def micro_batch():
        before = count.now
        a = score(own)
        if work.graphs == 2:
            before = count.now
            b = score(negative)
        else:
            b = None
        graphs.append(count.now - before)
        two = {} if b is None else dict(gamma=0.01, eta2=0.03, entropy_negative=b.entropy,
                                        apart=divergence("k3", a.logp, b.logp, mask))
        tapo_loss(a.logp, a.logp.detach(), torch.randn(len(ids)), mask, clip_low=0.2, clip_high=0.28,
                  dual_clip=3.0, eta1=0.03, entropy=a.entropy, **two).loss.backward()

    graphs = []
    with count:
        for _ in range(2):  # the first step makes the optimizer's moments
            count.peak = count.now
            micro_batch()
            micro_batch()
            optimizer.step()
            highest = count.peak
            optimizer.zero_grad(set_to_none=True)
    return highest, graphs[-1], count.now, measure(base.config)


LORA, FULL = Trainable("lora", 8, 8), Trainable("full")
TEXT = 30  # tokens of the prompt that `measured` asks, and of its chat marks, in the tiny tokenizer
SIZES = ((64, 1), (128, 2), (192, 3))  # hidden, layers


def work(trainable=LORA, half=False, checkpointing=False, **changes):
    rank = 0 if trainable.full else trainable.rank
    mode = Mode(2 if half else 4, half, trainable.full, rank, checkpointing)
    return Work(**{**dict(
        mode=mode, trainable=trainable, micro_batch=4, prompts=2, graphs=2, text=TEXT, picture=16,
        completion=48, shares=not checkpointing, many=False), **changes})


CASES = [(size, case) for size in SIZES for case in (dict(), dict(checkpointing=True))] + [
    (SIZES[1], case) for case in (
        dict(half=True, checkpointing=True), dict(trainable=FULL), dict(graphs=1),
        dict(trainable=Trainable("full", vision_tower=True, projector=True), half=True, checkpointing=True),
        dict(trainable=Trainable("lora", 8, 8, vision_tower=True, projector=True)),
        dict(vocabulary=4000, chunk=40))]


@pytest.mark.parametrize(("size", "case"), CASES, ids=str)
def test_the_peak_of_a_step_is_the_planned_one(size, case):
    case = dict(case)
    vocabulary = case.pop("vocabulary", 600)
    planned = work(**case)
    real, graph, rest, shape = measured(planned, *size, half=case.get("half", False), vocabulary=vocabulary)
    found = rows(shape, planned)
    most, moment = peak(found)
    held = sum(row.bytes for row in found if row.moment == "held")
    assert moment == "update" and held == pytest.approx(rest, rel=0.05)
    assert most == pytest.approx(real, rel=0.15)
    assert most - held == pytest.approx(real - rest, rel=0.12)  # what a step adds, apart from the weights
    own = next(row.bytes for row in found if row.part == "graph, own picture")
    assert own == pytest.approx(graph, rel=0.1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [LORA, FULL], ids=lambda kind: kind.kind)
@pytest.mark.parametrize("half", [False, True])
def test_what_one_layer_saves(kind, half, masked):
    """The bytes that autograd saves for three layers less those for two, to two hundredths."""
    saved = []
    for layers in (2, 3):
        _, model, _ = built(128, layers, kind, torch.bfloat16 if half and not kind.full else torch.float32)
        weights = {id(p.untyped_storage()) for p in model.parameters()}
        storages = {}

        def keep(tensor):
            if id(tensor.untyped_storage()) not in weights and tensor.shape not in shapes:
                storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        # autocast's copies of the weights count with the graph, not with a layer
        shapes = {shape for p in model.parameters() if p.ndim == 2 for shape in (p.shape, p.t().shape)}
        states = torch.randn(2, 60, 128, dtype=next(model.parameters()).dtype, requires_grad=True)
        mask = torch.ones(2, 60, dtype=torch.long)
        mask[0, : 5 * masked] = 0
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast(
                "cpu", torch.bfloat16, enabled=half):
            out = model.model.language_model(inputs_embeds=states, attention_mask=mask, use_cache=False,
                                             position_ids=torch.arange(60).expand(3, 2, 60))
        saved.append(sum(tensor.untyped_storage().nbytes() for tensor in storages.values()))
        del out
    mode = Mode(2 if half else 4, half, kind.full, 0 if kind.full else 8)
    planned = language_layer(measure(model.config), mode, 2, 60, 60, masked)
    assert planned == pytest.approx(saved[1] - saved[0], rel=0.02)


@pytest.mark.parametrize(("chunk", "backward"), [(0, 5), (20, 6)])
def test_copies_of_a_chunk_of_logits(chunk, backward):
    """Float32 copies alive at once: 4 forward; 5 backward, and what the chunk before has left."""
    from finer1_lib.models.log_probabilities import logp_and_entropy

    hidden, head = torch.randn(60, 2, requires_grad=True), torch.randn(5000, 2)
    one = 4 * (chunk or 60) * 5000
    with LiveBytes() as count:
        logp, entropy = logp_and_entropy(hidden, head, torch.arange(60), chunk=chunk or 60)
        assert count.peak / one == pytest.approx(LOGIT_COPIES["forward"], abs=0.2)
        count.peak = 0
        (logp.sum() + entropy.sum()).backward()
        assert count.peak / one == pytest.approx(backward, abs=0.2)
    planned = rows(replace(shape_of(THREE), vocab=5000), work(chunk=chunk, completion=15))  # 4 rows of 15
    assert next(row.bytes for row in planned if row.part == "chunk of logits") == backward * one


def test_the_peak_of_sampling_is_the_planned_one():
    from finer1_lib.models.generation import sample_ids

    model, base, processor = built(128, 2, LORA)
    model.generation_config.eos_token_id = base.generation_config.eos_token_id = None
    encode = Encoder(processor)
    prompts = [encode(user_message("Which bird is it?" + "." * (i % 2), tiny_checkpoint.picture(seed=i)))
               for i in range(4)]  # of unequal length, so with a mask
    count = LiveBytes()
    for tensor in model.parameters():
        count.hold(tensor)
    with count:
        sample_ids(model.eval(), processor.tokenizer, [row for row in prompts for _ in range(4)], seed=(1,),
                   max_new_tokens=64, temperature=1.0, top_p=0.99)
    planned = Work(Mode(4, False, False, 8), None, text=TEXT, picture=16, completion=64, generated=16,
                   asked=4)
    most, moment = peak(rows(measure(base.config), planned))
    assert moment == "rollouts" and most == pytest.approx(count.peak, rel=0.15)


def test_weights_by_hand():
    """3B in bfloat16 is 7.51 GB; in 4 bits its 2.77 billion linear numbers take 0.516 bytes each."""
    def held(**changes):
        return rows(shape_of(THREE), Work(Mode(2, False, False, 0), None, **changes))[0].bytes

    assert held() == 2 * 3_754_622_976
    assert held(four_bit=True) == pytest.approx(0.51587 * 2_774_532_096 + 2 * 980_090_880, rel=1e-4)


def test_keys_and_values_by_hand():
    """36 layers x 2 heads x 128 x key and value x 2 bytes = 36,864 a token (3B); 57,344 for 7B."""
    for name, a_token in ((THREE, 36_864), (SEVEN, 57_344)):
        work = Work(Mode(2, False, False, 0), None, text=100, picture=256, completion=644, generated=10,
                    asked=10)
        found = {row.part: row.bytes for row in rows(shape_of(name), work)}
        assert found["keys and values"] == 10 * 1000 * a_token


def test_what_training_holds_by_hand():
    """All weights: 4 bytes each, 4 of gradient, 8 of AdamW; CUDA's optimizer works on a copy of 4 more."""
    shape, trained = shape_of(THREE), 3_085_938_688  # without vision tower and projector
    work = Work(Mode(2, True, True, 0, True), FULL, 1, 1, text=10, picture=4, completion=10)
    found = {(row.moment, row.part): row.bytes for row in rows(shape, work)}
    assert found["held", "weights"] == 4 * 3_754_622_976 and found["held", "optimizer"] == 8 * trained
    assert found["update", "gradients"] == found["optimizer step", "gradients"] == 4 * trained
    assert found["optimizer step", "working copy"] == 4 * trained


TAPO = dict(methods=["dapo", "tapo"], n_anchor=5, n_positive=5, prompts_per_step=16, updates_per_rollout=3,
            micro_batch_size=4, max_new_tokens=512, max_pixels=784 * 300, lora_rank=16, lora_alpha=16)


def test_a_stage_is_read_from_its_parameters():
    work = memory_plan.work_of("03_tapo", TAPO)
    assert (work.picture, work.completion, work.micro_batch, work.graphs) == (300, 512, 4, 2)
    assert (work.prompts, work.generated, work.pictures, work.shares) == (2, 64, 48 * 2, True)  # gcd(10, 4)
    assert memory_plan.work_of("03_tapo", {**TAPO, "methods": ["dapo"]}).graphs == 1
    assert memory_plan.work_of("03_tapo", {**TAPO, "gradient_checkpointing": True}).mode.checkpointing
    unsloth = memory_plan.work_of("03_tapo", {**TAPO, "backend": "unsloth"})
    assert unsloth.mode.offload and not unsloth.shares
    full = memory_plan.work_of("03_tapo", TAPO, trained={"finetuning": "full", "train_vision_tower": True})
    assert full.mode.full and full.trainable.vision_tower
    assert memory_plan.work_of("04_evaluation", dict(batch_size=7, max_new_tokens=9)).generated == 7
    assert memory_plan.work_of("02_cot_sft", dict(micro_batch_size=2)).picture == round(2_000_000 / 784)


def test_more_of_anything_takes_more():
    most = lambda **more: peak(memory_plan.plan("03_tapo", {**TAPO, **more}, THREE))[0]
    assert most() < most(max_new_tokens=1024) < most(max_new_tokens=1024, max_pixels=784 * 1280)
    assert most(load_in_4bit=True) < most() < most(gradient_checkpointing=False, micro_batch_size=8)
    assert most(gradient_checkpointing=True) < most()
    assert most() < peak(memory_plan.plan("03_tapo", TAPO, THREE, trained={"finetuning": "full"}))[0]


def test_lines_say_whether_it_fits():
    told = memory_plan.lines("03_tapo", TAPO, f"{THREE}@main", room=80 * 2**30)
    assert "3.75 billion" in told[1] and told[-1].startswith("peak") and told[-1].endswith("has 80.0: fits")
    assert memory_plan.lines("03_tapo", TAPO, THREE, room=8 * 2**30)[-1].endswith("does NOT fit")
    assert "graph, negative picture" in "\n".join(told) and max(map(len, told)) <= 130
    assert memory_plan.lines("03_tapo", TAPO, "some/other") == [
        "memory of 03_tapo: no estimate, the shape of some/other is not known without a download"]


def test_a_folder_tells_its_own_shape(tmp_path):
    folder = tiny_checkpoint.build(tmp_path / "base")
    sizes = dict(batch_size=2, max_new_tokens=4)
    found = memory_plan.plan("04_evaluation", sizes, folder)
    weights = (folder / "model.safetensors").stat().st_size
    assert found[0].bytes == pytest.approx(weights, rel=0.1)  # float32 on a CPU, as in the file
    assert found == memory_plan.plan("04_evaluation", {**sizes, "max_pixels": 112 * 112}, folder), "its limit"
    (folder / "config.json").write_text('{"model_type": "bert"}')
    shape_of.cache_clear()
    with pytest.raises(UserError, match="is a bert: the plan knows Qwen2.5-VL"):
        memory_plan.plan("04_evaluation", {}, folder)
