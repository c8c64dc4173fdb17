"""Evaluation: query every model, keep its records, and score them without a model.

Reading order: entries (who is compared), items and requests (what is queried), records (what was written),
scores/ (official, strict, similarity, scoring, averages, breakdowns, hierarchy, samples), summary, plots.
systems/ holds the entries of the paper's tables beside the trained models.
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {"scores.scoring": "score_records make_scorer"})
