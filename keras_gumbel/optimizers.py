"""The optimizer that holds the scores under the budget (Algorithm 1)."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._scores import marked_scores
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel._validation import is_schedule
from keras_gumbel._validation import require_density
from keras_gumbel._validation import require_positive
from keras_gumbel.ops.projection import project_capped_box

# A step that every schedule has ended by.
_LAST_STEP = 2**31 - 1


@keras.saving.register_keras_serializable(package="keras_gumbel")
class ProjectedOptimizer(keras.optimizers.Optimizer):
    """Any optimizer, followed by the projection onto the budget.

    After each step the scores of all masked layers together are brought back
    to the nearest point that keeps at most K of them in expectation
    (Algorithm 1):

    ```
    w, z <- inner step on the gradients of w, s
    s <- argmin_s 1/2 ||s - z||^2
         subject to 0 <= s_i <= 1 and sum_i s_i <= K              # Eq. (30)
    ```

    The scores are the trainable variables that the masked layers have marked;
    every other variable is left to the inner optimizer alone. Scores start
    feasible: they are projected when the optimizer is built. Weight decay
    passes them by. Moving averages of them (`use_ema`) are projected too.

    Arguments of other optimizers, such as `clipnorm`, `use_ema` or
    `gradient_accumulation_steps`, are set on the inner optimizer. Under
    `mixed_float16`, `compile` wraps this optimizer in a `LossScaleOptimizer`
    as it does any other.

    Args:
        inner_optimizer: Optimizer, its name, or its config.
        density: Number in (0, 1], the kept share of all scores: K is this
            share of their number. Or a `LearningRateSchedule` of the steps
            taken so far, such as `keras_gumbel.schedules.CubicDensity`.
            Defaults to `None`.
        budget: Positive number K of scores to keep, or a
            `LearningRateSchedule`. Give either `density` or `budget`.
            Defaults to `None`.
        score_optimizer: Optimizer, name or config for the scores, so that
            they have a learning rate of their own, or `None` to leave them to
            the inner optimizer. Defaults to `None`.
        name: String or `None`. Defaults to `None`.

    Raises:
        TypeError: If an optimizer is not one, or is itself a
            `LossScaleOptimizer` or `ProjectedOptimizer`.
        ValueError: If both or neither of `density` and `budget` are given, or
            one is out of range; at build, if no variable is marked, a score
            has a constraint, or the budget exceeds the number of scores.

    Example:

    >>> optimizer = keras_gumbel.optimizers.ProjectedOptimizer(
    ...     keras.optimizers.SGD(0.1, momentum=0.9),
    ...     density=keras_gumbel.schedules.CubicDensity(0.05, steps=1000),
    ...     score_optimizer=keras.optimizers.Adam(0.01),
    ... )

    References:
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571)
    """

    def __init__(
        self,
        inner_optimizer: Any,
        density: Any = None,
        budget: Any = None,
        score_optimizer: Any = None,
        name: str | None = None,
    ) -> None:
        if (density is None) == (budget is None):
            raise invalid_argument(
                "ProjectedOptimizer",
                "density",
                "given if and only if `budget` is not",
                density,
                f"Received also: budget={budget!r}.",
            )
        if density is not None and not is_schedule(density):
            require_density("ProjectedOptimizer", "density", density)
        if budget is not None and not is_schedule(budget):
            require_positive("ProjectedOptimizer", "budget", budget)
        inner_optimizer = _require_optimizer("inner_optimizer", inner_optimizer)
        if score_optimizer is not None:
            score_optimizer = _require_optimizer(
                "score_optimizer", score_optimizer
            )
            _require_partner(inner_optimizer, score_optimizer)
            score_optimizer.loss_scale_factor = (
                inner_optimizer.loss_scale_factor
            )
        super().__init__(learning_rate=0.0, name=name)
        self.density = density
        self.budget = budget
        self.inner_optimizer = inner_optimizer
        self.score_optimizer = score_optimizer

    @property
    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """The optimizers that take the steps, as in `MultiOptimizer`."""
        return [
            leaf
            for part in self._parts()
            for leaf in getattr(part, "optimizers", [part])
        ]

    @property
    def variables(self) -> list[keras.Variable]:
        return self._variables + [
            v for part in self._parts() for v in part.variables
        ]

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def loss_scale_factor(self) -> float | None:
        if "inner_optimizer" not in vars(self):
            return None
        return self.inner_optimizer.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor: float | None) -> None:
        # The base class sets it before there is an inner optimizer.
        if "inner_optimizer" in vars(self):
            for part in self._parts():
                part.loss_scale_factor = factor

    def build(self, variables: Sequence[keras.Variable]) -> None:
        variables = list(variables)
        scores = marked_scores(variables)
        self._check_scores(scores)
        for part, own in self._share(variables):
            part.build(own)
        super().build(variables)
        for optimizer in self.optimizers:
            _keras_private.exclude_from_weight_decay(optimizer, scores)
        with _keras_private.outside_graph():
            self._project(scores)

    def apply(
        self,
        grads: Sequence[Tensor],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        if len(grads) == 0:
            return
        if not self.built:
            if trainable_variables is None:
                raise ValueError(
                    "`ProjectedOptimizer` must be built before `apply` is "
                    "called with gradients alone. Call "
                    "`optimizer.build(trainable_variables)` first."
                )
            with keras.name_scope(self.name):
                self.build(trainable_variables)
        variables = list(trainable_variables or self._trainable_variables)
        gradients = {id(v): g for g, v in zip(grads, variables, strict=True)}
        for part, own in self._share(variables):
            if own:
                part.apply([gradients[id(v)] for v in own], own)
        self._iterations.assign_add(1)
        self._project_all()

    def current_budget(self) -> float:
        """Returns K as it stands after the steps taken so far."""
        return float(ops.convert_to_numpy(self._budget(self._iterations)))

    def final_budget(self) -> float:
        """Returns K as it stands at the end of its schedule."""
        return float(ops.convert_to_numpy(self._budget(_LAST_STEP)))

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        for part, own in self._share(var_list):
            if own:
                part.finalize_variable_values(own)
        self._project_all()

    def set_weights(self, weights: Sequence[Any]) -> None:
        if not self.built:
            raise ValueError(
                "`ProjectedOptimizer` must be built before `set_weights` is "
                "called. Call `optimizer.build(trainable_variables)` first."
            )
        own = len(self._variables)
        for variable, weight in zip(
            self._variables, weights[:own], strict=True
        ):
            variable.assign(weight)
        start = own
        for part in self._parts():
            stop = start + len(part.variables)
            part.set_weights(weights[start:stop])
            start = stop

    def save_own_variables(self, store: Any) -> None:
        # Keras saves the inner optimizers as objects of their own.
        for index, variable in enumerate(self._variables):
            store[str(index)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        for index, variable in enumerate(self._variables):
            variable.assign(store[str(index)])

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "density": serialize(self.density),
            "budget": serialize(self.budget),
            "score_optimizer": serialize(self.score_optimizer),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "ProjectedOptimizer":
        return cls(
            **{
                key: keras.saving.deserialize_keras_object(
                    value, custom_objects=custom_objects
                )
                for key, value in config.items()
            }
        )

    def _parts(self) -> list[keras.optimizers.Optimizer]:
        if self.score_optimizer is None:
            return [self.inner_optimizer]
        return [self.inner_optimizer, self.score_optimizer]

    def _share(
        self, variables: Sequence[keras.Variable]
    ) -> list[tuple[keras.optimizers.Optimizer, list[keras.Variable]]]:
        """Says which optimizer steps which variables."""
        variables = list(variables)
        if self.score_optimizer is None:
            return [(self.inner_optimizer, variables)]
        scores = marked_scores(variables)
        marked = {id(v) for v in scores}
        rest = [v for v in variables if id(v) not in marked]
        return [(self.inner_optimizer, rest), (self.score_optimizer, scores)]

    def _check_scores(self, scores: list[keras.Variable]) -> None:
        if not scores:
            raise ValueError(
                "`ProjectedOptimizer` found no scores among the trainable "
                "variables: the model has no masked layer, or its masks are "
                "fixed already. Mask it with `keras_gumbel.sparsify(model)`, "
                "or compile it with the inner optimizer."
            )
        for score in scores:
            if score.constraint is not None:
                raise ValueError(
                    f"Scores under `ProjectedOptimizer` must have no "
                    f"constraint of their own. Received: {score.path} with "
                    f"{score.constraint!r}. Two projections in a row are not "
                    "the projection: remove the constraint."
                )
        count = _count(scores)
        if is_number(self.budget) and self.budget > count:
            raise invalid_argument(
                "ProjectedOptimizer",
                "budget",
                f"at most {count}, the number of scores of the model",
                self.budget,
            )

    def _project_all(self) -> None:
        """Brings the scores, and their moving averages, under the budget."""
        scores = marked_scores(self._trainable_variables)
        averages = [
            average
            for optimizer in self.optimizers
            for average in _keras_private.moving_averages(optimizer, scores)
        ]
        self._project(scores)
        if averages:
            self._project(averages)

    def _project(self, variables: list[keras.Variable]) -> None:
        values = [ops.stop_gradient(v) for v in variables]
        budget = self._budget(self._iterations)
        projected = project_capped_box(values, budget, differentiable=False)
        for variable, value in zip(variables, projected, strict=True):
            variable.assign(value)

    def _budget(self, step: Any) -> Tensor:
        """K, a number or a scalar tensor, after a number of steps."""
        limit = self.budget if self.density is None else self.density
        if is_schedule(limit):
            limit = ops.cast(limit(step), "float32")
        if self.density is None:
            return limit
        return limit * _count(marked_scores(self._trainable_variables))


def _require_optimizer(name: str, value: Any) -> keras.optimizers.Optimizer:
    """Returns the optimizer that `value` is or names, or raises."""
    if isinstance(value, (str, dict)):
        value = keras.optimizers.get(value)
    wrappers = (keras.optimizers.LossScaleOptimizer, ProjectedOptimizer)
    if not isinstance(value, keras.optimizers.Optimizer) or isinstance(
        value, wrappers
    ):
        raise invalid_argument(
            "ProjectedOptimizer",
            name,
            "a Keras optimizer that is no `LossScaleOptimizer` and no "
            "`ProjectedOptimizer`",
            value,
            "Loss scaling goes outside: "
            "`LossScaleOptimizer(ProjectedOptimizer(...))`.",
            error=TypeError,
        )
    return value


def _require_partner(
    inner: keras.optimizers.Optimizer, score: keras.optimizers.Optimizer
) -> None:
    """Raises unless the two optimizers can share the training steps."""
    if score.weight_decay:
        raise invalid_argument(
            "ProjectedOptimizer",
            "score_optimizer",
            "an optimizer without weight decay, which scores never have",
            score,
            "Set its `weight_decay` to `None`.",
        )
    if score.loss_scale_factor not in (None, inner.loss_scale_factor):
        raise invalid_argument(
            "ProjectedOptimizer",
            "score_optimizer",
            "an optimizer with the `loss_scale_factor` of the inner one, "
            f"{inner.loss_scale_factor}, or none",
            score.loss_scale_factor,
        )
    steps = inner.gradient_accumulation_steps
    if score.gradient_accumulation_steps != steps:
        raise invalid_argument(
            "ProjectedOptimizer",
            "score_optimizer",
            "an optimizer with the same `gradient_accumulation_steps` as the "
            f"inner one, {steps}",
            score.gradient_accumulation_steps,
        )


def _count(variables: list[keras.Variable]) -> int:
    return sum(math.prod(v.shape) for v in variables)
