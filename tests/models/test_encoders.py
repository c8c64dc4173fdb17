"""Encoders as systems: hand-worked cosines, blindness to the options' order, and both libraries' towers."""

import fnmatch
import itertools
import json
from types import SimpleNamespace

import numpy
import pytest
from hypothesis import given, strategies as st
from tiny_checkpoint import picture, tiny_tokenizer

from finer1_lib.core.completions import one_answer, strict
from finer1_lib.core.errors import UserError
from finer1_lib.evaluation.systems import encoders
from finer1_lib.evaluation.systems.encoders import (KINDS, Encoder, encoder_prompt, open_encoder, sentences,
                                                    templates)
from finer1_lib.models import encoders as encoder_towers

NAMES = ["Rock Wren", "Sand Gull", "Tern", "Jay", "Marsh Wren"]
SIZES = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)


class Stub:
    """Towers by table: a picture's vector by its red channel, a sentence's by the table."""

    def __init__(self, texts, pictures):
        self.table, self.vectors, self.asked, self.seen = texts, pictures, [], []

    def texts(self, texts):
        self.asked += texts
        return numpy.array([self.table[text] for text in texts], "float32")

    def pictures(self, images):
        self.seen.append(len(images))
        return numpy.array([self.vectors[image.getpixel((0, 0))[0]] for image in images], "float32")


def request(image_id="a.png", options=None, word="bird", **changes):
    setting = "all_labels" if options is None else "closed_world"
    return {"item_id": image_id, "image_id": image_id, "super_category": word, "setting": setting,
            "options": options, **changes}


@pytest.fixture
def album(tmp_path):
    """Pictures of one colour: their red channel is their number."""
    from PIL import Image

    for number in range(8):
        Image.new("RGB", (40, 30 + number), (number, 90, 30)).save(tmp_path / f"{'abcdefgh'[number]}.png")
    return tmp_path


def photo(name):
    return f"a photo of a {name}, a type of bird."


def stub(album, texts, pictures, prompts="clip_photo", labels=None, **options):
    towers = Stub(texts, pictures)
    return towers, Encoder(towers, "stub", prompts, album, labels or {"bird": NAMES}, **options)


PLANE = {photo(name): [numpy.cos(angle), numpy.sin(angle)]
         for name, angle in zip(NAMES, (0.0, 0.5, 1.0, 1.5, 2.0))}


def test_the_nearest_name_is_answered_by_hand(album):
    towers, encoder = stub(album, PLANE, {0: [3.0, 0.3], 1: [-5.0, 9.0]})  # at 0.0997 and 2.0779 radians
    answers = encoder.answer(
        [request("a.png"), request("b.png"), request("b.png", ["Jay", "Tern", "Sand Gull", "Rock Wren"])],
        max_new_tokens=5, seed=3)
    assert [answer.text for answer in answers] == [
        "<answer>Rock Wren</answer>", "<answer>Marsh Wren</answer>", "<answer>Jay</answer>"]
    assert {(answer.tokens, answer.truncated) for answer in answers} == {(0, False)}
    assert strict(answers[0].text, "Rock Wren") == 1.0
    assert sorted(towers.asked) == sorted(PLANE) and towers.seen == [2]  # each text and each picture once
    encoder.answer([request("b.png"), request("a.png")])
    assert sorted(towers.asked) == sorted(PLANE) and towers.seen == [2]


def test_length_of_a_vector_plays_no_part(album):
    """By cosine the first name is nearest, by inner product the long second one."""
    texts = {photo("A"): [1.0, 0.0], photo("B"): [60.0, 80.0]}
    _, encoder = stub(album, texts, {0: [2.0, 0.5]}, labels={"bird": ["A", "B"]})
    assert encoder.answer([request()])[0].text == "<answer>A</answer>"


