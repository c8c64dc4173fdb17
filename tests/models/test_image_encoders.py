"""Vectors of tiny SigLIP, CLIP and Qwen2.5-VL checkpoints, and the store that a kill cannot spoil."""

from pathlib import Path

import numpy
import pytest
from tiny_checkpoint import build, picture

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import load_image
from finer1_lib.models import encoders as image_encoders
from finer1_lib.models.encoders import cached_features, feature_key, image_features, load_encoder, stored_rows

TEXT = dict(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
VISION = dict(image_size=32, patch_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
              num_attention_heads=2)


def pictures(count):
    return [picture(seed=number, size=(48, 40 + number)) for number in range(count)]


def tiny_encoder(folder, kind: str):
    """A random checkpoint of one architecture, as `save_pretrained` writes it."""
    import torch
    import transformers as t

    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "clip":
            model = t.CLIPModel(t.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12))
        elif kind == "siglip":
            model = t.SiglipModel(t.SiglipConfig(text_config=TEXT, vision_config=VISION))
        else:
            model = t.ViTModel(t.ViTConfig(**VISION))
    model.save_pretrained(folder)
    processor = getattr(t, {"clip": "CLIP", "siglip": "Siglip", "vit": "ViT"}[kind] + "ImageProcessor")
    size = {"height": 32, "width": 32}
    crop = {"crop_size": size} if kind == "clip" else {}
    processor(size={"shortest_edge": 32} if crop else size, **crop).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("siglip"), "siglip")


@pytest.fixture()
def album(tmp_path):
    """Twelve files, and their ids."""
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(pictures(12)):
        image.save(tmp_path / "photos" / f"{number:02d}.png")
    return tmp_path / "photos", [f"{number:02d}.png" for number in range(12)]


def test_siglip_and_clip_give_their_pooled_vector(siglip, tmp_path):
    import torch

    for checkpoint, width in ((siglip, 16), (tiny_encoder(tmp_path / "clip", "clip"), 12)):
        encoder, images = load_encoder(checkpoint, device="cpu"), pictures(5)
        features = image_features(encoder, iter(images), batch_size=2)
        assert features.shape == (5, width) and features.dtype == numpy.float32
        pixels = encoder.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            pooled = encoder.model.vision_model(pixel_values=pixels).pooler_output
            pooled = encoder.model.visual_projection(pooled) if width == 12 else pooled
        assert numpy.allclose(features, pooled, atol=1e-5)
        assert not numpy.allclose(features[0], features[1], atol=1e-4)


def test_a_qwen_checkpoint_is_an_encoder_too(tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder, images = build(tmp_path / "qwen"), pictures(3)
    encoder = load_encoder(str(folder), device="cpu")
    loaded = image_encoders.SimpleNamespace(
        model=AutoModelForImageTextToText.from_pretrained(folder), device="cpu", checkpoint=str(folder),
        processor=AutoProcessor.from_pretrained(folder))
    assert numpy.allclose(image_features(encoder, images), image_features(loaded, images), atol=1e-5)


def test_what_is_no_encoder_is_reported_in_one_line(siglip, tmp_path):
    from safetensors.torch import load_file, save_file

    with pytest.raises(UserError, match="ViTModel, which has no image features"):
        load_encoder(tiny_encoder(tmp_path / "vit", "vit"))
    with pytest.raises(UserError, match="does not exist: give a folder or a Hub id"):
        load_encoder(str(tmp_path / "nowhere"))
    weights = load_file(f"{siglip}/model.safetensors")
    for name, message in (("vision_model.embeddings.position_embedding.weight", "lacks 1 of its"),
                          ("text_model.head.weight", None)):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "preprocessor_config.json"):
            (folder / file).write_bytes((tmp_path / siglip / file).read_bytes())
        save_file({key: value for key, value in weights.items() if key != name},
                  folder / "model.safetensors", metadata={"format": "pt"})
        if message:
            with pytest.raises(UserError, match=message):
                load_encoder(str(folder))
        else:
            load_encoder(str(folder))  # a text tower plays no part


