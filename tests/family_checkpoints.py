"""Tiny random checkpoints of the families that the paper compares: each one's own classes, and no download.

    folder = build("llava_next", tmp_path)   # config, weights, processor, tokenizer, chat template

Each has the real processor and its real way with a picture (tiles, crops, resampled tokens), the text model
of the checkpoint that the paper names, a byte-level tokenizer, and a chat template over lists of parts, as
the families' own are. Weights are random and large enough that answers differ: they see, and know nothing.
"""

from pathlib import Path

import tiny_checkpoint
from tiny_checkpoint import tiny_tokenizer

TEXT = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=1024)  # fmt: skip
EYES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=14,
            image_size=56)  # fmt: skip
TILES = [[56, 112], [112, 56], [112, 112]]  # height, width of the grids that a larger picture is cut by


def chat_template(image: str, start: str = "<|im_start|>{role}\n", end: str = "<|im_end|>\n") -> str:
    """A template over lists of parts, as these families' own: a turn's content is never a bare text."""
    opening = start.replace("{role}", "{{ message['role'] }}")
    return (
        "{% for message in messages %}" + opening + "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + image +
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}" + end + "{% endfor %}"
        "{% if add_generation_prompt %}" + start.replace("{role}", "assistant") + "{% endif %}"
    )  # fmt: skip


def qwen2_5_vl(folder):
    from transformers import Qwen2_5_VLForConditionalGeneration

    processor = tiny_checkpoint.tiny_processor()
    config = tiny_checkpoint.tiny_config(processor.tokenizer)
    return save(folder, Qwen2_5_VLForConditionalGeneration, config, processor)


