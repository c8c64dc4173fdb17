"""Models: loading, training state, generation, log-probabilities, hidden states, encoders and chat endpoints.

    checkpoint_files    a checkpoint's files and weights, checked before a loader sees them
    adapter_files       an adapter's files, likewise
    trainable           which weights are trained (LoRA, full), and their folder
    encoding            chat messages into model inputs; the size of images
    loading             a checkpoint by one call; merged checkpoints
    sharing             the image's features and the prompt of a group are computed once
    generation          completions, greedy or sampled
    log_probabilities   log-probability and entropy of tokens, chunk by chunk
    vllm_engine         vLLM in this process, for rollouts and evaluation
    hidden_states       pooled states for the probes
    out_of_memory       the next fallback when memory runs out
    encoders            CLIP, SigLIP and text encoders
    endpoint            a model behind an address; endpoint_replies: what its server answers
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {
    "encoders": "cached_features load_encoder",
    "endpoint": "ChatEndpoint",
    "generation": "generate",
    "hidden_states": "pooled_states",
    "loading": "load load_any load_processor save_merged",
    "log_probabilities": "score_completions",
    "trainable": "LoadedModel Trainable attach_adapter make_trainable save_trained",
})
