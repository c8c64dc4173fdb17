"""What stage 1 costs: abilities of the base, measured before and after, beside what was learnt.

    attributes_seen        image, "Describe the image in <analysis></analysis>."        attributes right
    attributes_from_name   text, "Describe the Dunen Wren in <analysis></analysis>."    attributes right
    name_from_attributes   text, a description and the species question                 name right, strict
    reasoning_in_text      text, the same with the four-part prompt                     four parts, name right
    open_world             image, the prompt that the setting was trained on            name right, strict

The first four measure forgetting: stage 1 trains none of them in this form, and the base is good at them.
They need a guide; without one they are `not_measurable`, and only the open world is tested. An answer that
lacks the required tags counts as wrong, and `readable` is the share of answers that have them: perhaps only
the format was forgotten. The paper reports no such numbers.

The same questions are used before and after, so a change is a paired difference; its interval resamples
whole sub-categories.
"""

import dataclasses
import itertools
import json
import random
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from finer1_lib.core.completions import normalise, one_answer, read_tag, strict
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import atomic_write_text, read_jsonl
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import PROMPTS, question_for, user_message
from finer1_lib.core.statistics import clustered_mean, paired_difference
from finer1_lib.data.answers import answer_of
from finer1_lib.data.rationales.parsing import check_claims, parse
from finer1_lib.models.generation import generate
from finer1_lib.models.trainable import KINDS, Trainable

METRICS = {
    "attributes_seen": "attributes named from the picture",
    "attributes_from_name": "attributes recalled from the name",
    "name_from_attributes": "name told from a description",
    "reasoning_in_text": "four-part reasoning in text",
}
OPEN_WORLD = "open_world"
BASE = "base"
DATA = ("answers", "cot")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to fine-tune in stage 1.

    Attributes:
        data: "cot" (rationales) or "answers" (bare names).
        kind, vision_tower, projector: as in `Trainable`.
        hard: trained at a learning rate that overwrites the base's own ways.
    """

    data: str
    kind: str
    vision_tower: bool = False
    projector: bool = False
    hard: bool = False

    def __post_init__(self) -> None:
        for what, value, known in (("data", self.data, DATA), ("finetuning", self.kind, KINDS)):
            if value not in known:
                raise UserError(f"{what} {value!r}: one of {', '.join(known)}")

    @property
    def name(self) -> str:
        """E.g. "cot_full_vision_projector"."""
        parts = "_vision" * self.vision_tower + "_projector" * self.projector + "_hard" * self.hard
        return f"{self.data}_{self.kind}{parts}"

    @property
    def label(self) -> str:
        """For figures and tables, e.g. "CoT, full + vision + projector"."""
        parts = " + vision" * self.vision_tower + " + projector" * self.projector
        data = {"cot": "CoT", "answers": "answer-only"}[self.data]
        return f"{data}, {self.kind.replace('lora', 'LoRA')}{parts}" + ", hard" * self.hard

    @property
    def prompt(self) -> str:
        """The registered prompt that the setting's examples ask."""
        return {"cot": "cot_open", "answers": "answer_open"}[self.data]

    def trainable(self, rank: int, alpha: int) -> Trainable:
        """Which weights it trains; rank and alpha for LoRA."""
        return Trainable(self.kind, rank, alpha, self.vision_tower, self.projector)


SETTINGS = {
    setting.name: setting
    for parts in itertools.product(("answers", "cot"), KINDS, (False, True), (False, True))
    for setting in [Setting(*parts)]
}
# Trained in full and hard: the pair in which the paper's contrast between answers and rationales shows, and
# the proof that the gauges can fall. Model names as in `entries`.
TWINS = {
    "full_sft_answer_only": Setting("answers", "full", hard=True),
    "full_cot_sft": Setting("cot", "full", hard=True),
}


def check_settings(names: Sequence[str]) -> list[Setting]:
    """The settings of these names, each once. Raises: UserError: an unknown or repeated name."""
    unknown = [name for name in names if name not in SETTINGS]
    if unknown or len(set(names)) < len(names):
        wrong = f"{unknown[0]!r} is unknown" if unknown else "a name is repeated"
        raise UserError(f"settings_compared: {wrong}; the settings are {', '.join(SETTINGS)}")
    return [SETTINGS[name] for name in names]


