"""Probing experiments: why does training help (Fine-R1, Section 5.4: H1 sight, H2 knowledge, H3 deployment)?

Files in reading order:

    probes      the three probes on arrays: H1's classifier, H2's genus gap, H3's separator
    swaps       where H3's wrong names come from
    items       which images, names and questions are probed, and what comes out for each
    features    the hidden states that the probes read, kept in files
    attributes  probes of single attributes of the field guide
    rows        AUC, intervals, equivalence tests, summary rows and curves
    study       the choices of notebook 05, every probe at every layer, what changed: reading or use?
    plots       figures
"""

from finer1_lib.core.faces import face

__getattr__, __all__ = face(__name__, {
    "probes": "separator cross_validated_scores",
    "swaps": "swap_groups",
    "items": "check_sizes",
    "features": "Probed",
    "rows": "auc pair_counts",
    "study": "choose_models make_plans Study saved",
    "plots": "probe_bars gap_distribution right_wrong_images layer_curves attribute_curves change_dots",
})
