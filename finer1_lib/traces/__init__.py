"""Reasoning traces: read, checked against the field guide, compared before and after training, drawn.

Files in reading order:

    steps       what a trace claims, and the first step at which it goes wrong
    statistics  one row per trace; averages and counts with intervals
    changes     two models on the same items: what changed, and whether in reading or in use
    plots       figures
    sheet       an HTML page of marked traces
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {"statistics": "trace_table problems", "changes": "Traces",
                                       "sheet": "STYLE card choose_examples image_bytes write_sheet",
                                       "plots": "dots wrong_steps flow_figure parts_of_gain"})
