"""Gradients from the losses and the scores of several draws."""

import contextlib
import threading
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._calls import once
from keras_gumbel._numerics import as_tensor
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import SparsityWarning
from keras_gumbel._validation import invalid_argument

_ACTIVE = threading.local()

# The largest difference of the logits in a group of draws, beyond rounding.
_TOLERANCE = 1e-3


class Record(NamedTuple):
    """The contribution of one sample to the gradient.

    Attributes:
        score: Tensor whose gradient times the loss is the gradient of the
            expected loss. It has the shape `(batch,)`, or is a scalar for a
            sample that all examples share.
        estimator: The `ScoreFunction` that compares the losses.
    """

    score: Tensor
    estimator: Any


class ScoreTape:
    """Computes the gradient from the losses of several draws.

    Use it in a custom training loop for layers with an unbiased `estimator`,
    such as `"rloo"`. With `fit`, use `keras_gumbel.models.MonteCarloModel`
    instead. Such estimators need no gradient of the loss. They compare its
    values on I draws of the samples h_1, ..., h_I of the same batch:

    ```
    1/I sum_i [loss(h_i) - mean_{j != i} loss(h_j)] * grad log P(h_i)
    ```

    Layers record their log-probabilities on the tape. `loss` returns the mean
    loss. Its gradient is the gradient of the mean loss plus the gradient above.

    Example:

    >>> layer = keras_gumbel.layers.StraightThroughArgmax(estimator="rloo")
    >>> logits = keras.ops.zeros((8, 3))
    >>> tape = keras_gumbel.estimators.ScoreTape()
    >>> losses = []
    >>> for _ in range(4):
    ...     with tape.draw():
    ...         sample = layer(logits, training=True)
    ...     losses.append(sample[:, 1] + 2 * sample[:, 2])
    >>> tuple(tape.loss(losses).shape)
    ()

    References:
        - [Kool et al., 2019](https://openreview.net/forum?id=r1lgTGL5DE)
    """

    def __init__(self) -> None:
        self.draws: list[list[Record]] = []
        self._notes: dict[tuple[str, int], list[Tensor]] = {}
        self._shared = False

    @contextlib.contextmanager
    def draw(self) -> Iterator[None]:
        """Records the samples of one draw: one call of the model."""
        self.draws.append([])
        tapes = _tapes()
        tapes.append(self)
        try:
            yield
        finally:
            tapes.remove(self)

    def loss(self, losses: Sequence[Tensor]) -> Tensor:
        """Returns the mean of the losses, with the gradient of the samples.

        Args:
            losses: List of one tensor for every draw, in order. A tensor of
                shape `(batch,)` has the losses of the examples. A scalar is the
                loss of the batch, which leaves more variance. Further axes are
                averaged.

        Returns:
            A scalar tensor.

        Raises:
            ValueError: If there is not one loss for every draw, or there are
                too few draws for the estimators.
        """
        if not losses:
            return self.surrogate([], [])
        values = [as_tensor("ScoreTape.loss", "losses", v) for v in losses]
        values = [
            ops.mean(v, axis=tuple(range(1, len(v.shape)))) for v in values
        ]
        mean = self.mean([ops.mean(value) for value in values])
        if all(len(value.shape) == 0 for value in values):
            return with_gradient(
                mean, self.surrogate([None] * len(values), values)
            )
        parts = [v / ops.cast(ops.shape(v)[0], v.dtype) for v in values]
        nothing = [ops.zeros((), v.dtype) for v in values]
        return with_gradient(mean, self.surrogate(parts, nothing))

    def mean(self, losses: Sequence[Tensor]) -> Tensor:
        """Returns the mean of the scalar losses of the draws.

        The estimators of the samples decide which weight a draw has.
        """
        count = len(losses)
        records = self.draws[0] if self.has_records() else []
        found = {_weights(record.estimator, count) for record in records}
        if len(found) > 1:
            raise ValueError(
                "All samples of a model need estimators that draw alike. "
                f"Received: {[record.estimator for record in records]}. Use "
                "the same estimator in all layers."
            )
        weights = found.pop() if found else (1.0 / count,) * count
        return sum(w * loss for w, loss in zip(weights, losses, strict=True))

    def surrogate(
        self, parts: Sequence[Tensor | None], rests: Sequence[Tensor]
    ) -> Tensor:
        """Returns a scalar that has the gradient of the samples.

        The loss of a draw is the sum of the parts of its examples and of a rest
        that belongs to no single example.

        Args:
            parts: List of one tensor of shape `(batch,)` for every draw, or
                of `None`.
            rests: List of one scalar for every draw.
        """
        if len(parts) != len(self.draws):
            raise invalid_argument(
                "ScoreTape.loss",
                "losses",
                f"one loss for each of the {len(self.draws)} draws",
                len(parts),
            )
        totals = [
            rest if part is None else rest + ops.sum(part)
            for part, rest in zip(parts, rests, strict=True)
        ]
        of_examples = [
            rest if part is None else rest + part
            for part, rest in zip(parts, rests, strict=True)
        ]
        terms = []
        for records in zip(*self.draws, strict=True):
            scores = [record.score for record in records]
            of_batch = len(scores[0].shape) == 0
            values = totals if of_batch else of_examples
            _require_same_examples(values[0], scores[0])
            terms.append(_compared(values, scores, records[0].estimator))
        return sum(terms, start=ops.zeros(()))

    def has_records(self) -> bool:
        """Whether any layer has recorded a sample."""
        return any(self.draws)

    def record(self, score: Tensor, estimator: Any) -> None:
        """Records the score of a sample.

        Args:
            score: Tensor of the shape of the variables that were drawn, with
                the examples on the first axis, if it has any axis.
            estimator: As in `Record`.
        """
        rank = len(score.shape)
        axes = range(rank) if self._shared else range(1, rank)
        score = ops.cast(ops.sum(score, axis=tuple(axes)), "float32")
        self.draws[-1].append(Record(score, estimator))

    def place(self, group: int) -> int:
        """Returns the position of the current draw in its group, from 0."""
        return (len(self.draws) - 1) % group

    def of_first_draw(
        self, kind: str, values: Tensor, group: int
    ) -> Tensor | None:
        """Notes a tensor, and returns that of the first draw of the group.

        Returns:
            `None` in the first draw. In the others, the tensor that the first
            draw noted at the same position.
        """
        draw = len(self.draws) - 1
        notes = self._notes.setdefault((kind, draw), [])
        notes.append(values)
        place = self.place(group)
        if place == 0:
            return None
        return self._notes[kind, draw - place][len(notes) - 1]


