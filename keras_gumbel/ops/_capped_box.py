"""The search for the shift lambda of a projection (Eq. 33)."""

import math
from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._numerics import at_least
from keras_gumbel._numerics import at_most
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import is_number
from keras_gumbel.ops import _scalars
from keras_gumbel.ops import _sums
from keras_gumbel.ops._root_finding import find_root
from keras_gumbel.ops._root_finding import find_root_near

# The sum is below the budget by more than the error of sums, and by at most the
# margin plus the tolerance. Both are fractions of the budget.
_MARGIN = 5e-7
_TOLERANCE = 4.5e-7

# Pairs of a tensor z and the cost of its scores, in (0, 1]: a number or a
# tensor c.
Pairs: TypeAlias = list[tuple[Tensor, Any]]


def project(
    pairs: Pairs,
    budget: Any,
    aim: Any,
    equality: bool,
    joint: bool,
    overwrite: bool = False,
    last: Any = None,
) -> tuple[list[Tensor], Any]:
    """Finds lambda, and returns `clip(z - lambda c, 0, 1)`.

    Args:
        pairs: List of tensors z and costs c.
        budget: Number or tensor K.
        aim: Number or tensor of at most K, the target of the sum if K is
            active.
        equality: Boolean, whether K is always active.
        joint: Boolean, whether all tensors share one K, or each row along the
            last axis of the only tensor has its own.
        overwrite: Boolean, whether eager torch can write the scores over z.
            Defaults to `False`.
        last: Tensor of two numbers, lambda in the last step and the slope of
            the sum there, with zeros for unknown values; or `None`. It only
            affects the time of the search. It requires `joint`, no `equality`,
            and an aim of K. Defaults to `None`.

    Returns:
        The scores of every tensor, and lambda: a number, or a tensor whose last
        axis has the length 1. With `last`, both numbers of this step instead of
        lambda.
    """
    given = [budget, *([] if last is None else [last])]
    given += [*(part for pair in pairs for part in pair)]
    tensors = filter(ops.is_tensor, given)
    search = _Eager if all(map(_keras_private.is_eager, tensors)) else _Graph
    return search(pairs, joint).project(budget, aim, equality, overwrite, last)


