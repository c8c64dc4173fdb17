"""Evaluation killed with SIGKILL at ten moments and resumed: not one record lost, none doubled.

One file of records is written by eleven processes in turn. The first ten kill themselves at a chosen place
(the signal cannot be caught, so nothing is flushed or closed), each further on and each in another kind of
moment; the last one ends. What it leaves must be what one undisturbed run writes, byte for byte.
"""

import json
import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

import finer1_lib
from finer1_lib.evaluation.entries import FIXED
from finer1_lib.evaluation.records import collect_records
from finer1_lib.evaluation.requests import OPTION_ORDERS, all_requests, select_items
from finer1_lib.evaluation.systems.answering import ChatAnswerer

Said = namedtuple("Said", "text tokens truncated")
BATCH = 8  # of 108 questions: 3 batches a single order, 7 of the rotations, 3 of the open world
WHEN = ("load", "before", "during", "half a line", "half a letter", "between lines", "no newline", "unsynced",
        "after", "during")

CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_evaluation_kill import ask, fake_generate
folder, when, nth = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
batches = 0

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def generate(*given, **options):
    global batches
    batches += 1
    if (when, nth) == ("before", batches):
        die()
    answers = fake_generate(*given, **options)
    if (when, nth) == ("during", batches):
        die()
    return answers

class Torn:
    '''A file whose nth write reaches the disk only in part.'''
    def __init__(self, file):
        self.file = file
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.file.close()
    def __getattr__(self, name):
        return getattr(self.file, name)
    def write(self, data):
        first = data.index(b"\\n")
        places = {{"half a line": first + 100, "half a letter": data.index("é".encode()) + 1,
                  "between lines": first + 1, "no newline": len(data) - 1, "unsynced": len(data)}}
        if batches == nth and when in places:
            self.file.write(data[:places[when]])
            self.file.flush()
            die()
        return self.file.write(data)

path_open = Path.open
Path.open = lambda self, mode="r", *a, **k: (
    Torn(path_open(self, mode, *a, **k)) if "a" in mode else path_open(self, mode, *a, **k))

def load():
    if when == "load":
        die()

def progress(*step):
    if (when, nth) == ("after", batches):
        die()

ask(folder, load, generate, progress)
print("ended")
"""


def fake_generate(loaded, prompts, *, max_new_tokens, temperature, batch_size, seed):
    """Deterministic, and different for every cut of the batches: it tells how many prompts came together."""
    texts = [messages[0]["content"][1]["text"] for messages in prompts]
    return [Said(f"<think>é {len(texts)} {len(text)}</think><answer>Dunen Wren</answer>", 9, False)
            for text in texts]


def ask(folder, load=lambda: None, generate=fake_generate, progress=None):
    """Everything of one model in three orders and the open world: the notebook's loop."""
    names = ["Dunen Wren", "Marlo Wren", "Tarn Finch", "Sorel Finch", "Bodan Lark", "Kelow Lark"]
    ids = [(name, f"bird/{name}/{number}.png") for name in names for number in range(3)]
    items = [{"item_id": path, "image_id": path, "super_category": "bird", "sub_category": name,
              "categories": "seen", "question": "What species is this bird?",
              "options": [name, *[other for other in names if other != name][:3]]} for name, path in ids]
    sizes = {"image_id": [path for _, path in ids], "width": [28] * len(ids), "height": [28, 56] * 9}
    items = select_items(items, sizes, images_per_class=0, seed=0)
    asked = all_requests(FIXED[3], items, list(OPTION_ORDERS), seed=0)
    return collect_records(
        asked, folder / "records.jsonl", lambda: ChatAnswerer(load(), folder, generate=generate),
        max_new_tokens=8, batch_size=BATCH, progress=progress)


def child(folder, when, nth):
    """One process, which kills itself when it comes to its nth own batch (or as it loads)."""
    code = CHILD.format(tests=str(Path(__file__).parent))
    paths = os.pathsep.join([str(Path(finer1_lib.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, "-c", code, str(folder), when, str(nth)], capture_output=True,
                          text=True, timeout=120, env={**os.environ, "PYTHONPATH": paths})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(records, bytes) of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    records = ask(folder)
    assert len(records) == 18 * (1 + 1 + 3 + 1)
    return records, (folder / "records.jsonl").read_bytes()


def keys(lines):
    return [(r["model"], r["setting"], r["option_order"], r["rotation"], r["item_id"]) for r in lines]


def test_ten_kills_in_one_run(whole, tmp_path):
    path, records = tmp_path / "records.jsonl", {key: record for key, record in zip(keys(whole[0]), whole[0])}
    before = 0
    for number, when in enumerate(WHEN):
        gone = child(tmp_path, when, nth=1 + number % 2)  # in the first or the second batch of its own
        assert gone.returncode == -signal.SIGKILL, (when, gone.stderr)
        data = path.read_bytes() if path.exists() else b""
        lines = [json.loads(line) for line in data.split(b"\n")[:-1]]
        assert len(set(keys(lines))) == len(lines) >= before, f"{when}: a record is doubled or lost"
        assert all(record == records[key] for key, record in zip(keys(lines), lines)), when
        torn = data[-1:] not in (b"", b"\n")
        assert torn == (when in ("half a line", "half a letter", "no newline")), when
        before = len(lines)
    assert 0 < before < len(records)
    last = child(tmp_path, "never", 0)
    assert (last.returncode, last.stdout) == (0, "ended\n"), last.stderr
    assert path.read_bytes() == whole[1]
    assert ask(tmp_path, load=pytest.fail, generate=pytest.fail) == whole[0]


def test_every_torn_end_of_a_file_is_mended(whole, tmp_path):
    """Cut at planted places, at the end of each batch and around it, and in the middle of a letter."""
    records, data = whole
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    letter = data.index("é".encode())
    cuts = {0, 1, letter + 1, *(ends[k] + step for k in (0, 7, 8, 50, len(ends) - 1) for step in (-1, 0))}
    for cut in sorted(cuts | {ends[20] + 1, ends[60] + 250}):
        (tmp_path / "records.jsonl").write_bytes(data[:cut])
        assert ask(tmp_path) == records, cut
        assert (tmp_path / "records.jsonl").read_bytes() == data, cut
