"""Every method of stage 2 as one trainer with other settings, matched on prompts, rollouts and updates.

The release's DAPO run is not matched: a hard-coded factor of two gives it 768 prompts of 5 rollouts and six
updates where TAPO has 384 of 10 and three. Here a method is a change of settings that keeps the budget;
`budget_table` shows this, and what each run then really sampled. The tables also give models their labels,
colours and baselines in every later stage.

Source: Fine-R1 (arXiv 2602.07605), Section 5, Table 3; release TAPO/verl/trainer/ray_trainer.py:658, 677
(the factor of two); CLS-RL and No-Thinking RL: arXiv 2503.16188; NoisyRollout: arXiv 2504.13055; PAPO: arXiv
2507.06448.
"""

import colorsys
import dataclasses
import hashlib
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Sequence

from finer1_lib.core.errors import UserError
from finer1_lib.training.tapo_config import PRESETS, TapoConfig


_NO_TERMS = dict(gamma=0.0, eta1=0.0, eta2=0.0)


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to train in stage 2: what differs from a TAPO run."""

    label: str
    summary: str
    colour: str  # in figures
    against: Optional[str] = None  # the method it is compared with: a baseline, or TAPO for a change in one part
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the settings
    anchors_only: bool = False  # all rollouts over the anchor
    start: str = "cot_sft"  # or "base": whose weights it starts from
    prompt: str = "cot"  # (think, then answer) or "answer"
    pictures: Mapping[str, str] = dataclasses.field(default_factory=dict)  # keywords of `tapo.triplet_rows`


METHODS = {
    "dapo": Method("DAPO", "anchors only, no divergence, no entropies", "#03884F", changes=_NO_TERMS,
                   anchors_only=True),
    "intra": Method("DAPO + intra-class", "rollouts over two images of a sub-category", "#D8B969", "dapo",
                    _NO_TERMS),
    "inter": Method("DAPO + inter-class", "divergence from a hard negative, and entropies", "#00167A", "dapo",
                    anchors_only=True),
    "tapo": Method("TAPO", "both", "#D16D02", "dapo"),
    "cls_rl": Method("CLS-RL", "DAPO from the base model", "#BBD9AD", changes=_NO_TERMS, anchors_only=True,
                     start="base"),
    "no_thinking_rl": Method("No-Thinking RL", "DAPO from the base model, the answer alone", "#97E8FA", "cls_rl",
                             {**_NO_TERMS, "format_reward": "answer_only"}, anchors_only=True, start="base",
                             prompt="answer"),
    "noisy_rollout": Method("NoisyRollout", "half of the rollouts over the anchor under noise", "#015070", "dapo",
                            _NO_TERMS, pictures={"positive": "noised"}),
    "papo": Method("PAPO", "divergence from the anchor with blackened patches, and entropies", "#00645C", "dapo",
                   anchors_only=True, pictures={"negative": "masked"}),
    "paper_text": Method("TAPO as printed", "the paper's words", "#880B00", "tapo", PRESETS["paper_text"]),
    "official_release": Method("TAPO as released", "the release's code", "#478FFF", "tapo",
                               PRESETS["official_release"]),
    "no_entropy": Method("TAPO without entropies", "gamma alone: the policy collapses", "#5283B0", "tapo",
                         dict(eta1=0.0, eta2=0.0)),
    "containment": Method("TAPO, containment reward", "right is whatever contains the label: is hacked", "#5F091D",
                          "tapo", dict(accuracy_reward="contains_response")),
}


def method(name: str) -> Method:
    """A method by its name. Raises: UserError: an unknown name."""
    if name not in METHODS:
        raise UserError(f"method {name!r}: one of {', '.join(METHODS)}")
    return METHODS[name]


def check_methods(names: Sequence[str], parameter: str = "methods") -> list[str]:
    """The names. Raises: UserError: none, an unknown one, or one that is repeated; `parameter` is their list."""
    names = list(names)
    if not names:
        raise UserError(f"{parameter} is empty: name at least one of {', '.join(METHODS)}")
    for name in names:
        method(name)
        if names.count(name) > 1:
            raise UserError(f"{parameter}: {name!r} is listed twice")
    return names


def model_name(name: str) -> str:
    """The trained model's name in every later stage: `cot_sft_tapo`, `base_cls_rl`."""
    return f"{method(name).start}_{name}"


def model_label(name: str) -> str:
    """Its label in tables and figures: "CoT SFT + TAPO", "base + CLS-RL"."""
    return f"{'CoT SFT' if method(name).start == 'cot_sft' else 'base'} + {method(name).label}"


def method_config(name: str, config: TapoConfig) -> TapoConfig:
    """A method's settings with the budget of a TAPO run. Raises: UserError: an unknown method."""
    how = method(name)
    over = dict(n_anchor=config.group_size, n_positive=0) if how.anchors_only else {}
    return dataclasses.replace(config, **over, **how.changes)


