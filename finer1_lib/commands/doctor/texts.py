"""Checks of names, questions and rationales: what is trained on, what is queried, how long it is.

In all items of the release the truth is the first option (release eval/data/*.jsonl): its place is checked.
"""

import math
import os
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Callable

from finer1_lib.commands.doctor.machine import cached_file
from finer1_lib.commands.doctor.subject import DATA, EVALUATION, Subject
from finer1_lib.commands.findings import NotYet, Row, fail, judged, passed, shortly, warn
from finer1_lib.core.completions import normalise, one_answer
from finer1_lib.core.files import read_jsonl
from finer1_lib.core.prompts import PROMPTS
from finer1_lib.data.names import same_name, table_for
from finer1_lib.evaluation.requests import check_orders, shown_options
from finer1_lib.evaluation.worded_prompts import EVALUATION_FILE, read_prompts
from finer1_lib.models.checkpoint_files import loading
from finer1_lib.training.memory import TOKENS_PER_WORD

CHANCE = 1e-4  # a p-value below that is not chance: the order was not shuffled
BIASED = 0.5  # share of rationales with the label at one place from which a model can learn the place
CAPS = {"02_cot_sft": warn, "03_tapo": fail, EVALUATION: fail}  # 02 only shows a few completions
AGAIN = f"delete the folder {DATA} and run it again"


def names(subject: Subject) -> list[Row]:
    """No unseen sub-category is trained on, no image is trained on and tested on."""
    table, _ = subject.table, subject.release  # without its lists the two sides are not the run's
    if (table["shot"] < 0).all():
        raise NotYet("no shots are drawn: see the rows of `data`")
    kinds = table.drop_duplicates(["super_category", "sub_category"])
    sides = {(word, normalise(name)): side for word, name, side in zip(
        kinds["super_category"], kinds["sub_category"], kinds["categories"])}
    texts, images = _trained_on(subject)
    of = [(f"{word}/{name}", sides.get((word, normalise(name)))) for word, name in texts]
    unseen, foreign = ([text for text, side in of if side == wanted] for wanted in ("unseen", None))
    tested = table.loc[(table["split"] != "train") | (table["categories"] != "seen"), "image_id"]
    wrong = sorted(set(images) & set(tested))
    rows = [fail(f"{len(found)} training {what}", shortly(sorted(set(found))),
                 f"{AGAIN} with the lists of the same release")
            for found, what in ((unseen, "answers name an unseen sub-category"),
                                (foreign, "answers name no sub-category of the data"),
                                (wrong, "images are for testing, or of unseen sub-categories")) if found]
    across = defaultdict(set)
    for (_, name), side in sides.items():
        across[name].add(side)
    if mixed := sorted(name for name, found in across.items() if len(found) > 1):
        rows.append(warn(f"{len(mixed)} names are seen in one data set and unseen in another", shortly(mixed),
                         "use the release's lists for both, or do not call these unseen"))
    if not texts and not images:
        return rows or [passed(f"{len(sides)} names, none of them seen here and unseen there")]
    return rows or [passed(f"{len(texts)} training answers and {len(set(images))} training images, all "
                           "of seen sub-categories and of the training split")]


def _trained_on(subject: Subject) -> tuple[list[tuple[str, str]], list[str]]:
    """((super-category, answer) of rationales and triplets, the images trained on)."""
    table, triplets, rationales = subject.table, subject.triplets, []
    with suppress(NotYet):
        rationales = subject.rationales
    texts = [(one["super_category"], one_answer(one["text"])[0] or one["sub_category"]) for one in rationales]
    images = list(table.loc[table["shot"] >= 0, "image_id"])
    if subject.made:  # before, rationales have the release's paths, and there are no triplets
        images += [one["image_id"] for one in rationales]
        images += triplets[["image_id", "positive_id", "negative_id"]].to_numpy().ravel().tolist()
        texts += zip(triplets["super_category"], triplets["sub_category"])
    return texts, images


def options(subject: Subject) -> list[Row]:
    """The place of the truth among the options shown."""
    from scipy.stats import chisquare
    items, orders = subject.items, subject.get(EVALUATION, "option_orders")
    odd = [one["item_id"] for one in items
           if len(set(one["options"])) != 4 or one["options"].count(one["sub_category"]) != 1]
    if odd:
        return [fail(f"{len(odd)} of {len(items)} questions lack four different options with the truth among "
                     "them", shortly(odd), AGAIN)]
    check_orders(orders)
    rows, where, seed = [], f"{EVALUATION}.option_orders", subject.get(EVALUATION, "seed")
    for order in orders:
        if order == "rotations":
            continue  # the shuffled order, turned to every place
        found = Counter(shown_options(one, order, seed).index(one["sub_category"]) for one in items)
        counts = [found[place] for place in range(4)]
        shares = [f"{count / len(items):.0%}" for count in counts]
        text = f"{order}: the truth is first to fourth in {', '.join(shares)}"
        if order == "release":  # `check_orders` requires the shuffled order beside it
            rows.append(passed(f"{text}: there \"always the first\" scores {shares[0]}", where))
        else:
            rows.append(judged(chisquare(counts).pvalue >= CHANCE, f"{text} of {len(items)} questions", where,
                               "not by chance so uneven: take another seed of 04_evaluation"))
    return rows


