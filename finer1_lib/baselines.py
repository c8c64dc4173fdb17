"""Baselines of TAPO: the same trainer with other numbers, matched on prompts, rollouts and updates.

The release's DAPO run is not matched: a hard-coded factor of two gives it 768 prompts of 5 rollouts and six
updates where TAPO has 384 of 10 and three (audit E9). Here a baseline is a change of settings that keeps the
budget.

Source: METHOD 3 ("Baselines are the same trainer"), audit E9.
"""

import dataclasses

from finer1_lib.errors import UserError
from finer1_lib.tapo import TapoConfig

BASELINES = ("dapo", "intra", "inter")


def baseline(name: str, config: TapoConfig) -> TapoConfig:
    """A baseline with the budget of a TAPO run.

    Args:
        name: "dapo" (anchors only, no divergence, no entropies), "intra" (positives, but neither of these),
            "inter" (anchors only, with both).
        config: of the TAPO run.

    Raises:
        UserError: an unknown baseline.
    """
    anchors_only = dict(n_anchor=config.group_size, n_positive=0)
    plain = dict(gamma=0.0, eta1=0.0, eta2=0.0)
    changes = {"dapo": {**anchors_only, **plain}, "intra": plain, "inter": anchors_only}
    if name not in changes:
        raise UserError(f"baseline {name!r}: one of {', '.join(BASELINES)}")
    return dataclasses.replace(config, **changes[name])


def budget(config: TapoConfig) -> dict[str, int]:
    """What a run spends: equal for matched runs (groups sampled again aside, which the log counts)."""
    return {
        "updates": config.steps,
        "prompts": config.steps * config.prompts_per_step,
        "rollouts": config.steps * config.rows_per_step,
        "rollouts_per_update": config.rows_per_step,
    }
