"""What stage 1 costs: abilities of the base measured before and after, beside what was learnt.

    attributes_seen        image, "Describe the image in <analysis></analysis>."        attributes right
    attributes_from_name   text, "Describe the Dunen Wren in <analysis></analysis>."    attributes right
    name_from_attributes   text, a description and the species question                 name right, strict
    reasoning_in_text      text, the same with the four-part prompt                     four parts, name right
    open_world             image, the prompt that the setting was trained on            name right, strict

The first four (they need a guide) measure forgetting: the base is good at them, and stage 1 trains none in this
form. `readable` is the share of answers with the required tags: perhaps only the format was forgotten. A change
is a paired difference on the same questions; intervals resample sub-categories. The paper has no such numbers.
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
from finer1_lib.data.guide import describe
from finer1_lib.data.rationales.parsing import check_claims, parse
from finer1_lib.models.generation import generate
from finer1_lib.models.trainable import KINDS, Trainable

METRICS = {"attributes_seen": "attributes named from the image",
           "attributes_from_name": "attributes recalled from the name",
           "name_from_attributes": "name given a description",
           "reasoning_in_text": "four-part reasoning in text"}
OPEN_WORLD, BASE = "open_world", "base"
DATA = {"answers": ("answer-only", "answer_open"), "cot": ("CoT", "cot_open")}  # label, registered prompt


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to fine-tune in stage 1; kind, vision_tower and projector as in `Trainable`."""

    data: str  # "cot" (rationales) or "answers" (bare names)
    kind: str
    vision_tower: bool = False
    projector: bool = False
    hard: bool = False  # at a learning rate that overwrites the base's own behaviour

    def __post_init__(self) -> None:
        Trainable(self.kind)  # refuses an unknown kind
        if self.data not in DATA:
            raise UserError(f"data {self.data!r}: one of {', '.join(DATA)}")

    @property
    def name(self) -> str:
        """E.g. "cot_full_vision_projector"."""
        parts = "_vision" * self.vision_tower + "_projector" * self.projector + "_hard" * self.hard
        return f"{self.data}_{self.kind}{parts}"

    @property
    def label(self) -> str:
        """For figures and tables, e.g. "CoT, full + vision + projector"."""
        parts = " + vision" * self.vision_tower + " + projector" * self.projector + ", hard" * self.hard
        return f"{DATA[self.data][0]}, {self.kind.replace('lora', 'LoRA')}{parts}"

    @property
    def prompt(self) -> str:
        """The registered prompt of the setting's examples."""
        return DATA[self.data][1]

    def trainable(self, rank: int, alpha: int) -> Trainable:
        """Which weights it trains; rank and alpha for LoRA."""
        return Trainable(self.kind, rank, alpha, self.vision_tower, self.projector)


SETTINGS = {setting.name: setting for setting in itertools.starmap(
    Setting, itertools.product(DATA, KINDS, (False, True), (False, True)))}
# Trained in full and hard: the pair in which the paper's contrast between answers and rationales shows, and
# the proof that the metrics can fall. Model names as in `entries`.
TWINS = {"full_sft_answer_only": Setting("answers", "full", hard=True),
         "full_cot_sft": Setting("cot", "full", hard=True)}
_KNOWN = {**SETTINGS, **{setting.name: setting for setting in TWINS.values()}}


def check_settings(names: Sequence[str]) -> list[Setting]:
    """The settings of these names, each once. Raises: UserError: an unknown or repeated name."""
    unknown = [name for name in names if name not in SETTINGS]
    if unknown or len(set(names)) < len(names):
        wrong = f"{unknown[0]!r} is unknown" if unknown else "a name is repeated"
        raise UserError(f"settings_compared: {wrong}; the settings are {', '.join(SETTINGS)}")
    return [SETTINGS[name] for name in names]


def plan(names: Sequence[str], kept: Mapping[str, Setting], twins: Mapping[str, Setting],
         load_in_4bit: bool = False) -> list[Setting]:
    """Every setting to measure, each once: those of the names, of the models kept, of the paired models. Raises:
    UserError: as `check_settings`, or a setting that trains all weights where they have 4 bits.
    """
    found = list(dict.fromkeys([*check_settings(names), *kept.values(), *twins.values()]))
    full = ", ".join(setting.name for setting in found if setting.kind == "full")
    if load_in_4bit and full:
        raise UserError(f"load_in_4bit leaves no weights to train in full, as {full} would: change finetuning,"
                        " settings_compared and hard_learning_rate, or set load_in_4bit to false")
    return found


def gauge_pictures(images: Any, per_class: int, seed: int) -> Any:
    """At most `per_class` test images of every sub-category, drawn by seed: rows of `images.parquet`. Raises:
    UserError: a number below 1, or no test images.
    """
    tests = images[images["split"] == "test"].sort_values("image_id")
    if per_class < 1 or tests.empty:
        raise UserError(f"gauge_pictures is {per_class} and there are {len(tests)} test images: need both")
    chosen = [part.sample(min(per_class, len(part)), random_state=seed).index
              for _, part in tests.groupby(["super_category", "sub_category"])]
    return images.loc[list(itertools.chain(*chosen))].reset_index(drop=True)