def test_the_ensemble_is_the_normalised_mean_of_normalised_vectors(album):
    """A: one vector of length 1000 to the right, seven short ones upwards; unit mean points upwards.

    Without normalising each first, A would point to the right and be nearest to the picture at 0.1 radians.
    B's mean is (0.5, 0.5) long 0.707: not made a unit vector again its cosine would be 0.77 and lose to A's.
    """
    texts = {}
    for number, text in enumerate(sentences("clip_ensemble", "bird", "A")):
        texts[text] = [1000.0, 0.0] if number == 0 else [0.0, 0.001]
    for number, text in enumerate(sentences("clip_ensemble", "bird", "B")):
        texts[text] = [1.0, 0.0] if number % 2 else [0.0, 1.0]
    names = {"bird": ["A", "B"]}
    towers, encoder = stub(album, texts, {0: [1.0, 0.1], 1: [0.5, 0.85]}, "clip_ensemble", names)
    assert [answer.text for answer in encoder.answer([request("a.png"), request("b.png")])] == [
        "<answer>B</answer>", "<answer>B</answer>"]
    assert len(towers.asked) == 16
    a, b = encoder._label_vectors("bird")
    assert numpy.allclose(a, numpy.array([1 / 8, 7 / 8]) / numpy.hypot(1 / 8, 7 / 8), atol=1e-6)
    assert numpy.allclose(b, [0.5**0.5, 0.5**0.5], atol=1e-6)


@given(st.lists(st.floats(-9, 9), min_size=12, max_size=12), st.permutations(range(4)))
def test_an_encoder_does_not_see_the_order_of_the_options(numbers, order):
    vectors = numpy.array(numbers).reshape(6, 2) + 0.001
    texts = {photo(name): vectors[i] + [20, 0] for i, name in enumerate(NAMES)}
    encoder = Encoder(Stub(texts, {}), "stub", "clip_photo", "nowhere", {"bird": NAMES})
    encoder._images["a.png"] = vectors[5] / numpy.linalg.norm(vectors[5])
    first = encoder.answer([request(options=NAMES[:4])])[0]
    assert encoder.answer([request(options=[NAMES[i] for i in order])])[0] == first
    # what is answered among all names is answered among any options that hold it
    best = one_answer(encoder.answer([request()])[0].text)[0]
    if best in NAMES[:4]:
        assert one_answer(first.text)[0] == best


def test_a_tie_is_named_and_the_first_of_the_alphabet_answered(album):
    texts = {photo(name): [0.0, 1.0] if name in ("Tern", "Jay") else [1.0, 0.0] for name in NAMES}
    _, encoder = stub(album, texts, {0: [0.0, 2.0]})
    told = {encoder.answer([request(options=list(order))])[0].text
            for order in itertools.permutations(["Tern", "Rock Wren", "Jay", "Sand Gull"])}
    assert told == {"Equally near: Jay, Tern.\n<answer>Jay</answer>"}
    assert one_answer(told.pop()) == ("Jay", "well_formed")


def test_vectors_are_kept_but_not_without_end(album, monkeypatch):
    monkeypatch.setattr(encoders, "KEPT", 3)
    towers, encoder = stub(album, PLANE, {number: [1.0, number / 9] for number in range(8)}, batch_size=2)
    asked = [request(f"{letter}.png") for letter in "abcdefgh"]
    first = encoder.answer(asked)  # more pictures in one go than are kept
    assert towers.seen == [2, 2, 2, 2] and list(encoder._images) == ["f.png", "g.png", "h.png"]
    assert encoder.answer(asked[:5] + asked[5:]) == first and sum(towers.seen) == 8 + 5
    assert len(encoder._images) == 3


@pytest.mark.parametrize(
    "change, told",
    [(dict(setting="open_world"), "chooses among names, so query it in closed_world or all_labels"),
     (dict(super_category="moth"), "no sub-categories of 'moth'"),
     (dict(options=["Tern", "Zebra"], setting="closed_world"), "option 'Zebra' of a.png is none of the 5"),
     (dict(image_id="gone.png"), "no such image")],
)
def test_what_an_encoder_cannot_answer_is_refused(album, change, told):
    _, encoder = stub(album, PLANE, {0: [1.0, 0.0]})
    with pytest.raises(UserError, match=told):
        encoder.answer([request(**change)])


@pytest.mark.parametrize("texts, image", [([[numpy.nan, 1.0]], [1.0, 0.0]), ([[0.0, 0.0]], [1.0, 0.0]),
                                          ([[1.0, 0.0]], [0.0, 0.0]), ([[1.0, 0.0]], [numpy.inf, 0.0])])
def test_vectors_that_say_nothing_are_refused(album, texts, image):
    _, encoder = stub(album, {photo("A"): texts[0]}, {0: image}, labels={"bird": ["A"]})
    with pytest.raises(UserError, match="vectors are not finite or zero"):
        encoder.answer([request()])


