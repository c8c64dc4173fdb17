"""Order of the tests: what is marked `last` (the chain of all notebooks, minutes) runs after everything else."""


def pytest_configure(config):
    config.addinivalue_line("markers", "last: runs after all other tests, because it takes minutes")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)  # a stable sort
