"""Every family that the paper compares answers here, on a tiny checkpoint of its own architecture."""

import json
import re

import family_checkpoints
import pytest
from PIL import Image
from tiny_checkpoint import build, picture

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import user_message
from finer1_lib.data.rationales.teachers import Description, PromptedTeacher
from finer1_lib.models import generation, loading as models
from finer1_lib.models.trainable import LoadedModel

torch = pytest.importorskip("torch")

# What the rows of the paper's tables are made of (llava stands for teachers of an older kind)
OF_THE_PAPER = {"qwen2_5_vl", "qwen2_vl", "idefics2", "idefics3", "llava_next", "llava_onevision", "internvl"}


@pytest.fixture(scope="module", params=family_checkpoints.FAMILIES)
def loaded(request, tmp_path_factory):
    folder = family_checkpoints.build(request.param, tmp_path_factory.mktemp(request.param))
    return models.load_any(str(folder))


@pytest.fixture(scope="module")
def pictures():
    """A square, an upright and a small one, so that the families cut them into different numbers of tiles."""
    return [picture((200, 30, 30)), picture((30, 200, 30), size=(80, 140), seed=2),
            picture((30, 30, 220), size=(45, 33), seed=3)]


def answer(loaded, prompts, **options):
    return generation.generate(loaded, prompts, **{"max_new_tokens": 8, **options})


def scores(loaded, prompts):
    """The first token's scores, a row a prompt: they differ where two short texts may agree."""
    seen = []
    head = loaded.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: seen.append(output[:, -1].clone()))
    try:
        answer(loaded, prompts, max_new_tokens=1)
    finally:
        hook.remove()
    return seen[-1]


def same(together, singles):
    """Whether each single row is a row of the batch, which may have been asked in another order."""
    return all(any(torch.allclose(row, other, atol=1e-3) for other in together) for row in singles)


def shown(*turns):
    """A conversation of (text, picture, answer) turns; the last one's answer is left open."""
    conversation = []
    for text, image, reply in turns:
        conversation += user_message(text, image)
        conversation += [{"role": "assistant", "content": [{"type": "text", "text": reply}]}] if reply else []
    return conversation


def test_the_families_of_the_paper_are_here():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as native

    assert set(family_checkpoints.FAMILIES) == OF_THE_PAPER | {"llava"} and OF_THE_PAPER <= set(native)


def test_it_is_the_architecture_itself(loaded, request):
    family = request.node.callspec.params["loaded"]
    assert loaded.model.config.model_type == family and not loaded.model.training
    assert type(loaded.processor).__name__.lower().replace("_", "") == family.replace("_", "") + "processor"
    assert isinstance(loaded, generation.AnyModel) == (family != "qwen2_5_vl")


def test_another_image_changes_the_output(loaded, pictures):
    rows = [scores(loaded, [user_message("What bird is this?", image)])[0] for image in pictures]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (rows[one] - rows[other]).abs().max() > 0.1
    texts = {answer(loaded, [user_message("What bird is this?", image)])[0].text for image in pictures}
    assert len(texts) > 1


def test_three_together_are_three_alone(loaded, pictures):
    """Prompts of three lengths about images of three sizes, three of one size, and text alone among them."""
    one_size = [picture(seed=seed) for seed in (4, 5, 6)]
    for images in (pictures, one_size, [pictures[0], None, pictures[1]]):
        texts = ("a b c", "Describe this bird", "name")
        prompts = [user_message(text, image) for text, image in zip(texts, images)]
        together = answer(loaded, prompts)
        assert any(one.truncated for one in together) and not any(one.truncated != (one.tokens == 8)
                                                                  for one in together)
        if None in images:  # generated in two batches
            assert together == [answer(loaded, [prompt])[0] for prompt in prompts] == answer(
                loaded, prompts, batch_size=1)
            continue
        assert together == [answer(loaded, [prompt])[0] for prompt in prompts]
        alone = torch.stack([scores(loaded, [prompt])[0] for prompt in prompts])
        assert same(scores(loaded, prompts), alone)
        assert not same(alone[1:], alone[:1])  # the comparison can fail


def test_examples_in_context_are_seen(loaded, pictures):
    """Earlier turns with a picture and an answer each, as in-context examples are shown."""
    red, green, blue = pictures

    def two_examples(first, second, name):
        return shown(("Which?", first, f"<answer>{name}</answer>"), ("Which?", second, "<answer>a</answer>"),
                     ("Which?", blue, ""))

    prompts = [two_examples(red, green, "Rock Wren"), two_examples(green, red, "Rock Wren"),
               two_examples(red, green, "House Wren"), user_message("Which?", blue)]
    alone = [scores(loaded, [prompt])[0] for prompt in prompts]
    assert same(scores(loaded, prompts), torch.stack(alone))
    for other in alone[1:]:  # exchanged pictures, another answer, no example at all
        assert (alone[0] - other).abs().max() > 1e-2
    assert answer(loaded, prompts) == [answer(loaded, [prompt])[0] for prompt in prompts]


