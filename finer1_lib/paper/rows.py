"""What would run for each row of the paper's tables, and what was run here: `finer1 systems`.

    python -m finer1_lib.paper.rows          the table as Markdown

Source: Fine-R1 (arXiv 2602.07605), Tables 1, 2, 3c, 6 and 7.
"""

from typing import Mapping, Sequence

from finer1_lib.evaluation.systems.registry import ENSEMBLE, System, known_systems
from finer1_lib.paper.facts import facts

TABLES = ("Table 1", "Table 2", "Table 3c", "Table 6", "Table 7")
TITLES = ["row of the paper", "would run", "weights", "asked by", "here"]
TINY = "tiny"  # a tiny checkpoint of the architecture, its weights drawn at random, through the same path
# rows of the paper that this kit trains; the presets say how near that comes
OURS = {"Fine-R1-3B": "`finer1 run paper_3b`", "Fine-R1-7B": "`finer1 run paper_7b` (a LoRA)"}
# trained rows of another base: the kit trains Qwen2.5-VL alone
UNTRAINED = ("Qwen2-VL-2B CoT SFT + DAPO", "Qwen2-VL-2B CoT SFT + TAPO", "openPangu-VL-7B CoT SFT",
             "openPangu-VL-7B CoT SFT + TAPO")
_PROMPT = {"cot": "think, then name", "answer": "name alone", "letter": "letter or name",
          "clip_photo": "one sentence, or the ensemble"}


def paper_rows() -> list[str]:
    """The rows of the paper's tables, each once, in their order."""
    return list(dict.fromkeys(row for table in TABLES for row in facts(table)["model"]))


def systems_table() -> tuple[list[str], list[list[str]]]:
    """(titles, lines): each row of the paper with every system that may be it, then the registry's others."""
    systems = {name: one for name, one in known_systems().items() if not name.endswith(ENSEMBLE)}
    lines = []
    for row in paper_rows():
        if row in UNTRAINED:
            lines.append([row, "no: the kit trains Qwen2.5-VL alone", "-", "-", "no"])
        lines += [_line(row, one) for one in systems.values() if row in one.paper]
        if row in OURS:
            lines.append([f"{row}, trained by us", OURS[row], "Qwen2.5-VL", _PROMPT["cot"], "the miniature"])
    return TITLES, lines + [_line("(none)", one) for one in systems.values() if not one.paper]


def _line(row: str, system: System) -> list[str]:
    named = f"`{system.name}`" + (f", `{system.name}{ENSEMBLE}`" if system.kind == "encoder" else "")
    doubt = "; ambiguous" if system.ambiguous else ""
    if system.blocked:
        return [row, f"would not run: {system.blocked}", system.checkpoint, "-", "no"]
    return [row, named + doubt, system.checkpoint, _PROMPT[system.prompts], TINY]


def notes() -> Mapping[str, str]:
    """{label: why its id may not be the paper's}."""
    return {one.label: one.ambiguous for name, one in known_systems().items()
            if one.ambiguous and not name.endswith(ENSEMBLE)}


def markdown_table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Titles and lines of cells as a Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [titles, ["---"] * len(titles), *lines])


if __name__ == "__main__":
    print(markdown_table(*systems_table()))