def questions(pictures: Any, image_root: str, guide: Optional[Mapping], prompts: Sequence[str],
              seed: int = 0) -> list[dict[str, Any]]:
    """Every question for one model; text questions once a sub-category, worded by `seed`; with guide None only
    the open world, with each of `prompts`. Rows {gauge, prompt, text, image_id (None for text), image_root,
    super_category, sub_category, categories}.
    """
    rows = []

    def add(row: Any, image_id: Optional[str], metric: str, prompt: str, text: str) -> None:
        about = {name: getattr(row, name) for name in ("super_category", "sub_category", "categories")}
        rows.append({"gauge": metric, "prompt": prompt, "text": text, "image_id": image_id,
                     "image_root": image_root, **about})

    for row in pictures.itertuples():
        for name in prompts:
            add(row, row.image_id, OPEN_WORLD, name, PROMPTS[name].text(question_for(row.super_category)))
        if guide is not None:
            add(row, row.image_id, "attributes_seen", "describe", PROMPTS["describe"].text())
    for row in pictures.drop_duplicates("sub_category").itertuples() if guide is not None else ():
        name, rng = row.sub_category, random.Random(f"forgetting-{seed}-{row.sub_category}")
        entry = guide["sub_categories"][name]  # worded as in the pretraining data
        question = question_for(entry["super_category"])
        first, second = (describe(entry["super_category"], entry["attributes"], rng) for _ in range(2))
        add(row, None, "attributes_from_name", "describe_name", f"Describe the {name} in <analysis></analysis>.")
        for metric, prompt, told in (("name_from_attributes", "answer_open", first),
                                     ("reasoning_in_text", "cot_open", second)):
            add(row, None, metric, prompt, f"{told} {PROMPTS[prompt].text(question)}")
    return rows


def judge(row: Mapping, completion: str, guide: Optional[Mapping]) -> tuple[float, bool]:
    """(score in [0, 1], whether the required form could be read) of one answer."""
    name = row["sub_category"]
    if row["gauge"] in ("attributes_seen", "attributes_from_name"):
        analysis, _ = read_tag(completion, "analysis")
        found = list(check_claims(analysis, name, guide).values())
        return found.count("right") / len(found), analysis is not None
    if row["gauge"] == "reasoning_in_text":
        complete = parse(completion).complete
        return float(complete and strict(completion, name)), complete
    return strict(completion, name), one_answer(completion)[0] is not None


def measure(loaded: Any, setting: str, asked: Sequence[Mapping], guide: Optional[Mapping], *,
            max_new_tokens: int, batch_size: int = 64) -> list[dict[str, Any]]:
    """Greedy answers of one model to all `questions`, judged: a record a question has its columns, setting
    (the given name), completion, value (in [0, 1]), readable.
    """
    chats = [user_message(row["text"], row["image_id"] and ImageFile(row["image_root"], row["image_id"]))
             for row in asked]
    texts = [answer.text for answer in generate(loaded, chats, max_new_tokens=max_new_tokens, batch_size=batch_size)]
    judged = [judge(row, text, guide) for row, text in zip(asked, texts)]
    return [{"setting": setting, **{key: item for key, item in row.items() if key != "image_root"},  # one machine's
             "completion": text, "value": value, "readable": readable}
            for row, text, (value, readable) in zip(asked, texts, judged)]


def kept(path: Path, records: Callable[[], Sequence[Mapping]]) -> list[dict[str, Any]]:
    """Records of a file (JSON lines), made and written as a whole if it does not exist yet."""
    if not path.exists():
        atomic_write_text(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records()))
    return read_jsonl(path)


def not_measurable(guide: Optional[Mapping]) -> str:
    """One line on what cannot be measured without a guide; empty with one."""
    return "" if guide is not None else (
        f"not measurable here: {'; '.join(METRICS.values())}. No attribute table (guide) came with these"
        " images, so only open-world accuracy is shown")