def test_several_images_in_one_turn(loaded, pictures):
    red, green = ({"type": "image", "image": image} for image in pictures[:2])
    said = {"type": "text", "text": "the same?"}
    one, other = ([{"role": "user", "content": parts}] for parts in ([red, green, said], [green, red, said]))
    alone = [scores(loaded, [prompt])[0] for prompt in (one, other)]
    assert (alone[0] - alone[1]).abs().max() > 1e-2
    assert same(scores(loaded, [one, other]), torch.stack(alone))


def test_a_turn_of_bare_text_is_not_lost(loaded, pictures):
    """Most of these templates go through a turn's parts and would leave out a text that is no list."""
    if not isinstance(loaded, generation.AnyModel):
        pytest.skip("the kit's own path knows bare text from the template itself")
    listed = shown(("Which?", pictures[0], "<answer>Rock Wren</answer>"), ("And?", pictures[1], ""))
    bare = [{**turn, "content": turn["content"][0]["text"]} if turn["role"] == "assistant" else turn
            for turn in listed]
    assert bare != listed and torch.equal(scores(loaded, [bare]), scores(loaded, [listed]))
    silent = [turn for turn in listed if turn["role"] != "assistant"]
    assert not torch.allclose(scores(loaded, [bare]), scores(loaded, [silent]), atol=1e-2)


def test_images_from_files_are_the_images(loaded, pictures, tmp_path):
    pictures[1].save(tmp_path / "a.png")
    file = user_message("a b c", ImageFile(str(tmp_path), "a.png"))
    assert torch.equal(scores(loaded, [file]), scores(loaded, [user_message("a b c", pictures[1])]))


@pytest.mark.parametrize("family", ["llava_next", "idefics3"])
def test_padding_is_on_the_left_whatever_the_checkpoint_says(family, tmp_path, pictures):
    """A tokenizer saved to pad on the right would put the padding between question and answer."""
    folder = family_checkpoints.build(family, tmp_path)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": "right", "pad_token": None}))
    loaded = models.load_any(str(folder))
    prompts = [user_message(text, pictures[0]) for text in ("a", "Describe this bird with every mark")]
    assert answer(loaded, prompts) == [answer(loaded, [prompt])[0] for prompt in prompts]


REMOTE = {
    "internvl_chat": ("InternVLChatModel", "configuration_internvl_chat.InternVLChatConfig"),  # InternVL2.5
    "openpangu_vl": ("OpenPanguVLForConditionalGeneration", "configuration_openpangu_vl.OpenPanguConfig"),
}


