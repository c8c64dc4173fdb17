"""The paper's numbers as facts, what a run may say about them, and the files of the official release.

    README.md              thirty ways in which paper, release and a careful reading part
    facts                  every printed value, with its table or figure
    orderings, plots       which orderings of Figure 3 hold in a run, and their figures
    comparison             paper | released checkpoint | our run (`finer1 compare`)
    rows                   what would run for each row of the paper's tables (`finer1 systems`)
    release.questions      the evaluation files: seen and unseen names, questions
    release.stage1, stage2 rationales and triplets, read and written without loss
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {"comparison": "NotComparable look_over table_of to_markdown",
                                       "orderings": "bars_of figure_of measured paper_says",
                                       "plots": "figure_bars ordering_lines",
                                       "release.questions": "read_lists release_items",
                                       "release.stage1": "rationale_records read_stage1",
                                       "release.stage2": "read_stage2"})
