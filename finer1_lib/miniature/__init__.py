"""The miniature: a drawn field guide with known attributes, and a small real Qwen2.5-VL that can read it."""


