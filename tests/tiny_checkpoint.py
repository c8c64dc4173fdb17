"""A tiny random Qwen2.5-VL checkpoint for tests: real classes, real processor, a few kilobytes, no download.

The tokenizer is a byte-level BPE trained on a handful of lines, so any text round-trips; the tags of the
target format are single added tokens, as in the shipped miniature base. Weights are random: nothing here can
*recognise* anything, which is all a test of the plumbing needs.
"""

from pathlib import Path

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
           "<|image_pad|>", "<|video_pad|>")
PARTS = ("think", "analysis", "options", "comparison", "prediction", "answer")
TAGS = tuple(f"<{slash}{name}>" for name in PARTS for slash in ("", "/"))
LINES = (
    "What species is this bird? Give only the name in", "red crown, black back, yellow breast, barred wings",
    "Dunen Wren: red crown; Marlo Wren: blue crown (differs)", "user\nassistant\nsystem\n",
    "Think in with and then give the name", "a b c d e f g h i j k l m n o p q r s t u v w x y z",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer():
    """A byte-level BPE with Qwen's special tokens (special) and the format's tags (ordinary added tokens)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, show_progress=False, special_tokens=list(SPECIAL),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(LINES, trainer)
    bpe.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
                              "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"},
        model_max_length=1024)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_processor(max_pixels: int = 112 * 112):
    """The real processor around the tiny tokenizer; images keep their aspect up to `max_pixels`."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=max_pixels),
        video_processor=Qwen2VLVideoProcessor(), tokenizer=tiny_tokenizer(), chat_template=CHAT_TEMPLATE)


def tiny_config(
    tokenizer, hidden: int = 32, layers: int = 2, vision_hidden: int = 32, vision_layers: int = 1
):
    """The matching configuration; head width 16 so that three M-RoPE sections of (2, 3, 3) fit."""
    from transformers import Qwen2_5_VLConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    heads = max(2, hidden // 32)
    half = hidden // heads // 2
    return Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden,
            num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=max(1, heads // 2),
            max_position_embeddings=1024,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0,
                                 mrope_section=[half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]),
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=ids["<|im_end|>"],
            pad_token_id=ids["<|endoftext|>"]),
        vision_config=dict(
            depth=vision_layers, hidden_size=vision_hidden, intermediate_size=2 * vision_hidden, num_heads=2,
            out_hidden_size=hidden, patch_size=14, spatial_merge_size=2, window_size=112,
            fullatt_block_indexes=[vision_layers - 1]),
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True)


def build(folder: Path, seed: int = 0, **sizes) -> Path:
    """Write a complete checkpoint (config, weights, processor, tokenizer, template); returns its folder."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    folder = Path(folder)
    processor = tiny_processor()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(tiny_config(processor.tokenizer, **sizes))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def add_lora(loaded, rank: int, alpha: int, *, vision_layers: bool = False, seed: int = 0):
    """A fresh adapter on the language model, with `vision_layers` on the vision tower too."""
    from finer1_lib.models.trainable import Trainable, make_trainable

    return make_trainable(loaded, Trainable("lora", rank, alpha, vision_tower=vision_layers), seed)


def picture(color=(200, 30, 30), size=(112, 112), seed: int = 0):
    """An RGB picture: a coloured block on seeded noise, so that no two seeds give the same pixels."""
    import numpy
    from PIL import Image

    noise = numpy.random.default_rng(seed).integers(0, 60, (size[1], size[0], 3), dtype=numpy.uint8)
    image = Image.fromarray(noise)
    image.paste(color, (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
    return image
