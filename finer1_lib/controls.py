"""Controls of the evaluation: policies that know nothing of the picture, scored like any model.

"Always the first option" never looks. In the release's order, truth first, it is right every time; shuffled
it is right one time in four; of four rotations only one has the truth in front, so all four are never right.
Whatever a model gains over it is not owed to the order of the options.

Example:
    >>> item = {"item_id": "i", "image_id": "i", "super_category": "bird", "sub_category": "Rock Wren",
    ...         "categories": "seen", "question": "What species is this bird?", "width": 28, "height": 28,
    ...         "options": ["Rock Wren", "House Wren", "Marsh Wren", "Cactus Wren"]}
    >>> always_first([item], ["release"], seed=0)[0]["completion"]
    '<answer>Rock Wren</answer>'

Source: audit A1 (the control is our choice).
"""

from typing import Mapping, Sequence

from finer1_lib.contenders import CONTROLS, Contender
from finer1_lib.evaluation_requests import build_requests, rule_of


def always_first(items: Sequence[Mapping], orders: Sequence[str], seed: int) -> list[dict]:
    """What somebody answers who takes the first option of every closed-world question.

    Args:
        items: of `evaluation_items.select_items`.
        orders: some of `evaluation_requests.OPTION_ORDERS`.
        seed: of the shuffle.

    Returns:
        Records of the model "always_first" as `collect_records` gives them; they need no model and are made
        anew each time, never stored.
    """
    (model,) = CONTROLS
    control = Contender(model, "answer", None, CONTROLS[model].label)
    records = []
    for order in orders:
        for request in build_requests(control, items, "closed_world", order=order, seed=seed):
            request.pop("size")
            said = f"<answer>{request['options'][0]}</answer>"
            records.append({**request, "order_rule": rule_of(request), "completion": said, "tokens": 0,
                            "truncated": False})
    return records
