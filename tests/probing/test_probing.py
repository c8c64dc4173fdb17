"""The probes on planted arrays: what is there is found, what is not there is not, and nothing leaks."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.core.errors import UserError
from finer1_lib.probing import items as probing_items, probes as probing, rows as ps, swaps


def images_of(sub_categories, per=3, seen=0.6):
    """{(sub_category, categories): image ids} as balanced_questions takes it."""
    edge = int(seen * sub_categories)
    return {(f"s{i:02d}", "seen" if i < edge else "unseen"): [f"s{i:02d}_{j}" for j in range(per)]
            for i in range(sub_categories)}


def planted(kind, sub_categories=16, per=3, width=24, seed=0):
    """H3 questions and features in which only something is decodable; returns (questions, x)."""
    rng, images = np.random.default_rng(seed), {}
    questions = swaps.balanced_questions(images_of(sub_categories, per), num_images=per, seed=seed)
    classes = {f"s{i:02d}": rng.normal(size=width) for i in range(sub_categories)}
    direction, rows = rng.normal(size=width), []
    for question in questions:
        own = images.setdefault(question["image_id"], 0.3 * rng.normal(size=width))
        image, name = classes[question["sub_category"]] + own, classes[question["name"]]
        rows.append({"right": rng.normal(size=width) + 4 * direction * (1 if question["right"] else -1),
                     "noise": rng.normal(size=width), "image": image, "name": name,
                     "both": np.concatenate([image, name])}[kind])
    return questions, np.array(rows)


def auc_of(questions, x, seed=0):
    right, swap, kinds = (np.array([q[key] for q in questions]) for key in ("right", "swap", "categories"))
    folds = probing.grouped_folds(swap, 5, seed, kinds)
    scores = probing.cross_validated_scores(x, right, swap, folds, seed=seed)
    return ps.auc(ps.pair_counts(scores, right, swap, folds, ["bird"] * len(right)), seed=seed)


# --- H3: questions ----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 13), st.integers(1, 4), st.integers(0, 5))
def test_every_name_is_equally_often_right_and_wrong(sub_categories, per, seed):
    questions = swaps.balanced_questions(images_of(sub_categories, per), num_images=per, seed=seed)
    for name in {q["name"] for q in questions}:
        answers = [q["right"] for q in questions if q["name"] == name]
        assert sum(answers) * 2 == len(answers)
        assert len({q["swap"] for q in questions if q["name"] == name or q["sub_category"] == name}) == 1
    for image in {q["image_id"] for q in questions}:
        assert sorted(q["right"] for q in questions if q["image_id"] == image) == [False, True]
    for question in questions:
        assert question["right"] == (question["name"] == question["sub_category"])
        assert (int(question["name"][1:]) < int(0.6 * sub_categories)) == (question["categories"] == "seen")


def test_uneven_images_are_cut_to_the_swap_and_the_other_image_is_a_stranger():
    images = images_of(8, per=4)
    images["s00", "seen"] = ["s00_0"]
    questions = swaps.balanced_questions(images, num_images=3, seed=1)
    partner = next(q["name"] for q in questions if q["sub_category"] == "s00" and not q["right"])
    assert sum(q["sub_category"] == "s00" for q in questions) == 2
    assert sum(q["name"] == partner and q["right"] for q in questions) == 1
    by_swap = {}
    for q in questions:
        by_swap.setdefault(q["swap"], set()).update({q["sub_category"], q["name"]})
    for q in questions:
        assert q["swapped_image_id"].split("_")[0] not in by_swap[q["swap"]]


def test_a_single_swap_has_no_other_image():
    questions = swaps.balanced_questions({("a", "seen"): ["1"], ("b", "seen"): ["2"]}, num_images=1, seed=0)
    assert len(questions) == 4 and {q["swapped_image_id"] for q in questions} == {None}


def test_folds_keep_swaps_whole_and_share_out_the_strata():
    groups = np.repeat(np.arange(10), 4)
    folds = probing.grouped_folds(groups, 5, 0, strata=np.repeat(["seen"] * 5 + ["unseen"] * 5, 4))
    assert all(len(set(folds[groups == g])) == 1 for g in range(10))
    assert {f: len(set(groups[folds == f])) for f in range(5)} == dict.fromkeys(range(5), 2)
    assert len(set(folds[:20])) == 5 and len(set(folds[20:])) == 5


# --- H3: separator ----------------------------------------------------------------------------------------


def test_a_separable_plant_is_found():
    found = auc_of(*planted("right"))
    assert found.value == 1.0 and found.low == 1.0


@pytest.mark.parametrize("kind", ["image", "name"])
def test_class_identity_alone_gives_exactly_one_half(kind):
    """Image or name decodable to the last digit, but not whether they fit."""
    found = auc_of(*planted(kind))
    assert found.value == 0.5 and (found.low, found.high) == (0.5, 0.5)


@pytest.mark.parametrize("kind", ["noise", "both"])
def test_nothing_to_find_gives_one_half_within_the_interval(kind):
    found = [auc_of(*planted(kind, sub_categories=40, seed=seed), seed=seed) for seed in range(10)]
    assert abs(np.mean([f.value for f in found]) - 0.5) < 0.05
    assert sum(f.low <= 0.5 <= f.high for f in found) >= 8  # `auc` says what to expect of 20 swaps


def test_folds_by_question_would_leak_and_grouped_folds_do_not():
    """Each image-name couple has a code of its own, asked thrice: only a fold without its swap is honest."""
    questions = swaps.balanced_questions(images_of(16), num_images=3, seed=0)
    right, swap = (np.array([q[key] for q in questions]) for key in ("right", "swap"))

    def value(folds, seed):
        rng, codes = np.random.default_rng(seed), {}
        x = np.array([codes.setdefault((q["sub_category"], q["name"]), rng.normal(size=40)) for q in questions])
        scores = probing.cross_validated_scores(x, right, swap, folds, seed=0)
        return ps.pair_counts(scores, right, swap, folds, ["bird"] * len(x)).value()[0]

    leaky, honest = np.arange(len(right)) // 2 % 3, probing.grouped_folds(swap, 5, 0)
    assert np.mean([value(leaky, seed) for seed in range(4)]) > 0.85
    assert abs(np.mean([value(honest, seed) for seed in range(4)]) - 0.5) < 0.2


def test_too_few_swaps_are_refused():
    questions, x = planted("noise", sub_categories=4)
    with pytest.raises(ValueError, match="swaps"):
        auc_of(questions, x)


# --- AUC --------------------------------------------------------------------------------------------------


def test_auc_by_hand():
    # fold 0: right .9 .4, wrong .5 .1 -> .9>.5 .9>.1 .4<.5 .4>.1 = 3 of 4; fold 1: right 7, wrong 7 -> half
    counts = ps.pair_counts([0.9, 0.4, 0.5, 0.1, 7, 7], [1, 1, 0, 0, 1, 0], [0, 1, 0, 1, 2, 2],
                            [0, 0, 0, 0, 1, 1], ["bird"] * 6)
    assert counts.ordered.sum() == 3.5 and counts.pairs.sum() == 5
    assert counts.value()[0] == pytest.approx(0.7)
    assert counts.value(np.array([[2.0, 0.0, 0.0]]))[0] == 1.0  # cluster 0 twice: .9 > .5
    assert counts.value(np.array([[0.0, 1.0, 0.0]]))[0] == 1.0  # cluster 1: .4 > .1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_auc_agrees_with_scikit_learn(items):
    from sklearn.metrics import roc_auc_score

    scores, right = zip(*items)
    if len(set(right)) < 2:
        return
    counts = ps.pair_counts(scores, right, range(len(scores)), [0] * len(scores), ["bird"] * len(scores))
    assert counts.value()[0] == pytest.approx(roc_auc_score(right, scores))


def test_auc_average_is_unweighted_and_a_lone_swap_has_no_interval():
    counts = ps.pair_counts([1, 0, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0],
                            ["bird", "bird", "plane", "plane", "plane", "plane"])
    found = ps.auc(counts, seed=0)
    assert found.value == pytest.approx(0.5) and found.low is None and found.high is None


def test_auc_difference_is_paired():
    questions, x = planted("right")
    right, swap = (np.array([q[key] for q in questions]) for key in ("right", "swap"))
    rng, group, folds = np.random.default_rng(0), ["bird"] * len(x), np.zeros(len(x))
    good = ps.pair_counts(right + 0.1 * rng.normal(size=len(x)), right, swap, folds, group)
    poor = ps.pair_counts(right + 2.0 * rng.normal(size=len(x)), right, swap, folds, group)
    same, better = ps.auc_difference(poor, poor, seed=0), ps.auc_difference(good, poor, seed=0)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert better.low > 0 and better.value == pytest.approx(good.value()[0] - poor.value()[0])
    with pytest.raises(ValueError, match="same swaps"):
        ps.auc_difference(good, ps.pair_counts([1, 0], [1, 0], [0, 0], [0, 0], ["bird"] * 2), seed=0)


# --- H1 ---------------------------------------------------------------------------------------------------


def classes_with(spread, classes=6, train=6, test=5, width=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = {c: rng.normal(size=width) for c in "abcdefghij"[:classes]}
    draw = [(np.array([centres[c] + spread * rng.normal(size=width) for c in centres for _ in range(count)]),
             np.array([c for c in centres for _ in range(count)])) for count in (train, test)]
    return draw[0][0], draw[0][1], draw[1][0], draw[1][1]


def test_linear_probe_reads_planted_classes_and_controls_do_not():
    found = probing.linear_probe(*classes_with(0.05), seed=0)
    assert found["correct"].mean() == 1.0
    assert found["majority"].mean() == pytest.approx(1 / 6)
    assert found["shuffled_labels"].mean() < 0.5
    assert found["validation_accuracy"] == 1.0


def test_linear_probe_finds_nothing_in_noise():
    rates = []
    for seed in range(6):
        x, y, tx, ty = classes_with(0.05, classes=4, test=10, seed=seed)
        rng = np.random.default_rng(seed)
        noise = probing.linear_probe(rng.normal(size=x.shape), y, rng.normal(size=tx.shape), ty, seed=seed)
        rates.append(noise["correct"].mean())
    assert abs(np.mean(rates) - 0.25) < 0.1


def test_test_labels_play_no_part_in_choosing_the_probe():
    x, y, tx, ty = classes_with(1.5)
    one, two = (probing.linear_probe(x, y, tx, labels, seed=0) for labels in (ty, ty[::-1]))
    assert (one["strength"], one["validation_accuracy"]) == (two["strength"], two["validation_accuracy"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=2, max_size=5), st.floats(0.05, 0.9), st.integers(0, 3))
def test_validation_holds_and_leaves_something_of_every_class(sizes, share, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    mask = probing.validation_mask(labels, share, seed)
    for label in range(len(sizes)):
        assert 1 <= mask[labels == label].sum() < sizes[label]


def test_a_class_of_one_image_is_refused():
    with pytest.raises(ValueError, match="one item"):
        probing.validation_mask(np.array(["a", "a", "b"]), 0.5, 0)


# --- H2 ---------------------------------------------------------------------------------------------------


def test_genus_gap_by_hand():
    # two genera at right angles: cosine 1 inside, 0 outside
    states = np.array([[2, 0], [1, 0], [0, 1], [0, 3], [0, 1], [0, 1]], dtype=float)
    gaps = probing.genus_gaps(states, list("aabbbb"), seed=0)
    assert gaps[:2] == pytest.approx([1, 1])
    assert np.isnan(gaps[2:]).all()  # only two names outside b, four are needed


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 5), st.floats(0.1, 10))
def test_gaps_do_not_see_lengths_and_are_drawn_alike_for_two_checkpoints(seed, scale):
    rng, genera = np.random.default_rng(seed), np.repeat(list("abc"), 4)
    states = rng.normal(size=(12, 5))
    lengths = scale * rng.uniform(0.5, 2, size=(12, 1))
    once, twice = (probing.genus_gaps(s, genera, seed=seed, repeats=3) for s in (states, states * lengths))
    assert once == pytest.approx(twice)


def test_a_lone_species_of_a_genus_has_no_gap():
    gaps = probing.genus_gaps(np.random.default_rng(0).normal(size=(7, 4)), list("abbbbbb"), seed=0)
    assert np.isnan(gaps[0]) and np.isnan(gaps[1:]).all()  # b has one name outside it


def test_equal_knowledge_is_equivalent_and_a_shift_is_different():
    rng, genera = np.random.default_rng(0), np.repeat(np.arange(20), 5)
    gaps = rng.normal(size=100)
    same = ps.compare_gaps(gaps, gaps + 0.01 * rng.normal(size=100), genera)
    assert same["reading"] == "equivalent" and same["tost_p"] < 0.001 and same["p"] > 0.01
    moved = ps.compare_gaps(gaps, gaps + 0.5 + 0.1 * rng.normal(size=100), genera)
    assert moved["reading"] == "different" and moved["tost_p"] > 0.9 and moved["t"] > 5
    assert moved["effect_size"] == pytest.approx(0.5, abs=0.1)
    loose = ps.compare_gaps(gaps, rng.normal(size=100), genera)
    assert loose["reading"] == "undecided" and loose["smallest_margin"] > loose["margin"]
    small = ps.compare_gaps(gaps, gaps + 0.05 + 0.01 * rng.normal(size=100), genera)
    assert small["reading"] == "different, but within the margin"


def test_paired_t_over_genera_agrees_with_scipy():
    from scipy import stats

    rng, genera = np.random.default_rng(1), np.repeat(np.arange(6), 4)
    a, b = rng.normal(size=(2, 24))
    found = ps.compare_gaps(a, b, genera)
    means = [(b - a)[genera == g].mean() for g in range(6)]
    t, p = stats.ttest_1samp(means, 0)
    assert (found["t"], found["p"]) == (pytest.approx(t), pytest.approx(p))
    assert found["degrees_of_freedom"] == 5
    # 90 % interval inside the margin is the same statement as the two one-sided tests at 5 %
    assert (found["tost_p"] < 0.05) == (found["smallest_margin"] < found["margin"])


def test_the_same_states_twice_and_a_single_genus():
    gaps = np.random.default_rng(0).normal(size=8)
    assert ps.compare_gaps(gaps, gaps, list("aabbccdd"))["reading"] == "equivalent"
    with pytest.raises(ValueError, match="genera"):
        ps.compare_gaps(gaps, gaps, ["a"] * 8)


@pytest.mark.parametrize("wide, narrow, margin, words", [
    ((-0.01, 0.01), (-0.008, 0.008), 0.02, "equivalent"),
    ((0.002, 0.015), (0.004, 0.013), 0.02, "different, but within the margin"),
    ((0.01, 0.05), (0.02, 0.04), 0.02, "different"),
    ((-0.03, 0.03), (-0.025, 0.025), 0.02, "undecided"),
    ((0.01, 0.05), (0.02, 0.04), None, "different"),
    ((-0.01, 0.01), (-0.008, 0.008), None, "undecided"),
    ((None, None), (None, None), 0.02, "undecided"),
])
def test_reading(wide, narrow, margin, words):
    assert ps.reading(wide, narrow, margin) == words


def accuracies(base, trained, names):
    """H1's comparison of two checkpoints on the same images."""
    sides = [pd.DataFrame({"model": model, "correct": correct, "sub_category": names, "super_category": "bird"})
             for model, correct in (("base", base), ("cot_sft", trained))]
    (told,) = ps.compare_models(pd.concat(sides), "h1_probe_accuracy", reference="base", seed=0)
    return told