def plan(
    names: Sequence[str], kept: Mapping[str, Setting], twins: Mapping[str, Setting], load_in_4bit: bool = False
) -> list[Setting]:
    """Every setting that is gauged: those of the names, the models that are kept, the twins; each once.

    Raises:
        UserError: as `check_settings`, or a setting that trains all weights where they are to have 4 bits.
    """
    found = list(dict.fromkeys([*check_settings(names), *kept.values(), *twins.values()]))
    full = [setting.name for setting in found if setting.kind == "full"]
    if load_in_4bit and full:
        raise UserError(
            f"load_in_4bit leaves no weights to train in full, as {', '.join(full)} would: change finetuning,"
            " settings_compared and hard_learning_rate, or set load_in_4bit to false")
    return found


def gauge_pictures(images: Any, per_class: int, seed: int) -> Any:
    """At most `per_class` test pictures of every sub-category, drawn by seed.

    Args:
        images: DataFrame of `images.parquet`.

    Raises:
        UserError: a number below 1, or no test pictures.
    """
    tests = images[images["split"] == "test"].sort_values("image_id")
    if per_class < 1 or tests.empty:
        raise UserError(f"gauge_pictures is {per_class} and there are {len(tests)} test pictures: need both")
    groups = tests.groupby(["super_category", "sub_category"], sort=True)
    chosen = [i for _, part in groups
              for i in part.sample(min(per_class, len(part)), random_state=seed).index]
    return images.loc[chosen].reset_index(drop=True)


def questions(
    pictures: Any, image_root: str, guide: Optional[Mapping], prompts: Sequence[str], seed: int = 0
) -> list[dict[str, Any]]:
    """Everything that is asked of one model.

    Args:
        pictures: of `gauge_pictures`; the text questions are about their sub-categories, once each.
        image_root: folder of the image ids.
        guide: the attributes, or None: then only the open world is asked.
        prompts: names of open-world prompts.
        seed: of the wordings.

    Returns:
        Rows {gauge, prompt, text, image_id (or None), image_root, super_category, sub_category, categories}.
    """
    def about(row: Any) -> dict[str, Any]:
        columns = ("super_category", "sub_category", "categories")
        return {"image_root": image_root, **{name: getattr(row, name) for name in columns}}

    rows = []
    for row in pictures.itertuples():
        pictured = {"image_id": row.image_id, **about(row)}
        asked = [(OPEN_WORLD, name, PROMPTS[name].text(question_for(row.super_category))) for name in prompts]
        asked += [("attributes_seen", "describe", PROMPTS["describe"].text())] * (guide is not None)
        rows += [{"gauge": gauge, "prompt": prompt, "text": text, **pictured}
                 for gauge, prompt, text in asked]
    known = pictures.drop_duplicates("sub_category") if guide is not None else pictures.head(0)
    for row in known.itertuples():
        rows += [{"gauge": gauge, "prompt": prompt, "text": text, "image_id": None, **about(row)}
                 for gauge, prompt, text in _text_questions(row.sub_category, guide, seed)]
    return rows


def _text_questions(name: str, guide: Mapping, seed: int) -> list[tuple[str, str, str]]:
    """(gauge, prompt, text) of the three questions without a picture, worded as in the base's diet."""
    from finer1_lib.data.guide import describe

    entry, rng = guide["sub_categories"][name], random.Random(f"forgetting-{seed}-{name}")
    question = question_for(entry["super_category"])
    told = [describe(entry["super_category"], entry["attributes"], rng) for _ in range(2)]
    return [
        ("attributes_from_name", "describe_name", f"Describe the {name} in <analysis></analysis>."),
        ("name_from_attributes", "answer_open", f"{told[0]} {PROMPTS['answer_open'].text(question)}"),
        ("reasoning_in_text", "cot_open", f"{told[1]} {PROMPTS['cot_open'].text(question)}"),
    ]


