"""No lock of a stage outlives its test."""

import pytest
from stage_cases import release_locks


@pytest.fixture(autouse=True)
def no_lock_outlives_a_test():
    yield
    release_locks()
