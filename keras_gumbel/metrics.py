"""Metrics of the codes of a discrete layer that are in use."""

from typing import Any

import keras
from keras import ops

from keras_gumbel._exports import dir_of
from keras_gumbel._numerics import as_tensor
from keras_gumbel._numerics import dtype_of
from keras_gumbel._numerics import widen
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_integer
from keras_gumbel._validation import require_axis
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.ops._discrete import one_hot_argmax

__all__ = ["CodePerplexity", "CodeUsage"]
__dir__ = dir_of(__all__)


class _CodeMetric(keras.metrics.Metric):
    """Adds up codes, class by class.

    Subclasses implement `_counted(codes)` of floats of shape `(..., K)`, and
    `_of_totals(total)` of shape `(..., K)`, which takes away the K classes.
    """

    def __init__(
        self,
        num_classes: int,
        axis: int,
        num_groups: int | None,
        name: str | None,
        dtype: Any,
    ) -> None:
        owner = type(self).__name__
        require_positive_integer(owner, "num_classes", num_classes)
        if num_groups is not None:
            require_positive_integer(owner, "num_groups", num_groups)
        if not is_integer(axis):
            raise invalid_argument(owner, "axis", "an integer", axis)
        super().__init__(dtype=dtype, name=name)
        self.num_classes = num_classes
        self.axis = int(axis)
        self.num_groups = num_groups
        # `add_variable` leaves `autocast` on: in a layer of mixed precision,
        # torch would lose the update and JAX count no further than 2048.
        with keras.name_scope(self.name.replace("/", ">")):
            self.total = keras.Variable(
                "zeros",
                shape=(*self._groups, num_classes),
                dtype="float64" if self.dtype == "float64" else "float32",
                trainable=False,
                autocast=False,
                aggregation="sum",
                synchronization="on_read",
                name="total",
            )

    def update_state(
        self,
        codes: Tensor,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
    ) -> None:
        """Adds a batch of codes.

        Args:
            codes: Float or boolean tensor of shape `(..., K)`, with K on
                `axis`: one-hot, relaxed or probabilities. Or an integer
                tensor of class indices, of any shape; an index outside
                [0, K) is not counted. Ignored if `y_pred` is given.
            y_pred: The codes, if Keras passes targets first. In
                `compile(metrics=[...])`, the codes are the output of the
                model. Defaults to `None`.
            sample_weight: Tensor of weights, one for every code or for the
                leading axes, such as the batch. Pass it by name. Defaults to
                `None`.
        """
        codes = self._one_hot(codes if y_pred is None else y_pred)
        groups = tuple(codes.shape[:-1])[len(codes.shape) - 2 :]
        if self.num_groups is not None and groups != self._groups:
            raise invalid_argument(
                type(self).__name__,
                "codes",
                f"a tensor of {self.num_groups} groups, on the last axis "
                "before that of the classes",
                tuple(codes.shape),
            )
        codes = ops.cast(self._counted(codes), self.total.dtype)
        if sample_weight is not None:
            weight = ops.convert_to_tensor(sample_weight, codes.dtype)
            while len(weight.shape) < len(codes.shape):
                weight = ops.expand_dims(weight, -1)
            codes = codes * weight
        axes = list(range(len(codes.shape) - len(self.total.shape)))
        self.total.assign_add(ops.sum(codes, axis=axes) if axes else codes)

    def _one_hot(self, codes: Tensor) -> Tensor:
        """Returns codes as floats of shape `(..., K)`."""
        owner = type(self).__name__
        codes = as_tensor(owner, "codes", codes)
        if "int" in dtype_of(codes):
            classes = ops.arange(self.num_classes, dtype="int32")
            codes = ops.expand_dims(ops.cast(codes, "int32"), -1) == classes
            return widen(owner, "codes", codes)[0]
        axis = require_axis(owner, self.axis, codes.shape)
        if codes.shape[axis] != self.num_classes:
            raise invalid_argument(
                owner,
                "codes",
                f"a tensor of length {self.num_classes} on axis {self.axis}, "
                "or of class indices",
                tuple(codes.shape),
                "In `compile`, name the output of the model that returns the "
                "codes: `metrics={'codes': ...}`. Pass `sample_weight` by "
                "name.",
            )
        return ops.moveaxis(widen(owner, "codes", codes)[0], axis, -1)

    @property
    def _groups(self) -> tuple[int, ...]:
        return () if self.num_groups is None else (self.num_groups,)

    def _counted(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    def _of_totals(self, total: Tensor) -> Tensor:
        raise NotImplementedError

    def by_group(self) -> Tensor:
        """Returns the result of each group, or the only result."""
        total = ops.convert_to_tensor(self.total)
        return ops.cast(self._of_totals(total), self.dtype)

    def result(self) -> Tensor:
        return ops.mean(self.by_group())

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "axis": self.axis,
            "num_groups": self.num_groups,
        }


