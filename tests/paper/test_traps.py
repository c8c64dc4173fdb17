"""Every trap of the released evaluation: `official`, bug for bug the release, falls in; the kit does not.

finer1_lib/paper/README.md lists them with the release's lines. Answers are planted, names invented or common. Where a trap lies outside of scoring (distractors, prompts, trials, scripts, pixels) the
test shows what the kit does in its place. Kinder or fuller readings stand in rows of their own: the similarity
unclipped (B2), aliases and whole words (B5).
"""

import random
from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import tiny_checkpoint
from PIL import Image

from finer1_lib.core.completions import strict as strict_reward
from finer1_lib.core.errors import UserError
from finer1_lib.core.prompts import PROMPTS, Prompt
from finer1_lib.evaluation.entries import FIXED
from finer1_lib.evaluation.requests import select_items
from finer1_lib.evaluation.records import collect_records
from finer1_lib.evaluation.requests import always_first, build_requests
from finer1_lib.evaluation.scores.scoring import make_scorer, pick, score_records, summary_rows
from finer1_lib.evaluation.summary import main_table
from finer1_lib.evaluation.systems.answering import ChatAnswerer
from finer1_lib.models.trainable import Trainable, make_trainable, save_trained
from finer1_lib.training.rewards import contains_answer

Said = namedtuple("Said", "text tokens truncated")
OFFICIAL, STRICT = make_scorer("official"), make_scorer("strict")
NAMES = ["Dunen Wren", "Marlo Wren", "Tarn Finch", "Sorel Finch", "Bodan Lark", "Kelow Lark"]


def record(completion, label="Rock Wren", path="bird_200/1.jpg", super_category="bird"):
    return {"completion": completion, "sub_category": label, "image_id": path,
            "super_category": super_category}  # fmt: skip


def closed(completion, label="Rock Wren"):
    """(official, strict) accuracy of one closed-world answer."""
    item = record(completion, label)
    return OFFICIAL.closed(item)["accuracy"], STRICT.closed(item)["accuracy"]


def opened(completion, *given, **known):
    """(official, strict) text inclusion of one open-world answer."""
    item = record(completion, *given, **known)
    return OFFICIAL.open(item)["text_inclusion"], STRICT.open(item)["text_inclusion"]


@pytest.fixture
def items(tmp_path):
    """(folder of pictures, 60 items): ten images of each name, truth first as in the release."""
    found = []
    for name in NAMES:
        for number in range(10):
            path = f"bird/{name}/{number}.png"
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (28, 28)).save(tmp_path / path)
            others = [other for other in NAMES if other != name][:3]
            found.append({"item_id": path, "image_id": path, "super_category": "bird", "sub_category": name,
                          "categories": "seen", "question": "What species is this bird?",
                          "options": [name, *others], "width": 28, "height": 28})  # fmt: skip
    return tmp_path, found


def ask(items, answer, entry=FIXED[0], setting="closed_world", order="shuffled", file="records.jsonl"):
    """Records of a fake model: `answer(prompt)` is what it says, greedily."""

    def generate(loaded, prompts, *, max_new_tokens, temperature, batch_size, seed):
        assert temperature == 0.0
        return [Said(answer(messages[0]["content"][1]["text"]), 5, False) for messages in prompts]

    requests = build_requests(entry, items[1], setting, order=order, seed=0)
    return collect_records([requests], items[0] / file, lambda: ChatAnswerer("model", items[0], generate=generate),
                           max_new_tokens=8, batch_size=16)


# ---------------------------------------------------------------- A: the closed world


def test_the_truth_is_always_the_first_option(items):
    records = always_first(items[1], ["release", "shuffled", "rotations"], seed=0)
    scores = score_records(records, [OFFICIAL, STRICT])
    mean = scores[scores["metric"] == "accuracy"].groupby(["scorer", "option_order"])["value"].mean()
    assert mean["official", "release"] == 1.0  # right every time, without a look at a picture
    assert abs(mean["strict", "shuffled"] - 0.25) < 0.17  # three standard deviations of 60 guesses
    assert mean["strict", "rotations"] == 0.0
    chose = scores[scores["metric"] == "chose_first"]
    assert set(chose["value"]) == {1.0}  # and the kit says how it was done


