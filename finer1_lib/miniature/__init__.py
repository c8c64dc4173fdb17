"""The miniature world: 100 invented birds and aircraft, and a small base model that knows them.

Reading order: world (the field guide), drawing (images of it), pretraining_data, base (the model's shape),
pretraining (from scratch, an hour), teacher (rationales), model_card (what the base can do), plots.
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {"world": "make_guide", "drawing": "draw_specimen write_world",
                                       "base": "WEIGHTS", "pretraining": "pretrained_base",
                                       "model_card": "make_model_card stored_card summarise",
                                       "plots": "attribute_reading genus_sheet"})
