"""What tests of several rooms share: a small field guide, and hypothesis without haste."""

from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code's.
UNHURRIED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
GUIDE = {
    "super_categories": {
        "bird": {"attributes": {"bill": ["needle", "stout"], "crown": ["red", "blue"], "wings": ["plain", "barred"]},
                 "genus_attributes": ["bill"]},
        "aircraft": {"attributes": {"fin": ["red", "blue"]}, "genus_attributes": []},
    },
    "sub_categories": {
        "Dunen Wren": {"super_category": "bird", "genus": "Wren",
                       "attributes": {"bill": "needle", "crown": "red", "wings": "barred"}},
        "Marlo Wren": {"super_category": "bird", "genus": "Wren",
                       "attributes": {"bill": "needle", "crown": "blue", "wings": "barred"}},
        "Tarn Finch": {"super_category": "bird", "genus": "Finch",
                       "attributes": {"bill": "stout", "crown": "red", "wings": "plain"}},
        "Sabel Scout": {"super_category": "aircraft", "genus": "Scout", "attributes": {"fin": "red"}},
    },
}