def test_a_difference_at_the_ceiling_needs_the_test_too():
    """Four of twenty sub-categories differ, all one way: the bootstrap is sure, the test (p = 0.125) is not."""
    names = np.repeat([f"s{i:02d}" for i in range(20)], 4)
    base = np.ones(80, dtype=bool)
    base[:16:4] = False
    told = accuracies(base, np.ones(80, dtype=bool), names)
    assert told["low"] > 0 and told["p"] > 0.05 and told["reading"] == "undecided"


@pytest.mark.parametrize("name", ["h1_train_images", "h1_test_images", "h2_repeats", "h3_images", "h3_folds"])
def test_numbers_that_leave_nothing_to_probe_are_refused_by_name(name):
    least = {"h1_train_images": 2, "h1_test_images": 1, "h2_repeats": 1, "h3_images": 1, "h3_folds": 2}
    probing_items.check_sizes(*least.values())
    with pytest.raises(UserError, match=f"^{name} is {least[name] - 1}: give {least[name]} or more$"):
        probing_items.check_sizes(*{**least, name: least[name] - 1}.values())


def test_accuracy_is_compared_on_the_same_images():
    rng, names = np.random.default_rng(0), np.repeat([f"s{i}" for i in range(400)], 5)
    base = rng.uniform(size=2000) < 0.8
    flipped = base.copy()
    flipped[[0, 700]] ^= True
    near = accuracies(base, flipped, names)
    assert near["reading"] == "equivalent" and abs(near["difference"]) < 0.002
    far = accuracies(base, rng.uniform(size=2000) < 0.6, names)
    assert far["reading"] == "different" and far["difference"] < -0.1