@pytest.mark.parametrize("kind", REMOTE)
def test_a_family_of_foreign_code_would_not_run(kind, tmp_path):
    """Its code lies in the checkpoint's folder and would leave a mark: refused in one line, and not run."""
    architecture, config = REMOTE[kind]
    values = {"model_type": kind, "architectures": [architecture], "auto_map": {"AutoConfig": config}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass {config.split('.')[1]}: pass\n"
    (tmp_path / (config.split(".")[0] + ".py")).write_text(code)
    with pytest.raises(UserError, match="sets auto_map: it needs code or files of its own") as caught:
        models.load_any(str(tmp_path))
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def widen(file):
    """A configuration that its weights do not fit."""
    change(file, text_config={**json.loads(file.read_text())["text_config"], "hidden_size": 64})


def drop(folder, name):
    """The weights without the first one whose name holds `name`."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop(next(key for key in weights if name in key))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def break_template(folder):
    for name in ("chat_template.jinja", "processor_config.json", "tokenizer_config.json"):
        file = folder / name
        if file.suffix == ".jinja":
            file.unlink(missing_ok=True)
        elif file.exists():
            values = json.loads(file.read_text())
            values.pop("chat_template", None)
            file.write_text(json.dumps(values))


@pytest.mark.parametrize("harm, says", [
    (lambda folder: drop(folder, "projector"), r"lacks 1 of its model's weights \(first: .*projector"),
    (lambda folder: drop(folder, "vision_tower"), r"lacks 1 of its model's weights"),
    (lambda folder: widen(folder / "config.json"), r"has \d+ weights of another shape .* is \("),
    (lambda folder: change(folder / "config.json", model_type="unheard_of"), "cannot read .*unheard_of"),
    (lambda folder: change(folder / "config.json", model_type="strange", auto_map={"AutoConfig": "theirs.Config"}),
     "code or files of its own"),
    (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'), "which takes no images"),
    (lambda folder: break_template(folder), "has no chat template"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08" + bytes(30)), "weights file is damaged"),
    (lambda folder: (folder / "model.safetensors").unlink(), "without weights .*model.safetensors"),
])
def test_a_broken_checkpoint_is_refused_in_one_line(tmp_path, harm, says):
    """transformers would initialise missing weights at random, and the answers would be a random model's."""
    folder = family_checkpoints.build("llava_next", tmp_path)
    harm(folder)
    with pytest.raises(UserError, match=says) as caught:
        models.load_any(str(folder))
    assert re.fullmatch(r"[^\n]+", str(caught.value))


def test_pickled_weights_are_never_read(tmp_path):
    """Only safetensors: a folder with pytorch_model.bin alone is refused, and nothing in it is run."""
    folder, marker = family_checkpoints.build("llava", tmp_path / "tiny"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save(Evil(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="without weights"):
        models.load_any(str(folder))
    assert not marker.exists()


def test_four_bits_need_a_gpu_and_a_folder_must_be_there(tmp_path):
    folder = family_checkpoints.build("llava", tmp_path / "tiny")
    with pytest.raises(UserError, match="need a CUDA GPU.*teacher_4bit"):
        models.load_any(str(folder), load_in_4bit=True, device="cpu")
    with pytest.raises(UserError, match="nowhere"):
        models.load_any(str(tmp_path / "nowhere"))


def test_a_qwen2_5_vl_takes_the_kits_own_path(tmp_path):
    loaded = models.load_any(str(build(tmp_path / "tiny")), max_pixels=56 * 56)
    assert isinstance(loaded, LoadedModel)
    assert loaded.processor.image_processor.size["longest_edge"] == 56 * 56


def test_large_images_are_made_smaller_first(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    message = user_message("a", ImageFile(str(tmp_path), "a.png"))
    assert generation._opened(message, 5000)[0]["content"][0]["image"].size == (100, 50)
    assert generation._opened(message, 0)[0]["content"][0]["image"].size == (200, 100)
    assert isinstance(message[0]["content"][0]["image"], ImageFile)  # the caller's message is left as it is


@pytest.fixture(scope="module", params=("llava", "idefics3"))
def other(request, tmp_path_factory):
    """Two families for what is the code's own and not the family's."""
    return models.load_any(str(family_checkpoints.build(request.param, tmp_path_factory.mktemp(request.param))))


def asked():
    """Two pictures of different shapes and colours, prompts of different lengths, one without a picture."""
    red, green = picture((200, 30, 30)), picture((30, 200, 30), size=(80, 140), seed=2)
    return [user_message("a b c", red), user_message("Give the name"),
            user_message("Describe this bird in full", green)]


def test_a_seed_decides_and_nothing_else_is_touched(other):
    prompt, state, config = asked()[0], torch.get_rng_state(), other.model.generation_config.to_dict()
    hot = [answer(other, [prompt] * 2, max_new_tokens=6, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2] and hot[0][0] != hot[0][1]
    assert torch.equal(torch.get_rng_state(), state) and other.model.generation_config.to_dict() == config


def test_an_ending_token_ends(other, monkeypatch):
    """The token written last is declared the end: where it stands first, the answer is whole."""
    rows, until = [], generation._until_end
    monkeypatch.setattr(generation, "_until_end", lambda found, ends: rows.extend(found.tolist()) or until(found, ends))
    batch = asked()[::2]
    answer(other, batch, max_new_tokens=6)
    end = rows[0][-1]
    monkeypatch.setattr(other.model.generation_config, "eos_token_id", end)
    ended, second = answer(other, batch, max_new_tokens=6)
    assert not ended.truncated and ended.tokens == rows[0].index(end) + 1
    assert second.truncated == (end not in rows[1]) and (not second.truncated or second.tokens == 6)


def test_it_teaches(other, tmp_path):
    """As a teacher: pictures from their files, descriptions in one batch, concepts without a picture."""
    (tmp_path / "w").mkdir()
    rows = []
    for number in range(2):
        picture((90 * number, 20, 200), seed=number).save(tmp_path / "w" / f"{number}.png")
        rows.append({"image_id": f"w/{number}.png", "super_category": "bird", "sub_category": "Dunen Wren"})
    loads = []
    teacher = PromptedTeacher(lambda: loads.append(1) or other, tmp_path, ["shape"], max_new_tokens=6)
    asks = [Description(row, "shape", seed) for row in rows for seed in (1, 2)]
    texts = teacher.describe_all(asks)
    assert len(texts) == 4 and teacher.describe_all(asks) == texts and loads == [1]
    assert len(teacher.concepts_all([(row, []) for row in rows])) == 2
    assert teacher.rationale(rows[0], ["red"], "What?", 3)
