"""`finer1 benchmark`, `benchmark-triplets`, `benchmark-evaluation`: scripts of the checkout.

Their options and their help are those of the scripts in tests/benchmarks.
"""

import importlib
import sys

import typer

from finer1_lib.core.errors import UserError
from finer1_lib.runs.presets import find_kit

HELP = {
    "benchmark": "Time a step of TAPO against one of DAPO with equal rollouts, and what shared prompts save.",
    "benchmark-triplets": "Time the mining of negatives by prototypes against all pairs of images.",
    "benchmark-evaluation": "Time an evaluation against the release's: same model, items, prompts, threads.",
}
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def run_script(context: typer.Context) -> None:
    """Run tests/benchmarks/NAME.py of the checkout with the arguments as they are.

    Raises: UserError: the kit is not a checkout.
    """
    name, tests = context.info_name, find_kit() / "tests"
    script = name.replace("-", "_")
    if not (tests / "benchmarks" / f"{script}.py").is_file():
        raise UserError(f"{name}: no {tests / 'benchmarks' / script}.py: run it from a checkout of the kit")
    sys.path.insert(0, str(tests))
    module = importlib.import_module(f"benchmarks.{script}")
    if code := module.app(context.args, prog_name=f"finer1 {name}", standalone_mode=False):
        raise typer.Exit(code)


def add_benchmarks(app: typer.Typer) -> None:
    """Give an app the three commands."""
    for name, text in HELP.items():
        app.command(name, help=text, context_settings=PASSED_ON, add_help_option=False)(run_script)