def test_distractors_mined_by_the_encoder_that_is_tested():
    """The three nearest by an encoder's own measure are its hardest; the kit's guide knows no encoder."""
    from finer1_lib.data.guide import guide_similarity
    from finer1_lib.data.split import evaluation_items
    from finer1_lib.data.triplets import prototype_similarity

    rng = np.random.default_rng(0)
    names = [f"Kind {letter}" for letter in "ABCDEFGHIJKLMNOPQRST"]
    seen = {name: rng.normal(size=6) for name in names}  # what the encoder makes of each name
    own = prototype_similarity({("bird", name): v / np.linalg.norm(v) for name, v in seen.items()})
    guide = {"sub_categories": {name: {"attributes": dict(zip("abcdef", rng.integers(0, 3, 6).tolist()))}
                                for name in names}}  # fmt: skip
    rows = [{"image_id": f"{name}/{n}", "super_category": "bird", "sub_category": name, "split": "test",
             "categories": "seen"} for name in names for n in range(30)]  # fmt: skip
    pictures = {row["image_id"]: seen[row["sub_category"]] + rng.normal(size=6) for row in rows}

    def encoder_scores(similarity):
        asked = evaluation_items(pd.DataFrame(rows), similarity, seed=0)
        best = [max(item["options"], key=lambda name: pictures[item["image_id"]] @ seen[name]
                    / np.linalg.norm(seen[name])) for item in asked]  # fmt: skip
        return np.mean([name == item["sub_category"] for name, item in zip(best, asked)])

    assert encoder_scores(own) < encoder_scores(guide_similarity(guide)) - 0.1
    for item in evaluation_items(pd.DataFrame(rows), guide_similarity(guide), seed=0)[::30]:
        near = guide_similarity(guide)
        furthest = min(near("bird", item["sub_category"], name) for name in item["options"][1:])
        closer = [n for n in names if near("bird", item["sub_category"], n) > furthest]
        assert set(closer) <= set(item["options"])


@pytest.mark.parametrize(
    "said",
    ["House Wren, Rock Wren, Marsh Wren", "not a Rock Wren", "House Wren or Rock Wren", "Great Rock Wren"],
)
def test_containment_rewards_lists_and_for_longer_names(said):
    assert closed(f"<answer>{said}</answer>") == (1, 0)
    assert closed("<answer>Border Collie</answer>", "Collie") == (1, 0)  # a wrong option that holds the label
    assert closed("<answer>Collie</answer>", "Collie") == (1, 1)
    listed = {**record(f"<answer>{said}</answer>"), "options": ["Rock Wren", "House Wren", "Marsh Wren"]}
    assert STRICT.closed(listed)["multiple_answers"] == (said.count("Wren") > 1)


@pytest.mark.parametrize(
    "completion, official, reward, failure",
    [
        ("<answer>House Wren</answer> or <answer>Rock Wren</answer>", (1, 1), 0, 1),  # up to the LAST tag
        ("<answer>Rock Wren</answer><answer>House Wren</answer>", (1, 1), 1, 1),
        ("<answer>House Wren <answer>Rock Wren</answer></answer>", (1, 1), 1, 1),
        ("It is a Rock Wren.", (0, 1), 0, 1),  # no tags: wrong in one world, the whole text in the other
        ("<answer></answer> Rock Wren", (0, 1), 0, 1),
        ("<answer>Rock Wren", (0, 1), 0, 1),
        ("Rock Wren</answer>", (0, 1), 0, 1),
        ("<think><answer>Rock Wren</answer></think>", (1, 1), 1, 1),
        ("", (0, 0), 0, 1),
    ],
)
def test_three_parsers_where_one_should_be(completion, official, reward, failure):
    assert (closed(completion)[0], opened(completion)[0]) == official
    assert contains_answer(completion, "Rock Wren") == reward  # the release's training reads otherwise
    for scores in (STRICT.closed(record(completion)), STRICT.open(record(completion))):
        right = scores.get("accuracy", scores.get("text_inclusion"))
        assert right == strict_reward(completion, "Rock Wren") == 0  # the kit's reward and scorer agree
        assert scores["format_failure"] == failure


