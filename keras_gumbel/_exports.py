"""The names that completion shows for a module."""

from collections.abc import Callable


def dir_of(names: list[str]) -> Callable[[], list[str]]:
    """Returns the `__dir__` of a module whose `__all__` is `names`.

    Without it, `dir` also lists the imports of the module.
    """
    return lambda: list(names)