# --- plans and rows ---------------------------------------------------------------------------------------


def table_of(super_categories=("bird", "plane"), sub_categories=8, train=4, test=3):
    rows = []
    for group, i in product(super_categories, range(sub_categories)):
        for j in range(train + test):
            kind = "seen" if i < 5 else "unseen"
            rows.append({"image_id": f"{group}/{i}/{j}.png", "super_category": group,
                         "sub_category": f"{group} {i}", "categories": kind,
                         "split": "train" if j < train else "test",
                         "shot": j if kind == "seen" and j < 2 else -1})
    return pd.DataFrame(rows)


def taxonomy_of(table, genus_size=2):
    """taxonomy.json of a table: genera of so many names each."""
    names = table.drop_duplicates("sub_category").itertuples()
    return {row.sub_category: {"genus": f"{row.super_category} {int(row.sub_category[-1]) // genus_size}"}
            for row in names}


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(2, 5), st.integers(1, 5))
def test_h1_uses_no_image_twice_and_none_that_a_stage_trained_on(train, test, train_images, test_images):
    table = table_of(train=train, test=test)
    plan, notes = probing_items.plan_h1(table, train_images=train_images, test_images=test_images, seed=0)
    used = table.set_index("image_id").loc[plan["image_id"]]
    assert plan["image_id"].is_unique and (used["shot"] == -1).all()
    assert (used["split"][(plan["role"] == "test").to_numpy()] == "test").all()
    for _, part in plan.groupby("sub_category"):
        counts = part["role"].value_counts()
        assert 2 <= counts["train"] <= train_images and 1 <= counts["test"] <= test_images
    fresh = table[table["shot"] == -1].groupby("sub_category").size()
    assert set(fresh.index[fresh >= 3]) == set(plan["sub_category"])  # what could take part does


