"""Stage 1 (CoT SFT) and stage 2 (TAPO and its baselines).

Reading order: sft (stage 1), objective (the TAPO loss), rollouts (groups over anchor and positive, dynamic
sampling), tapo_config (every switch between paper, release and kit), tapo (the trainer), methods (baselines
and ablations as settings), rewards, checkpoints (training that survives a kill), forgetting (what stage 1
costs), memory and model_shapes (does it fit?), plots.
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {"sft": "SftCollator SftConfig SftExample completion_loss train_sft",
                                       "objective": "clipped_surrogate divergence group_advantages",
                                       "tapo_config": "preset_table tapo_config_from",
                                       "tapo": "train_tapo triplet_rows",
                                       "methods": "failure_plans matched_configs"})
