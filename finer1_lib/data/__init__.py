"""Images, name rules, rationales and triplets: what the models are trained and tested on.

Reading order: folder (an image folder as a table), split (seen and unseen, training and test images),
data_sets/ (the paper's six data sets), sources (which of these a run uses), guide (a table of attributes),
names and answers (when do two texts name the same thing?), taxonomy (genus of a name), rationales/ (concepts,
teachers, parsing, filters, making, quality), triplets (positives, hard negatives, distorted images), plots.
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {
    "sources": "find_source prototype_features progress_every save_lines save_table",
    "folder": "read_table",
    "split": "count_names evaluation_items split_table",
    "guide": "describe distance guide_similarity read_guide",
    "taxonomy": "find_taxonomy",
    "triplets": "build_triplets prototype_rows prototype_similarity prototypes",
    "rationales.concepts": "TfidfEncoder concept_scores keep_concepts",
    "rationales.teachers": "make_teacher",
    "rationales.making": "describe_and_choose make_rationales",
    "rationales.filters": "write_rationale",
    "rationales.parsing": "count_problems parse",
    "rationales.quality": "concept_lines concept_report is_true kept_or_error longest measure_steps misread "
                          "misread_lines quality_report text_report",
    "plots": "montage prevented rationale_sheet rejections triplet_sheet",
})