def judge(row: Mapping, completion: str, guide: Optional[Mapping]) -> tuple[float, bool]:
    """(score in [0, 1], whether the form that was asked for could be read) of one answer."""
    name = row["sub_category"]
    if row["gauge"] in ("attributes_seen", "attributes_from_name"):
        analysis, _ = read_tag(completion, "analysis")
        found = list(check_claims(analysis, name, guide).values())
        return found.count("right") / len(found), analysis is not None
    if row["gauge"] == "reasoning_in_text":
        complete = parse(completion).complete
        return float(complete and strict(completion, name)), complete
    return strict(completion, name), one_answer(completion)[0] is not None


def measure(
    loaded: Any, setting: str, asked: Sequence[Mapping], guide: Optional[Mapping], *, max_new_tokens: int,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """Ask one model everything, greedily.

    Args:
        loaded: of `models.load`.
        setting: the name that the records carry.
        asked: of `questions`.

    Returns:
        One record a question: the question's columns, setting, completion, value (score in [0, 1]), readable.
    """
    chats = [user_message(row["text"], row["image_id"] and ImageFile(row["image_root"], row["image_id"]))
             for row in asked]
    answers = generate(loaded, chats, max_new_tokens=max_new_tokens, batch_size=batch_size)
    records = []
    for row, answer in zip(asked, answers):
        value, readable = judge(row, answer.text, guide)
        kept = {key: item for key, item in row.items() if key != "image_root"}  # a path of one machine
        records.append({"setting": setting, **kept, "completion": answer.text, "value": value,
                        "readable": readable})
    return records


def kept(path: Path, records: Callable[[], Sequence[Mapping]]) -> list[dict[str, Any]]:
    """Records of a file (JSON lines), made and written as a whole if it is not there yet."""
    if not path.exists():
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records()]
        atomic_write_text(path, "".join(lines))
    return read_jsonl(path)


def not_measurable(guide: Optional[Mapping]) -> str:
    """One line on what cannot be measured in a world without a guide; empty where all can."""
    if guide is not None:
        return ""
    return ("not measurable here: " + "; ".join(METRICS.values()) + ". No attribute table (guide) came with"
            " these pictures, so only open-world accuracy is shown")


def summarise(records: Sequence[Mapping], seed: int = 0) -> Any:
    """Before and after, per setting and gauge; the open world for seen and unseen sub-categories apart.

    Args:
        records: of `measure`, of the base and of every setting, over the same questions.
        seed: of the resampling.

    Returns:
        DataFrame: setting, label, gauge, categories ("all", "seen", "unseen"), before, before_low,
        before_high, value, low, high (fractions, 95 % intervals over sub-categories), change, change_low,
        change_high (paired), readable (share), n.
    """
    import pandas as pd

    table = pd.DataFrame(records)
    table["image_id"] = table["image_id"].fillna("")
    rows, known = [], _known()
    for setting in [name for name in dict.fromkeys(table["setting"]) if name != BASE]:
        mine = table[table["setting"] == setting]
        mine = mine[(mine["gauge"] != OPEN_WORLD) | (mine["prompt"] == known[setting].prompt)]
        for gauge in (*METRICS, OPEN_WORLD):
            kinds = ("seen", "unseen") if gauge == OPEN_WORLD else ("all",)
            for kind in kinds:
                part = mine[mine["gauge"] == gauge]
                part = part[part["categories"] == kind] if kind != "all" else part
                if len(part):
                    label = {"setting": setting, "label": known[setting].label, "gauge": gauge}
                    rows.append({**label, "categories": kind, **_compare(part, table, seed)})
    found = pd.DataFrame(rows)
    bounds = [name for name in found if name.endswith(("low", "high"))]
    return found.astype({name: float for name in bounds})  # None (no interval to be had) becomes NaN


def _known() -> dict[str, Any]:
    return {**SETTINGS, **{setting.name: setting for setting in TWINS.values()}}