def test_an_unknown_kind_library_or_batch_is_refused(album, tmp_path):
    with pytest.raises(UserError, match="prompts 'cot': an encoder takes one of clip_photo, clip_ensemble"):
        stub(album, PLANE, {}, "cot")
    with pytest.raises(UserError, match="library 'timm' is not one of transformers, open_clip"):
        open_encoder(system("x", library="timm"), album, {})
    with pytest.raises(UserError, match="batch_size is 0"):
        open_encoder(system("x"), album, {}, batch_size=0)


def test_templates_hold_one_name_each_and_their_hash_distinguishes_them():
    words = ("bird", "aircraft", "car", "flower", "pet", "dog", "drawn thing")
    for kind, word in itertools.product(KINDS, words):
        assert all(template.count("{}") == 1 for template in templates(kind, word))
        assert encoder_prompt(kind, word).name == kind
    assert templates("clip_photo", "flower") == ("a photo of a {}, a type of flower.",)
    assert templates("clip_photo", "car") == ("a photo of a {}.",)
    for word in words:
        assert len(templates("clip_ensemble", word)) == 8 == len(set(templates("clip_ensemble", word)))
        assert templates("clip_ensemble", word)[0] == templates("clip_photo", word)[0]
    hashes = {encoder_prompt(kind, word).hash for kind in KINDS for word in words}
    assert len(hashes) == len(KINDS) * len(words)
    assert sentences("clip_photo", "car", "Audi {} {kind} R8") == ["a photo of a Audi {} {kind} R8."]


# the towers


