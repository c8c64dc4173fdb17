"""Vision-language models: loaded, sampled from, scored, and read, on one machine or behind an endpoint."""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {
    "encoding": "pixels_of",
    "generation": "Generation generate",
    "hidden_states": "pooled_states",
    "loading": "BACKENDS free_memory load load_processor save_merged",
    "log_probabilities": "score_completions",
    "trainable": "LoadedModel Trainable add_lora has_trainable make_trainable",
    "trained_weights": "attach_adapter load_trained save_adapter save_trained",
})  # fmt: skip