def test_h1_by_hand():
    plan, notes = probing_items.plan_h1(table_of(train=4, test=3), train_images=3, test_images=2, seed=0)
    # seen: 2 fresh in train, 3 in test -> pool of 5, two of them tested; unseen: pool of 7, two tested
    assert notes == [] and plan["role"].value_counts().to_dict() == {"train": 16 * 3, "test": 16 * 2}


def test_what_is_too_little_is_left_out_and_said():
    table = table_of(sub_categories=4)
    untested = table[table["split"] == "train"]
    plan, notes = probing_items.plan_h1(untested, train_images=2, test_images=2, seed=0)
    items = probing_items.probe_h1(plan, np.zeros((0, 8)), seed=0)
    assert plan.empty and items.empty and len(notes) == 2
    assert ps.rows_of(items, model="base", metric="h1_probe_accuracy", seed=0) == []
    lean = table[(table["image_id"] > "bird/0/5") | (table["sub_category"] != "bird 0")]
    plan, notes = probing_items.plan_h1(lean, train_images=2, test_images=2, seed=0)
    assert "bird 0" not in set(plan["sub_category"]) and "1 of 4" in notes[0]
    plan, notes = probing_items.plan_h3(table, num_images=2, num_folds=5, seed=0)
    assert plan.empty and len(notes) == 2 and "swaps" in notes[0]
    plan, notes = probing_items.plan_h2({}, table)
    assert plan.empty and "genera" in notes[0]
    plan, notes = probing_items.plan_h2(taxonomy_of(table, genus_size=1), table)
    assert plan.empty and len(notes) == 2
    table = table_of(sub_categories=6)
    lone = taxonomy_of(table)  # three genera of two birds ...
    for number in range(2, 6):
        lone[f"bird {number}"]["genus"] = f"bird {number}"  # ... of which one is left
    assert set(probing_items.plan_h2(lone, table)[0]["super_category"]) == {"plane"}