class _Search:
    """The common base of searches among numbers (`_Eager`) and in a graph."""

    xp: Any

    def __init__(self, pairs: Pairs, joint: bool) -> None:
        self.pairs = pairs
        # The summands: see `_joined`.
        self.parts = _joined(pairs) if joint else pairs
        self.joint = joint
        self.dtype = keras.backend.standardize_dtype(pairs[0][0].dtype)
        self.largest = float(np.finfo(self.dtype).max)

    def project(
        self,
        budget: Any,
        aim: Any,
        equality: bool,
        overwrite: bool,
        last: Any,
    ) -> tuple[list[Tensor], Any]:
        slope = None
        if last is None:
            base, x = self.find_shift(budget, aim, equality)
        else:
            base, x, slope = self.find_shift_near(aim, last)
        clip = self.overwrite if overwrite else _clipped
        found = [clip(z, c, base, x) for z, c in self.pairs]
        shift = sum(part for part in (base, x) if part is not None)
        if slope is None:
            return found, shift
        numbers = [ops.cast(n, self.dtype) for n in (shift, slope)]
        return found, ops.stack(numbers)

    def find_shift(
        self, budget: Any, aim: Any, equality: bool
    ) -> tuple[Any, Any]:
        """Returns two numbers or tensors, whose sum is lambda."""
        xp = self.xp
        budget, aim = self.number(budget), self.number(aim)
        at_zero = self.excess(None, None, budget)
        fits = xp.logical_and(at_zero <= 0, not equality)
        if xp is not ops and xp.all(fits):
            return None, None
        at_zero = at_zero + (1.0 - _MARGIN) * (budget - aim)
        # There is no pass over the scores to find where all of them are 0,
        # because the search soon finds a closer bound.
        far = xp.full_like(at_zero, self.largest)
        at_far = -(1.0 - _MARGIN) * aim
        at_far = xp.where(at_far < 0, at_far, -1.0)  # not on the target itself
        if equality:
            full = self.number(self.capacity(1)) - (1.0 - _MARGIN) * aim
            at_far = xp.where(at_zero > 0, at_far, full)
            far = xp.where(at_zero > 0, far, -self.maximum(_rise_to_one))
        tolerance = _TOLERANCE * aim
        # A search that starts on its target ends there.
        at_zero = xp.where(fits, -0.5 * tolerance, at_zero)
        with np.errstate(all="ignore"):
            base, x = find_root(
                lambda base, x: self.excess(base, x, aim),
                at_zero,
                far,
                at_far,
                self.first_shift(at_zero, aim),
                tolerance,
                self.dtype,
                xp,
            )
        return self.subtrahend(base), self.subtrahend(self.finite(base, x))

    def find_shift_near(self, aim: Any, last: Any) -> tuple[Any, Any, Any]:
        """Returns two numbers or tensors, whose sum is lambda, and the slope.

        Args:
            aim: As in `project`, which is K.
            last: As there.
        """
        xp = self.xp
        aim = self.number(aim)
        # NaN or outdated numbers do no harm.
        start, slope = (
            xp.where(
                xp.logical_and(n > 0, n < self.largest), n, xp.zeros_like(n)
            )
            for n in self.pair(last)
        )
        at_far = -(1.0 - _MARGIN) * aim
        at_far = xp.where(at_far < 0, at_far, -1.0)  # not on the target itself
        with np.errstate(all="ignore"):
            base, x, slope = find_root_near(
                lambda base, x: self.excess(base, x, aim),
                start,
                slope,
                lambda at_zero: self.first_shift(at_zero, aim),
                at_far,
                _TOLERANCE * aim,
                self.dtype,
                xp,
            )
        x = self.finite(base, x)
        return self.subtrahend(base), self.subtrahend(x), slope

    def first_shift(self, at_zero: Any, aim: Any) -> Any:
        """Returns the shift to try after 0.

        No sum falls faster than by `capacity(2)` per unit of the shift. After a
        training step, it rarely falls three times as slowly, and points on both
        sides of the root help more than a bound. The second is the root for
        scores that are spread evenly over [0, 1].
        """
        xp = self.xp
        return xp.minimum(
            3.0 * at_zero / self.number(self.capacity(2)),
            1.0 - xp.sqrt(aim / (aim + at_zero)),
        )

    def finite(self, base: Any, x: Any) -> Any:
        """Returns x, or NaN if no shift is large enough."""
        # Infinite scores are 1 at any shift, and there may be too many.
        endless = self.xp.abs(base + x) >= self.largest
        return self.xp.where(endless, float("nan"), x)

    def excess(self, base: Any, x: Any, budget: Any) -> Any:
        """Returns the sum at a shift less the budget, less its margin.

        If the sum is too close to the budget to tell whether it fits, it is
        computed exactly. If it fits, the search ends. Such sums come from
        scores that are all 0 or 1.
        """
        xp = self.xp
        shift = self.subtrahend(base), self.subtrahend(x)
        above = self.sum_less(budget, *shift)
        margin = _MARGIN * budget
        if any(not _is_one(c) for _, c in self.pairs):
            return above + margin  # products are rounded, so no sum is exact
        unsure = xp.abs(above) <= margin
        above = self.exact_where(unsure, above, budget, *shift)
        done = xp.logical_and(unsure, above <= 0)
        return xp.where(done, -0.5 * _TOLERANCE * budget, above + margin)

    def maximum(self, function: Callable[[Tensor, Any], Tensor]) -> Any:
        """Returns the largest value of a function of z and c."""
        axis = None if self.joint else -1
        found = [
            ops.amax(function(z, c), axis=axis, keepdims=not self.joint)
            for z, c in self.pairs
        ]
        return self.shift(ops.amax(ops.stack(found), axis=0))

    def capacity(self, power: int) -> Any:
        """Returns the sum of c**power of all scores, or of every row."""
        total: Any = 0.0
        for z, c in self.pairs:
            if ops.is_tensor(c):
                axis = None if self.joint else -1
                c = ops.broadcast_to(c, z.shape) ** power
                total = total + ops.sum(c, axis=axis, keepdims=not self.joint)
            else:
                shape = z.shape if self.joint else z.shape[-1:]
                total = total + float(math.prod(shape)) * c**power
        return total

    def overwrite(self, z: Tensor, c: Any, base: Any, x: Any) -> Tensor:
        """Clips in the memory of z, if no compiler does this."""
        return _clipped(z, c, base, x)

    def number(self, value: Any) -> Any:
        """Converts a number of at least 0, without rounding it up."""
        raise NotImplementedError

    def shift(self, value: Tensor) -> Any:
        """Converts a shift to the type that the search computes with."""
        raise NotImplementedError

    def pair(self, values: Tensor) -> Any:
        """Converts a tensor of two shifts or sums likewise."""
        raise NotImplementedError

    def subtrahend(self, shift: Any) -> Any:
        """Converts a shift to the subtrahend, or `None` for no shift."""
        raise NotImplementedError

    def sum_less(self, budget: Any, base: Any, x: Any) -> Any:
        """Adds up costs at a shift, less the budget, to within 3e-7 of it."""
        raise NotImplementedError

    def exact_where(
        self, unsure: Any, above: Any, budget: Any, base: Any, x: Any
    ) -> Any:
        """Replaces sums that are too inexact to tell whether they fit."""
        raise NotImplementedError