def budget(config: TapoConfig) -> dict[str, int]:
    """What a run is given: equal for matched runs."""
    return {"updates": config.steps, "updates_per_rollout": config.updates_per_rollout,
            "prompts": config.steps * config.prompts_per_step, "rollouts_per_prompt": config.group_size,
            "rollouts": config.steps * config.rows_per_step}


def matched_configs(names: Sequence[str], config: TapoConfig) -> dict[str, TapoConfig]:
    """Trained model -> its settings, for methods with one budget.

    Raises: UserError: as `check_methods`; ValueError: a method whose budget differs.
    """
    configs = {model_name(name): method_config(name, config) for name in check_methods(names)}
    if len({tuple(budget(one).values()) for one in configs.values()}) > 1:
        raise ValueError(f"budgets differ: {', '.join(configs)}")
    return configs


def failure_plans(parameters: Mapping[str, Any], config: TapoConfig) -> dict[str, tuple[str, TapoConfig]]:
    """Title -> (method, settings) of the short runs that show a failure mode, each followed by its remedy, from
    the parameters of 03_tapo. Raises: UserError: an unknown or repeated method.
    """
    short = dataclasses.replace(
        config, steps=parameters["wrong_turn_steps"], prompts_per_step=parameters["wrong_turn_prompts"],
        learning_rate=parameters["wrong_turn_learning_rate"], max_sampling_rounds=2)
    strong = dataclasses.replace(short, gamma=parameters["wrong_turn_gamma"])
    eta = parameters["wrong_turn_eta"]
    remedies = {"no_entropy": dataclasses.replace(strong, eta1=eta, eta2=eta),
                "containment": dataclasses.replace(short, accuracy_reward="strict")}
    names, plans = parameters["wrong_turns"], {}
    for name in check_methods(names, "wrong_turns") if names else []:
        plans[name] = (name, method_config(name, strong if name == "no_entropy" else short))
        if name in remedies:
            plans[f"{name}, mended"] = (name, remedies[name])
    return plans


def budget_table(configs: Mapping[str, TapoConfig], logs: Mapping[str, Any]) -> Any:
    """A row a model: `budget` and what the run used, by its metrics file: rollouts_sampled (with discarded groups,
    which the budget cannot know beforehand), rollouts_trained, tokens_sampled, seconds.
    """
    import pandas
    spent = ("rollouts_sampled", "rollouts_trained", "tokens_sampled")
    rows = {name: {**budget(config), **{key: int(logs[name][key].sum()) for key in spent},
                   "seconds": round(float(logs[name]["seconds"].sum()), 1)}
            for name, config in configs.items()}
    return pandas.DataFrame.from_dict(rows, orient="index")


class Row(NamedTuple):
    """What is known of a model beforehand."""

    label: str
    colour: Optional[str] = None  # in figures; None leaves it to `colour_of`
    against: Optional[str] = None  # the baseline it is compared with beside its own start


ROWS: Mapping[str, Row] = {
    "base": Row("base", "#9C9FA4"),
    "base_cot_prompt": Row("base + four-part prompt", "#3EBFFB"),
    "sft_answer_only": Row("answer-only SFT", "#FFBB00"),
    "cot_sft": Row("CoT SFT", "#0061B2"),
    "full_sft_answer_only": Row("answer-only SFT, full, hard", "#040228", "sft_answer_only"),
    "full_cot_sft": Row("CoT SFT, full, hard", "#0A0FBD", "full_sft_answer_only"),
    **{model_name(name): Row(model_label(name), how.colour, how.against and model_name(how.against))
       for name, how in METHODS.items()},
}
CONTROLS: Mapping[str, Row] = {"always_first": Row("always the first option", "#747474")}
KNOWN = {**ROWS, **CONTROLS}


def label_of(model: str, labels: Optional[Mapping[str, str]] = None) -> str:
    """A model's label: the run's own, else the table's, else its name."""
    return (labels or {}).get(model) or (KNOWN[model].label if model in KNOWN else model)


def colour_of(model: str) -> str:
    """A model's colour as "#RRGGBB"; an unknown name's is made from its hash."""
    if model in KNOWN and KNOWN[model].colour:
        return KNOWN[model].colour
    first, second, *_ = hashlib.sha256(model.encode("utf-8")).digest()
    rgb = colorsys.hls_to_rgb(first / 256, 0.35 + 0.4 * second / 256, 0.45)
    return "#" + "".join(f"{round(255 * part):02X}" for part in rgb)


def in_order(models: Iterable[str], labels: Optional[Mapping[str, str]] = None) -> list[str]:
    """Each model once: in the order of the labels (else of the table), then the others in their own order."""
    models = list(dict.fromkeys(models))
    order = list(labels or ROWS)
    return [model for model in order if model in models] + [model for model in models if model not in order]