@keras.saving.register_keras_serializable(package="keras_gumbel")
class CodeUsage(_CodeMetric):
    """Fraction of the K codes chosen at least once.

    The chosen code is the largest entry of a relaxed code or of probabilities.
    A row of zeros, or with weight 0, chooses no code. Before any update, the
    result is 0.

    In `compile(metrics=[...])`, the metric uses the output of the model and
    ignores the targets. In a layer, call `update_state(codes)` and pass
    `sample_weight` by name.

    Args:
        num_classes: Positive integer K.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        num_groups: Positive integer, the number of variables of a code, each
            with K classes. They are on the last axis before that of the
            classes, or on the last axis of indices. The result is the mean
            over the variables, and `by_group()` returns all results. If
            `None`, all variables are counted together. Defaults to `None`.
        name: String, the name of the metric. Defaults to `"code_usage"`.
        dtype: String or `None`, the dtype of the result. Defaults to `None`.

    Raises:
        ValueError: If `num_classes` or `num_groups` is not a positive
            integer, or `axis` not an integer.

    Example:

    >>> metric = keras_gumbel.metrics.CodeUsage(4)
    >>> metric.update_state([[0.7, 0.3, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    >>> float(metric.result())
    0.5
    """

    def __init__(
        self,
        num_classes: int,
        axis: int = -1,
        num_groups: int | None = None,
        name: str | None = "code_usage",
        dtype: Any = None,
    ) -> None:
        super().__init__(num_classes, axis, num_groups, name, dtype)

    def _counted(self, codes: Tensor) -> Tensor:
        some = ops.any(codes > 0, axis=-1, keepdims=True)
        return ops.where(some, one_hot_argmax(codes), 0.0)

    def _of_totals(self, total: Tensor) -> Tensor:
        return ops.mean(ops.cast(total > 0, total.dtype), axis=-1)


@keras.saving.register_keras_serializable(package="keras_gumbel")
class CodePerplexity(_CodeMetric):
    """Perplexity of the average code: the effective number of codes in use.

    ```
    exp(-sum_k p_k log(p_k)),  p = the average of all codes since the reset
    ```

    It is between 1, if all codes are the same, and K, if all classes are chosen
    equally often. Before any update, the result is 0.

    In `compile(metrics=[...])`, the metric uses the output of the model and
    ignores the targets. In a layer, call `update_state(codes)` and pass
    `sample_weight` by name.

    Args:
        num_classes: Positive integer K.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        num_groups: Positive integer, the number of variables of a code, each
            with K classes. They are on the last axis before that of the
            classes, or on the last axis of indices. The result is the mean
            over the variables, and `by_group()` returns all results. If
            `None`, all variables are counted together. Defaults to `None`.
        name: String, the name of the metric. Defaults to `"code_perplexity"`.
        dtype: String or `None`, the dtype of the result. Defaults to `None`.

    Raises:
        ValueError: If `num_classes` or `num_groups` is not a positive
            integer, or `axis` not an integer.

    Example:

    >>> metric = keras_gumbel.metrics.CodePerplexity(4)
    >>> metric.update_state(keras.ops.array([0, 1, 0, 1]))
    >>> round(float(metric.result()), 4)
    2.0

    References:
        - [van den Oord et al., 2017](https://arxiv.org/abs/1711.00937)
    """

    def __init__(
        self,
        num_classes: int,
        axis: int = -1,
        num_groups: int | None = None,
        name: str | None = "code_perplexity",
        dtype: Any = None,
    ) -> None:
        super().__init__(num_classes, axis, num_groups, name, dtype)

    def _counted(self, codes: Tensor) -> Tensor:
        return codes

    def _of_totals(self, total: Tensor) -> Tensor:
        number = ops.sum(total, axis=-1, keepdims=True)
        # Unlike `> 0`, this lets NaN through. log(1) = 0 for unused codes.
        p = total / ops.where(number != 0, number, 1.0)
        p = ops.where(total != 0, p, 1.0)
        perplexity = ops.exp(-ops.sum(p * ops.log(p), axis=-1))
        return ops.where(number[..., 0] != 0, perplexity, 0.0)
