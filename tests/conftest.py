"""Order, threads and garbage of the suite: what makes it a matter of minutes on two cores.

Two workers share two cores, so each keeps torch and BLAS to one thread; two threads each would wait for one another.
"""

import gc
import os
import sys

sys.modules.setdefault("rfc3987_syntax", None)  # jsonschema would build a grammar that no notebook needs: 2 s
WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
frozen = len(sys.modules)


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes minutes: last, but first where two workers share the tests")


def pytest_collection_modifyitems(items):
    """Stable: with two workers the long files come first, and the many short ones fill what time is left."""
    items.sort(key=lambda item: (item.get_closest_marker("long") is None) == WORKER)


def pytest_runtest_teardown():
    """The millions of objects of a heavy import live for ever: no later collection has to look at them (0.3 s each).

    Loading a model collects, and so do some of statsmodels' functions.
    """
    global frozen
    if len(sys.modules) > frozen + 300:
        gc.collect()
        gc.freeze()
        frozen = len(sys.modules)