def test_a_killed_store_goes_on_where_it_stopped(siglip, album, tmp_path, monkeypatch):
    root, ids = album
    monkeypatch.setattr(image_encoders, "CHUNK", 5)
    encoder, folder, asked, progress = load_encoder(siglip, device="cpu"), tmp_path / "store", [], []
    whole = image_features(encoder, [load_image(root, name) for name in ids], batch_size=5)

    def watched(image_root, image_id, real=load_image):
        asked.append(image_id)
        if len(asked) == 8:
            raise KeyboardInterrupt
        return real(image_root, image_id)

    monkeypatch.setattr(image_encoders, "load_image", watched)
    with pytest.raises(KeyboardInterrupt):
        cached_features(encoder, root, ids, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["00000000.safetensors", "about.json"]
    found = cached_features(encoder, root, ids, folder, progress=lambda *told: progress.append(told))
    assert asked[8:] == ids[5:]  # the first chunk was not read again
    assert progress == [(done, 12) for done in range(6, 13)]
    assert found.tobytes() == whole.tobytes() and found.shape == (12, 16)
    asked[:] = ["x"] * 8
    assert cached_features(encoder, root, ids, folder).tobytes() == whole.tobytes() and len(asked) == 8


def test_another_question_is_never_answered_from_the_store(siglip, album, tmp_path):
    root, ids = album
    encoder, folder = load_encoder(siglip, device="cpu"), tmp_path / "store"
    first = cached_features(encoder, root, ids, folder)
    keys = [feature_key(encoder, ids)]
    turned = cached_features(encoder, root, ids[::-1], folder)
    assert numpy.allclose(turned, first[::-1], atol=1e-5) and not numpy.allclose(turned, first, atol=1e-3)
    keys.append(feature_key(encoder, ids[::-1]))
    encoder.processor.image_processor.size = {"height": 16, "width": 16}  # another pixel budget
    keys.append(feature_key(encoder, ids))
    other = load_encoder(tiny_encoder(tmp_path / "other", "siglip"), device="cpu")
    keys.append(feature_key(other, ids))  # the same numbers in another folder: encoded again, never confused
    (tmp_path / "other" / "model.safetensors").touch()
    keys.append(feature_key(other, ids))
    other.model.double()
    keys.append(feature_key(other, ids))
    assert len(set(keys)) == len(keys)


def test_rows_of_no_image_and_of_a_short_last_chunk(tmp_path, monkeypatch):
    assert stored_rows(tmp_path / "none", "k", 0, None).shape == (0, 0)
    monkeypatch.setattr(image_encoders, "CHUNK", 4)
    numbers = numpy.arange(27, dtype="float32").reshape(9, 3)
    found = stored_rows(tmp_path / "nine", "k", 9, lambda start, stop: numbers[start:stop])
    assert (found == numbers).all() and len(list((tmp_path / "nine").glob("*.safetensors"))) == 3


def test_a_model_that_gives_fewer_vectors_than_images_is_refused(siglip):
    encoder = load_encoder(siglip, device="cpu")
    real = encoder.model.get_image_features

    def short(**inputs):
        output = real(**inputs)
        output.pooler_output = output.pooler_output[:-1]
        return output

    encoder.model.get_image_features = short
    with pytest.raises(UserError, match="1 image features for 2 images"):
        image_features(encoder, pictures(2))


def test_a_revision_and_a_damaged_file_are_reported_in_one_line(siglip, tmp_path, monkeypatch):
    asked = []

    def hub(name, **where):
        asked.append((name, where["revision"]))
        raise OSError("no network here\nat all")

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.snapshot_download", hub)
        for checkpoint in ("owner/name@v1", "owner/name", "owner/name@refs/pr/2"):
            with pytest.raises(UserError, match="cannot load .*: no network here$"):
                load_encoder(checkpoint)
    assert asked == [("owner/name", revision) for revision in ("v1", None, "refs/pr/2")]
    for file in Path(siglip).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        load_encoder(str(tmp_path))
