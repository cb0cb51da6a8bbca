"""The projection of many short rows, in closed form."""

import functools
from typing import Any

from keras import ops

from keras_gumbel._numerics import at_least
from keras_gumbel._numerics import at_most
from keras_gumbel._typing import Tensor

# For longer rows, a search for the root is faster than all pairs of entries.
LONGEST = 8


def project_short_rows(values: Tensor, budget: Any, axis: int) -> Tensor:
    """Projects every row onto {s in [0, 1]^n, sum(s) <= K} (Eq. 30).

    With a_1 >= ... >= a_n the sorted entries of a row,

    ```
    r(x) = sum_i clip(a_i - x, 0, 1)
         = min over p of  p + sum_{i > p} max(a_i - x, 0)
    ```

    The largest root of a minimum of falling functions is the smallest of their
    roots. So r(x) = K has the solution

    ```
    x = min over p <= K of  max over q > p of
        (p - K + sum_{p < i <= q} a_i) / (q - p)
    ```

    Args:
        values: Float tensor.
        budget: Number or scalar tensor K of at least 0.
        axis: Integer, the axis of the rows. Its length is at most `LONGEST`.

    Returns:
        A tensor of the shape of `values`.
    """
    entries = _sorted(ops.unstack(values, axis=axis))
    sums = [ops.zeros_like(entries[0])]
    for entry in entries:
        sums.append(sums[-1] + entry)
    roots = []
    for p in range(len(entries)):
        slopes = [
            (sums[q] - sums[p] + (p - budget)) * (1.0 / (q - p))
            for q in range(p + 1, len(sums))
        ]
        root = functools.reduce(at_least, slopes)
        roots.append(ops.where(p <= budget, root, float("inf")))
    shift = at_least(functools.reduce(at_most, roots), 0.0)
    return ops.clip(values - ops.expand_dims(shift, axis), 0.0, 1.0)


def _sorted(entries: list[Tensor]) -> list[Tensor]:
    """Sorts tensors elementwise, from the largest to the smallest."""
    entries = list(entries)
    for end in range(len(entries) - 1, 0, -1):
        for i in range(end):
            first, second = entries[i], entries[i + 1]
            entries[i] = at_least(first, second)
            entries[i + 1] = at_most(first, second)
    return entries