def summarise(records: Sequence[Mapping], seed: int = 0) -> Any:
    """Before and after, per setting and metric; the open world for seen and unseen sub-categories separately.

    `records` are those of `measure`, of the base and of every setting. DataFrame: setting, label, gauge,
    categories ("all", "seen", "unseen"), before, before_low, before_high, value, low, high (fractions, 95 %
    intervals over sub-categories), change, change_low, change_high (paired), readable (share), n.
    """
    import pandas as pd
    table = pd.DataFrame(records)
    table["image_id"] = table["image_id"].fillna("")
    base, rows = table[table["setting"] == BASE], []
    cells = [(metric, "all") for metric in METRICS] + [(OPEN_WORLD, "seen"), (OPEN_WORLD, "unseen")]
    for setting, mine in table[table["setting"] != BASE].groupby("setting", sort=False):
        mine = mine[(mine["gauge"] != OPEN_WORLD) | (mine["prompt"] == _KNOWN[setting].prompt)]
        for metric, kind in cells:
            part = mine[(mine["gauge"] == metric) & ((mine["categories"] == kind) | (kind == "all"))]
            if len(part):
                rows.append({"setting": setting, "label": _KNOWN[setting].label, "gauge": metric,
                             "categories": kind, **_compare(part, base, seed)})
    found = pd.DataFrame(rows)
    bounds = [name for name in found if name.endswith(("low", "high"))]
    return found.astype({name: float for name in bounds})  # None (no interval possible) becomes NaN


def _compare(part: Any, base: Any, seed: int) -> dict[str, Any]:
    """One cell of `summarise`: the same questions, answered by the base and by the setting."""
    keys = ["gauge", "prompt", "image_id", "sub_category", "text"]
    pairs = part.merge(base, on=keys, suffixes=("", "_before"), validate="one_to_one")
    if len(pairs) != len(part):
        metric = part["gauge"].iloc[0]
        raise ValueError(f"the base answered {len(pairs)} of {len(part)} questions of {metric}")
    columns = ("value", "value_before", "sub_category", "super_category")
    after, before, *where = (list(pairs[key]) for key in columns)
    first, value = (clustered_mean(part, *where, seed=seed) for part in (before, after))
    change = paired_difference(after, before, *where, seed=seed)
    return {"before": first.value, "before_low": first.low, "before_high": first.high,
            "value": value.value, "low": value.low, "high": value.high,
            "change": change.value, "change_low": change.low, "change_high": change.high,
            "readable": float(pairs["readable"].mean()), "n": len(pairs)}


def unseen_answers(records: Sequence[Mapping], guide: Optional[Mapping]) -> Any:
    """What images of unseen sub-categories are called: the truth, a name from training, or another.

    DataFrame, a row a setting: label, right, seen_name, other (shares; another unseen name, or none), n;
    attributes_wrong: of the wrong names that the guide knows, the mean number of attributes in which they
    differ from the truth (None without a guide).
    """
    import pandas as pd
    tested = [r for r in records if r["gauge"] == OPEN_WORLD and r["setting"] in _KNOWN
              and r["prompt"] == _KNOWN[r["setting"]].prompt]
    seen = {normalise(r["sub_category"]) for r in tested if r["categories"] == "seen"}
    entries = {normalise(name): entry["attributes"].items()
               for name, entry in (guide["sub_categories"] if guide is not None else {}).items()}
    rows = []
    for setting in dict.fromkeys(r["setting"] for r in tested):
        pairs = [(normalise(answer_of(r) or ""), normalise(r["sub_category"])) for r in tested
                 if r["setting"] == setting and r["categories"] == "unseen"]
        far = [len(entries[b] - entries[a]) for a, b in pairs if a != b and a in entries and b in entries]
        kinds = ["right" if a == b else "seen_name" if a in seen else "other" for a, b in pairs]
        shares = {kind: kinds.count(kind) / max(len(pairs), 1) for kind in ("right", "seen_name", "other")}
        rows.append({"setting": setting, "label": _KNOWN[setting].label, **shares,
                     "attributes_wrong": sum(far) / len(far) if far else None, "n": len(pairs)})
    return pd.DataFrame(rows)


def losses(changes: Any) -> str:
    """What was forgotten, in a sentence: every metric of every setting (of `summarise`, with at least one other
    than the open world) whose whole interval is below zero.
    """
    metrics = changes[changes["gauge"] != OPEN_WORLD]
    lost = metrics[metrics["change_high"] < 0].sort_values("change")

    def points(row: Mapping) -> str:
        low, high = 100 * row["change_low"], 100 * row["change_high"]
        return f"{100 * row['change']:+.1f} points [{low:+.1f}, {high:+.1f}]"

    if lost.empty:
        least = metrics.loc[metrics["change"].idxmin()]
        return (f"none of {len(metrics)} metrics fell clearly; the lowest change is {points(least)}"
                f" ({least['label']}, {METRICS[least['gauge']]}, n = {least['n']})")
    fallen = [f"{row['label']}: {METRICS[row['gauge']]} {points(row)}, {row['readable']:.0%} in the required"
              " form" for _, row in lost.iterrows()]
    return f"{len(lost)} of {len(metrics)} metrics fell clearly; " + "; ".join(fallen)


def gains(changes: Any) -> list[str]:
    """The open world after training, a line a setting."""
    told = "{categories} {value:.0%} (before {before:.0%}, n = {n})".format
    return [f"{label}: " + ", ".join(told(**row) for row in part.to_dict("records"))
            for label, part in changes[changes["gauge"] == OPEN_WORLD].groupby("label", sort=False)]