class _Eager(_Search):
    """Scalars are NumPy's, quicker than tensors, and sums are in float64."""

    def __init__(self, pairs: Pairs, joint: bool) -> None:
        super().__init__(pairs, joint)
        self.xp = _scalars if joint else np
        self.parts = [part for z, c in self.parts for part in self.split(z, c)]

    def number(self, value: Any) -> Any:
        return np.asarray(ops.convert_to_numpy(value), "float64")[()]

    def shift(self, value: Tensor) -> Any:
        return np.clip(self.number(value), -self.largest, self.largest)

    def pair(self, values: Tensor) -> Any:
        return self.number(values)

    def subtrahend(self, shift: Any) -> Any:
        if shift is None or not self.xp.any(shift):
            return None
        if self.joint:
            return float(shift)
        return ops.convert_to_tensor(shift, dtype=self.dtype)

    def split(self, z: Tensor, c: Any) -> Pairs:
        """Cuts a large tensor, and costs of the same shape, into pieces."""
        if not self.joint:
            return [(z, c)]
        pieces = _sums.chunks(z)
        if not ops.is_tensor(c):
            return [(piece, c) for piece in pieces]
        costs = _sums.chunks(ops.broadcast_to(c, z.shape))
        return list(zip(pieces, costs, strict=True))

    def scores(self, z: Tensor, c: Any, base: Any, x: Any) -> Tensor:
        return _clipped(z, c, base, x)

    def overwrite(self, z: Tensor, c: Any, base: Any, x: Any) -> Tensor:
        if keras.backend.backend() != "torch":
            return _clipped(z, c, base, x)
        for shift in (base, x):
            if shift is not None:
                z -= shift if _is_one(c) else shift * c
        return z.clip_(0.0, 1.0)

    def sum_less(self, budget: Any, base: Any, x: Any) -> Any:
        total = -budget
        for z, c in self.parts:
            spent = _costing(self.scores(z, c, base, x), c)
            if self.joint and keras.backend.backend() == "torch":
                # The same as below, without the overhead of `ops`.
                total = total + spent.sum().item()
            else:
                sums = _sums.row_sums(spent, self.joint)
                total = total + self.added(sums)
        return total

    def added(self, values: Tensor) -> Any:
        values = ops.convert_to_numpy(values)
        if self.joint:
            return values.sum(dtype="float64")
        return values.sum(axis=-1, keepdims=True, dtype="float64")

    def exact_where(
        self, unsure: Any, above: Any, budget: Any, base: Any, x: Any
    ) -> Any:
        if not self.xp.any(unsure):
            return above
        found = [self.scores(z, c, base, x) for z, c in self.parts]
        return sum(map(self.added, found)) - budget


