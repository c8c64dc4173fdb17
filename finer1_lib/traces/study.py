"""The traces of one run for notebook 05: what is compared, and tables that are empty where nothing can be.

    traces = Traces(records, guide, labels, seed=0)
    print(traces.compared)                            which two models, or why none
    traces.numbers(); traces.changes(); traces.steps(); traces.flow(); traces.gains()
"""

from typing import Any, Iterable, Mapping, Optional

from finer1_lib.traces import changes, statistics
from finer1_lib.training.methods import in_order

_NOTHING = "nothing to compare: this needs a guide with attributes and two models that think"


class Traces:
    """All traces of a run as a table, and the two models to compare, if two models think.

    Args:
        records: lines of 04's records.jsonl; guide: guide.json or {}; labels: {model: label} in table order.
    """

    def __init__(self, records: Iterable[Mapping], guide: Optional[Mapping], labels: Mapping[str, str], *,
                 seed: int) -> None:
        self.table, self.labels, self.seed = statistics.trace_table(records, guide), labels, seed
        self.thinking = in_order(self.table["model"], labels)
        self.pair = changes.before_and_after(self.thinking)
        if self.pair:
            self.compared = f"before and after: {labels[self.pair[0]]}, {labels[self.pair[1]]}"
        else:
            self.compared = (f"nothing to compare: {len(self.thinking)} model(s) of this run think "
                             "before they answer")

    def problems(self):
        """What could not be read, by kind, a column per model."""
        return statistics.problems(self.table, self.labels).rename(index=self.labels).T

    def numbers(self):
        """(all averages, those of the two models in words, those in shares)."""
        found = statistics.statistics(self.table, seed=self.seed, labels=self.labels)
        shown = found[found["model"].isin(self.pair or self.thinking)]
        return found, shown[shown["unit"] == "words"], shown[shown["unit"] == "share"]

    def changes(self) -> tuple[Any, Any, str]:
        """(all paired differences, the clear ones, a sentence); without columns where none is compared."""
        import pandas as pd

        if not self.pair:
            return pd.DataFrame(), pd.DataFrame(), "nothing to compare: fewer than two models think"
        found = changes.changes(self.table, *self.pair, seed=self.seed)
        clear = found[found["reading"] != "cannot tell"].drop(columns="quantity").round(4)
        return found, clear, (f"{len(clear)} of {len(found)} differences are clear (of so many tests, "
                              "a few would be by luck)")

    def steps(self):
        """At which step the wrong answers of each model first went wrong."""
        return statistics.tally_steps(self.table, seed=self.seed)

    def flow(self) -> tuple[Any, dict]:
        """(how many items went from which step to which, and how many were fixed or broken)."""
        import pandas as pd

        if not self.pair:
            return pd.DataFrame(), {}
        found = changes.flow(self.table, *self.pair)
        return found, {kind: changes.turns(found, kind) for kind in found["categories"].unique()}

    def gains(self) -> tuple[Any, Any, str]:
        """(how well each model reads and uses what it reads, the parts of the gain, the gain in words)."""
        levels, gains = changes.reading_and_use(self.table, self.pair or self.thinking, seed=self.seed)
        words = [f"{kind}: {changes.findings(gains, self.pair[1], kind)}"
                 for kind in gains["categories"].unique()]
        return levels, gains, "\n".join(words) or _NOTHING
