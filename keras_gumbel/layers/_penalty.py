"""The penalty of a layer on its logits, and its metric."""

from typing import Any

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._calls import is_evaluated
from keras_gumbel._calls import once
from keras_gumbel._stochastic import StochasticLayer
from keras_gumbel._typing import Tensor
from keras_gumbel.regularizers import CategoricalKL


class DivergenceMetric(keras.metrics.Metric):
    """The mean divergence of the calls of a layer since the last reset.

    The sums are weights of the layer, because on JAX a call in a training step
    can change no other state. While such a step is traced, the metric cannot
    read the sums and is 0. It reads them at the end of the epoch.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self._sums: Any = None

    def build(self, layer: StochasticLayer) -> None:
        """Adds the sums to a layer."""
        total, count = (
            layer.add_weight(
                name=f"{self.name}_{part}",
                shape=(),
                dtype="float32",
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
            for part in ("total", "count")
        )
        # Not as an attribute, or they would also be variables of the metric.
        self._sums = lambda: (total, count)

    def update_state(self, divergence: Tensor) -> None:
        total, count = self._sums()
        total.assign_add(ops.cast(divergence, "float32"))
        count.assign_add(1.0)

    def reset_state(self) -> None:
        for variable in self._sums() if self._sums else ():
            variable.assign(ops.zeros(()))

    def result(self) -> Tensor:
        sums = self._sums() if self._sums else ()
        if not sums or not all(map(_keras_private.has_value, sums)):
            return ops.zeros(())
        total, count = map(ops.convert_to_tensor, sums)
        return total / ops.maximum(count, 1.0)


def metric_of(regularizer: Any) -> DivergenceMetric | None:
    """Returns the metric that logs the divergence of a regularizer, if any."""
    if not isinstance(regularizer, CategoricalKL):
        return None
    return DivergenceMetric(regularizer.name)


def add_penalty(
    layer: StochasticLayer,
    regularizer: Any,
    metric: DivergenceMetric | None,
    logits: Tensor,
    training: bool | None,
    noise: Tensor | None,
) -> None:
    """Adds the penalty of logits to the losses of a layer.

    The metric is updated in training and in `evaluate`. Other inference changes
    no state, and neither does a call with given noise.
    """
    if metric is None:
        layer.add_loss(regularizer(logits))
        return
    divergence = regularizer.divergence(logits)
    if noise is None and (training or is_evaluated()):
        once(lambda: metric.update_state(divergence))
    layer.add_loss(layer.at_step(regularizer.factor) * divergence)
