"""Where H3's wrong names come from: groups of sub-categories that exchange their names.

    image of A, "Is the species A?" right      image of B, "Is the species B?" right
    image of A, "Is the species B?" wrong      image of B, "Is the species A?" wrong

So every image and every name is equally often right and wrong, and neither alone gives the answer away.
Wrong names are "any" of the super-category (most of another genus, and easy) or "near": of the same genus,
for a name alone in its genus of the one that looks nearest. Source: Fine-R1 (arXiv 2602.07605), Section 5.4
(H3) asks with right and wrong species names and does not say how wrong ones were drawn.
"""

from typing import Callable, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from finer1_lib.core.errors import UserError

WRONG_NAMES = ("any", "near")
Looks = Callable[[str, str], float]  # two sub-categories -> their visual similarity


class Swap(NamedTuple):
    """Two or three sub-categories, each taking the next one's name; kind: "any", "genus" or "nearest"."""

    names: tuple[str, ...]
    kind: str


def check_wrong_names(how: str) -> None:
    """Refuse (UserError) what is not one of `WRONG_NAMES`."""
    if how not in WRONG_NAMES:
        raise UserError(f"h3_wrong_names is {how!r}: give one of {', '.join(WRONG_NAMES)}")


def swap_groups(names: Sequence[str], seed: int) -> list[tuple[str, ...]]:
    """Random pairs that exchange their names; an odd one out makes the last group three."""
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(names))]
    groups = [tuple(order[i : i + 2]) for i in range(0, len(order) - 1, 2)]
    if len(order) % 2 and groups:
        groups[-1] += (order[-1],)
    return groups


def hard_negative_groups(names: Sequence[str], genera: Mapping[str, str], looks: Optional[Looks],
                         seed: int) -> list[Swap]:
    """Swaps within each genus of two or more names, then the others by visual similarity.

    Names without a mate are paired greedily: of all that are left, the two that look most alike. An odd one
    out joins the pair whose first it is most like. With `looks` None they are left out.
    """
    members: dict[str, list[str]] = {}
    for name in sorted(names):
        members.setdefault(genera.get(name, ""), []).append(name)
    mates = {genus: group for genus, group in members.items() if genus and len(group) > 1}
    swaps = [Swap(group, "genus") for genus in sorted(mates) for group in swap_groups(mates[genus], seed)]
    rest = sorted(set(names).difference(*mates.values()))
    if looks is None or len(rest) < 2:
        return swaps
    alike = np.array([[looks(a, b) if a != b else -np.inf for b in rest] for a in rest])
    pairs, free = [], set(range(len(rest)))
    for place in np.argsort(-alike, axis=None, kind="stable"):  # of equals the first by name
        one, other = divmod(int(place), len(rest))
        if one in free and other in free and one != other:
            pairs.append((one, other))
            free -= {one, other}
    for odd in free:
        nearest = max(range(len(pairs)), key=lambda number: alike[odd, pairs[number][0]])
        pairs[nearest] += (odd,)
    return swaps + [Swap(tuple(rest[place] for place in pair), "nearest") for pair in pairs]


def balanced_questions(images: Mapping[tuple[str, str], Sequence[str]], *, num_images: int, seed: int,
                       group: Optional[Callable[[list[str]], list[Swap]]] = None) -> list[dict]:
    """H3's questions for one super-category, two an image: each name equally often right and wrong, in swaps.

    From {(sub_category, "seen" or "unseen"): [image ids]}, of which each sub-category gives `num_images` at
    most, and as many as its partners; `group` makes swaps of names (random pairs unless given), all of them
    seen or all unseen: otherwise "trained on both or on neither" would tell right from wrong.
    `swapped_image_id` is an image of the next swap under the same label, the control; None for a single swap.
    """
    swaps, picked = [], []
    for categories in sorted({key[1] for key in images}):
        names = [name for name, kind in images if kind == categories and images[name, kind]]
        for swap in group(names) if group else [Swap(pair, "any") for pair in swap_groups(names, seed)]:
            count = min([num_images] + [len(images[name, categories]) for name in swap.names])
            swaps.append((categories, swap))
            picked.append([images[name, categories][:count] for name in swap.names])
    questions = []
    for number, (categories, swap) in enumerate(swaps):
        neighbour = picked[(number + 1) % len(swaps)]
        for place, own in enumerate(swap.names):
            others = neighbour[place % len(neighbour)]
            for i, image_id in enumerate(picked[number][place]):
                for name in (own, swap.names[(place + 1) % len(swap.names)]):  # the next one's is wrong
                    questions.append({
                        "image_id": image_id,
                        "swapped_image_id": others[i % len(others)] if len(swaps) > 1 else None,
                        "sub_category": own, "name": name, "right": name == own, "swap": number,
                        "categories": categories, "wrong_name": swap.kind})
    return questions