def test_prompts_under_each_other_s_labels(items, monkeypatch):
    """Scores do not tell what was asked, so every record carries its text and hash, and no other may pass."""
    (first, *_) = ask(items, lambda prompt: "<answer>Dunen Wren</answer>", setting="open_world")
    exchanged = {**first, "prompt": "Choose from: Dunen Wren, Marlo Wren.", "prompt_name": "answer_closed"}
    assert OFFICIAL.open(first) == OFFICIAL.open(exchanged)  # falls for it: nothing shows in the score
    assert first["prompt_hash"] == PROMPTS["answer_open"].hash != PROMPTS["answer_closed"].hash
    assert "Choose" not in first["prompt"]
    for name, options in (("answer_open", NAMES[:4]), ("answer_closed", None)):
        with pytest.raises(ValueError, match="options"):  # the closed text in the open world, or vice versa
            PROMPTS[name].text(question="?", options=options)
    monkeypatch.setitem(PROMPTS, "answer_open", Prompt("answer_open", "{question} Name it in <answer>."))
    with pytest.raises(UserError, match="answers another question"):  # another wording under the same label
        ask(items, lambda prompt: "", setting="open_world")


def test_a_baseline_queried_under_another_prompt(items):
    """Weights that cannot follow the four-part prompt: which of their two scores is the baseline's?"""

    def answer(prompt):
        name = prompt.split("Choose from: ")[1].split(", ")[0]
        return "I think, therefore I ramble." if "Think" in prompt else f"<answer>{name}</answer>"

    short, long = FIXED[:2]
    assert (short.adapter, long.adapter) == (None, None) and short.prompts != long.prompts
    records = ask(items, answer, short, order="shuffled") + ask(items, answer, long, order="shuffled")
    rows = summary_rows(score_records(records, [OFFICIAL, STRICT]), seed=0)
    value = pick(rows, scorer="official", dataset="average", metric="accuracy").set_index("model")["value"]
    assert value[short.model] > 0.1 and value[long.model] == 0.0  # official: one model, two truths
    assert [line[0] for line in main_table(rows)[1]] == [short.label, long.label]  # the kit shows both
    failed = pick(rows, metric="format_failure", dataset="average").set_index("model")["value"]
    assert (failed[short.model], failed[long.model]) == (0.0, 1.0)  # and says why
    assert {(r["model"], r["prompt_name"], r["prompt_hash"]) for r in records} == {
        (c.model, f"{c.prompts}_closed", PROMPTS[f"{c.prompts}_closed"].hash) for c in (short, long)}


def test_three_greedy_trials_are_one_trial(items):
    answer = lambda prompt: f"<answer>{random.Random(prompt).choice(NAMES)}</answer>"  # noqa: E731
    trials = [ask(items, answer, file=f"{n}.jsonl") for n in range(3)]
    means = [np.mean([OFFICIAL.closed(r)["accuracy"] for r in trial]) for trial in trials]
    assert 0 < means[0] < 1 and len(set(means)) == 1  # "over three trials": no spread, so no doubt
    rows = summary_rows(score_records(trials[0], [STRICT]), seed=0)
    (row,) = pick(rows, metric="accuracy", dataset="average").to_dict("records")
    assert row["low"] < row["value"] < row["high"] and row["n"] == 60  # the kit's: over sub-categories


def test_nothing_evaluated_and_no_error(items, tmp_path):
    """The release's script skips what is missing and ends well; each of these ends in one line."""
    from finer1_lib.runs.stage import Stage

    sizes = pd.DataFrame({"image_id": [], "width": [], "height": []})
    with pytest.raises(UserError, match="holds no items: run 01_data again"):
        select_items([], sizes, images_per_class=0, seed=0)
    with pytest.raises(UserError, match="which images.parquet lacks: run 01_data again"):
        select_items(items[1], sizes, images_per_class=0, seed=0)
    settings = {"run_name": "r", "output_root": str(tmp_path / "runs"), "seed": 0}
    with pytest.raises(UserError, match="04_evaluation needs 00_miniature_world"):
        Stage.open("04_evaluation", settings)
    (items[0] / items[1][0]["image_id"]).unlink()

    def reads_pictures(loaded, prompts, **options):
        for messages in prompts:
            messages[0]["content"][0]["image"].open()

    requests = build_requests(FIXED[0], items[1], "open_world")
    with pytest.raises(UserError, match="0.png"):
        collect_records([requests], items[0] / "r.jsonl", lambda: ChatAnswerer(0, items[0], generate=reads_pictures),
                        max_new_tokens=8, batch_size=16)
    assert not (items[0] / "r.jsonl").exists()


