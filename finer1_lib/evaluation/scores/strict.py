"""One well-formed answer, equal after normalisation; nothing for lists, repeats, fragments or none.

Beside accuracy it counts format failures and other errors, in both worlds:

* `format_failure`: no single well-formed answer;
* `multiple_answers`: several `<answer>` tags, or one answer that names several things (`answer_names`);
* `answer_differs_from_prediction`: only of completions whose prediction part and answer can both be read;
* `think_answer_differs`: the last known name that the thinking mentions ("no Wren" counts as well) is not the
  answer; only where the thinking mentions one, there is an answer, and more names than the label are known;
* `genus_right_epithet_wrong`: a sibling was named; only where the guide knows the label;
* `chose_first`: the answer is the first option shown; closed world only.

More lenient metrics have their own rows: `..._with_aliases` (other names of the label, where the alias table
covers the data set), `boundary_inclusion` (the label or another name of it, alone or in a plain statement,
`answers.stated`) and, of cars, whose body and year answers omit, `text_inclusion_make_model` and `..._trim`.
"""

import re
from functools import lru_cache
from typing import Any, Iterable, Mapping, Optional, Sequence

from finer1_lib.core.completions import normalise, read_completion, says
from finer1_lib.data.answers import answer_of, kinds_of, known_names, names_several, stated
from finer1_lib.data.names import car_scores, covers, meanings, name_of, names_by_spelling, same_name, table_for
from finer1_lib.data.rationales.parsing import PREDICTION_MARKER, parse, predicts
from finer1_lib.evaluation.scores.official import Record, Scorer
from finer1_lib.evaluation.scores.similarity import Similarity


class StrictScorer(Scorer):
    """The kit's own scorer; the module's docstring lists what it counts.

    Relative similarity is taken against the record's own super-category; without an answer it is 0, clipped
    or not, and 1 for an answer that is right. The paper's six data sets need no `names`.
    """

    name = "strict"

    def __init__(self, similarity: Similarity, guide: Optional[Mapping[str, Any]] = None,
                 names: Optional[Mapping[str, Iterable[str]]] = None,
                 more: Sequence[Similarity] = ()) -> None:
        super().__init__(similarity, more=more)
        known = guide["sub_categories"] if guide else {}
        self._genus = {normalise(name): normalise(entry["genus"]) for name, entry in known.items()}
        self._others = frozenset(self._genus)
        self._names = {word: self._others.union(map(normalise, all_names), _spellings(word, all_names))
                       for word, all_names in (names or {}).items()}

    def texts(self, record: Record) -> tuple[Optional[str], str, str]:
        """The one well-formed answer or None, the label, the super-category."""
        return answer_of(record), record["sub_category"], record["super_category"]

    def closed(self, record: Record) -> dict[str, float]:
        """accuracy, boundary_inclusion, the faults, and chose_first where the record has options."""
        answer = answer_of(record)
        scores = {**self._right("accuracy", record, answer), **self._faults(record, answer)}
        if record.get("options"):
            scores["chose_first"] = float(says(answer or "", record["options"][0]))
        return scores

    def open(self, record: Record) -> dict[str, float]:
        """text_inclusion (equality, in this scorer), boundary_inclusion, similarities and the faults."""
        answer = answer_of(record)
        scores, faults = self._right("text_inclusion", record, answer), self._faults(record, answer)
        if record["super_category"] == "car":
            scores |= car_scores(None if faults["multiple_answers"] else answer, record["sub_category"])
        right = scores["text_inclusion"]
        return {**scores, **self.nearness(record, right if right or answer is None else None), **faults}

    def _right(self, metric: str, record: Record, answer: Optional[str]) -> dict[str, float]:
        """The metric, boundary_inclusion, and the metric with aliases where the data set has any."""
        label, data_set = record["sub_category"], record.get("super_category", "")

        def named(said: Optional[str]) -> bool:
            return said is not None and (says(said, label) or (covered and name_of(data_set, said) == label))

        covered, said = covers(data_set, label), answer_of(record, sentence=True)
        name, _, kind = (said or "").rpartition(" ")  # "a Rock Wren bird", where no such name is known
        if kind.casefold() in kinds_of(data_set) and normalise(said) not in self._known(record):
            said = name if named(name) else said
        right = float(answer is not None and says(answer, label))
        scores = {metric: right, "boundary_inclusion": float(named(said))}
        return scores | ({f"{metric}_with_aliases": float(named(answer))} if covered else {})

    def _known(self, record: Record) -> frozenset:
        """Every name, normalised, that a second one could be told by; one object for a whole data set."""
        data_set = record.get("super_category", "")
        known = self._names.get(data_set)
        if known is None:
            official = covers(data_set, record["sub_category"])
            known = _official(data_set, self._others) if official else self._others
        own = {normalise(name) for name in (record["sub_category"], *(record.get("options") or ()))}
        return known if own <= known else known | own

    def _faults(self, record: Record, answer: Optional[str]) -> dict[str, float]:
        label, data_set, known = record["sub_category"], record.get("super_category", ""), self._known(record)
        reading = read_completion(record["completion"])
        several = (reading.before + reading.after).count("<answer>") > 1
        found: dict[str, float] = {}
        if answer is not None:
            alias, table = name_of(data_set, answer), table_for(data_set, label)
            several = alias is None and names_several(stated(reading.answer, data_set), known, table)
            named = normalise(alias or answer)
            found = self._inconsistencies(record, answer, known, named, reading.thinking, table)
        faults = {"format_failure": float(answer is None), "multiple_answers": float(several), **found}
        if normalise(label) in self._genus:
            near = self._sibling(normalise(answer or ""), normalise(label))
            faults["genus_right_epithet_wrong"] = float(near and not several)
        return faults

    def _inconsistencies(self, record: Record, answer: str, known: frozenset, named: str,
                         thinking: Optional[str], table: str) -> dict[str, float]:
        """Where the answer is not what the completion said before it: `named` is its name without alias."""
        found, completion = {}, record["completion"]
        if "<prediction>" in completion or PREDICTION_MARKER in completion:  # spares parsing all the others
            trace = parse(completion, meanings(table))
            if trace.prediction is not None:
                found["answer_differs_from_prediction"] = float(not predicts(trace, answer, table))
        thought = None
        if thinking and len(known) > 1:
            thought = known_names(known).last_mentioned(re.sub(r"</?\w+>", " ", thinking))  # tags are no words
        if thought is not None:
            found["think_answer_differs"] = float(thought != named and not same_name(table, thought, answer))
        return found

    def _sibling(self, said: str, label: str) -> bool:
        """Another name of the label's genus; an invented epithet before the genus word is one as well."""
        genus = self._genus[label]
        if said in (label, genus, ""):
            return False
        return self._genus[said] == genus if said in self._genus else said.endswith(f" {genus}")


@lru_cache(maxsize=64)  # one object, whose hash is taken once
def _official(data_set: str, others: frozenset) -> frozenset:
    return frozenset(meanings(data_set)) | others


def _spellings(data_set: str, names: Iterable[str]) -> frozenset:
    """Other names of a data set's sub-categories; none of a drawn world's, whatever its super-category."""
    own = set(names)
    return frozenset(said for said, name in names_by_spelling(data_set).items() if name in own)