def test_items_become_rows_of_the_contract():
    from finer1_lib.evaluation.summary import check_rows

    table, rng, rows = table_of(), np.random.default_rng(0), []
    plan, _ = probing_items.plan_h1(table, train_images=3, test_images=2, seed=0)
    items = probing_items.probe_h1(plan, rng.normal(size=(len(plan), 8)), seed=0)
    assert len(items) == 32 and set(items["strength"]) <= set(probing.STRENGTHS)
    for column, variant in (("correct", None), ("majority", "majority")):
        rows += ps.rows_of(items, model="base", metric="h1_probe_accuracy", column=column, seed=0,
                                     variant=variant)
    plan, _ = probing_items.plan_h2(taxonomy_of(table), table)
    items = probing_items.probe_h2(plan, rng.normal(size=(len(plan), 8)), seed=0, repeats=2)
    assert len(items) == 16
    rows += ps.rows_of(items, model="base", metric="h2_genus_gap", seed=0)
    plan, _ = probing_items.plan_h3(table, num_images=2, num_folds=5, seed=0)
    assert len(plan) == 16 * 2 * 2
    items = probing_items.probe_h3(plan, rng.normal(size=(len(plan), 8)), seed=0)
    rows += ps.rows_of(items, model="base", metric="h3_auc", seed=0)
    check_rows(rows, "test")
    assert len(rows) == 4 * 9
    find = {(r["metric"], r["variant"], r["dataset"], r["categories"]): r for r in rows}
    birds = find["h1_probe_accuracy", "majority", "bird", "all"]
    assert birds["value"] == pytest.approx(1 / 8) and birds["n"] == 16
    average = find["h3_auc", None, "average", "all"]["value"]
    parts = [find["h3_auc", None, group, "all"]["value"] for group in ("bird", "plane")]
    assert average == pytest.approx(np.mean(parts))