def test_one_pixel_budget_in_training_and_in_evaluation(tmp_path):
    """The release reads one photograph in two sizes; the kit's weights carry one processor with them."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    from finer1_lib import models
    from finer1_lib.models.encoding import Encoder

    wide = dict(factor=28, min_pixels=3_136, max_pixels=12_845_056)
    enlarged = (200_704 / (333 * 500)) ** 0.5  # training first brings a small picture to its own least size
    trained = smart_resize(int(333 * enlarged), int(500 * enlarged), **wide)
    assert (trained, smart_resize(333, 500, **wide)) == ((364, 560), (336, 504))  # height, width: two grids
    base = tiny_checkpoint.build(tmp_path / "base")
    picture, grids = tiny_checkpoint.picture(size=(500, 333)), []
    for kind in ("lora", "full"):
        plan = Trainable(kind, rank=2, alpha=4) if kind == "lora" else Trainable(kind)
        loaded = models.load(base, full_finetuning=kind == "full")
        before = make_trainable(loaded, plan, seed=0)
        save_trained(before, tmp_path / kind)
        for loaded in (before, models.load(base, tmp_path / kind), models.load(base)):
            grids.append(Encoder(loaded.processor).picture(picture)[1].tolist())
    assert len(grids) == 6 and all(grid == grids[0] for grid in grids)


# ---------------------------------------------------------------- B: the open world


def test_the_super_category_is_guessed_from_the_path():
    near = "<answer>bird</answer>"  # the word itself, which is worth nothing
    assert OFFICIAL.open(record(near, "Blackbird"))["relative_semantic_similarity"] > 0  # against "object"
    assert OFFICIAL.open(record(near, "Blackbird", "birds/1.jpg"))["relative_semantic_similarity"] == 0
    # a data root that holds another super-category's word: a bird loses its whole name to the rule for cars
    assert opened("<answer>House Wren</answer>", path="racecars/birdhouse/1.jpg") == (1, 0)
    for path in ("bird_200/1.jpg", "birds/1.jpg", "racecars/1.jpg", "x.png"):
        assert STRICT.open(record(near, "Blackbird", path))["relative_semantic_similarity"] == 0
        assert opened("<answer>House Wren</answer>", path=path)[1] == 0


@pytest.mark.parametrize("said", ["rock wren", "ROCK WREN", "Rock-Wren", "rock_wren"])
def test_relative_similarity_of_spellings(said):
    """A right name in another spelling. (That no weight is drawn anew: test_similarity.)"""
    for label in ("Rock Wren", "Rock_Wren"):
        item = record(f"<answer>{said}</answer>", label)
        assert OFFICIAL.open(item)["relative_semantic_similarity"] < 1
        assert STRICT.open(item)["relative_semantic_similarity"] == 1 == STRICT.open(item)["text_inclusion"]


def test_clipping_hides_answers_that_are_worse_than_the_super_category_s_word():
    """A car for a bird, and "bird" for a bird: both 0, unless nothing is clipped."""
    path, key = {"path": "birds/1.jpg"}, "relative_semantic_similarity"
    for scorer in (OFFICIAL, STRICT):
        far, word = (scorer.open(record(f"<answer>{said}</answer>", "Blackbird", **path))
                     for said in ("Volvo XC", "bird"))  # fmt: skip
        assert far[key] == word[key] == 0 == word[f"{key}_unclipped"]
        # "  Blackbird " has 10 trigrams, "  bird " 5, three in both, so Sim = 3 / 12; none with "  Volvo XC "
        assert far[f"{key}_unclipped"] == pytest.approx((0 - 1 / 4) / (1 - 1 / 4))


def test_a_second_encoder_is_a_row_of_its_own():
    class Blind:
        """Sees one thing in every text."""

        name = "blind"

        def prepare(self, texts):
            list(texts)

        def __call__(self, a, b):
            return 1.0 if a == b else 0.5

    said = {**record("<answer>House Wren</answer>"), "model": "m", "setting": "open_world", "item_id": "1",
            "categories": "seen", "option_order": None}  # fmt: skip
    scores = score_records([said], [make_scorer(name, more=[Blind()]) for name in ("official", "strict")])
    rows = pick(summary_rows(scores, seed=0, similarity="trigram"), dataset="bird",
                metric="relative_semantic_similarity")  # fmt: skip
    assert list(zip(rows["scorer"], rows["variant"])) == [
        (scorer, variant) for scorer in ("official", "strict") for variant in ("trigram", "blind")]
    assert rows[rows["variant"] == "blind"]["value"].tolist() == [0.0, 0.0]  # no nearer than "bird"
    assert (rows[rows["variant"] == "trigram"]["value"] > 0).all()


@pytest.mark.parametrize("ending", ["", "<answer></answer>", "<answer> </answer>"])
def test_without_an_answer_the_reasoning_is_scored(ending):
    thought = "<think>It might be a Rock Wren, but the bill says no.</think>"
    assert opened(thought + ending) == (1, 0)
    assert opened(thought + "<answer>House Wren</answer>") == (0, 0)  # whoever commits himself loses
    item = record(thought + ending)
    assert OFFICIAL.open(item)["relative_semantic_similarity"] > 0
    scores = STRICT.open(item)
    assert (scores["relative_semantic_similarity"], scores["format_failure"]) == (0, 1)  # and it is counted
    assert OFFICIAL.open(item)["fallback"] == 1 > OFFICIAL.open(record("<answer>x</answer>"))["fallback"]


def test_cars_lose_their_last_two_words():
    car = {"path": "stanford-cars/1.jpg", "super_category": "car"}
    for said in ("Dacar Falcon", "Dacar Falcon Estate 2012", "Dacar Falcon Type-Z 2007"):
        assert opened(f"<answer>{said}</answer>", "Dacar Falcon Type-S 2012", **car) == (1, 0)
    assert opened("<answer>Dacar Falcon Type-S 2012</answer>", "Dacar Falcon Type-S 2012", **car) == (1, 1)
    # the rule is the open world's alone
    assert closed("<answer>Dacar Falcon</answer>", "Dacar Falcon Type-S 2012") == (0, 0)


@pytest.mark.parametrize("said, label", [("primrose", "Rose"), ("Border Collie", "Collie"), ("fowl", "Owl")])
def test_labels_inside_longer_words_and_names(said, label):
    assert opened(f"<answer>{said}</answer>", label) == (1, 0)
    assert opened(f"<answer>{label}</answer>", label) == (1, 1)
    item = record(f"<answer>{said}</answer>", label, super_category="dog" if "Collie" in label else "x")
    assert STRICT.open(item)["boundary_inclusion"] == 0  # whole words, and Border Collie is another breed
    item["completion"] = f"<answer>It is a {label}.</answer>"
    assert [STRICT.open(item)[key] for key in ("text_inclusion", "boundary_inclusion")] == [0, 1]


@pytest.mark.parametrize("said, label, data_set", [
    ("Red-winged Blackbird", "Red Winged Blackbird", "bird"),
    ("Brewer's Blackbird", "Brewer Blackbird", "bird"),
    ("Greater Roadrunner", "Geococcyx", "bird"), ("727-200", "Boeing 727-200", "aircraft"),
    ("German Shorthaired Pointer", "German Shorthaired", "pet"), ("coltsfoot", "colt's foot", "flower"),
])
def test_another_name_of_the_right_thing_is_wrong_for_the_release(said, label, data_set):
    item = record(f"<answer>{said}</answer>", label, super_category=data_set)
    shorter = label.lower() in said.lower()  # "German Shorthaired" happens to stand in its full name
    assert OFFICIAL.open(item)["text_inclusion"] == shorter
    assert STRICT.open(item)["text_inclusion_with_aliases"] == 1
    assert STRICT.open(item)["text_inclusion"] == ("-" in said and data_set == "bird")  # folded, no alias
    item["completion"] = f"<answer>not a {said}</answer>"
    assert STRICT.open(item)["text_inclusion_with_aliases"] == 0
