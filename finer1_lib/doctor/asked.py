"""Check of the rows from elsewhere that 04 and 05 will ask: whether they can be had, and are the paper's.

Source: our choice; the entries are `systems.registry`'s.
"""

from finer1_lib.contenders import FIXED, Contender
from finer1_lib.doctor.rows import NotYet, Row, fail, passed, warn
from finer1_lib.doctor.subject import Subject

STAGE, PROBING = "04_evaluation", "05_probing"


def systems(subject: Subject) -> list[Row]:
    """Every system and every one of more_models is known, would run, and has what it needs."""
    from finer1_lib.adapter_files import split_adapter
    from finer1_lib.systems.registry import find_systems
    from finer1_lib.systems.rows import problem_of, with_more, with_systems

    named = find_systems(subject.get(STAGE, "systems", []), subject.get(STAGE, "systems_from", ""))
    more = dict.fromkeys([*subject.get(STAGE, "more_models", []), *subject.get(PROBING, "more_models", [])])
    found = with_systems(with_more(FIXED, list(more)), named)[len(FIXED) :]
    if not found:
        raise NotYet("no rows from elsewhere are asked beside the run's own")
    on_base = any(one.checkpoint and split_adapter(one.checkpoint)[0] is None for one in found)
    base = subject.checkpoint if on_base else ""
    rows = []
    for one in found:
        where = f"{STAGE}.{'systems' if one.system else 'more_models'}"
        if problem := problem_of(one, base, reach=False):
            what, _, fix = problem.rpartition(": ")
            rows.append(fail(f"{one.model}: {what or fix}", where, fix if what else "as it says"))
        else:
            rows += [warn(f"{one.model} {what}", where, fix) for what, fix in _doubts(one, base)]
    return rows or [passed(f"{len(found)} rows from elsewhere, each with what it needs", STAGE)]


def _doubts(one: Contender, base: str) -> list[tuple[str, str]]:
    """(what may be wrong with a row, how to fix it)."""
    from finer1_lib.adapter_files import other_base, read_adapter
    from finer1_lib.checkpoint_files import is_folder, split_revision
    from finer1_lib.systems.rows import weights_at

    found = []
    if one.system is not None and one.system.ambiguous:
        found.append((f"may not be the paper's: {one.system.ambiguous}", "say so with its numbers"))
    if one.system is not None and one.system.kind == "endpoint":
        return found
    checkpoint, adapter = weights_at(one, base)
    if adapter is not None and (told := other_base(read_adapter(adapter).base, checkpoint)):
        what, _, fix = told.partition(": ")
        found.append((f"is an adapter on another base: {what}", fix))
    if not is_folder(checkpoint) and split_revision(checkpoint)[1] is None:
        found.append((f"is taken at the newest commit of {checkpoint}", "pin it as owner/name@revision"))
    return found