def test_models_are_compared_with_the_base_on_the_same_items():
    plan, _ = probing_items.plan_h1(table_of(), train_images=3, test_images=3, seed=0)
    items = probing_items.probe_h1(plan, np.random.default_rng(0).normal(size=(len(plan), 8)), seed=0)
    both = pd.concat([items.assign(model="base"), items.assign(model="cot_sft", correct=True)])
    (found,) = ps.compare_models(both, "h1_probe_accuracy", reference="base", seed=0)
    assert found["model"] == "cot_sft" and found["reading"] == "different"
    assert found["difference"] == pytest.approx(1 - items["correct"].mean())
    lone = both[both["model"] == "cot_sft"]
    assert ps.compare_models(lone, "h1_probe_accuracy", reference="base", seed=0) == []
    assert ps.compare_models(pd.DataFrame(), "h3_auc", reference="base", seed=0) == []


def test_a_control_is_compared_and_told_apart_from_the_probe():
    """H2's epithets get the test of the names, under their own variant; neither sentence mixes the two."""
    rng, rows, comparisons = np.random.default_rng(0), [], []
    known = {"super_category": "bird", "categories": "seen", "genus": list("aabbccdd"), "name": list("ijklmnop")}
    for variant, shift in ((None, 1.0), ("epithet_only", 0.0)):
        base = pd.DataFrame({**known, "gap": rng.normal(size=8)})
        both = [base.assign(model="base"), base.assign(model="cot_sft", gap=base["gap"] + shift)]
        for items in both:
            model = items["model"].iloc[0]
            rows += ps.rows_of(items, model=model, metric="h2_genus_gap", variant=variant, seed=0)
        comparisons += ps.compare_models(
            pd.concat(both), "h2_genus_gap", reference="base", variant=variant, seed=0)
    assert [test["variant"] for test in comparisons] == [None, "epithet_only"]
    assert [round(test["difference"], 6) for test in comparisons] == [1.0, 0.0]
    assert [test["reading"] for test in comparisons] == ["different", "equivalent"]
    names, epithets = (ps.findings(rows, comparisons, "h2_genus_gap", variant=variant)
                       for variant in (None, "epithet_only"))
    assert "different" in names and "equivalent" not in names and names.count("minus") == 1
    assert "equivalent" in epithets and "different" not in epithets and epithets.count("minus") == 1
    none = ps.findings(rows, comparisons, "h2_genus_gap", variant="other")
    assert none == "was left out (see the notes above)."


