"""Prompts read from a checkout, from one file of it, or from YAML; nothing of it is executed."""

import pytest

from finer1_lib.core.errors import UserError
from finer1_lib.core.prompts import PROMPTS, Prompt
from finer1_lib.evaluation.entries import FIXED
from finer1_lib.evaluation.requests import all_requests, build_requests
from finer1_lib.evaluation.worded_prompts import EVALUATION_FILE, TRAINING_FILE, read_prompts

PYTHON = '''
import torch_that_is_not_there
raise SystemExit("executed")

def closed(data):
    PATH = "{Nowhere}/x"
    TEMPLATE = ("Asked {Question}, out of {Options}, "
                "think in <think> </think>; {{kept}}.")

def open_world(data):
    TEMPLATE: str = "Asked {Question}. Think."
    OTHER = "Result: {}"
'''
JINJA = "{{ content | trim }}\n\nThink first.\n"
ITEM = {"item_id": "i", "image_id": "i", "super_category": "bird", "sub_category": "A", "categories": "seen",
        "question": "Which {bird}, of {options}?", "options": ["A", "B's", "C", "D"], "width": 9, "height": 9}


def checkout(tmp_path, python=PYTHON, jinja=JINJA):
    for name, text in ((EVALUATION_FILE, python), (TRAINING_FILE, jinja)):
        if text is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    return tmp_path


def test_a_checkout(tmp_path):
    found = read_prompts(checkout(tmp_path))
    assert {name: prompt.template for name, prompt in found.items()} == {
        "cot_closed": "Asked {question}, out of {options_list}, think in <think> </think>; {kept}.",
        "cot_open": "Asked {question}. Think.",
        "tapo_open": "{question}\n\nThink first.",
    }
    assert found["cot_closed"].text("Q?", ["A", "B's"]) == (
        "Asked Q?, out of ['A', \"B's\"], think in <think> </think>; {kept}.")
    assert read_prompts(tmp_path / EVALUATION_FILE).keys() == {"cot_closed", "cot_open"}
    alone = read_prompts(tmp_path / TRAINING_FILE)
    assert alone == {"cot_open": Prompt("cot_open", "{question}\n\nThink first.")}


def test_yaml(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text('answer_open: "{question} Name it."\ncot_closed: "{question} One of {options}."\n')
    found = read_prompts(file)
    assert found["cot_closed"].text("Q?", ["A", "B"]) == "Q? One of A, B." and len(found) == 2
    assert found["answer_open"].hash != PROMPTS["answer_open"].hash


@pytest.mark.parametrize(
    "name, text, told",
    [("a.yaml", "cot_open: '{question}'\nbest: '{question}'", "'best' is no prompt"),
     ("a.yaml", "cot_open: '{question} of {options}'", "must not show options"),
     ("a.yaml", "cot_closed: '{question}'", "must show {options}"),
     ("a.yaml", "cot_open: 'What?'", "must have the field {question} once"),
     ("a.yaml", "cot_open: 3", "give lines"), ("a.yaml", "[cot_open", "not YAML"),
     ("a.yaml", "", "give lines"), ("a.jinja", "What? Think.", "field"),
     ("a.jinja", "{{ content }} {% if x %}y{% endif %}", "field"),
     ("a.jinja", "{{ content | upper }}", "field"), ("a.py", "def", "not Python"),
     ("a.py", "T = 'Asked {Question}.'", "found prompts for cot_open, not for"),
     ("a.py", "T = 'Asked {Question}.'\nU = '{Question}!'", "two prompts for cot_open"),
     ("a.py", "T = f'Asked {Question} of {Options}'", "found prompts for nothing"),
     ("a.txt", "x", "not a .py, .jinja or .yaml file")],
)
def test_bad_files_are_named(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=told):
        read_prompts(tmp_path / name)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="is neither a file nor a folder"):
        read_prompts(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no eval/evaluation.py"):
        read_prompts(tmp_path)


def test_they_take_the_place_of_the_kit_s(tmp_path):
    base, thinking = FIXED[0], FIXED[3]
    prompts = {**PROMPTS, **read_prompts(checkout(tmp_path))}
    closed, opened = all_requests(thinking, [ITEM], ["shuffled"], seed=0, prompts=prompts)
    options = closed[0]["options"]
    assert closed[0]["prompt"] == (
        f"Asked Which {{bird}}, of {{options}}?, out of {options}, think in <think> </think>; {{kept}}.")
    assert closed[0]["prompt_hash"] == prompts["cot_closed"].hash != PROMPTS["cot_closed"].hash
    assert opened[0]["prompt"] == "Asked Which {bird}, of {options}?. Think."
    own = all_requests(base, [ITEM], ["shuffled"], seed=0, prompts=prompts)
    assert own == all_requests(base, [ITEM], ["shuffled"], seed=0)  # not read, so the kit's
    assert build_requests(thinking, [ITEM], "open_world")[0]["prompt_hash"] == PROMPTS["cot_open"].hash


def test_options_as_a_list_still_need_options():
    prompt = Prompt("x", "{question} {options_list}")
    with pytest.raises(ValueError, match="needs options"):
        prompt.text("Q?")
    with pytest.raises(ValueError, match="takes no options"):
        Prompt("x", "{question}").text("Q?", ["A"])
