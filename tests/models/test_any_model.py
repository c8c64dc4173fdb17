"""Models of several families, as teachers: tiny checkpoints, of which none is a Qwen2.5-VL or downloaded."""

import json

import family_checkpoints
import pytest
from PIL import Image
from tiny_checkpoint import build, picture

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import user_message
from finer1_lib.data.rationales.teachers import Description, PromptedTeacher
from finer1_lib.models.trainable import LoadedModel

torch = pytest.importorskip("torch")

FAMILIES = ("llava", "idefics3", "qwen2_vl")


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, tmp_path_factory):
    from finer1_lib.models.loading import load_any as load

    return load(str(family_checkpoints.build(request.param, tmp_path_factory.mktemp(request.param))))


def asked():
    """Two pictures of different shapes and colours, prompts of different lengths, one without a picture."""
    red, green = picture((200, 30, 30)), picture((30, 200, 30), size=(80, 140), seed=2)
    return [user_message("a b c", red), user_message("Give the name"),
            user_message("Describe this bird in full", green)]  # fmt: skip


def test_a_batch_answers_what_each_prompt_would_alone(loaded):
    """Left padding, pictures of two shapes, and text alone beside them: greedy answers do not change."""
    from finer1_lib.models.generation import AnyModel, generate

    assert isinstance(loaded, AnyModel) and not loaded.model.training
    together = generate(loaded, asked(), max_new_tokens=8)
    assert together == [generate(loaded, [prompt], max_new_tokens=8)[0] for prompt in asked()]
    assert together == generate(loaded, asked(), max_new_tokens=8, batch_size=1)
    assert all(one.tokens == 8 and one.truncated for one in together)


def test_the_picture_is_seen(loaded):
    from finer1_lib.models.generation import generate

    def says(image):
        return generate(loaded, [user_message("a b c", image)], max_new_tokens=8)[0].text

    assert says(picture((200, 30, 30))) != says(picture((30, 30, 250), seed=9))


def test_a_seed_decides_and_nothing_else_is_touched(loaded):
    from finer1_lib.models.generation import generate

    prompt, state, config = asked()[0], torch.get_rng_state(), loaded.model.generation_config.to_dict()
    hot = [generate(loaded, [prompt] * 2, max_new_tokens=6, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2] and hot[0][0] != hot[0][1]
    assert torch.equal(torch.get_rng_state(), state) and loaded.model.generation_config.to_dict() == config


def test_an_ending_token_ends(loaded, monkeypatch):
    """The token written last is declared the end: where it stands first, the answer is whole."""
    from finer1_lib.models import generation

    rows, until = [], generation._until_end
    monkeypatch.setattr(generation, "_until_end", lambda found, ends: rows.extend(found.tolist()) or until(found, ends))
    batch = asked()[::2]
    generation.generate(loaded, batch, max_new_tokens=6)
    end = rows[0][-1]
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", end)
    ended, other = generation.generate(loaded, batch, max_new_tokens=6)
    assert not ended.truncated and ended.tokens == rows[0].index(end) + 1
    assert other.truncated == (end not in rows[1]) and (not other.truncated or other.tokens == 6)


def test_it_teaches(loaded, tmp_path):
    """As a teacher: pictures from their files, descriptions in one batch, concepts without a picture."""
    (tmp_path / "w").mkdir()
    rows = []
    for number in range(2):
        picture((90 * number, 20, 200), seed=number).save(tmp_path / "w" / f"{number}.png")
        rows.append({"image_id": f"w/{number}.png", "super_category": "bird", "sub_category": "Dunen Wren"})
    loads = []
    teacher = PromptedTeacher(lambda: loads.append(1) or loaded, tmp_path, ["shape"], max_new_tokens=6)
    asks = [Description(row, "shape", seed) for row in rows for seed in (1, 2)]
    texts = teacher.describe_all(asks)
    assert len(texts) == 4 and teacher.describe_all(asks) == texts and loads == [1]
    assert len(teacher.concepts_all([(row, []) for row in rows])) == 2
    assert teacher.rationale(rows[0], ["red"], "What?", 3)


def test_large_pictures_are_made_smaller_first(tmp_path):
    from finer1_lib.models.generation import _opened

    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    message = user_message("a", ImageFile(str(tmp_path), "a.png"))
    assert _opened(message, 5000)[0]["content"][0]["image"].size == (100, 50)
    assert _opened(message, 0)[0]["content"][0]["image"].size == (200, 100)
    assert isinstance(message[0]["content"][0]["image"], ImageFile)  # the caller's message is left as it is


def test_a_qwen2_5_vl_takes_the_kits_own_road(tmp_path):
    from finer1_lib.models.loading import load_any as load

    loaded = load(str(build(tmp_path / "tiny")), max_pixels=56 * 56)
    assert isinstance(loaded, LoadedModel)
    assert loaded.processor.image_processor.size["longest_edge"] == 56 * 56


def break_template(folder):
    for name in ("chat_template.jinja", "processor_config.json", "tokenizer_config.json"):
        file = folder / name
        if file.suffix == ".jinja":
            file.unlink(missing_ok=True)
        elif file.exists():
            values = json.loads(file.read_text())
            values.pop("chat_template", None)
            file.write_text(json.dumps(values))


def rewrite(**values):
    def broken(folder):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return broken


BROKEN = {
    "has no chat template": break_template,
    "which takes no images": lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'),
    "code or files of its own": rewrite(model_type="strange", auto_map={"AutoConfig": "theirs.StrangeConfig"}),
    "cannot read the configuration .*strange": rewrite(model_type="strange"),
    "weights file is damaged": lambda folder: (folder / "model.safetensors").write_bytes(b"\x08" + bytes(30)),
    "without weights .*model.safetensors": lambda folder: (folder / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("says", BROKEN)
def test_a_checkpoint_that_cannot_teach_is_told_in_one_line(tmp_path, says):
    from finer1_lib.models.loading import load_any as load

    BROKEN[says](family_checkpoints.build("llava", tmp_path / "tiny"))
    with pytest.raises(UserError, match=says):
        load(str(tmp_path / "tiny"))


def test_pickled_weights_are_never_read(tmp_path):
    """Only safetensors: a folder with pytorch_model.bin alone is refused, and nothing in it is run."""
    from finer1_lib.models.loading import load_any as load

    folder, marker = family_checkpoints.build("llava", tmp_path / "tiny"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save(Evil(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="without weights"):
        load(str(folder))
    assert not marker.exists()


def test_four_bits_need_a_gpu_and_a_folder_must_be_there(loaded, tmp_path):
    from finer1_lib.models.loading import load_any as load

    with pytest.raises(UserError, match="need a CUDA GPU.*teacher_4bit"):
        load(loaded.checkpoint, load_in_4bit=True, device="cpu")
    with pytest.raises(UserError, match="nowhere"):
        load(str(tmp_path / "nowhere"))
