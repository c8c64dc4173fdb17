"""Images, name rules, rationales and triplets: what the models are trained and tested on.

Reading order: folder (an image folder as a table), split (seen and unseen, training and test images),
data_sets/ (the paper's six data sets), sources (which of these a run uses), guide (a table of attributes),
names and answers (when do two texts name the same thing?), taxonomy (genus of a name), rationales/ (concepts,
teachers, parsing, filters, making, quality), triplets (positives, hard negatives, distorted images), plots.
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(
    __name__,
    {
        "split": "count_names evaluation_items split_table",
        "guide": "claim describe distance guide_similarity nearest read_guide",
        "folder": "read_table",
        "sources": "Source find_source progress_every prototype_features save_lines save_table",
        "data_sets.collect": "assign_shots read_data_sets",
        "taxonomy": "find_taxonomy",
        "plots": "montage prevented rationale_sheet rejections triplet_sheet",
        "triplets": "build_triplets prototype_rows prototype_similarity prototypes",
        "rationales.concepts": "TfidfEncoder concept_scores keep_concepts",
        "rationales.teachers": "EndpointTeacher PromptedTeacher SelfTeacher make_teacher",
        "rationales.making": "choose_concepts describe_and_choose kept_concepts make_rationales query_all",
        "rationales.filters": "write_rationale",
        "rationales.parsing": "count_problems parse",
        "rationales.quality": "compare_concepts concept_report found_and_missed is_true label_order longest misread"
        " concept_lines kept_or_error measure_steps misread_lines misread_share quality_report query_again steps"
        " switched_off text_report",
    },
)
