"""H3's wrong names: groups of sub-categories that exchange their names, so that neither side gives it away.

    image of A, "Is the species A?" right      image of B, "Is the species B?" right
    image of A, "Is the species B?" wrong      image of B, "Is the species A?" wrong

Who exchanges with whom decides how hard the question is:

    any     drawn from the whole super-category: most wrong names are of another genus and easy to tell
    near    of the same genus; whoever has no mate there exchanges with the one that looks nearest

Groups stay within seen and within unseen: in a mixed one every wrong question would join a seen picture to an
unseen name, or the other way round, and "trained on both or on neither" would tell it from the right ones.

Source: paper 5.4 (H3: right and wrong species names) does not say how wrong names were drawn; METHOD 5 (every
name equally often right and wrong); genus first is our choice.
"""

from typing import Callable, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from finer1_lib.core.errors import UserError

WRONG_NAMES = ("any", "near")
Looks = Callable[[str, str], float]  # two sub-categories of one super-category -> how alike they look


class Swap(NamedTuple):
    """Sub-categories that exchange their names, each taking the next one's, the last one the first's.

    Attributes:
        names: two, or three.
        kind: where their wrong names come from: "any", "genus" or "nearest".
    """

    names: tuple[str, ...]
    kind: str


def check_wrong_names(how: str) -> None:
    """Refuse (UserError) what is not one of `WRONG_NAMES`."""
    if how not in WRONG_NAMES:
        raise UserError(f"h3_wrong_names is {how!r}: give one of {', '.join(WRONG_NAMES)}")


def swap_groups(names: Sequence[str], seed: int) -> list[tuple[str, ...]]:
    """Put sub-categories in pairs that exchange their names; an odd one out makes the last group three.

    Returns:
        Groups of two (one of three if the number is odd); none for fewer than two names.
    """
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(names))]
    groups = [tuple(order[i : i + 2]) for i in range(0, len(order) - 1, 2)]
    if len(order) % 2 and groups:
        groups[-1] += (order[-1],)
    return groups


def hard_negative_groups(
    names: Sequence[str], genera: Mapping[str, str], looks: Optional[Looks], seed: int
) -> list[Swap]:
    """Swaps within each genus of two or more of these names, then the others by nearest looks.

    Those without a mate are paired greedily: of all that are left, the two that look most alike. So the first
    pairs are each other's nearest and the last ones take whom they get. An odd one out joins the pair whose
    first it is most like.

    Args:
        names: of one super-category, all seen or all unseen.
        genera: name -> genus; a name that is missing has no mate.
        looks: how alike two names look; None: nobody knows, and names without a mate are left out.
        seed: of the pairs within a genus.
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


def balanced_questions(
    images: Mapping[tuple[str, str], Sequence[str]], *, num_images: int, seed: int,
    group: Optional[Callable[[list[str]], list[Swap]]] = None,
) -> list[dict]:
    """H3's questions for one super-category: every name equally often right and wrong, in closed swaps.

    Args:
        images: {(sub_category, "seen" or "unseen"): [image ids]}; swaps stay within seen and within unseen.
        num_images: images per sub-category at most; within a swap all have the same number, so a sub-category
            with fewer lowers its partner's.
        group: from names to swaps; pairs of any two unless given.

    Returns:
        One dict per question: image_id, swapped_image_id (a picture from the next swap, asked under the same
        label: the control; None if there is a single swap), sub_category, name, right, swap, categories,
        wrong_name (`Swap.kind`). Two questions per image.
    """
    swaps = []
    for categories in sorted({key[1] for key in images}):
        names = [name for name, kind in images if kind == categories and images[name, kind]]
        found = group(names) if group else [Swap(pair, "any") for pair in swap_groups(names, seed)]
        swaps += [(categories, swap) for swap in found]
    picked = []
    for categories, swap in swaps:
        count = min([num_images] + [len(images[name, categories]) for name in swap.names])
        picked.append([images[name, categories][:count] for name in swap.names])
    questions = []
    for number, (categories, swap) in enumerate(swaps):
        neighbour = picked[(number + 1) % len(swaps)] if len(swaps) > 1 else None
        for place, own in enumerate(swap.names):
            for i, image_id in enumerate(picked[number][place]):
                strange = None
                if neighbour:
                    pictures = neighbour[place % len(neighbour)]
                    strange = pictures[i % len(pictures)]
                for name in (own, swap.names[(place + 1) % len(swap.names)]):
                    questions.append({
                        "image_id": image_id, "swapped_image_id": strange, "sub_category": own, "name": name,
                        "right": name == own, "swap": number, "categories": categories,
                        "wrong_name": swap.kind,
                    })
    return questions
