"""Runs: stages and what they need of each other, presets, fingerprints, and papermill."""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {"notebook": "open_stage"})
