"""A model that averages the loss over several draws (Algorithm 1)."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._exports import dir_of
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.estimators._score_tape import ScoreTape
from keras_gumbel.estimators._score_tape import active_tape
from keras_gumbel.estimators._score_tape import with_gradient

__all__ = ["MonteCarloModel"]
__dir__ = dir_of(__all__)


@keras.saving.register_keras_serializable(package="keras_gumbel")
class MonteCarloModel(keras.Model):
    """Trains a model on the mean loss of several draws of its noise.

    Use it if one draw of the masks or samples for each batch makes the
    gradients too noisy. The variance falls with the number of draws I, and the
    time of a training step grows with it. Compile and fit it like any other
    model.

    ```
    loss = 1/I sum_i L_B(w, m_i),  with I draws m_i for the same batch B
    g    = 1/I sum_i grad L_B(w, m_i)                             # Eq. (28)
    ```

    Losses that layers add, such as activity regularizers, are averaged too.
    Metrics, predictions and the statistics of `BatchNormalization` are those of
    the first draw. All draws of a step have the same temperature, and its step
    counter advances once. The state of the noise advances with every draw.

    Estimators without bias, as in `StraightThroughArgmax(estimator="rloo")`,
    compute the gradient of samples and masks from the I losses. These are the
    losses of the examples if every example has its own samples, and the losses
    of the batch for masks on weights. The loss needs no gradient. See
    `keras_gumbel.estimators.RLOO`. With `keras_gumbel.estimators.REBAR`, the
    mean is that of the hard draws, a third of all. This works in `fit` and
    `compute_loss`. If you call the model and compute the loss yourself, use a
    `keras_gumbel.estimators.ScoreTape`.

    In inference, there is one pass of the inner model. The weights are those of
    the inner model, which is `.model`. `keras_gumbel.harden`, `strip` and
    `sparsity_report` accept this model or the inner model.

    Args:
        model: Keras model, which is trained in place.
        num_samples: Positive integer I, the number of draws in a training
            step. Defaults to `2`.
        **kwargs: Base model keyword arguments. The `name` defaults to
            `monte_carlo_` followed by that of the model.

    Call arguments:
        inputs: The inputs of the model.
        training: Boolean, whether to draw noise. A call makes one draw.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `num_samples` is not a positive integer.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> noisy = keras_gumbel.layers.ConcreteMask()
    >>> sparse = keras_gumbel.sparsify(model, noisy)
    >>> sparse = keras_gumbel.models.MonteCarloModel(sparse, num_samples=4)
    >>> sparse.compile(
    ...     keras_gumbel.optimizers.ProjectedOptimizer("sgd", density=0.5),
    ...     loss="mse",
    ... )

    References:
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571)
    """

    def __init__(
        self, model: keras.Model, num_samples: int = 2, **kwargs: Any
    ) -> None:
        if not isinstance(model, keras.Model):
            raise invalid_argument(
                "MonteCarloModel",
                "model",
                "a Keras model",
                model,
                error=TypeError,
            )
        require_positive_integer("MonteCarloModel", "num_samples", num_samples)
        kwargs.setdefault("name", f"monte_carlo_{model.name}")
        kwargs.setdefault("dtype", model.dtype_policy)
        super().__init__(autocast=False, **kwargs)
        self.model = model
        self.num_samples = num_samples
        self.supports_masking = True
        self.built = model.built

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs of the model, if it has them."""
        return self.model.output_names

    @property
    def losses(self) -> list[Tensor]:
        """The losses that layers have added in the current draw."""
        drawn = self.__dict__.get("_losses_of_draw")
        return super().losses if drawn is None else drawn

    def make_train_function(self, *args: Any, **kwargs: Any) -> Any:
        # The inner model is not compiled, so it would not warn by itself.
        if hasattr(self.model, "_warn_of"):
            self.model._warn_of(self.optimizer)
        return super().make_train_function(*args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training or active_tape() is not None:
            return self.model(inputs, training=training)
        tape = ScoreTape()
        with tape.draw():
            outputs = self.model(inputs, training=training)
        if tape.has_records():
            # For `compute_loss`. Keras would track an attribute.
            self.__dict__["_tape"] = tape
        return outputs

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        arguments = {"x": x, "y": y, "sample_weight": sample_weight}
        if not training:
            return super().compute_loss(
                y_pred=y_pred, training=False, **arguments
            )
        # The call by Keras is the first draw.
        tape = self.__dict__.pop("_tape", None) or ScoreTape()
        compared = tape.has_records()
        losses = [self._loss_of_draw(y_pred, arguments, compared)]
        for _ in range(self.num_samples - 1):
            with tape.draw():
                outputs, added = self._draw(x)
            with self._holding(added):
                losses.append(self._loss_of_draw(outputs, arguments, compared))
        loss = tape.mean([value for value, _, _ in losses])
        if not tape.has_records():
            return loss
        _, parts, rests = zip(*losses, strict=True)
        return with_gradient(loss, tape.surrogate(parts, rests))

    def _loss_of_draw(
        self, outputs: Any, arguments: dict[str, Any], compared: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Returns a loss, the part of each example in it, and the rest."""
        if not compared:
            loss = super().compute_loss(
                y_pred=outputs, training=True, **arguments
            )
            return loss, None, loss
        with _keras_private.losses_of_examples(
            self, arguments["y"], outputs, arguments["sample_weight"]
        ) as found:
            loss = super().compute_loss(
                y_pred=outputs, training=True, **arguments
            )
        if not found:
            return loss, None, loss
        part = sum(found)
        return loss, part, loss - ops.sum(part)

    def _draw(self, inputs: Any) -> tuple[Any, list[Tensor]]:
        """Calls the model again, and keeps only the new state of the noise.

        Returns:
            The outputs, and the losses that layers have added.
        """
        state = {id(v): (v, v.value) for v in self.model.variables}
        with keras.StatelessScope(state.values(), collect_losses=True) as scope:
            # The first draw has counted the step of all draws.
            _keras_private.mark_as_counted(scope, self.model.variables)
            outputs = self(inputs, training=True)
            losses = self.model.losses
        weights = {id(v) for v in self.model.weights}
        for variable in self.model.variables:
            if id(variable) not in weights:  # the state of a seed generator
                variable.assign(scope.get_current_value(variable))
        return outputs, losses

    @contextlib.contextmanager
    def _holding(self, losses: list[Tensor]) -> Iterator[None]:
        """Makes these the losses of the model temporarily."""
        # Keras would track a list that is set as an attribute.
        self.__dict__["_losses_of_draw"] = losses
        try:
            yield
        finally:
            del self.__dict__["_losses_of_draw"]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "num_samples": self.num_samples,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "MonteCarloModel":
        model = keras.saving.deserialize_keras_object(
            config["model"], custom_objects=custom_objects
        )
        return cls(**{**config, "model": model})
