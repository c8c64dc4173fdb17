"""Probes by layer, of single attributes, and of what changed: planted states, numbers by hand, figures."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from finer1_lib.core.errors import UserError
from finer1_lib.models.hidden_states import pooled_states
from finer1_lib.probing import (
    attributes as pa, items as probing_items, rows as probing_rows, study as probing_changes)

COLOURS = ("red", "blue", "green")


def birds(sub_categories=24, images=3, genus_size=4, seed=0):
    """(images, guide): every bird has a crown of its own and a bill that its genus shares."""
    rng, rows, entries = np.random.default_rng(seed), [], {}
    crowns = rng.permutation([COLOURS[i % 3] for i in range(sub_categories)])
    for i in range(sub_categories):
        name, genus = f"b{i:02d}", f"g{i // genus_size}"
        entries[name] = {"super_category": "bird", "genus": genus,
                         "attributes": {"crown": str(crowns[i]),
                                        "bill": ("hooked", "flat")[i // genus_size % 2]}}
        rows += [{"image_id": f"{name}/{j}", "super_category": "bird", "sub_category": name,
                  "categories": "seen" if i < sub_categories // 2 else "unseen"} for j in range(images)]
    return pd.DataFrame(rows), {"sub_categories": entries, "seen": [], "unseen": []}


def planted(images, guide, what, width=40, seed=0):
    """[N, D] states in which one thing is decodable: "attribute" values, "sub_category" or "genus"."""
    rng, codes, rows = np.random.default_rng(seed), {}, []
    for name in images["sub_category"]:
        entry = guide["sub_categories"][name]
        known = {"attribute": list(entry["attributes"].values()), "sub_category": [name],
                 "genus": [entry["genus"]]}[what]
        code = sum(codes.setdefault(key, rng.normal(size=width)) for key in known)
        rows.append(code + 0.1 * rng.normal(size=width))
    return np.array(rows)


# --- layers -----------------------------------------------------------------------------------------------


def test_layers_are_counted_from_either_end():
    assert probing_changes.chosen_layers([], -1, 6) == (5, [0, 1, 2, 3, 4, 5])
    assert probing_changes.chosen_layers([3, 0, -3], 2, 6) == (2, [0, 2, 3])
    for layers, layer in (([], 6), ([6], 0), ([-7], 0), ([], -7)):
        with pytest.raises(UserError, match="does not exist"):
            probing_changes.chosen_layers(layers, layer, 6)


def test_the_number_of_layers_needs_no_weights(tmp_path):
    import tiny_checkpoint

    tiny_checkpoint.tiny_config(tiny_checkpoint.tiny_tokenizer(), layers=3).save_pretrained(tmp_path)
    assert probing_changes.layer_count(str(tmp_path)) == 4  # and the embeddings


def probed_twice():
    """Items of H1: noise at layer 0, the sub-category at 1 and 2; the second model lacks the states."""
    images, guide = birds(8, images=6)
    plan = images.assign(role=["train" if i % 6 < 3 else "test" for i in range(len(images))])
    noise, known = np.random.default_rng(1).normal(size=(len(plan), 40)), planted(plan, guide, "sub_category")
    states = {"base": {"images": np.stack([noise, known, known])}, "cot_sft": {"names": noise[None]}}
    return probing_changes.probe_layers(states, "images", [0, 2],
                                       lambda x: probing_items.probe_h1(plan, x, seed=0))


def test_a_probe_runs_at_every_layer_and_the_summary_is_one_of_them():
    items = probed_twice()
    assert set(items["model"]) == {"base"} and set(items["layer"]) == {0, 2}
    curves = probing_rows.curve(items, "h1_probe_accuracy", 2, controls=probing_items.CONTROLS, seed=0)
    table = probing_rows.layers_table(curves)
    assert tuple(table.columns) == probing_rows.LAYER_COLUMNS
    average = table[(table["dataset"] == "average") & (table["categories"] == "all")]
    probe = average[average["variant"].isna()].set_index("layer")["value"]
    assert probe[2] == 1.0 and probe[0] < 0.5
    assert set(average["variant"].dropna()) == set(probing_items.CONTROLS)
    assert set(table[table["layer"] == 2]["categories"]) == {"seen", "unseen", "all"}
    assert set(table[table["layer"] == 0]["categories"]) == {"all"}
    rows = probing_rows.at_layer(curves, 2)
    own = items[items["layer"] == 2]
    assert [row for row in rows if row["variant"] is None] == probing_rows.rows_of(
        own, model="base", metric="h1_probe_accuracy", seed=0)
    assert all("layer" not in row for row in rows)


def test_no_states_give_no_rows():
    items = probing_changes.probe_layers({"base": {}}, "names", [0, 1], lambda x: pytest.fail("probed"))
    assert items.empty and probing_rows.curve(items, "h2_genus_gap", 0, seed=0) == []
    assert items[items["layer"] == 0].empty


def test_the_pictures_layer_is_not_chosen_by_what_it_shows():
    def row(dataset, depth, value, model="base", variant=None, categories="all"):
        return {"metric": "h3_auc", "model": model, "dataset": dataset, "layer": depth, "value": value,
                "variant": variant, "categories": categories}

    curves = [row("bird", 0, 0.9), row("bird", 1, 0.5), row("plane", 0, 0.6), row("plane", 1, 0.7),
              row("average", 0, 0.9), row("plane", 0, 0.99, "cot_sft"),
              row("plane", 0, 0.99, variant="text_only"), row("plane", 0, 0.99, categories="seen")]
    assert probing_rows.layer_for_the_image(curves, "base", "bird") == 1
    assert probing_rows.layer_for_the_image(curves, "base", "plane") == 0
    alone = [one for one in curves if one["dataset"] != "plane"]
    assert probing_rows.layer_for_the_image(alone, "base", "bird") is None


# --- attributes -------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(6, 20), st.integers(1, 3), st.integers(0, 3))
def test_what_is_held_out_lies_in_one_fold(sub_categories, images, seed):
    plan, _ = pa.plan_attributes(*birds(sub_categories, images, seed=seed), seed=seed)
    for (attribute, unit), part in plan.groupby(["attribute", "unit"]):
        assert part["fold"].nunique() == 1 and part["value"].nunique() == 1, attribute
    for (attribute, value), part in plan.groupby(["attribute", "value"]):
        units = part.drop_duplicates("unit")
        folds = plan[plan["attribute"] == attribute]["fold"].nunique()
        assert units["fold"].nunique() == min(len(units), folds)
    held = plan.groupby("attribute")["held_out"].first()
    assert held.get("crown") in ("sub_category", None) and held.get("bill") in ("genus", None)


def test_the_plan_says_what_it_leaves_out():
    images, guide = birds(16)
    entries = guide["sub_categories"]
    entries["b00"]["attributes"]["crown"] = "gold"        # no other has it
    del entries["b01"]["attributes"]["bill"]
    for entry in entries.values():
        entry["attributes"]["legs"] = "two"               # nothing to tell apart
    del entries["b02"]["attributes"]
    plan, notes = pa.plan_attributes(images, guide, seed=0)
    assert any("gold" in note and "crown" in note for note in notes)
    assert any("legs is left out" in note for note in notes)
    asked = plan.groupby("attribute")["sub_category"].unique().map(set)
    assert "b00" not in asked["crown"] and "b01" not in asked["bill"] and "legs" not in asked
    assert not plan["sub_category"].eq("b02").any()
    assert (images["image_id"].to_numpy()[plan["row"]] == plan["image_id"]).all()
    for without in ({}, {"sub_categories": {"b00": {"super_category": "bird"}}}):
        plan, (note,) = pa.plan_attributes(images, without, seed=0)
        assert plan.empty and "left out" in note
        assert pa.probe_attributes(plan, np.zeros((0, 3)), seed=0).empty


def test_an_attribute_is_found_and_its_dealt_out_values_are_not():
    images, guide = birds()
    plan, notes = pa.plan_attributes(images, guide, seed=0)
    items = pa.probe_attributes(plan, planted(images, guide, "attribute"), seed=0)
    assert notes == [] and items["correct"].mean() > 0.95
    crown = items[items["attribute"] == "crown"]
    assert crown["shuffled_labels"].mean() < 0.7
    assert crown["majority"].mean() == pytest.approx(1 / 3)


@pytest.mark.parametrize("what, attribute", [("sub_category", "crown"), ("genus", "bill")])
def test_who_it_is_does_not_give_the_attribute_away(what, attribute):
    """Decodable to the last digit: who is pictured. Folds by image would leak it, held-out units do not."""
    images, guide = birds(36, genus_size=3)
    plan, _ = pa.plan_attributes(images, guide, seed=0)
    plan = plan[plan["attribute"] == attribute].reset_index(drop=True)

    def read(plan):
        states = [planted(images, guide, what, seed=seed) for seed in range(6)]
        return np.mean([pa.probe_attributes(plan, x, seed=0)["correct"].mean() for x in states])

    guessing = 1 / plan["value"].nunique()
    assert read(plan) < guessing + 0.12
    assert read(plan.assign(fold=np.arange(len(plan)) % 3)) > 0.95


def test_the_control_is_balanced_by_the_values_it_was_dealt():
    """17 red crowns and 3 blue ones, states of noise: probe and control both guess."""
    images, guide = birds(20, genus_size=2)
    for i, entry in enumerate(guide["sub_categories"].values()):
        entry["attributes"] = {"crown": "blue" if i % 7 == 0 else "red"}
    plan, _ = pa.plan_attributes(images, guide, seed=0)
    values = {"probe": [], "control": []}
    for seed in range(6):
        noise = np.random.default_rng(seed).normal(size=(len(images), 40))
        items = pa.probe_attributes(plan, noise, seed=seed).assign(model="base", place="images", layer=1)
        probe, control = pa.attribute_table(items, seed=0).to_dict("records")
        values["probe"].append(probe["value"])
        values["control"].append(control["value"])
    assert np.mean(values["probe"]) < 0.65 and np.mean(values["control"]) < 0.65


def test_one_odd_member_does_not_let_the_genus_through():
    images, guide = birds(36, genus_size=3)
    guide["sub_categories"]["b00"]["attributes"]["bill"] = "flat"  # its genus has hooked ones
    plan, _ = pa.plan_attributes(images, guide, seed=0)
    bill = plan[plan["attribute"] == "bill"]
    assert set(bill["held_out"]) == {"genus"} and bill.groupby("unit")["fold"].nunique().max() == 1
    assert set(plan.loc[plan["attribute"] == "crown", "held_out"]) == {"sub_category"}


def test_balanced_accuracy_and_shares_by_hand():
    # red: 3 of 4 right; blue: 0 of 2 -> balanced 3/8, plain 1/2
    items = pd.DataFrame({"unit": list("aabbcd"), "value": ["red"] * 4 + ["blue"] * 2,
                          "correct": [True, True, True, False, False, False]}).assign(
        model="base", place="images", layer=1, super_category="bird", attribute="crown",
        held_out="sub_category", shuffled_labels=False, dealt=["red"] * 4 + ["blue"] * 2)
    (probe, control) = pa.attribute_table(items, seed=0).to_dict("records")
    assert probe["value"] == pytest.approx(3 / 8) and probe["values"] == 2 and probe["n"] == 6
    assert probe["low"] <= 3 / 8 <= probe["high"] and pd.isna(probe["variant"])
    assert control["variant"] == "shuffled_labels" and control["value"] == 0

    both = pd.concat([items, items.assign(attribute="bill", correct=True)]).assign(
        image_id=list("uvwxyz") * 2, sub_category=lambda df: df["unit"], categories="seen", cluster="g",
        majority=False)
    shares = pa.image_shares(both).set_index("image_id")["correct"]
    assert shares.to_dict() == {"u": 1, "v": 1, "w": 1, "x": 0.5, "y": 0.5, "z": 0.5}


def test_one_attribute_changed_and_only_that_is_claimed():
    images, guide = birds(24, images=2)
    plan, _ = pa.plan_attributes(images, guide, seed=0)
    plan = pd.concat([plan.assign(attribute=name) for name in ("crown", "back", "tail")], ignore_index=True)
    plan = plan[plan["held_out"] == "sub_category"]
    rng = np.random.default_rng(0)
    before = plan.assign(model="base", place="images", correct=rng.uniform(size=len(plan)) < 0.5)
    after = before.assign(model="cot_sft")
    after.loc[after["attribute"] == "crown", "correct"] = True
    found = pa.attribute_differences(pd.concat([before, after]), [("cot_sft", "base")], seed=0)
    found = found.set_index("attribute")
    assert found["reading"].to_dict() == {"crown": "higher", "back": "cannot tell", "tail": "cannot tell"}
    assert found.loc["crown", "difference"] > 0.3 and found.loc["back", "difference"] == 0
    assert found.loc["crown", "p_holm"] == pytest.approx(3 * found.loc["crown", "p"])
    told = probing_changes.attribute_findings(found.reset_index(), "cot_sft", "base")
    assert told.startswith("1 of 3 (bird, crown, image tokens +") and told.endswith("points)")


def test_holm_is_what_a_claim_goes_by():
    """The same change is claimed when it is the only question, and not among eight that found nothing."""
    def asked(model, attribute, mended):  # seven of sixteen mended, none broken: p = 2 / 2^7
        return pd.DataFrame({"model": model, "place": "images", "super_category": "bird",
                             "attribute": attribute, "value": ["red", "blue"] * 8,
                             "unit": [f"s{i}" for i in range(16)],
                             "correct": [i < mended for i in range(16)]})

    pair = [asked("base", "crown", 0), asked("cot_sft", "crown", 7)]
    alone = pa.attribute_differences(pd.concat(pair), [("cot_sft", "base")], seed=0)
    assert alone["p"][0] < 0.05 and alone["reading"][0] == "higher"
    others = [asked(model, f"a{k}", 0) for k in range(8) for model in ("base", "cot_sft")]
    among = pa.attribute_differences(pd.concat([*pair, *others]), [("cot_sft", "base")], seed=0)
    assert among["p"][0] == alone["p"][0] and among["reading"][0] == "cannot tell"


# --- changes ----------------------------------------------------------------------------------------------


def test_who_is_compared_and_who_cannot_be_probed():
    from finer1_lib.evaluation.entries import all_entries

    known = all_entries([{"name": f"cot_sft_{name}", "label": name, "adapter": f"03_tapo/cot_sft_{name}",
                             "prompt": "cot"} for name in ("tapo", "dapo")])
    probed = probing_changes.entries_to_probe(known, ["base", "cot_sft", "cot_sft_tapo"])
    assert probing_changes.pairs_to_compare(probed) == [
        ("cot_sft", "base"), ("cot_sft_tapo", "base"), ("cot_sft_tapo", "cot_sft")]
    probed = probing_changes.entries_to_probe(known, ["cot_sft", "cot_sft_tapo"])
    assert probing_changes.pairs_to_compare(probed) == [("cot_sft_tapo", "cot_sft")]
    assert probing_changes.pairs_to_compare(probed[:1]) == []
    assert probing_changes.pairs_to_compare(probed[::-1]) == [("cot_sft", "cot_sft_tapo")]
    probed = probing_changes.entries_to_probe(known, ["base", "cot_sft_tapo"])
    assert probing_changes.pairs_to_compare(probed) == [("cot_sft_tapo", "base")]
    for models, said in ((["base", "papo"], "'papo' was not trained"), ([], "empty"),
                         (["base", "base"], "base is listed twice")):
        with pytest.raises(UserError, match=said):
            probing_changes.entries_to_probe(known, models)


def test_changes_by_hand():
    names = [f"s{i}" for i in range(12)] * 2
    base = pd.DataFrame({"model": "base", "sub_category": names, "cluster": names, "super_category": "bird",
                         "correct": [0.5] * 24})
    items = {"attribute_image_accuracy": pd.concat([base, base.assign(model="cot_sft", correct=1.0)]),
             "name_prompt_accuracy": pd.concat([base, base.assign(model="cot_sft")]),
             "h1_probe_accuracy": pd.DataFrame()}
    table = probing_changes.changes(items, [("cot_sft", "base")], seed=0)
    assert list(table["metric"]) == ["attribute_image_accuracy", "name_prompt_accuracy"]
    assert list(table["kind"]) == ["reading", "use"] and list(table["difference"]) == [0.5, 0.0]
    assert list(table["reading"]) == ["higher", "cannot tell"]
    told = probing_changes.findings(table, "cot_sft", "base")
    assert told.startswith("attributes, image tokens +50.0 [") and "**cannot tell**" in told
    assert "left out" in probing_changes.findings(table, "base", "cot_sft")
    assert set(probing_changes.MEASURES) < set(probing_rows.COLUMNS)


def test_the_auc_changes_with_its_own_interval():
    from test_probing import planted as h3_planted

    from finer1_lib.probing import probes as probing

    tables = {}
    for kind in ("noise", "right"):
        questions, x = h3_planted(kind)
        plan = pd.DataFrame(questions).assign(super_category="bird")
        plan["fold"] = probing.grouped_folds(plan["swap"], 5, 0, plan["categories"])
        tables[kind] = probing_items.probe_h3(plan, x, seed=0)
    both = pd.concat([tables["noise"].assign(model="base"), tables["right"].assign(model="cot_sft")])
    (row,) = probing_changes.changes({"h3_auc": both}, [("cot_sft", "base")], seed=0).to_dict("records")
    assert row["difference"] > 0.3 and row["reading"] == "higher" and row["p"] is None


def test_a_verdict_never_turns_undecided_into_equal():
    def test(reading, difference, metric="h1_probe_accuracy", variant=None):
        return {"metric": metric, "variant": variant, "model": "cot_sft", "reference": "base",
                "reading": reading, "difference": difference}

    for reading, difference, said in (
            ("undecided", 0.0, "undecided"), ("different", 0.1, "more"), ("different", -0.1, "less"),
            ("equivalent", 0.0, "the same, within the margin"),
            ("different, but within the margin", -0.01, "less, but within the margin")):
        told = probing_rows.verdict([test(reading, difference), test("different", 1, "h3_auc"),
                                     test("different", 1, variant="epithet_only")], "h1_probe_accuracy")
        assert told == f"cot_sft against base: {said}"
    assert probing_rows.verdict([], "h3_auc") == "not tested here"


# --- states of a model ------------------------------------------------------------------------------------


def test_all_layers_and_places_come_from_one_forward(tmp_path, monkeypatch):
    """One forward or several, small batches or large: the same states; an image cannot know its question."""
    import tiny_checkpoint

    from finer1_lib import models
    from finer1_lib.core.prompts import user_message
    from finer1_lib.models import hidden_states

    loaded = models.load(tiny_checkpoint.build(tmp_path / "base"))
    sizes = [(112, 112), (84, 140), (56, 56)]
    pictures = [tiny_checkpoint.picture(size=size, seed=i) for i, size in enumerate(sizes)]
    prompts = [user_message("What species is this bird? Think", picture) for picture in pictures]
    both = pooled_states(loaded, prompts, where=["image", "last"])
    assert both.shape == (2, 3, 3, 32) and both.dtype == np.float32  # places, layers, prompts, numbers
    for place, where in enumerate(("image", "last")):
        alone = pooled_states(loaded, prompts, layers=[0, 1, -1], where=where)
        np.testing.assert_allclose(both[place], alone, atol=1e-5)
    batches, forward = [], loaded.model.model.forward
    monkeypatch.setattr(loaded.model.model, "forward", lambda **kw: batches.append(kw) or forward(**kw))
    monkeypatch.setattr(hidden_states, "FORWARD_TOKENS", 60)
    small = pooled_states(loaded, prompts, where=["image", "last"])
    np.testing.assert_allclose(small, both, atol=1e-5)
    assert len(batches) > 1 and max(kw["input_ids"].numel() for kw in batches) <= 60
    other = pooled_states(loaded, [user_message("Describe", picture) for picture in pictures])
    np.testing.assert_allclose(both[0], other, atol=1e-5)
    with pytest.raises(ValueError, match="where"):
        pooled_states(loaded, prompts, where=[])


# --- figures ----------------------------------------------------------------------------------------------


def test_figures_by_layer_attribute_and_change():
    import matplotlib

    matplotlib.use("Agg")
    from finer1_lib.probing import plots

    rows = [{"metric": metric, "model": model, "layer": depth, "variant": variant, "value": 0.25, "low": low,
             "high": 0.5} for metric in plots.TITLES for model in ("base", "cot_sft") for depth in (0, 1)
            for variant, low in ((None, 0.125), ("shuffled_labels", None))]
    curves = plots.layer_curves(pd.DataFrame(rows))
    assert len(curves.axes) == len(plots.TITLES) == len(probing_rows.COLUMNS)
    assert curves.get_figwidth() <= 13
    first = curves.axes[0].get_lines()
    dots = [line for line in first if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in dots] == [[25, 25]] * 2  # percent
    assert all(line.get_markerfacecolor() == "white" for line in first if line.get_marker() == "D")
    gaps = [axis for axis in curves.axes if "cosine" in axis.get_title()]
    assert list(gaps[0].get_lines()[0].get_ydata()) == [0.25, 0.25]

    table = pd.DataFrame(rows[:8]).assign(super_category="bird", attribute="crown", values=4,
                                          held_out="genus")
    panel = plots.attribute_curves(table).axes[0]
    assert panel.get_title() == "crown *" and 25 in [line.get_ydata()[0] for line in panel.get_lines()]

    changed = pd.DataFrame([{"first": "cot_sft", "second": "base", "kind": kind, "label": "x",
                             "difference": 0.1, "low": 0.05, "high": 0.2, "reading": "higher"}
                            for kind in ("reading", "use")])
    texts = [text.get_text() for text in plots.change_dots(changed).axes[0].texts]
    assert texts == ["+10.0 higher"] * 2


def test_nothing_to_probe_gives_empty_tables_and_no_figures():
    from types import SimpleNamespace

    from finer1_lib.probing import Study, make_plans, right_wrong_images, saved
    from finer1_lib.probing.study import Models

    table = pd.DataFrame(columns=["image_id", "super_category", "sub_category", "categories", "shot", "split"])
    plans = make_plans(table, {}, {}, most=0, train_images=4, test_images=4, num_images=2, num_folds=5,
                       wrong_names="near", seed=0, states=lambda images: pytest.fail("states were read"))
    assert len(plans.notes) == 2  # H2 and the attributes say why
    study = Study(Models({}, [SimpleNamespace(model="base")], [], 0, [0]), plans, {"base": {}}, seed=0)
    shown = [study.h1(), study.h1_by_adam(0), study.h2(2), study.h3(), study.attributes(), study.picture(),
             study.picture_elsewhere()[1], study.averages("h3_auc"), *study.attribute_tables()[::2],
             *study.attribute_changes()[:2], study.changes(), *study.tables().values()]
    assert not any(map(len, shown)) and study.rows == [] == study.comparisons
    assert saved(None, "h3_picture", right_wrong_images, study.picture()) is None
    words = study.in_words(study.changes(), study.attribute_changes()[0])
    assert "left out" in words["h3_auc"] and words["attributes"] == "none was probed"
