"""The release's Stage-1 file (404 rationales) as lines of our `rationales.jsonl`, and back without loss.

One item of the JSON list:

    {"messages": [{"role": "system", ..}, {"role": "user", "content": "<image>What is the birds name?"},
                  {"role": "assistant", "content": "<think>..</think>\n\n<answer>Bank Swallow</answer>"}],
     "images": ["bird_200/images_train/135.Bank_Swallow/Bank_Swallow_0052_129575.jpg"]}

LLaMA-Factory calls it sharegpt form. `data.rationales.quality.text_report` measures such texts.

Source: release LLaMA-Factory/data/Fine-R1-Stage1-data.json, and dataset_info.json:734-746 beside it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence

from finer1_lib.core.completions import is_target, one_answer
from finer1_lib.core.errors import UserError
from finer1_lib.core.files import parse_json, read_text
from finer1_lib.data.data_sets.catalogue import find_images, word_of
from finer1_lib.data.rationales.parsing import parse

if TYPE_CHECKING:
    import pandas

IMAGE = "<image>"


def read_stage1(path: "str | Path", words: Optional[Sequence[str]] = None) -> list[dict]:
    """The items of such a file, unchanged; `words` are the data sets to keep.

    UserError for another form, or two rationales for one image.
    """
    try:
        items = parse_json(read_text(Path(path).expanduser()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable JSON ({error}); give the release's Stage-1 file") from None
    if not isinstance(items, list) or not items:
        raise UserError(f"{path}: not a list of rationales; give the release's Stage-1 file")
    seen: set[str] = set()
    for number, item in enumerate(items):
        problem = _problem(item)
        if not problem and item["images"][0] in seen:
            problem = f"{item['images'][0]} has a rationale already"
        if problem:
            raise UserError(f"{path}, item {number}: {problem}; fix or remove it")
        seen.add(item["images"][0])
    return [item for item in items if words is None or word_of(item["images"][0]) in words]


def rationale_records(items: Sequence[Mapping], table: "Optional[pandas.DataFrame]" = None, *,
                      allow_incomplete: bool = False) -> list[dict]:
    """Lines of `rationales.jsonl`, all kept: the release has what passed its filters, not what was rejected.

    The training images are looked up in `table` (images.parquet's columns, categories may be missing);
    without it image_id is the release's path. `source` has what only the release's form has: image (its path)
    and system (its message, or None). `allow_incomplete` leaves out rationales whose image is missing.
    UserError for an image that is missing or not for training, an answer that is not its label or is unseen.
    """
    records, missing = [], []
    words = {word_of(item["images"][0]) for item in items}
    found = {} if table is None else {word: find_images(word, table, "train") for word in words}
    for item in items:
        (path,), (*system, user, assistant) = item["images"], item["messages"]
        word, text = word_of(path), assistant["content"]
        answer = one_answer(text)[0]
        picture = found[word](path) if found else {"image_id": path, "sub_category": answer}
        if picture is None:
            missing.append(path)
            continue
        if picture["sub_category"] != answer:
            raise UserError(f"{path}: the rationale answers {answer!r}, {picture['image_id']} is "
                            f"{picture['sub_category']!r}; these are not the same images")
        if picture.get("categories") == "unseen":
            raise UserError(f"{path}: a rationale for the unseen sub-category {answer!r}; take the seen and "
                            "unseen lists of the same release")
        records.append({
            "image_id": picture["image_id"], "super_category": word, "sub_category": answer,
            "question": user["content"].removeprefix(IMAGE), "text": text, "concepts": [],
            "candidates": list(parse(text).candidates), "attempts": 1, "kept": True, "dropped_because": None,
            "rejections": [], "texts": [text], "mended": 0,
            "source": {"image": path, "system": system[0]["content"] if system else None}})
    if missing and not allow_incomplete:
        raise UserError(f"{len(missing)} of {len(items)} rationales' images are not among the training "
                        f"images, the first is {missing[0]}; complete the data set or set allow_incomplete")
    return records


def _problem(item: Any) -> str:
    """What is wrong with one item; "" if nothing is."""
    if not isinstance(item, dict) or not isinstance(item.get("messages"), list):
        return "not an object with messages"
    messages, images = item["messages"], item.get("images")
    if not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages):
        return "a message without text"
    if [m.get("role") for m in messages] not in (["user", "assistant"], ["system", "user", "assistant"]):
        return "the messages are not system (if any), user, assistant"
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], str):
        return "not exactly one image"
    if not messages[-2]["content"].startswith(IMAGE) or messages[-2]["content"].count(IMAGE) != 1:
        return f"the question does not begin with its one {IMAGE}"
    good = is_target(messages[-1]["content"])
    return "" if good else "the text is not <think>..</think> <answer>..</answer>"