def unseen_answers(records: Sequence[Mapping], guide: Optional[Mapping]) -> Any:
    """What is said of pictures of unseen sub-categories: the truth, a name that training taught, or another.

    Args:
        records: as for `summarise`.
        guide: the attributes, or None: then nobody can say how far a wrong name is.

    Returns:
        DataFrame, a row a setting: label, right, seen_name, other (shares; another unseen name, or none), n;
        attributes_wrong: of the wrong names that the guide knows, the mean number of attributes in which
        they differ from the truth.
    """
    import pandas as pd

    known, rows = _known(), []
    asked = [r for r in records if r["gauge"] == OPEN_WORLD and r["setting"] in known
             and r["prompt"] == known[r["setting"]].prompt]
    seen = {normalise(r["sub_category"]) for r in asked if r["categories"] == "seen"}
    told = {} if guide is None else guide["sub_categories"]
    entries = {normalise(name): entry["attributes"] for name, entry in told.items()}
    for setting in dict.fromkeys(r["setting"] for r in asked):
        part = [r for r in asked if r["setting"] == setting and r["categories"] == "unseen"]
        said = [normalise(answer_of(r) or "") for r in part]
        truths = [normalise(r["sub_category"]) for r in part]
        far = [sum(entries[a].get(key) != value for key, value in entries[b].items())
               for a, b in zip(said, truths) if a != b and a in entries and b in entries]
        kinds = ["right" if a == b else "seen_name" if a in seen else "other" for a, b in zip(said, truths)]
        shares = {kind: kinds.count(kind) / max(len(part), 1) for kind in ("right", "seen_name", "other")}
        rows.append({"setting": setting, "label": known[setting].label, **shares,
                     "attributes_wrong": sum(far) / len(far) if far else None,
                     "n": len(part)})
    return pd.DataFrame(rows)


def _compare(part: Any, table: Any, seed: int) -> dict[str, Any]:
    """One cell of `summarise`: the same questions, answered by the base and by the setting."""
    keys = ["gauge", "prompt", "image_id", "sub_category", "text"]
    base = table[table["setting"] == BASE]
    pairs = part.merge(base, on=keys, suffixes=("", "_before"), validate="one_to_one")
    if len(pairs) != len(part):
        asked = part["gauge"].iloc[0]
        raise ValueError(f"the base answered {len(pairs)} of {len(part)} questions of {asked}")
    where = list(pairs["sub_category"]), list(pairs["super_category"])
    after, before = list(pairs["value"]), list(pairs["value_before"])
    cell = {}
    for prefix, estimate in (("before_", clustered_mean(before, *where, seed=seed)),
                             ("", clustered_mean(after, *where, seed=seed)),
                             ("change_", paired_difference(after, before, *where, seed=seed))):
        cell[prefix.rstrip("_") or "value"] = estimate.value
        cell |= {f"{prefix}low": estimate.low, f"{prefix}high": estimate.high}
    return {**cell, "readable": float(pairs["readable"].mean()), "n": len(pairs)}


def losses(changes: Any) -> str:
    """What was forgotten, in a sentence: every gauge of every setting whose whole interval lies below zero.

    Args:
        changes: of `summarise`, with at least one gauge.
    """
    gauges = changes[changes["gauge"] != OPEN_WORLD]
    lost = gauges[gauges["change_high"] < 0].sort_values("change")
    if lost.empty:
        least = gauges.loc[gauges["change"].idxmin()]
        return (f"none of {len(gauges)} gauges fell clearly; the lowest change is {_points(least)}"
                f" ({least['label']}, {METRICS[least['gauge']]}, n = {least['n']})")
    told = [f"{row['label']}: {METRICS[row['gauge']]} {_points(row)}, {row['readable']:.0%} in the asked form"
            for _, row in lost.iterrows()]
    return f"{len(lost)} of {len(gauges)} gauges fell clearly; " + "; ".join(told)


def gains(changes: Any) -> list[str]:
    """The open world after training, a line a setting."""
    opened = changes[changes["gauge"] == OPEN_WORLD]
    lines = []
    for label, part in opened.groupby("label", sort=False):
        told = [f"{row['categories']} {row['value']:.0%} (before {row['before']:.0%}, n = {row['n']})"
                for _, row in part.iterrows()]
        lines.append(f"{label}: " + ", ".join(told))
    return lines


def _points(row: Mapping) -> str:
    low, high = 100 * row["change_low"], 100 * row["change_high"]
    return f"{100 * row['change']:+.1f} points [{low:+.1f}, {high:+.1f}]"