def qwen2_vl(folder):
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = marked()
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
           for name in ("image_pad", "video_pad", "vision_start", "vision_end")}  # fmt: skip
    template = chat_template("<|vision_start|><|image_pad|><|vision_end|>")
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56), tokenizer,
                                 Qwen2VLVideoProcessor(), chat_template=template)  # fmt: skip
    rope = dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 3, 3])
    config = Qwen2VLConfig(
        text_config=dict(vocab_size=len(tokenizer), rope_parameters=rope, bos_token_id=None,
                         eos_token_id=tokenizer.eos_token_id, **TEXT),
        vision_config=dict(depth=2, embed_dim=32, hidden_size=32, num_heads=2, mlp_ratio=2),
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"], vision_end_token_id=ids["vision_end"])  # fmt: skip
    return save(folder, Qwen2VLForConditionalGeneration, config, processor)


def idefics2(folder):
    from transformers import (
        Idefics2Config,
        Idefics2ForConditionalGeneration,
        Idefics2ImageProcessor,
        Idefics2Processor,
    )

    images = Idefics2ImageProcessor(do_image_splitting=True, size={"shortest_edge": 28, "longest_edge": 56})
    template = chat_template("<image>", "{role}:", "<end_of_utterance>\n")
    processor = Idefics2Processor(images, marked(), image_seq_len=4, chat_template=template)
    tokenizer = processor.tokenizer
    config = Idefics2Config(
        vision_config=EYES, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        perceiver_config=dict(hidden_size=32, resampler_n_latents=4, resampler_depth=1, resampler_n_heads=2,
                              resampler_head_dim=16, num_key_value_heads=1),
        text_config=dict(model_type="mistral", vocab_size=len(tokenizer), pad_token_id=0, **TEXT))
    return save(folder, Idefics2ForConditionalGeneration, config, processor)


def idefics3(folder):
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    places = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    ends = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    tokenizer = marked("<image>", *ends, *places)
    images = Idefics3ImageProcessor(do_image_splitting=True, size={"longest_edge": 112},
                                    max_image_size={"longest_edge": 56})  # fmt: skip
    template = chat_template("<image>", "{role}:", "<end_of_utterance>\n")
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    config = Idefics3Config(
        vision_config=EYES, image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        text_config=dict(model_type="llama", vocab_size=len(tokenizer), **TEXT))  # fmt: skip
    return save(folder, Idefics3ForConditionalGeneration, config, processor)


def llava(folder):
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = marked(image_token="<image>")
    images = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor = LlavaProcessor(images, tokenizer, patch_size=14, vision_feature_select_strategy="default",
                               num_additional_image_tokens=1, chat_template=chat_template("<image>\n"))
    config = LlavaConfig(vision_config=dict(model_type="clip_vision_model", **EYES),
                         text_config=dict(model_type="llama", vocab_size=len(tokenizer), **TEXT),
                         image_token_index=tokenizer.convert_tokens_to_ids("<image>"))  # fmt: skip
    return save(folder, LlavaForConditionalGeneration, config, processor)


def llava_next(folder):
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    tokenizer = marked(image_token="<image>")
    images = LlavaNextImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56},
                                     image_grid_pinpoints=TILES)  # fmt: skip
    processor = LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>\n", "[{role}] ", " [/{{ message['role'] }}]"))
    config = LlavaNextConfig(
        vision_config=dict(model_type="clip_vision_model", **EYES), image_grid_pinpoints=TILES,
        text_config=dict(model_type="mistral", vocab_size=len(tokenizer), **TEXT), image_seq_length=16,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"))  # fmt: skip
    return save(folder, LlavaNextForConditionalGeneration, config, processor)


def llava_onevision(folder):
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    tokenizer = marked("<video>", image_token="<image>")
    images = LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=TILES)
    videos = LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56})
    processor = LlavaOnevisionProcessor(
        images, tokenizer, videos, num_image_tokens=16, vision_feature_select_strategy="full",
        chat_template=chat_template("<image>\n"))
    config = LlavaOnevisionConfig(
        vision_config=dict(model_type="siglip_vision_model", vision_use_head=False, **EYES),
        text_config=dict(model_type="qwen2", vocab_size=len(tokenizer), **TEXT), image_grid_pinpoints=TILES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"))  # fmt: skip
    return save(folder, LlavaOnevisionForConditionalGeneration, config, processor)


def internvl(folder):
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    tokenizer = marked(start_image_token="<img>", end_image_token="</img>", video_token="<video>",
                       context_image_token="<IMG_CONTEXT>")  # fmt: skip
    size = {"height": 56, "width": 56}
    images = GotOcr2ImageProcessor(size=size, min_patches=1, max_patches=4, crop_to_patches=True)
    videos = InternVLVideoProcessor(size=size)
    processor = InternVLProcessor(images, tokenizer, videos, image_seq_length=4,
                                  chat_template=chat_template("<IMG_CONTEXT>\n"))  # fmt: skip
    config = InternVLConfig(
        vision_config={**EYES, "patch_size": (14, 14), "image_size": (56, 56)}, image_seq_length=4,
        text_config=dict(model_type="qwen2", vocab_size=len(tokenizer), **TEXT),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"))  # fmt: skip
    return save(folder, InternVLForConditionalGeneration, config, processor)


FAMILIES = {
    kind.__name__: kind
    for kind in (qwen2_5_vl, qwen2_vl, idefics2, idefics3, llava, llava_next, llava_onevision, internvl)
}


def build(family: str, folder) -> Path:
    """Write the family's tiny checkpoint into a folder; returns it."""
    return FAMILIES[family](Path(folder))


def save(folder, kind, config, processor):
    import torch

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = kind(config)
        for parameter in model.parameters():  # a fresh model's are so small that all answers are the same
            if parameter.dim() > 1:
                parameter.normal_(0, 1.5 / (parameter.numel() / len(parameter)) ** 0.5)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def marked(*tokens: str, **named: str):
    """The tiny tokenizer with a family's own special tokens; the named ones are attributes of it as well."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer().backend_tokenizer, eos_token="<|im_end|>",
        pad_token="<|endoftext|>", extra_special_tokens=named, model_max_length=1024)
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    return tokenizer
