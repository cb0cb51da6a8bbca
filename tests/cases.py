"""Cases of parametrized tests, and the backends that they run on."""

import pytest


def compiled_for(everywhere, cases):
    """Returns the cases, all but those of `everywhere` for torch alone.

    The others differ in what does not depend on the backend, and compiling
    each of them takes seconds.
    """
    return [
        case
        if case in everywhere
        else pytest.param(case, marks=pytest.mark.one_backend)
        for case in cases
    ]
