"""How notebooks form a chain: parameters, presets, the hand-over between stages, and `finer1 run`.

Reading order: `chain` (the stages and where a run is), `parameters` and `presets` (values and their check),
`notebook` (`open_stage`, the last line of every set-up cell), `stage` (inputs, outputs, the record),
`fingerprints` (when a stage is finished), `provenance` (versions, device, environment), `runner` (papermill,
stage by stage).
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {"chain": "STAGES find_run", "fingerprints": "is_current recorded_file",
                                       "notebook": "open_stage", "presets": "find_kit list_presets make_plan",
                                       "runner": "run_chain", "stage": "Stage"})