@contextlib.contextmanager
def shared_samples() -> Iterator[None]:
    """Marks samples as samples of the whole batch, not of single examples."""
    tape = active_tape()
    if tape is None:
        yield
        return
    tape._shared = True
    try:
        yield
    finally:
        tape._shared = False


def active_tape() -> ScoreTape | None:
    """Returns the recording tape, or `None`."""
    tapes = _tapes()
    return tapes[-1] if tapes else None


def warn_unless_recorded(owner: str, estimator: Any) -> None:
    """Warns if the logits of a sample in training get no gradient."""
    symbolic = _keras_private.in_symbolic_scope()
    if estimator.compares_losses and active_tape() is None and not symbolic:
        warnings.warn(
            f"`{owner}` has the estimator {estimator!r}, which compares the "
            "losses of several draws, but there is only one draw. Its logits "
            "or scores get no gradient. Train the model inside a "
            "`keras_gumbel.models.MonteCarloModel`, or use a "
            "`keras_gumbel.estimators.ScoreTape` in a custom training loop.",
            SparsityWarning,
            stacklevel=2,
        )


def record_once(score: Callable[[], Tensor], estimator: Any) -> None:
    """Records the score of a sample, but not again in a recomputation."""

    def record() -> None:
        tape = active_tape()
        if tape is not None:
            tape.record(score(), estimator)

    once(record)


def of_first_draw(kind: str, values: Tensor, group: int) -> Tensor | None:
    """Does the same as the method, and nothing without a tape."""
    tape = active_tape()
    return None if tape is None else tape.of_first_draw(kind, values, group)


def nan_if_changed(
    values: Tensor, logits: Tensor, first: Tensor | None
) -> Tensor:
    """Makes values NaN where logits differ from those of the first draw.

    Otherwise nobody would notice a wrong gradient.
    """
    if first is None:
        return values
    apart = ops.abs(logits - first) > _TOLERANCE * (1.0 + ops.abs(first))
    return ops.where(apart, float("nan"), values)


def with_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """Adds the gradient of a scalar to a value, and not its value."""
    surrogate = ops.cast(surrogate, value.dtype)
    return value + (surrogate - ops.stop_gradient(surrogate))


def _tapes() -> list[ScoreTape]:
    if not hasattr(_ACTIVE, "tapes"):
        _ACTIVE.tapes = []
    return _ACTIVE.tapes


def _require_same_examples(value: Tensor, score: Tensor) -> None:
    """Raises if losses and samples have different numbers of examples."""
    losses, samples = (
        shape[0] if shape else None
        for shape in (tuple(value.shape), tuple(score.shape))
    )
    if None not in (losses, samples) and losses != samples:
        raise ValueError(
            f"There are losses of {losses} examples, but samples of {samples} "
            "examples. Keep the examples on the first axis of the logits, and "
            "the choices of an example on the axes after it."
        )


def _compared(
    values: Sequence[Tensor], scores: Sequence[Tensor], estimator: Any
) -> Tensor:
    """Multiplies scores by what an estimator makes of the losses."""
    count = len(scores)
    size = _group_size(estimator, count)
    total: Any = 0.0
    for start in range(0, count, size):
        part = slice(start, start + size)
        losses = [
            ops.stop_gradient(ops.cast(value, "float32"))
            for value in values[part]
        ]
        for signal, score in zip(
            estimator.signals(losses), scores[part], strict=True
        ):
            total = total + ops.sum(signal * score)
    return total * (size / count)


def _weights(estimator: Any, count: int) -> tuple[float, ...]:
    """Returns the weights of draws in the mean loss."""
    size = _group_size(estimator, count)
    groups = count // size
    return tuple(w / groups for w in estimator.weights(size)) * groups


def _group_size(estimator: Any, count: int) -> int:
    """Returns how many draws an estimator compares with each other."""
    group = estimator.group
    size = count if group is None else group
    if count < 2 or count % size:
        raise ValueError(
            f"An unbiased gradient compares {group or 'at least two'} draws "
            f"with each other. Received: {count}. Evaluate the loss on "
            + ("more draws." if group is None else f"a multiple of {group}.")
        )
    return size