# --- states -----------------------------------------------------------------------------------------------


class FakeModel:
    """Stands in for a checkpoint: a text's length, its picture, how many pictures."""

    def __init__(self, fail_after=None):
        self.loads, self.calls, self.fail_after = 0, [], fail_after

    def load(self):
        self.loads += 1
        return "loaded"

    def pooled_states(self, loaded, prompts, *, where, layers, batch_size, spans=None, add_generation_prompt=True):
        from finer1_lib.core.images import load_image

        assert loaded == "loaded" and (spans is not None) == (where == ["span"])
        if len(self.calls) == self.fail_after:
            raise KeyboardInterrupt
        self.calls.append((tuple(where), len(prompts)))
        rows = []
        for number, (message,) in enumerate(prompts):
            images = [part["image"] for part in message["content"] if part["type"] == "image"]
            pictures = [load_image(*image).getpixel((0, 0))[0] for image in images]  # opened here, not before
            text = message["content"][-1]["text"]
            assert spans is None or spans[number] in text
            rows.append([len(text if spans is None else spans[number]), sum(pictures), len(pictures)])
        states = np.array(rows, dtype="float32")
        return np.stack([np.stack([states + 1000 * place + 100 * layer for layer in layers])
                         for place in range(len(where))])


@pytest.fixture
def photographs(tmp_path):
    from PIL import Image

    table = table_of(super_categories=("bird",))
    for number, image_id in enumerate(table["image_id"]):
        path = tmp_path / "images" / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return tmp_path / "images", table


def test_states_are_computed_once_and_come_back_from_file(photographs, tmp_path):
    from finer1_lib.probing.features import Probed

    (root, table), fake = photographs, FakeModel()
    h1, _ = probing_items.plan_h1(table, train_images=2, test_images=2, seed=0)
    h2, _ = probing_items.plan_h2(taxonomy_of(table), table)
    h3, _ = probing_items.plan_h3(table, num_images=2, num_folds=3, seed=0)

    def probed(load):
        return Probed("base", tmp_path / "features", root, load, layers=[2, 7],
                      pooled_states=fake.pooled_states)

    states = probed(fake.load).everything(h1, h2, h3)
    # no "epithets": "bird 1" and "bird 2" share the word before their last one
    assert set(states) == {"images", "prompts", "names", "questions", "text_only", "swapped_image"}
    assert fake.loads == 1 and states["images"].shape == (2, len(h1), 3)
    assert fake.calls[0] == (("image", "last"), len(h1))  # both from one forward
    assert all(states[what].shape == np.asarray(states[what]).shape for what in states)
    with pytest.raises(KeyError, match="layer 3 was not read"):
        states["images"][3]
    found = {what: np.stack([one[2] - 200, one[7] - 600]) for what, one in states.items()}
    pixel = dict(zip(table["image_id"], range(len(table))))
    assert list(found["images"][0, :, 1]) == [pixel[image] for image in h1["image_id"]]
    assert np.array_equal(found["prompts"], found["images"] + 1000)
    assert np.array_equal(found["images"][1], found["images"][0] + 100)
    assert list(found["questions"][0, :, 1]) == [pixel[image] for image in h3["image_id"]]
    assert list(found["swapped_image"][0, :, 1]) == [pixel[image] for image in h3["swapped_image_id"]]
    assert not found["text_only"][0, :, 2].any() and found["text_only"].shape[1] == len(h3)
    assert [length - found["text_only"][0, 0, 0] for length in found["text_only"][0, :, 0]] == [
        len(name) - len(h3["name"][0]) for name in h3["name"]]
    assert list(found["names"][0, :, 0]) == [len(name) for name in h2["name"]]

    calls = list(fake.calls)
    again = probed(lambda: pytest.fail("loaded again")).everything(h1, h2, h3)
    assert fake.calls == calls and all(np.array_equal(states[key], again[key]) for key in found)
    files = [path for path in (tmp_path / "features").rglob("*") if path.is_file()]
    assert len(files) == 6 and all(np.load(path, allow_pickle=False).dtype == np.float32 for path in files)
    probed(fake.load).image_states(h1[1:])  # other images: other states, beside the first
    assert len(fake.calls) == len(calls) + 1


