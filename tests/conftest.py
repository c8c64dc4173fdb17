"""Order and threads: what is marked `last` (the chain of all notebooks, minutes) runs after everything else.

Two workers share two cores, so each keeps torch and BLAS to one thread; two threads each would wait for one another.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    config.addinivalue_line("markers", "last: runs after all other tests, because it takes minutes")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)  # a stable sort
