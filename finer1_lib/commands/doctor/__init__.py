"""Preflight checks for a preset: `finer1 doctor PRESET` examines data, texts and machine before it runs.

    finer1 doctor single_gpu_24gb --set 01_data.data_root=~/data --quick
    examine(Subject(plan), CHECKS)[0].what

Reading order: `subject` (a preset's values, and what of its data and its run exists), `images`, `texts` and
`machine` (the checks, which call what the stages call), `CHECKS` (all of them, in the order of the table).
"""

from finer1_lib.commands.doctor import images, machine, texts

CHECKS = {  # of the data, of its texts, of the machine; "place of the truth" has two parts
    "named files": images.named_files, "data": images.data, "whole images": images.whole,
    "leaks of images": images.leaks, "leaks of names": texts.names,
    "place of the truth": (texts.options, texts.candidates), "pixels": images.pixels,
    "prompts": texts.prompt_hashes, "completion cap": texts.completion_caps, "base model": machine.base,
    "memory": machine.memory, "disk": machine.disk, "versions": machine.versions,
    "teacher's key": machine.key, "systems": machine.systems}
