"""Other ways to ask: what stands in a request, which examples are drawn, what a letter is."""

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from finer1_lib.core.errors import UserError
from finer1_lib.core.images import ImageFile
from finer1_lib.core.prompts import PROMPTS
from finer1_lib.evaluation.entries import FIXED, with_strategies, with_systems
from finer1_lib.evaluation.records import collect_records
from finer1_lib.evaluation.requests import all_requests, build_requests
from finer1_lib.evaluation.systems.registry import System
from finer1_lib.evaluation.systems.strategies import draw_examples, draw_seed, messages_for, shots_of
from finer1_lib.models.generation import Generation

OFFERED = ["Dunen Wren", "Marlo Wren", "Tarn Finch", "Sorel Finch"]
NAMES = {"bird": [*OFFERED, "Kelow Lark", "Bodan Lark", "Anner Gull", "Sibal Gull"], "car": ["Audi A", "Audi B"]}
KEYS = ["item_id", "image_id", "super_category", "sub_category", "categories", "model", "setting",
        "prompt_name", "prompt", "prompt_hash", "options", "option_order", "rotation", "seed", "size"]


def images():
    """Two shots, one other training picture and one test picture of every sub-category."""
    rows = [{"image_id": f"{word}/{name}/{number}.png", "super_category": word, "sub_category": name,
             "split": "test" if number == 3 else "train", "shot": number if number < 2 else -1}
            for word, names in NAMES.items() for name in names for number in range(4)]
    return pd.DataFrame(rows)


def item(name="Dunen Wren", word="bird", number=3, **changes):
    path = f"{word}/{name}/{number}.png"
    return {"item_id": path, "image_id": path, "super_category": word, "sub_category": name,
            "categories": "seen", "question": f"What species is this {word}?", "width": 28, "height": 28,
            "options": OFFERED, **changes}


def row(entry, samples=8):
    return with_strategies(FIXED, [entry], samples)[-1]


def ask(entry, setting="closed_world", items=None, **options):
    options.setdefault("shots", shots_of(images()))
    return build_requests(row(entry), items or [item()], setting, **{"examples": 2, **options})


def test_a_question_that_stands_alone_says_nothing_of_strategies():
    for setting in ("closed_world", "open_world"):
        (request,) = build_requests(FIXED[3], [item()], setting, shots=shots_of(images()))
        assert list(request) == KEYS


def test_shots_are_what_training_may_see():
    shots = shots_of(images())
    assert {word: sorted(of) for word, of in shots.items()} == {word: sorted(of) for word, of in NAMES.items()}
    assert shots["car"]["Audi A"] == ["car/Audi A/0.png", "car/Audi A/1.png"]


@given(seed=st.integers(0, 10**6), name=st.sampled_from(OFFERED), count=st.integers(1, 4))
def test_examples_never_hold_one_of_the_item_s_options(seed, name, count):
    """Not its own sub-category, which would be the answer; nor another option, which would be ruled out."""
    shots = shots_of(images())
    drawn = draw_examples(item(name), shots, count, seed)
    names = [found for _, found in drawn]
    assert len(set(names)) == count and set(names) <= set(NAMES["bird"]) - set(OFFERED)
    assert all(image_id in shots["bird"][found] for image_id, found in drawn)
    shuffled = shots_of(images().sample(frac=1, random_state=seed % 7))
    assert draw_examples(item(name), shuffled, count, seed) == drawn


def test_examples_go_by_seed_and_item():
    shots, many = shots_of(images()), [item(number=number) for number in range(30)]
    drawn = [draw_examples(one, shots, 2, 0) for one in many]
    assert len({str(one) for one in drawn}) > 5 and drawn != [draw_examples(one, shots, 2, 1) for one in many]


@pytest.mark.parametrize(("word", "name", "count", "others"), [
    ("bird", "Dunen Wren", 5, 4), ("bird", "Dunen Wren", 0, 4), ("car", "Audi A", 2, 1)])
def test_more_examples_than_sub_categories_are_refused(word, name, count, others):
    with pytest.raises(UserError, match=f"examples is {count}: '{word}' has shots of {others} "):
        draw_examples(item(name, word), shots_of(images()), count, 0)


def test_examples_stand_before_the_question_as_turns_that_were_answered():
    (closed,), (opened,) = ask("cot_sft=in_context"), ask("cot_sft=in_context", "open_world")
    assert closed["strategy"] == "in_context" and closed["prompt_name"] == "answer_closed"
    assert closed["examples"] == opened["examples"] and len(closed["examples"]) == 2
    messages = messages_for(closed, "root")
    assert [turn["role"] for turn in messages] == ["user", "assistant"] * 2 + ["user"]
    for (image_id, name), asked, answered in zip(closed["examples"], messages[::2], messages[1::2]):
        picture, text = asked["content"]
        assert picture["image"] == ImageFile("root", image_id) and text["text"] == closed["example_prompt"]
        assert answered["content"] == [{"type": "text", "text": f"<answer>{name}</answer>"}]
    picture, text = messages[-1]["content"]
    assert picture["image"] == ImageFile("root", closed["image_id"]) and text["text"] == closed["prompt"]
    assert closed["example_prompt"] == PROMPTS["answer_open"].text(question=item()["question"])