def system(checkpoint, library="transformers", prompts="clip_photo"):
    return SimpleNamespace(name="tiny", checkpoint=str(checkpoint), library=library, prompts=prompts)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A random CLIP and a random SigLIP, each with tokenizer and image processor."""
    import torch
    import transformers as t

    folder, tokenizer = tmp_path_factory.mktemp("towers"), tiny_tokenizer()
    # as the hub's SigLIP tokenizers: the texts' own end, then padding
    tokenizer.pad_token = "<|endoftext|>"
    text = dict(vocab_size=len(tokenizer), **SIZES)
    vision = dict(image_size=32, patch_size=16, **SIZES)
    letters = [chr(code) for code in range(33, 127)]
    vocab = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip_text = dict(text, vocab_size=len(vocab), bos_token_id=0, eos_token_id=1, pad_token_id=1)
        clip = t.CLIPModel(t.CLIPConfig(text_config=clip_text, vision_config=vision, projection_dim=12))
        siglip = t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision))
        for tower in (clip.vision_model, siglip.vision_model):  # far enough from their start to tell pictures
            for weight in tower.parameters():
                weight.data += 0.2 * torch.randn_like(weight)
    clip.save_pretrained(folder / "clip")
    siglip.save_pretrained(folder / "siglip")
    letters = t.CLIPTokenizer(vocab={token: number for number, token in enumerate(vocab)}, merges=[])
    letters.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "siglip")
    side = {"height": 32, "width": 32}
    t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder / "clip")
    t.SiglipImageProcessor(size=side).save_pretrained(folder / "siglip")
    return folder


def check_towers(towers):
    """Another picture, another vector; another text as well; a batch of three equals three singles."""
    images = [picture(seed=seed, size=(50 + 20 * seed, 60)) for seed in (1, 2, 3)]
    together = towers.pictures(images)
    assert together.shape[0] == 3 and together.dtype == numpy.float32
    singles = numpy.concatenate([towers.pictures([image]) for image in images])
    assert numpy.allclose(together, singles, atol=1e-5)
    assert abs(together[0] - together[1]).max() > 1e-3 and abs(together[1] - together[2]).max() > 1e-3
    texts = ["a photo of a Wren.", "a photo of a Yellow-headed Blackbird, a type of bird.", "Jay"]
    together = towers.texts(texts)
    singles = numpy.concatenate([towers.texts([text]) for text in texts])
    assert together.shape == (3, towers.pictures(images).shape[1])
    assert numpy.allclose(together, singles, atol=1e-5)
    assert abs(together[0] - together[1]).max() > 1e-3


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_towers_of_transformers(checkpoints, album, kind):
    towers = encoder_towers.transformers_towers(str(checkpoints / kind), "cpu", 2)
    check_towers(towers)
    assert numpy.array_equal(towers.texts(["A Rock WREN"]), towers.texts(["a rock wren"]))  # both fold case
    encoder = open_encoder(system(checkpoints / kind, prompts="clip_ensemble"), album, {"bird": NAMES},
                           device="cpu")
    answers = encoder.answer([request("a.png"), request("a.png", NAMES[:4])])
    assert all(one_answer(answer.text)[0] in NAMES for answer in answers)


def test_siglip_reads_64_tokens_and_no_mask(checkpoints, monkeypatch):
    loaded, given = encoder_towers.load_encoder(str(checkpoints / "siglip"), device="cpu", texts=True), []
    monkeypatch.setattr(encoder_towers, "load_encoder", lambda *_, **options: loaded)
    model, tokenizer = loaded.model, loaded.tokenizer
    towers = encoder_towers.transformers_towers("known", "cpu", 2)
    real = model.get_text_features
    monkeypatch.setattr(model, "get_text_features", lambda **read: given.append(read) or real(**read))
    towers.texts(["Jay", "word " * 90])
    (read,) = given
    assert set(read) == {"input_ids", "return_dict"} and read["input_ids"].shape == (2, 64)
    row = read["input_ids"][0].tolist()
    said = tokenizer("jay")["input_ids"]
    assert row[: len(said)] == said and set(row[len(said) :]) == {tokenizer.pad_token_id}  # on the right


def test_a_text_tower_with_new_weights_is_refused(checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in (checkpoints / "siglip").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["text_model.head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of its model.s weights .first: text_model.head.weight"):
        open_encoder(system(tmp_path), tmp_path, {})


def test_a_checkpoint_without_a_text_tower_is_refused(tmp_path):
    import transformers as t

    t.ViTModel(t.ViTConfig(image_size=32, patch_size=16, **SIZES)).save_pretrained(tmp_path)
    t.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="ViTModel, which has no image features"):
        open_encoder(system(tmp_path), tmp_path, {})


def tiny_open_clip(folder, vision):
    """A random checkpoint in open_clip's own format, as the hub's copies of EVA-CLIP are."""
    open_clip = pytest.importorskip("open_clip")
    import torch
    from safetensors.torch import save_file

    text = dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=1)
    config = {"model_cfg": {"embed_dim": 16, "custom_text": True, "vision_cfg": vision, "text_cfg": text},
              "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        for weight in model.visual.parameters():
            weight.data += 0.02 * torch.randn_like(weight)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()},
              folder / "open_clip_model.safetensors")
    return folder


EVA = dict(image_size=224, timm_model_name="eva02_tiny_patch14_224", timm_model_pretrained=False,
           timm_pool="token", timm_proj=None)


def test_towers_of_open_clip(tmp_path, album):
    folder = tiny_open_clip(tmp_path / "eva", EVA)
    towers = encoder_towers.open_clip_towers(str(folder), "cpu", 2)
    check_towers(towers)
    encoder = open_encoder(system(folder, library="open_clip"), album, {"bird": NAMES}, device="cpu")
    answers = encoder.answer([request(options=list(order)) for order in itertools.permutations(NAMES[:4])])
    assert len(set(answers)) == 1


def test_open_clip_weights_are_safetensors_or_none(tmp_path, monkeypatch):
    folder = tiny_open_clip(tmp_path / "vit", dict(image_size=32, patch_size=16, width=16, layers=1,
                                                   head_width=8))
    weights = folder / "open_clip_model.safetensors"
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"never read")
    assert encoder_towers.open_clip_towers(str(folder), "cpu", 2).pictures([picture()]).shape == (1, 16)
    asked = {}

    def download(name, **options):
        asked.update(name=name, **options)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    encoder_towers.open_clip_towers("owner/model@v1", "cpu", 2)
    assert (asked["name"], asked["revision"]) == ("owner/model", "v1")
    for pickled in ("open_clip_pytorch_model.bin", "model.pt", "model.pth", "weights.npz"):
        assert not any(fnmatch.fnmatch(pickled, pattern) for pattern in asked["allow_patterns"])
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="a weights file is damaged"):
        encoder_towers.open_clip_towers(str(folder), "cpu", 2)
    weights.rename(folder / "model.safetensors")  # beside which open_clip would take the pickled file
    with pytest.raises(UserError, match="open_clip_model.safetensors or .* is missing"):
        encoder_towers.open_clip_towers(str(folder), "cpu", 2)
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(UserError, match="open_clip_config.json is missing"):
        encoder_towers.open_clip_towers(str(folder), "cpu", 2)


def open_clip_config(*path, value):
    def harm(folder):
        file = folder / "open_clip_config.json"
        config = json.loads(file.read_text())
        place = config
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
        file.write_text(json.dumps(config))

    return harm


def open_clip_weights(change):
    def harm(folder):
        from safetensors.torch import load_file, save_file

        file = folder / "open_clip_model.safetensors"
        save_file(change(load_file(file)), file)

    return harm


VIT = dict(image_size=32, patch_size=16, width=16, layers=1, head_width=8)
TEXT_CFG, VISION_CFG = ("model_cfg", "text_cfg"), ("model_cfg", "vision_cfg")
OPEN_CLIP_HARM = {
    "code": (open_clip_config(*TEXT_CFG, "tokenizer_kwargs", value={"trust_remote_code": True}),
             "sets trust_remote_code"),
    "a key of a loader's": (open_clip_config(*TEXT_CFG, "tokenizer_kwargs", value={"subfolder": "x"}),
                            "sets subfolder in tokenizer_kwargs, which is not read"),
    "a file to open": (open_clip_config(*TEXT_CFG, "tokenizer_kwargs", value={"bpe_path": "/etc/hosts"}),
                       "sets bpe_path in tokenizer_kwargs"),
    "another repository": (open_clip_config(*TEXT_CFG, "hf_model_name", value="own/model"), "sets hf_model"),
    "timm's copy of one": (open_clip_config(*VISION_CFG, "timm_model_name", value="hf-hub:own/model"),
                           "sets timm_model_name"),
    "a place of timm's": (open_clip_config(*VISION_CFG, "timm_model_name", value="../own"), "sets timm_model"),
    "a decoder": (open_clip_config("model_cfg", "multimodal_cfg", value={}), "sets multimodal_cfg"),
    "no object": (open_clip_config("model_cfg", value=[1]), "has no object model_cfg"),
    "layers as text": (open_clip_config(*VISION_CFG, "layers", value="one"), "cannot load .* fit together"),
    "colours as text": (open_clip_config("preprocess_cfg", "mean", value="grey"), "cannot encode an image"),
    "no vision": (open_clip_weights(lambda held: {k: v for k, v in held.items() if "visual" not in k}),
                  r"\d\d weights are missing, unknown or of another shape \(first: visual"),
    "NaN": (open_clip_weights(lambda held: {k: v * float("nan") if k.endswith("ln_final.weight") else v
                                            for k, v in held.items()}), "1 weights hold NaN"),
}


@pytest.mark.parametrize("name", OPEN_CLIP_HARM)
def test_open_clip_sees_listed_keys_and_whole_weights_alone(tmp_path, name):
    from finer1_lib.commands.doctor.subject import Subject

    harm, said = OPEN_CLIP_HARM[name]
    folder = tiny_open_clip(tmp_path / "vit", VIT)
    harm(folder)
    with pytest.raises(UserError, match=said) as caught:
        encoder_towers.open_clip_towers(str(folder), "cpu", 2)
    assert "\n" not in str(caught.value)
    if " sets " in str(caught.value) or name == "NaN":  # what is found without loading
        with pytest.raises(UserError, match=said):
            Subject.examine(SimpleNamespace(quick=False), str(folder))


def test_code_beside_an_open_clip_checkpoint_is_not_run(tmp_path):
    """open_clip gives a tokenizer's loader what the config says, and the folder holds what it would run."""
    folder = tiny_open_clip(tmp_path / "vit", VIT)
    tiny_tokenizer().save_pretrained(folder)
    open_clip_config(*TEXT_CFG, "hf_tokenizer_name", value="own/tokenizer")(folder)
    assert encoder_towers.open_clip_towers(str(folder), "cpu", 2).texts(["Jay"]).shape == (1, 16)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    said = json.loads((folder / "tokenizer_config.json").read_text())
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, **own}))
    with pytest.raises(UserError, match="tokenizer_config.json sets auto_map: it needs code"):
        encoder_towers.open_clip_towers(str(folder), "cpu", 2)
    assert not (tmp_path / "ran").exists()


def test_open_clip_that_is_not_installed_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match='extra "clip"'):
        encoder_towers.open_clip_towers(str(tmp_path), "cpu", 2)
