"""A subset by budget: what it holds, that its mean is the whole's, and that its interval covers."""

import random
from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from finer1_lib.core.errors import UserError
from finer1_lib.core.statistics import clustered_mean
from finer1_lib.evaluation.requests import select_items


def make(classes, per_class):
    """{(super-category, kind): number of sub-categories}, so many items in each."""
    items = []
    for (word, kind), number in classes.items():
        for place in range(number):
            name = f"{kind} {word} {place:02d}"
            for image in range(per_class if isinstance(per_class, int) else per_class(place)):
                path = f"{word}/{name}/{image:03d}.png"
                items.append({"item_id": path, "image_id": path, "super_category": word, "sub_category": name,
                              "categories": kind})
    return items


def choose(items, budget, seed=0, per_class=0):
    table = pd.DataFrame({"image_id": [item["image_id"] for item in items], "width": 28, "height": 28})
    return select_items(items, table, images_per_class=per_class, seed=seed, budget=budget)


def strata(items):
    return Counter((item["super_category"], item["categories"]) for item in items)


WORLD = {("bird", "seen"): 12, ("bird", "unseen"): 8, ("car", "seen"): 5, ("car", "unseen"): 3}


def test_equal_shares_and_what_a_small_stratum_lacks_goes_to_the_others():
    items = make(WORLD, 10)  # 120, 80, 50, 30
    assert set(strata(choose(items, 100)).values()) == {25}
    assert strata(choose(items, 180)) == {
        ("bird", "seen"): 50, ("bird", "unseen"): 50, ("car", "seen"): 50, ("car", "unseen"): 30}
    assert sorted(strata(choose(items, 102)).values()) == [25, 25, 26, 26]
    assert choose(items, 280) == choose(items, 1000) == choose(items, 0) and len(choose(items, 0)) == 280
    assert len(choose(items, 40, per_class=2)) == 40 and len(choose(items, 60, per_class=2)) == 56


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), part=st.floats(0, 1))
def test_shares_are_equal_but_for_strata_that_have_no_more(sizes, part):
    items = [item for place, size in enumerate(sizes) for item in make({(f"word {place}", "seen"): 1}, size)]
    budget = len(sizes) + int(part * (len(items) - len(sizes)))
    shares = [strata(choose(items, budget))[f"word {place}", "seen"] for place in range(len(sizes))]
    assert sum(shares) == budget and all(1 <= share <= size for share, size in zip(shares, sizes))
    free = [share for share, size in zip(shares, sizes) if share < size]
    assert not free or max(shares) - min(free) <= 1


def test_a_class_gives_its_share_give_or_take_one():
    items = make({("bird", "seen"): 7, ("bird", "unseen"): 4}, lambda place: 10 + 5 * place)
    sizes = Counter(item["sub_category"] for item in items)
    whole = strata(items)
    for seed in range(20):
        found = Counter(item["sub_category"] for item in choose(items, 90, seed))
        for item in items:
            name, key = item["sub_category"], (item["super_category"], item["categories"])
            assert abs(found[name] - 45 * sizes[name] / whole[key]) < 1


def test_the_seed_alone_decides_and_nothing_stands_twice():
    items = make(WORLD, 10)
    one = choose(items, 100)
    assert choose(items[::-1], 100) == one != choose(items, 100, seed=1)
    assert len({item["item_id"] for item in one}) == 100
    assert one == sorted(one, key=lambda item: item["item_id"])


@pytest.mark.parametrize("budget", [-1, 1, 3])
def test_a_budget_that_leaves_a_stratum_empty_is_refused(budget):
    with pytest.raises(UserError, match=f"items_budget is {budget}: give 0 for all"):
        choose(make(WORLD, 10), budget)


def scored(items, rng):
    """Right or wrong by a chance of each sub-category's own: items of one stand or fall together."""
    chance = {name: rng.betavariate(2, 2) for name in sorted({item["sub_category"] for item in items})}
    return {item["item_id"]: float(rng.random() < chance[item["sub_category"]]) for item in items}


def test_every_item_is_as_likely_as_any_other_of_its_stratum():
    items = make({("bird", "seen"): 5, ("bird", "unseen"): 2}, 6)
    count = Counter(item["item_id"] for seed in range(3000) for item in choose(items, 14, seed))
    for item in items:
        expected = 3000 * 7 / (30 if item["categories"] == "seen" else 12)
        assert abs(count[item["item_id"]] - expected) < 5 * expected**0.5


def test_its_mean_is_the_whole_s_and_its_interval_covers_that():
    """40 seeds' worlds in which sub-categories differ, five subsets of each: 95 % and more hold the truth."""
    covered, off = [], []
    for world in range(40):
        items = make({("bird", "seen"): 15, ("car", "seen"): 10}, 12)
        value = scored(items, random.Random(world))
        groups = {word: [value[i["item_id"]] for i in items if i["super_category"] == word]
                  for word in ("bird", "car")}
        truth = sum(sum(part) / len(part) for part in groups.values()) / 2
        for seed in range(5):
            some = choose(items, 100, 100 * world + seed)
            found = clustered_mean(
                [value[item["item_id"]] for item in some], [item["sub_category"] for item in some],
                [item["super_category"] for item in some], resamples=300)
            covered.append(found.low <= truth <= found.high)
            off.append(found.value - truth)
    mean = sum(off) / len(off)
    spread = (sum((one - mean) ** 2 for one in off) / len(off)) ** 0.5
    assert abs(mean) < 3 * spread / len(off) ** 0.5
    assert sum(covered) / len(covered) >= 0.95