def candidates(subject: Subject) -> list[Row]:
    """The label's place among the candidates of the rationales that are trained on."""
    named = [[same_name(table_for(one["super_category"], one["sub_category"]), name, one["sub_category"])
              for name in one["candidates"]] for one in subject.rationales]
    found = [names.index(True) for names in named if True in names]
    if not found:
        return [warn("no rationale has its label among its candidates", "rationales",
                     "read some of them: they may be in another format")]
    first = found.count(0) / len(found)
    return [judged(first <= BIASED, f"the label leads the candidates in {first:.0%} of {len(found)} rationales",
                   "rationales", "a model learns the place: shuffle the candidates, or report it", warn)]


def prompt_hashes(subject: Subject) -> list[Row]:
    """The records were made with the prompts that a run would use now; prompts that are not the kit's."""
    source, release = subject.get(EVALUATION, "prompts_from", ""), subject.values.get("release")
    if source and not os.path.exists(os.path.expanduser(source)):
        raise NotYet("prompts_from does not exist: see the rows of `named files`")
    known, rows = {**PROMPTS, **(read_prompts(source) if source else {})}, []
    records, where = read_jsonl(subject.run_dir / EVALUATION / "records.jsonl"), f"{EVALUATION}/records.jsonl"
    held = Counter((one["prompt_name"], one["prompt_hash"]) for one in records)
    odd = {" ".join(pair): number for pair, number in held.items()
           if pair[0] not in known or known[pair[0]].hash != pair[1]}
    if records:
        text = (f"{sum(odd.values())} of {len(records)} records were made with other prompts: "
                f"{shortly(sorted(odd))}" if odd else
                f"{len(records)} records carry the hashes of {len(held)} prompts as they are now")
        rows.append(judged(not odd, text, where,
                           f"run {EVALUATION} again, or name the earlier prompts in prompts_from"))
    checkout = Path(os.path.expanduser(release or ""))
    if not source and release and (checkout / EVALUATION_FILE).is_file():
        other = [f"{name} {known[name].hash} (the release's {prompt.hash})"
                 for name, prompt in read_prompts(checkout).items()
                 if name in known and known[name].hash != prompt.hash]
        if other:
            rows.append(warn(
                f"prompts in the kit's own words: {shortly(sorted(other))}", f"{EVALUATION}.prompts_from",
                "name the checkout there to use the release's prompts"))
    used = [f"{name} {one.hash}" for name, one in known.items() if name.endswith(("_open", "_closed"))]
    return rows or [passed(f"no records yet; prompts: {', '.join(used)}", source or "finer1_lib.core.prompts")]


def completion_caps(subject: Subject) -> list[Row]:
    """The completion cap holds 95 of 100 of the rationales trained on."""
    try:
        texts = [one["text"] for one in subject.rationales]
    except NotYet:
        words = subject.values.get("teacher_words", 0)
        if not words:
            raise
        lengths, how = [math.ceil(words * TOKENS_PER_WORD)], "teacher_words, estimated"
    else:
        if not texts:
            return [fail("no rationale was kept", f"{DATA}/rationales.jsonl", "see what 01's filters report")]
        count, how = _counter(subject.checkpoint)
        lengths = sorted(map(count, texts))
    needed, longest = lengths[math.ceil(0.95 * len(lengths)) - 1], lengths[-1]
    rows = []
    for stage, verdict in CAPS.items():
        cap, where = subject.get(stage, "max_new_tokens"), f"{stage}.max_new_tokens"
        text = f"{cap} new tokens; 95 of 100 rationales have up to {needed}, the longest {longest} ({how})"
        rows.append(judged(
            cap >= needed, text, where, f"set it to {longest} or more, or have the teacher write shorter "
            "rationales: what the model has learnt to write is cut off before its answer", verdict))
    return rows


def _counter(checkpoint: str) -> tuple[Callable[[str], int], str]:
    """A function from a text to its number of tokens with the one that ends it, and how it counts."""
    file = cached_file(checkpoint, "tokenizer.json")
    if file is None:
        return (lambda text: math.ceil(len(text.split()) * TOKENS_PER_WORD) + 1), "estimated from words"
    from tokenizers import Tokenizer
    with loading(file, "read"):
        tokenizer = Tokenizer.from_file(str(file))
    return (lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids) + 1), "the base's tokens"
