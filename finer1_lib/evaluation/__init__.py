"""Evaluation: query every model, keep its records, and score them without a model.

Reading order: entries (who is compared), requests (what is queried), records (what was answered),
scores/ (official, strict, similarity, scoring, averages, breakdowns, hierarchy), summary, plots. systems/
holds the models of the paper's tables beside the trained ones; worded_prompts reads other wordings.
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {
    "entries": "all_entries check_rows labels_of pairs_of weights_at with_more with_strategies with_systems",
    "requests": "SETTINGS all_requests always_first check_orders coverage names_of select_items shown_options",
    "worded_prompts": "read_prompts",
    "systems.registry": "find_systems",
    "systems.strategies": "shots_of",
    "systems.answering": "open_answerer",
    "records": "collect_records left_to_query without_text",
    "scores.similarity": "make_similarities",
    "scores.scoring": "compare_all findings make_scorer order_effects pick score_records summary_rows",
    "scores.breakdowns": "breakdowns",
    "scores.hierarchy": "answer_shares count_confusions hierarchy_scores",
    "scores.samples": "settle",
    "summary": "fault_table main_table percent",
    "plots": "accuracy_bars breakdown_dots confusion_matrices data_set_bars order_dots",
})
