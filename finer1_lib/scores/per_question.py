"""What a scorer says of each question: of the answer that counts, of all that were drawn, of all rotations.

Every question has one record (`samples.settle`). The closed world and the choice among all labels are both
right or wrong, so they are scored alike; a question in rotations counts only if none of its turns is missed.

Source: METHOD 4; audit A1 (rotations), 4.3 (samples).
"""

from typing import Iterable, Iterator, Mapping, Sequence

from finer1_lib.errors import UserError
from finer1_lib.scores.averages import MAIN_METRICS
from finer1_lib.scores.samples import sample_scores
from finer1_lib.scores.scorers import Scorer

SETTINGS = ("closed_world", "open_world", "all_labels")


def prepare(scorer: Scorer, records: Iterable[Mapping]) -> None:
    """Tell a scorer all open-world records that it will be asked about, all samples included."""
    opened = [record for record in records if record["setting"] == "open_world"]
    scorer.prepare(one for record in opened for one in record.get("drawn", (record,)))


def scored(records: Sequence[Mapping], scorer: Scorer) -> Iterator[tuple[int, str, float]]:
    """Each record's metrics, then one accuracy for each item that was asked in rotations.

    Args:
        records: of `samples.settle`, one a question.

    Yields:
        (place of the record, metric, value). A rotated item is right (1) where it is so in the shuffled order
        and in every rotation of it; the place is that of its last rotation.

    Raises:
        UserError: an item was not asked under all rotations, or a setting is unknown.
    """
    for place, record in enumerate(records):
        if record["option_order"] == "rotations":
            continue
        for metric, value in _ask(scorer, record).items():
            yield place, metric, value
        if "drawn" in record:
            each = [_ask(scorer, one) for one in record["drawn"]]
            (metric,) = [name for name in MAIN_METRICS if name in each[0]]
            for name, value in sample_scores(record, [scores[metric] for scores in each]).items():
                yield place, name, value
    for turns in _turned(records):
        values = [scorer.closed(records[place]).get("accuracy") for place in turns]
        if None not in values:
            yield turns[-1], "accuracy", min(values)


def _ask(scorer: Scorer, record: Mapping) -> dict[str, float]:
    if record["setting"] not in SETTINGS:
        raise UserError(
            f"records.jsonl: the setting of {record['item_id']} is {record['setting']!r}, none of "
            f"{', '.join(SETTINGS)}"
        )
    return scorer.open(record) if record["setting"] == "open_world" else scorer.closed(record)


def _turned(records: Sequence[Mapping]) -> list[list[int]]:
    """The places of each item that was asked in rotations: the shuffled record, then its rotations."""
    groups: dict[tuple, list[int]] = {}
    for place, record in enumerate(records):
        if record["option_order"] in ("shuffled", "rotations"):
            groups.setdefault((record["model"], record["item_id"]), []).append(place)
    found = []
    for (model, item), group in groups.items():
        if all(records[place]["option_order"] == "shuffled" for place in group):
            continue
        group.sort(key=lambda place: records[place]["rotation"])
        turns = [records[place]["rotation"] for place in group]
        if turns != list(range(len(records[group[0]]["options"]))):
            raise UserError(
                f"records.jsonl: {model} was not asked about {item} under each rotation of its options once: "
                "run 04_evaluation again"
            )
        found.append(group)
    return found
