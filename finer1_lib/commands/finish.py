"""The end of `finer1 run`: summary.json and report.html of a run."""

import os
from pathlib import Path
from typing import Callable, Optional, Sequence

from finer1_lib.commands.report.page import write_report
from finer1_lib.evaluation.summary import SOURCES, join_summary


def finish_run(run_dir: Path, stages: Sequence[str], say: Callable[[str], None]) -> Optional[Path]:
    """Write summary.json and report.html once stages with rows were run; the report's path, None without
    rows."""
    if not set(stages) & set(SOURCES):
        say(f"stopped after {stages[-1]} (--to)")
        return None
    report = run_dir / "report.html"
    if report.is_file() and not os.access(run_dir, os.W_OK):
        say("nothing is due, and the folder may not be written: summary and report stay as they are")
        return report
    rows = join_summary(run_dir)
    return None if rows is None else write_report(run_dir, rows)
