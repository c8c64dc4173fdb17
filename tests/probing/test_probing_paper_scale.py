"""The probes on what a real data set brings: 200 birds in Latin genera, near wrong names, bfloat16 states."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.core.errors import UserError
from finer1_lib.data.taxonomy import genera
from finer1_lib.models.hidden_states import pooled_states
from finer1_lib.probing import features as states, items, probes, rows as summary, study, swaps

CUB = genera("bird")


def table_of(sub_categories, super_category="bird", train=3, test=3, seen=0.6):
    """images.parquet of these names, the first share of them seen."""
    rows, edge = [], int(seen * len(sub_categories))
    for i, name in enumerate(sub_categories):
        for j in range(train + test):
            rows.append({"image_id": f"{super_category}/{i:03d}/{j}.jpg", "super_category": super_category,
                         "sub_category": name, "categories": "seen" if i < edge else "unseen",
                         "split": "train" if j < train else "test", "shot": -1})
    return pd.DataFrame(rows)


# --- wrong names ------------------------------------------------------------------------------------------


def on_a_line(places):
    return lambda one, other: -abs(places[one] - places[other])


def test_near_groups_by_hand():
    genus = {"a": "G", "b": "G", "c": "H", "d": "I", "e": "J", "f": ""}
    places = {"a": 0, "b": 9, "c": 1.0, "d": 2.0, "e": 8.0, "f": 9.5}
    found = swaps.hard_negative_groups(list("abcdef"), genus, on_a_line(places), seed=0)
    assert [(set(swap.names), swap.kind) for swap in found] == [
        ({"a", "b"}, "genus"), ({"c", "d"}, "nearest"), ({"e", "f"}, "nearest")]
    # five without a mate: 1-1.5 first, then 8-9.5 (1.5 apart) before 3.5; 3.5 joins the first pair
    places = {"a": 1.0, "b": 1.5, "c": 3.5, "d": 8.0, "e": 9.5}
    found = swaps.hard_negative_groups(list("abcde"), {}, on_a_line(places), seed=0)
    assert [swap.names for swap in found] == [("a", "b", "c"), ("d", "e")]
    assert swaps.hard_negative_groups(list("abcde"), {}, None, seed=0) == []  # nobody knows who looks like whom
    assert swaps.hard_negative_groups(["a"], {}, on_a_line(places), seed=0) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=14), st.integers(0, 5), st.booleans())
def test_near_names_are_balanced_and_stay_on_their_side(genus, seed, known):
    """Genus 0 is unknown. Whatever the genera: as often right as wrong, in one swap, on one side."""
    every = [f"n{i:02d}" for i in range(len(genus))]
    own = {name: f"G{g}" for name, g in zip(every, genus) if g}
    place = {name: (7 * i) % 5 for i, name in enumerate(every)}
    images = {(name, "seen" if i % 3 else "unseen"): ["x", "y"] for i, name in enumerate(every)}
    side = {name: kind for name, kind in images}

    def group(part):
        return swaps.hard_negative_groups(part, own, on_a_line(place) if known else None, seed)

    questions = swaps.balanced_questions(images, num_images=2, seed=seed, group=group)
    for name in {q["name"] for q in questions}:
        answers = [q["right"] for q in questions if q["name"] == name]
        assert sum(answers) * 2 == len(answers) == 4
        assert len({q["swap"] for q in questions if name in (q["name"], q["sub_category"])}) == 1
    for q in questions:
        assert side[q["name"]] == side[q["sub_category"]] == q["categories"]
        if q["wrong_name"] == "genus":
            assert own[q["name"]] == own[q["sub_category"]]
    asked = {q["name"] for q in questions}
    for kind in ("seen", "unseen"):
        here = [name for name in every if side[name] == kind]
        lone = [n for n in here if n not in own or sum(own.get(m) == own[n] for m in here) == 1]
        assert set(here) - set(lone) <= asked
        assert set(lone) <= asked if known and len(lone) > 1 else not set(lone) & asked


def test_of_cubs_birds_everybody_is_asked_and_it_is_said_who_by_genus():
    table = table_of(list(CUB), test=1)
    draw = np.random.default_rng(0)
    h1, _ = items.plan_h1(table, train_images=2, test_images=1, seed=0)
    looks = items.looks_of(h1, draw.normal(size=(len(h1), 16)))
    plan, (note,) = items.plan_h3(table, num_images=1, num_folds=5, seed=0, wrong_names="near", taxonomy=CUB,
                                  looks=looks)
    count = plan.drop_duplicates("sub_category")["wrong_name"].value_counts()
    assert count.sum() == plan["sub_category"].nunique() == 200 and count["nearest"] > 85
    assert f"same genus for {count['genus']}" in note and f"other one for {count['nearest']}" in note
    wrong = plan[~plan["right"]]
    same = [CUB[a]["genus"] == CUB[b]["genus"] for a, b in zip(wrong["name"], wrong["sub_category"])]
    assert same == list(wrong["wrong_name"] == "genus")
    assert plan.groupby("swap")["fold"].nunique().max() == 1
    plan, (note,) = items.plan_h3(table, num_images=1, num_folds=5, seed=0, wrong_names="near", taxonomy=CUB)
    assert f"{200 - count['genus']} left out" in note and set(plan["wrong_name"]) == {"genus"}
    with pytest.raises(UserError, match="h3_wrong_names is 'far': give one of any, near"):
        items.plan_h3(table, num_images=1, num_folds=5, seed=0, wrong_names="far")


def test_who_looks_alike_is_told_by_the_states_of_the_pictures():
    table = table_of([f"n{i}" for i in range(6)])
    h1, _ = items.plan_h1(table, train_images=2, test_images=1, seed=0)
    place = {f"n{i}": i // 2 for i in range(6)}  # n0 like n1, n2 like n3, n4 like n5
    looks = items.looks_of(h1, np.eye(3)[h1["sub_category"].map(place)] + 5)
    assert looks("bird", "n0", "n1") == pytest.approx(1) and looks("bird", "n0", "n2") < 0
    assert looks("bird", "n0", "nobody") == -1
    plan, _ = items.plan_h3(table_of(list(place), seen=0), num_images=1, num_folds=3, seed=0,
                            wrong_names="near", looks=looks)
    pairs = {frozenset(pair) for pair in zip(plan["name"], plan["sub_category"]) if len(set(pair)) > 1}
    assert pairs == {frozenset(("n0", "n1")), frozenset(("n2", "n3")), frozenset(("n4", "n5"))}


# --- names and their genera -------------------------------------------------------------------------------


def test_cubs_genera_give_a_gap_to_115_names_and_the_lone_ones_are_counted():
    table = table_of(list(CUB))
    plan, notes = items.plan_h2(CUB, table)
    assert list(plan["name"]) == list(CUB) and plan["categories"].value_counts()["seen"] == 120
    sizes = plan["genus"].value_counts()
    alone = int((sizes == 1).sum())
    assert any(f"no gap of {alone} of 200 names of bird" in note for note in notes)
    code = {genus: np.random.default_rng(i).normal(size=64) for i, genus in enumerate(sizes.index)}
    found = items.probe_h2(plan, np.array([code[genus] for genus in plan["genus"]]), seed=0, repeats=2)
    assert len(found) == 200 - alone and found["gap"].mean() > 0.9
    assert set(sizes.index[sizes > 1]) == set(found["genus"])
    one_word = [name for name in CUB if " " not in name]
    assert any(f"{len(one_word)} of 200 names of bird are one word" in note for note in notes)
    control = items.with_epithet(plan)
    assert set(plan["name"]) - set(control["name"]) == set(one_word)
    assert control.set_index("name")["epithet"]["Black Footed Albatross"] == "Black Footed"


def test_a_shared_last_word_is_a_gap_of_the_names_and_none_of_the_control():
    """States that hold nothing but spelling: a code for each word, averaged over the tokens read."""
    plan, _ = items.plan_h2(CUB, table_of(list(CUB)))
    codes: dict = {}

    def spelled(texts):
        draw = np.random.default_rng(0)
        read = [[codes.setdefault(word, draw.normal(size=256)) for word in text.split()] for text in texts]
        return np.array([np.mean(words, axis=0) for words in read])

    gap = items.probe_h2(plan, spelled(plan["name"]), seed=0, repeats=5)["gap"].mean()
    control = items.with_epithet(plan)
    rest = items.probe_h2(control, spelled(control["epithet"]), seed=0, repeats=5)["gap"].mean()
    assert gap > 0.15 and rest < gap / 3


def test_the_control_is_left_out_where_names_share_another_word():
    cars = {f"{maker} {model} {year}": {"genus": maker} for maker in ("Audi", "Ford", "Fiat")
            for model, year in (("Alpha", 2009), ("Beta", 2010), ("Gamma", 2011))}
    plan, (note,) = items.plan_h2(cars, table_of(list(cars), "car"))
    assert plan["epithet"].isna().all() and "9 of 9 names share another word" in note
    assert items.with_epithet(plan).empty
    pairs = zip("ABCDEF", ["Wren", "Tern", "Lark"] * 2)
    birds = {f"{letter} {genus}": {"genus": genus} for letter, genus in pairs}
    plan, notes = items.plan_h2(birds, table_of(list(birds)))
    assert list(plan["epithet"]) == list("ABCDEF") and notes == []
    bare = {name.replace(" ", "-"): ranks for name, ranks in birds.items()}
    plan, (note,) = items.plan_h2(bare, table_of(list(bare)))
    assert plan["epithet"].isna().all() and len(plan) == 6 and "6 of 6 names of bird are one word" in note


def test_a_name_of_two_data_sets_stands_in_both_and_an_unknown_genus_is_said():
    groups = ("Hound", "Terrier", "Collie")
    dogs = {f"{letter} {genus}": {"genus": genus} for letter in "AB" for genus in groups}
    table = pd.concat([table_of([*dogs, "C Pug"], "dog"), table_of(list(dogs), "pet")], ignore_index=True)
    plan, notes = items.plan_h2({**dogs, "C Pug": {}, "Nobody": {"genus": "Hound"}}, table)
    assert plan["super_category"].value_counts().to_dict() == {"dog": 6, "pet": 6}
    assert notes == ["H2 leaves out 1 names of dog: no genus is known of them"]
    draw = np.random.default_rng(0)
    assert len(items.probe_h2(plan, draw.normal(size=(12, 8)), seed=0, repeats=1)) == 12


# --- fewer sub-categories ---------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 30), st.integers(6, 40), st.integers(0, 3))
def test_some_sub_categories_keep_the_share_of_seen_ones(total, most, seed):
    table = pd.concat([table_of([f"n{i}" for i in range(total)]), table_of(["a", "b", "c"], "pet")],
                      ignore_index=True)
    part, notes = items.some_sub_categories(table, most, seed=seed)
    birds = part[part["super_category"] == "bird"].drop_duplicates("sub_category")
    assert len(birds) == min(most, total) and len(notes) == (most < total)
    assert abs((birds["categories"] == "seen").mean() - int(0.6 * total) / total) <= 0.5 / len(birds) + 1e-9
    assert (part["super_category"] == "pet").sum() == 18
    whole = table[table["sub_category"].isin(set(part["sub_category"]))]
    assert part.equals(whole)  # all their images, in the table's order
    assert items.some_sub_categories(table, 0, seed=seed)[0] is table


def test_a_number_of_sub_categories_that_leaves_no_swaps_is_refused():
    with pytest.raises(UserError, match="max_sub_categories is 5: give 0 for all, or 6 or more"):
        items.check_sizes(2, 1, 1, 1, 2, 5)
    items.check_sizes(2, 1, 1, 1, 2, 6)


# --- states on the disk -----------------------------------------------------------------------------------


def test_bfloat16_bits_are_those_of_torch():
    import torch

    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(size=4000) * 10.0 ** draw.integers(-30, 30, 4000),
                             [0, -0.0, 1, 1 + 2**-8, 1 + 3 * 2**-8, 65504, 1e38, -3e-39]]).astype("float32")
    bits = states.to_bits(values.reshape(8, -1))
    own = torch.from_numpy(values).bfloat16()
    assert bits.dtype == np.uint16 and np.array_equal(bits.ravel(), own.view(torch.uint16).numpy())
    assert np.array_equal(states.from_bits(bits).ravel(), own.float().numpy())
    assert states.from_bits(values).dtype == np.float32 and np.array_equal(states.from_bits(values), values)


@pytest.mark.parametrize("dtype, size", [("float32", 4), ("bfloat16", 2)])
def test_parts_become_one_file_and_are_read_a_layer_at_a_time(tmp_path, dtype, size):
    shape = (2, 3, 10, 4)  # places, layers, items, numbers
    whole = np.random.default_rng(0).normal(size=shape).astype("float32")
    parts = [tmp_path / f"{start}.npy" for start in (0, 4, 8)]
    for path, start in zip(parts, (0, 4, 8)):
        states.save_states(path, whole[:, :, start : start + 4], dtype)
    states.join_parts(parts, 1, tmp_path / "all.npy")
    assert (tmp_path / "all.npy").stat().st_size == 128 + 3 * 10 * 4 * size
    found = states.LayerStates(tmp_path / "all.npy", [0, 5, 9])
    again = states.LayerStates(tmp_path / "all.npy", [0, 5, 9], rows=[7, 7, 1])
    assert found.shape == (3, 10, 4) and again.shape == (3, 3, 4)
    tolerance = 0 if dtype == "float32" else 2**-8
    for place, layer in enumerate((0, 5, 9)):
        np.testing.assert_allclose(found[layer], whole[1, place], rtol=tolerance)
        assert np.array_equal(again[layer], found[layer][[7, 7, 1]])
    assert found[5].dtype == np.float32 and np.asarray(found).shape == found.shape
    assert np.array_equal(np.asarray(found)[1], found[5])


def probed(tmp_path, loaded, **more):
    from finer1_lib.probing.features import Probed

    return Probed("base", tmp_path / "features", tmp_path, lambda: loaded, **more)


def test_chosen_layers_of_a_real_checkpoint_are_those_of_all(tmp_path):
    """Kept layers alone, in 16 bits, against all of them in 32; a span is the name before its last word."""
    import tiny_checkpoint

    from finer1_lib import models

    loaded = models.load(tiny_checkpoint.build(tmp_path / "base", layers=3))
    rows = []
    for number in range(4):
        tiny_checkpoint.picture(seed=number).save(tmp_path / f"{number}.png")
        rows.append({"image_id": f"{number}.png", "super_category": "bird"})
    whole = probed(tmp_path, loaded, layers=range(4)).image_states(pd.DataFrame(rows))
    part = probed(tmp_path, loaded, layers=[1, 3], dtype="bfloat16").image_states(pd.DataFrame(rows))
    for all_layers, some in zip(whole, part):
        assert all_layers.shape == (4, 4, 32) and some.shape == (2, 4, 32)
        for layer in (1, 3):
            np.testing.assert_allclose(some[layer], all_layers[layer], rtol=2**-8, atol=1e-6)
        assert not np.allclose(all_layers[1], all_layers[3])
    texts = ["Black Footed Albatross", "House Wren"]
    spans, full, alone = (probed(tmp_path, loaded, layers=[2]).name_states(texts, spans)[2]
                          for spans in (["Black Footed", "House"], texts, ["Footed", "Wren"]))
    assert not np.allclose(spans, full) and not np.allclose(spans, alone)
    # a token sees only what stands before it: the same words without what follows have the same states
    before = probed(tmp_path, loaded, layers=[2]).name_states(["Black Footed", "House"])[2]
    np.testing.assert_allclose(spans, before, atol=1e-5)


def test_states_that_are_not_finite_and_an_unknown_dtype_are_one_line(tmp_path):
    def overflow(loaded, prompts, *, where, layers, **more):
        return np.full((len(where), len(layers), len(prompts), 4), np.inf, "float32")

    asking = probed(tmp_path, None, layers=[0], pooled_states=overflow)
    with pytest.raises(UserError, match="^base: hidden states are not finite.*float16"):
        asking.name_states(["House Wren"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(UserError, match="state_dtype is 'float16': give one of float32, bfloat16"):
        probed(tmp_path, None, layers=[0], dtype="float16")
    with pytest.raises(UserError, match="batch_size is 0: give a positive number"):
        probed(tmp_path, None, layers=[0], batch_size=0)


def test_memory_that_runs_out_while_states_are_read_is_one_line(tmp_path, monkeypatch):
    import tiny_checkpoint
    import torch

    from finer1_lib import models
    from finer1_lib.core.prompts import user_message

    loaded = models.load(tiny_checkpoint.build(tmp_path / "base"))

    def full(**inputs):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(loaded.model.model, "forward", full)
    with pytest.raises(UserError, match="ran out in reading states: set the prompts .* to 2 .now 4"):
        pooled_states(loaded, [user_message(text) for text in "abcd"], where="last", batch_size=4)


def test_checkpoints_of_unequal_depth_and_without_a_configuration_are_refused(tmp_path):
    assert study.check_same_layers({"base": 37, "released": 37}) == 37
    with pytest.raises(UserError, match="released has 29 layers and base 37: probe models of one size"):
        study.check_same_layers({"base": 37, "released": 29})
    with pytest.raises(UserError, match="cannot read the configuration of"):
        study.layer_count(str(tmp_path))


# --- the paper's classifier -------------------------------------------------------------------------------


def planted(spread, per=8, classes=6, width=20, seed=0):
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(classes, width)).astype("float32")
    y = np.repeat([f"c{i}" for i in range(classes)], per)
    return [np.repeat(centres, per, axis=0) + spread * draw.normal(size=(len(y), width)).astype("float32"), y]


def test_adam_reads_planted_classes_by_an_epoch_that_the_test_images_did_not_choose():
    (x, y), (tx, ty) = planted(0.1), planted(0.1)
    found = probes.adam_probe(x, y, tx, ty, seed=0, epochs=60, rate=0.02, batch=16)
    assert found["correct"].mean() == 1.0 and found["validation_accuracy"] == 1.0
    other = probes.adam_probe(x, y, tx, np.roll(ty, 8), seed=0, epochs=60, rate=0.02, batch=16)
    assert other["epoch"] == found["epoch"] and other["correct"].mean() == 0.0
    again = probes.adam_probe(x, y, tx, ty, seed=0, epochs=60, rate=0.02, batch=16)
    assert np.array_equal(again["adam_best_test"], found["adam_best_test"])


def test_choosing_the_epoch_on_the_test_images_finds_something_in_noise():
    gains, honest, validated = [], [], []
    for seed in range(6):
        (x, y), (tx, ty) = planted(50, per=6, seed=seed), planted(50, per=4, seed=seed + 100)
        found = probes.adam_probe(x, y, tx, ty, seed=seed, epochs=40, rate=0.01, batch=16)
        gains.append(found["adam_best_test"].mean() - found["correct"].mean())
        honest.append(found["correct"].mean())
        validated.append(found["validation_accuracy"])
    assert min(gains) >= 0 and np.mean(gains) > 0.05
    assert abs(np.mean(honest) - 1 / 6) < 0.08 and np.mean(validated) < 0.6  # none of them was fitted on
    with pytest.raises(UserError, match="h1_adam_epochs is -1"):
        probes.adam_probe(x, y, tx, ty, seed=0, epochs=-1)


def test_the_recipe_is_the_papers():
    import inspect

    own = inspect.signature(probes.adam_probe).parameters
    assert [own[name].default for name in ("rate", "batch", "epochs")] == [1e-4, 512, 500]


def test_the_papers_classifier_takes_the_place_of_ours():
    from functools import partial

    table = table_of([f"n{i}" for i in range(6)], train=4, test=4)
    plan, _ = items.plan_h1(table, train_images=4, test_images=2, seed=0)
    codes = np.random.default_rng(0).normal(size=(6, 16)).astype("float32")
    x = codes[plan["sub_category"].str[1:].astype(int)]
    fit = partial(probes.adam_probe, epochs=50, rate=0.05)
    found = items.probe_h1(plan, x, seed=0, fit=fit).assign(model="base", layer=1)
    assert found["correct"].all() and len(found) == 12
    rows = summary.curve(found, "h1_probe_accuracy", 1, variant="adam", controls=["adam_best_test"], seed=0)
    assert {row["variant"] for row in rows} == {"adam", "adam_best_test"}
    assert probes.linear_probe is items.probe_h1.__kwdefaults__["fit"]


def test_readings_that_are_no_controls_stand_in_tables_and_not_in_figures():
    import matplotlib

    matplotlib.use("Agg")
    from finer1_lib.probing import plots, plots as layer_plots

    rows = [{"metric": "h3_auc", "model": "base", "layer": depth, "categories": "all", "variant": variant,
             "value": 0.6, "low": 0.5, "high": 0.7} for depth in (0, 18, 36)
            for variant in (None, "swapped_image", "wrong_name_genus", "adam")]
    frame = pd.DataFrame(rows)
    bars = plots.probe_bars(frame[frame["layer"] == 36], "AUC (%)", start=0.5)
    assert [text.get_text() for text in bars.legends[0].get_texts()] == ["question over another image"]
    curves = layer_plots.layer_curves(frame)
    assert {line.get_marker() for line in curves.axes[0].get_lines()} == {"o", "^", "None"}
