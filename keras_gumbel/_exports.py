"""What completion shows of a module."""

from collections.abc import Callable


def dir_of(names: list[str]) -> Callable[[], list[str]]:
    """Returns the `__dir__` of a module whose `__all__` is `names`.

    Without it, `dir` lists what the module imports beside what it offers.
    """
    return lambda: list(names)
