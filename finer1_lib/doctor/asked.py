"""Check of the systems that 04 will ask: whether they can be had, and whether they are the paper's.

Source: our choice; the entries are `systems.registry`'s.
"""

import importlib.util
import os

from finer1_lib.doctor.rows import NotYet, Row, fail, passed, warn
from finer1_lib.doctor.subject import Subject

WHERE = "04_evaluation.systems"


def systems(subject: Subject) -> list[Row]:
    """Every system that is named is known, would run, and has what it needs."""
    from finer1_lib.checkpoint_files import is_folder, split_revision
    from finer1_lib.systems.registry import find_systems

    named = subject.get("04_evaluation", "systems", [])
    if not named:
        raise NotYet("no systems are asked beside the run's own")
    rows = []
    for one in find_systems(named, subject.get("04_evaluation", "systems_from", "")):
        if one.library == "open_clip" and importlib.util.find_spec("open_clip") is None:
            rows.append(fail(f"{one.name} needs open_clip", WHERE, 'install the kit with its extra "clip"'))
        if one.key_variable and not os.environ.get(one.key_variable, "").strip():
            rows.append(fail(f"{one.name}: the environment variable {one.key_variable} is not set", WHERE,
                             "export it in the shell that runs the kit; never write a key into a file"))
        if one.ambiguous:
            rows.append(warn(f"{one.name} may not be the paper's: {one.ambiguous}", WHERE,
                             "say so with its numbers"))
        hub = one.kind != "endpoint" and not is_folder(one.checkpoint)
        if hub and split_revision(one.checkpoint)[1] is None:
            rows.append(warn(f"{one.name} is taken at the newest commit of {one.checkpoint}", WHERE,
                             "pin it in a systems_from file, as owner/name@revision"))
    return rows or [passed(f"{len(named)} systems, each with what it needs", WHERE)]