@pytest.mark.parametrize("done", [0, 1, 2])
def test_an_interrupted_reading_repeats_one_chunk_at_most(photographs, tmp_path, monkeypatch, done):
    from finer1_lib.probing import features as probing_features

    monkeypatch.setattr(probing_features, "CHUNK", 10)
    (root, table), stopped, fresh = photographs, FakeModel(fail_after=done), FakeModel()
    h1, _ = probing_items.plan_h1(table, train_images=2, test_images=2, seed=0)
    chunks = -(-len(h1) // 10)

    def states(fake, folder):
        probed = probing_features.Probed("base", tmp_path / folder, root, fake.load, layers=[0, 1],
                                         pooled_states=fake.pooled_states)
        return probed.image_states(h1)

    with pytest.raises(KeyboardInterrupt):
        states(stopped, "a")
    resumed = states(fresh, "a")
    monkeypatch.setattr(probing_features, "CHUNK", 1000)
    whole = states(FakeModel(), "b")
    assert len(fresh.calls) == chunks - done and chunks > 2
    assert all(np.array_equal(one, two) for one, two in zip(resumed, whole))
    assert len([path for path in (tmp_path / "a").rglob("*") if path.is_file()]) == 2  # no parts are left


def test_a_pickled_array_is_refused(tmp_path):
    from finer1_lib.probing.features import load_array

    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        load_array(tmp_path / "evil.npy")


# --- figures ----------------------------------------------------------------------------------------------


def test_figures_take_what_the_notebook_gives_them():
    import matplotlib

    matplotlib.use("Agg")
    from finer1_lib.probing import plots as probing_plots

    assert set(probing_items.CONTROLS) < set(probing_plots.CONTROL_LABELS)
    rows = [{"model": model, "categories": kind, "variant": variant, "value": 0.5, "low": low, "high": 0.7}
            for model in ("base", "cot_sft") for kind in ("seen", "all") for variant in (None, "majority")
            for low in (0.4 if kind == "all" else None,)]
    bars = probing_plots.probe_bars(pd.DataFrame(rows), "accuracy (%)")
    assert len(bars.axes) == 2 and [patch.get_height() for patch in bars.axes[0].patches] == [50, 50]
    above = probing_plots.probe_bars(pd.DataFrame(rows), "AUC (%)", start=0.4).axes[0].patches[0]
    assert above.get_y() == 40 and above.get_height() == pytest.approx(10)
    gaps = pd.DataFrame({"model": ["base", "cot_sft"] * 5, "super_category": "bird", "gap": range(10)})
    assert len(probing_plots.gap_distribution(gaps).axes) == 1
    states, items = np.random.default_rng(0).normal(size=(12, 5)), pd.DataFrame({"right": [True, False] * 6})
    plane = ps.principal_components(states, items, "base", 0.61)
    assert "0.61" in probing_plots.right_wrong_images(plane).axes[0].get_title()