class _Graph(_Search):
    """Scalars are tensors of the dtype of the scores."""

    xp = ops

    def number(self, value: Any) -> Any:
        if is_number(value):
            rounded = np.asarray(value, self.dtype)
            if float(rounded) > value:
                rounded = np.nextafter(rounded, np.asarray(0.0, self.dtype))
            value = rounded
        value = ops.convert_to_tensor(value, self.dtype)
        if self.joint:
            return value
        # JAX needs the same shape at the start and the end of its loop.
        return ops.broadcast_to(value, (*self.pairs[0][0].shape[:-1], 1))

    def shift(self, value: Tensor) -> Any:
        return ops.clip(value, -self.largest, self.largest)

    def pair(self, values: Tensor) -> Any:
        return values[0], values[1]

    def subtrahend(self, shift: Any) -> Any:
        return 0.0 if shift is None else shift

    def scores(self, z: Tensor, c: Any, base: Any, x: Any) -> Tensor:
        # Each tensor has its own zero, which no compiler knows. With constant
        # bounds, JAX would write all scores to memory before it adds them up.
        # With bounds or shifts that tensors share, it would write these once
        # for every score.
        corner = z[(0,) * len(z.shape)]
        zero = ops.where(corner == corner, 0.0, corner)
        z = _shifted(z, c, base + zero, x + zero)
        return at_most(at_least(z, zero), zero + 1.0)

    def sum_less(self, budget: Any, base: Any, x: Any) -> Any:
        whole = ops.floor(budget)
        units, rest = -ops.cast(whole, "int32"), whole - budget
        for z, c in self.parts:
            spent = _costing(self.scores(z, c, base, x), c)
            own, fraction = _sums.add_exactly(_sums.row_sums(spent, self.joint))
            if self.joint:
                own, fraction = own[0], fraction[0]
            units, rest = units + own, rest + fraction
        return ops.cast(units, self.dtype) + rest

    def exact_where(
        self, unsure: Any, above: Any, budget: Any, base: Any, x: Any
    ) -> Any:
        def exactly() -> Tensor:
            found = [self.scores(z, c, base, x) for z, c in self.parts]
            exact = _sums.exact_excess(found, budget, self.joint)
            return ops.where(unsure, exact, above)

        return ops.cond(ops.any(unsure), exactly, lambda: above)


def _joined(pairs: Pairs) -> Pairs:
    """Copies tensors into one if the overhead of calls dominates.

    Otherwise, a model with a hundred kernels waits for a hundred calls in each
    pass over the scores on a GPU. Tensors that `keras.distribution` has spread
    over devices stay there.
    """
    if (
        len(pairs) == 1
        or not _keras_private.on_accelerator(pairs[0][0])
        or keras.distribution.distribution() is not None
    ):
        return pairs
    cost: Any = 1.0
    if not all(_is_one(c) for _, c in pairs):
        cost = _flat([ops.broadcast_to(c, z.shape) for z, c in pairs])
    return [(_flat([z for z, _ in pairs]), cost)]


def _flat(tensors: list[Tensor]) -> Tensor:
    return ops.concatenate([ops.reshape(x, (-1,)) for x in tensors])


def _is_one(cost: Any) -> bool:
    return isinstance(cost, float) and cost == 1.0


def _costing(s: Tensor, c: Any) -> Tensor:
    return s if _is_one(c) else s * c


def _shifted(z: Tensor, c: Any, *shifts: Any) -> Tensor:
    for shift in shifts:
        if shift is not None:
            z = z - (shift if _is_one(c) else shift * c)
    return z


def _clipped(z: Tensor, c: Any, *shifts: Any) -> Tensor:
    shifted = _shifted(z, c, *shifts)
    if keras.backend.backend() == "torch" and ops.is_tensor(z):
        # `ops.clip` converts the bounds to tensors, and takes twice as long.
        clip = shifted.clip if shifted is z else shifted.clip_
        return clip(0.0, 1.0)
    return ops.clip(shifted, 0.0, 1.0)


def _fall_to_zero(z: Tensor, c: Any) -> Tensor:
    return z if _is_one(c) else z / c


def _rise_to_one(z: Tensor, c: Any) -> Tensor:
    return _fall_to_zero(1.0 - z, c)
