"""The miniature's base model: a real Qwen2.5-VL architecture with a few million parameters, and its weights.

Class, processor, form of the chat template and M-RoPE positions are those of Qwen2.5-VL, so every line that
loads, trains, generates and probes is the line that runs on the 3B and 7B models.

Source: Qwen2.5-VL (arXiv 2502.13923), the architecture; the sizes are the kit's.
"""

from pathlib import Path
from typing import Any, Iterable

WEIGHTS = Path(__file__).parent / "weights"  # the shipped checkpoint and its model card
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
                  "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
# One token each, not special: they are part of the text and must survive `skip_special_tokens`.
_PARTS = ("think", "analysis", "options", "comparison", "prediction", "answer")
TAGS = tuple(f"<{slash}{part}>" for part in _PARTS for slash in ("", "/"))
VOCABULARY = 1280
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE tokenizer trained on `texts`; any string round-trips, a known word is a token."""
    from tokenizers import AddedToken
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer
    letters = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    blank = Qwen2Tokenizer(
        vocab=letters, merges=[], unk_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer = blank.train_new_from_iterator(
        texts, VOCABULARY - len(SPECIAL_TOKENS) - len(TAGS), initial_alphabet=list(letters),
        show_progress=False)
    tokenizer.model_max_length = 2048
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_processor(tokenizer: Any, size: int) -> Any:
    """A Qwen2_5_VLProcessor that brings every image to about `size` x `size` pixels."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=size * size, max_pixels=size * size),
        tokenizer=tokenizer, video_processor=Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE)


def make_model(tokenizer: Any, seed: int = 0) -> Any:
    """A freshly initialised Qwen2_5_VLForConditionalGeneration for this tokenizer, float32."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    hidden = 192
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=576, num_hidden_layers=5,
            num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=2048,
            rope_parameters=dict(rope_type="default", mrope_section=[4, 6, 6], rope_theta=10000.0),
            tie_word_embeddings=True, bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"],
            pad_token_id=ids["<|endoftext|>"]),
        vision_config=dict(
            depth=4, hidden_size=128, intermediate_size=352, num_heads=4, out_hidden_size=hidden,
            patch_size=14, spatial_merge_size=2, window_size=112, fullatt_block_indexes=[1, 3],
            tokens_per_second=2),
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True)
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(config)