def test_step_by_step_asks_in_its_own_words_whatever_the_row_was_trained_on():
    (closed,) = ask("cot_sft=step_by_step")
    assert closed["prompt_name"] == "step_closed" and "step by step" in closed["prompt"]
    assert closed["prompt_hash"] == PROMPTS["step_closed"].hash and "examples" not in closed
    assert all(name in closed["prompt"] for name in closed["options"])
    assert ask("cot_sft=step_by_step", "open_world")[0]["prompt_name"] == "step_open"


def test_self_consistency_asks_k_times_in_the_row_s_own_words():
    entry = row("cot_sft=self_consistency", samples=3)
    requests = build_requests(entry, [item(), item(number=4)], "closed_world")
    assert [(r["item_id"][-5], r["sample"], r["samples"]) for r in requests] == [
        ("3", 0, 3), ("3", 1, 3), ("3", 2, 3), ("4", 0, 3), ("4", 1, 3), ("4", 2, 3)]
    assert {r["prompt_name"] for r in requests} == {"cot_closed"}
    lists = all_requests(row("base=self_consistency"), [item()], ["shuffled", "release", "rotations"], seed=0)
    assert [(each[0]["setting"], each[0]["option_order"], len(each)) for each in lists] == [
        ("closed_world", "shuffled", 8), ("open_world", None, 8)]


def test_letters_stand_before_the_options_in_the_order_shown():
    lettered = with_systems(FIXED, [System(name="x", label="X", checkpoint="a/b", prompts="letter")])[-1]
    (closed,) = build_requests(lettered, [item()], "closed_world", seed=5)
    a, b, c, d = closed["options"]
    assert f"\nA. {a}\nB. {b}\nC. {c}\nD. {d}\n" in closed["prompt"] and closed["lettered"] is True
    (opened,) = build_requests(lettered, [item()], "open_world")
    assert "lettered" not in opened and opened["prompt"] == PROMPTS["answer_open"].text(item()["question"])
    assert [name for name, prompt in PROMPTS.items() if prompt.lettered] == ["letter_closed"]


def test_a_file_s_wordings_may_be_lettered_too(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text('answer_closed: "{question} Pick:\\n{options_lettered}\\nin <answer></answer>"\n')
    mine = System(name="x", label="X", checkpoint="a/b", prompts_from=str(own))
    entry = with_systems(FIXED, [mine])[-1]
    (closed,), (opened,) = (
        build_requests(entry, [item()], setting) for setting in ("closed_world", "open_world"))
    assert closed["lettered"] and "Pick:\nA. " in closed["prompt"]
    assert closed["prompt_hash"] != PROMPTS["answer_closed"].hash == build_requests(
        FIXED[0], [item()], "closed_world")[0]["prompt_hash"]
    assert opened["prompt_hash"] == PROMPTS["answer_open"].hash  # what the file lacks is the kit's


# --- encoders


def encoder(prompts="clip_photo"):
    system = System(name="e", label="E", kind="encoder", checkpoint="a/b", prompts=prompts)
    return with_systems(FIXED, [system])[-1]


def test_an_encoder_chooses_among_all_labels_in_place_of_the_open_world():
    lists = all_requests(encoder(), [item()], ["shuffled", "release"], seed=0, labels=NAMES)
    assert [(one["setting"], one["option_order"]) for (one,) in lists] == [
        ("closed_world", "shuffled"), ("closed_world", "release"), ("all_labels", None)]
    last = lists[-1][0]
    assert last["options"] is None and "labels_hash" not in lists[0][0]
    assert last["prompt"] == "a photo of a {}, a type of bird." and last["prompt_name"] == "clip_photo"
    shuffled = {"bird": NAMES["bird"][::-1] * 2, "car": ["Audi Z"]}
    same, other = (build_requests(encoder(), [item()], "all_labels", labels=labels)[0]["labels_hash"]
                   for labels in (shuffled, {"bird": NAMES["bird"][:3]}))
    assert same == last["labels_hash"] != other
    with pytest.raises(UserError, match="no sub-categories of 'bird' to choose from"):
        build_requests(encoder(), [item()], "all_labels", labels={"car": ["Audi A"]})


def test_an_answer_among_other_labels_is_another_question(tmp_path):
    class Nearest:
        def answer(self, requests, *, max_new_tokens, seed):
            return [Generation("<answer>Dunen Wren</answer>", 0, False) for _ in requests]

    def collect(labels):
        asked = all_requests(encoder(), [item()], ["shuffled"], seed=0, labels=labels)
        return collect_records(asked, tmp_path / "r.jsonl", Nearest, max_new_tokens=0, batch_size=4)

    assert len(collect(NAMES)) == 2
    with pytest.raises(UserError, match="answers another question for bird/Dunen Wren/3.png"):
        collect({"bird": NAMES["bird"][:3]})


# --- chance


def test_each_batch_draws_by_whom_it_asks_about_what():
    entry = row("cot_sft=self_consistency", 2)
    one, two = (build_requests(entry, [item(number=number)], "open_world") for number in (3, 4))
    seeds = {draw_seed(0, batch) for batch in (one, two, one[:1], one[1:])} | {draw_seed(1, one)}
    assert len(seeds) == 5 and draw_seed(0, [dict(r) for r in one]) == draw_seed(0, one)
    assert all(0 <= seed < 2**48 for seed in seeds)
