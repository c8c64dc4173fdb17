"""A room's face: the few names that its `__init__` offers, each imported when it is first used.

    __getattr__, __all__ = face(__name__, {"split": "split_table seen_names", "triplets": "build_triplets"})
    pd = Later("pandas")

Importing a room therefore costs nothing: torch, trl and transformers come with the first name that needs
them. `Later` is the same for one heavy library.
"""

import importlib
from typing import Any, Callable, Mapping


def face(room: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """`__getattr__` and `__all__` of a package (PEP 562), from {module: names, separated by blanks}."""
    home = {name: module for module, names in modules.items() for name in names.split()}

    def __getattr__(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{room}.{home[name]}"), name)

    return __getattr__, sorted(home)


class Later:
    """A module that is imported when it is first used: `pd = Later("pandas")`."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)
