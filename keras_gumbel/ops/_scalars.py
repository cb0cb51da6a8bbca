"""NumPy's functions for single numbers.

NumPy's own functions take many times as long as the arithmetic, and a search
calls about a hundred. Numbers are `numpy.float64`, which divide by zero like
arrays.
"""

import math
from typing import Any

import numpy as np

abs = abs
all = any = bool


def where(condition: Any, yes: Any, no: Any) -> Any:
    return yes if condition else no


def minimum(a: Any, b: Any) -> Any:
    return a if a <= b or a != a else b


def maximum(a: Any, b: Any) -> Any:
    return a if a >= b or a != a else b


def logical_and(a: Any, b: Any) -> Any:
    return bool(a and b)


def logical_or(a: Any, b: Any) -> Any:
    return bool(a or b)


def logical_not(a: Any) -> Any:
    return not a


def equal(a: Any, b: Any) -> Any:
    return a == b


def sign(a: Any) -> Any:
    return np.float64(1.0 if a > 0 else -1.0 if a < 0 else a)


def sqrt(a: Any) -> Any:
    return np.float64(math.sqrt(a) if a >= 0 else math.nan)


def full_like(_: Any, value: Any) -> Any:
    return np.float64(value)


def zeros_like(_: Any) -> Any:
    return np.float64(0.0)
