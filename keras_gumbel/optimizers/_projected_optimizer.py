"""The optimizer that holds the scores under the budget (Algorithm 1)."""

import math
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._budgets import LAST_STEP
from keras_gumbel._budgets import LOST
from keras_gumbel._budgets import WHOLE
from keras_gumbel._budgets import BudgetGroup
from keras_gumbel._budgets import budget_groups
from keras_gumbel._budgets import limits_of
from keras_gumbel._budgets import require_limits
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import marked_scores
from keras_gumbel._scores import train_by
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import SparsityWarning
from keras_gumbel._validation import require_positive
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.ops._loops import either
from keras_gumbel.optimizers._defaults import default_harden_step
from keras_gumbel.optimizers._defaults import default_score_optimizer
from keras_gumbel.optimizers._defaults import find_steps
from keras_gumbel.optimizers._defaults import has_unknown_steps
from keras_gumbel.optimizers._defaults import schedule_steps
from keras_gumbel.optimizers._requirements import leaves_of
from keras_gumbel.optimizers._requirements import require_optimizer
from keras_gumbel.optimizers._requirements import require_partner
from keras_gumbel.optimizers._requirements import require_scores
from keras_gumbel.optimizers._requirements import require_sound

# The share of what was observed before that an average keeps in a step.
_MEMORY = 0.95


@keras.saving.register_keras_serializable(package="keras_gumbel")
class ProjectedOptimizer(keras.optimizers.Optimizer):
    """Any optimizer, followed by the projection onto the budget.

    After each step the scores of all masked layers together are brought back
    to the nearest point that keeps at most K of them in expectation, or
    spends at most K if they have costs (Algorithm 1):

    ```
    w, z <- inner step on the gradients of w, s
    s <- argmin_s 1/2 ||s - z||^2
         subject to 0 <= s_i <= 1 and sum_i c_i s_i <= K          # Eq. (30)
    ```

    The scores are the trainable variables that the masked layers have marked;
    every other variable is left to the inner optimizer alone. Scores start
    feasible: they are projected when the optimizer is built. Weight decay is
    not applied to them.

    After `harden_step` steps the mask is final: the K largest scores are 1
    and all others 0 from then on, and what is left of the training fine-tunes
    the weights that are kept.

    Scores of frozen layers (`trainable = False`) stay as they are, whether
    they were frozen before or after `compile`. They count in no budget:
    `density` is a share of the scores that are trained, and `budget` what
    these may keep beside the frozen ones. As always in Keras, call `compile`
    again after freezing.

    A `minimum` in `keras_gumbel.sparsify` puts a floor under the sum of the
    scores of each weight. The projection is then onto the set with these
    constraints too, in training and for the final mask.

    Scores that are written from outside, such as those of an earlier epoch
    that `EarlyStopping(restore_best_weights=True)` puts back, come under the
    budget in the next step, and a final mask is final again.

    Arguments of other optimizers, such as `clipnorm`, `use_ema` or
    `gradient_accumulation_steps`, are set on the inner optimizer. Its learning
    rate is the one that callbacks such as `ReduceLROnPlateau` change; the rate
    of the scores stays. Under `mixed_float16`, `compile` wraps this optimizer
    in a `LossScaleOptimizer` as it does any other.

    Args:
        inner_optimizer: Optimizer, its name, or its config.
        density: Number in (0, 1], the kept share of all scores: K is this
            share of their number, or of the sum of their costs. Or a
            `LearningRateSchedule` of the steps taken so far, such as
            `keras_gumbel.schedules.CubicDensity`. Or a dictionary of regex
            strings to one of these, for scores with budgets of their own: a
            variable belongs to the first one found in its path. Defaults to
            `None`.
        budget: Positive number K of scores to keep, or of what they may cost,
            a `LearningRateSchedule`, or a dictionary of these. Give either
            `density` or `budget`. Defaults to `None`.
        score_optimizer: Optimizer, name or config for the scores, so that
            they have a learning rate of their own; `None` to leave them to
            the inner optimizer; or `"auto"`, which is `ScoreSGD`, with a
            cosine decay over the `steps` of the schedule of the density or
            budget if that has any, from 0.05 or, in a run of under 80 steps,
            from as much more as the scores need to be decided; and `None` if
            the inner optimizer is a `MultiOptimizer`. It has no moving
            averages (`use_ema`): the mask is the one that training stands at.
            Defaults to `"auto"`.
        harden_step: Positive integer, the number of steps after which the
            mask is final, with the K that the schedule ends at; `None` for
            scores that are learned to the end; or `"auto"`, 70% of the
            `steps` of the schedule, or its `end` if that is later. That
            is all of the `steps` if no weights are trained, and `None`
            without a schedule that has `steps`. The schedules of Keras have
            them in `decay_steps` or `boundaries`. Defaults to `"auto"`.
        regrow: Boolean, whether a score that has fallen to 0 may rise again.
            If not, a weight is lost for good once its score is 0. Defaults
            to `True`.
        costs: Dictionary of regex strings to positive numbers c, what one
            score of a variable costs, such as the multiply-adds of a weight:
            the first regex found in its path counts, and 1 if there is none.
            Defaults to `None`.
        global_clipnorm: Positive number that the norm of the gradients of
            weights and scores together is clipped to, or `None`. Defaults to
            `None`.
        name: String or `None`. Defaults to `None`.

    Raises:
        TypeError: If an optimizer is not one, or is itself a
            `LossScaleOptimizer` or `ProjectedOptimizer`.
        ValueError: If both or neither of `density` and `budget` are given, or
            one or a cost is out of range; at build, if no variable is marked,
            a score has a constraint or no budget, a regex is found in no
            path, or the budget exceeds what all scores cost or does not pay
            for their floors.

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
        score_optimizer: Any = "auto",
        harden_step: Any = "auto",
        regrow: bool = True,
        costs: dict[str, float] | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
    ) -> None:
        require_limits("ProjectedOptimizer", density, budget)
        for cost in (costs or {}).values():
            require_positive("ProjectedOptimizer", "costs", cost)
        inner_optimizer = require_optimizer("inner_optimizer", inner_optimizer)
        if harden_step not in (None, "auto"):
            require_positive_integer(
                "ProjectedOptimizer", "harden_step", harden_step
            )
        if global_clipnorm is not None:
            require_positive(
                "ProjectedOptimizer", "global_clipnorm", global_clipnorm
            )
        if score_optimizer not in (None, "auto"):
            score_optimizer = require_optimizer(
                "score_optimizer", score_optimizer
            )
            require_partner(inner_optimizer, score_optimizer)
        super().__init__(
            learning_rate=0.0, global_clipnorm=global_clipnorm, name=name
        )
        self._groups: list[BudgetGroup] = []
        self._importance: dict[int, keras.Variable] = {}
        self.density = density
        self.budget = budget
        self.costs = costs
        self.inner_optimizer = inner_optimizer
        self.score_optimizer = score_optimizer
        self.harden_step = harden_step
        # For `build`, which knows whether there are weights to fine-tune.
        self._last_step: int | None = None
        self.regrow = regrow
        if not has_unknown_steps(self._limits()):
            self.complete()

    @property
    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """The optimizers that step the weights, as in `MultiOptimizer`.

        Callbacks of Keras set the learning rates of these.
        """
        return leaves_of(self.inner_optimizer)

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

    def complete(self) -> None:
        """Puts what it stands for in the place of "auto".

        If `steps` was left out in a schedule, it is found in the `fit` that is
        running.

        Raises:
            ValueError: If `steps` was left out and cannot be found.
        """
        limits = self._limits()
        find_steps(limits)
        if self.harden_step == "auto":
            self.harden_step = default_harden_step(limits)
            self._last_step = default_harden_step(limits, live=1.0)
        if self.score_optimizer == "auto":
            self.score_optimizer = default_score_optimizer(
                self.inner_optimizer, schedule_steps(limits)
            )
        if self.score_optimizer is not None:
            factor = self.inner_optimizer.loss_scale_factor
            self.score_optimizer.loss_scale_factor = factor

    def build(self, variables: Sequence[keras.Variable]) -> None:
        variables = list(variables)
        if not variables:
            return  # Keras, as it loads a legacy file; `apply` builds then.
        self.complete()
        scores = _trained_scores(variables)
        require_scores(scores)
        self._groups = self.groups(scores)
        for group in self._groups:
            require_sound(group)
        marked = marked_scores(variables)
        if self._last_step is not None and len(marked) == len(variables):
            self.harden_step = self._last_step
        # Keras decides on weight decay as it builds, from 3.16 on.
        leaves = [leaf for part in self._parts() for leaf in leaves_of(part)]
        for leaf in leaves:
            _keras_private.exclude_from_weight_decay(leaf, marked)
        for part, own in self._share(variables):
            part.build(own)
        super().build(variables)
        self._importance = {
            id(score): self.add_variable_from_reference(score, "importance")
            for score in scores
            if mark_of(score).observed
        }
        # For each budget, what its projection passes on to the next step.
        self._last = self.add_variable(
            shape=(len(self._groups), 2),
            dtype="float32",
            aggregation="only_first_replica",
            name="last_projection",
        )
        for leaf in leaves:
            _keras_private.forgo_needless_weight_decay(leaf)
        for score in scores:
            train_by(score, self)
        # Scores of a layer that TensorFlow builds as it traces the first step
        # have no values yet. They are settled at the end of that step.
        if all(map(_keras_private.has_values, scores)):
            with _keras_private.outside_graph():
                self._settle(scores)

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
        grads = self._clip_jointly(list(grads))
        gradients = {id(v): g for g, v in zip(grads, variables, strict=True)}
        scores = _trained_scores(self._trainable_variables)
        final = self._mask_is_final()
        # In a graph nobody knows yet whether the mask is final.
        needed = final is not False or not self.regrow
        before = [ops.copy(v) for v in scores] if needed else None
        frozen = {id(v) for v in marked_scores(variables) if not v.trainable}
        for part, own in self._share(variables):
            own = [v for v in own if id(v) not in frozen]
            needless = final is True and part is self.score_optimizer
            if own and not needless:
                part.apply([gradients[id(v)] for v in own], own)
        self._iterations.assign_add(1)
        self._observe(gradients)
        self._settle(scores, before, self._last)
        self._settle_averages(scores)

    def bring_back(self) -> bool:
        """Brings scores that were written from outside under the budget.

        Where training has made the mask final, they become zeros and ones
        again. Scores that are as a step would leave them stay as they are.

        Returns:
            Boolean, whether any score has changed.
        """
        if not self.built:
            return False
        final = self.is_final()
        changed = False
        for group in self._live_groups():
            values = [ops.convert_to_tensor(v) for v in group.variables]
            if group.allows(values, self._step, final):
                continue
            settle = group.finish if final else group.project
            settled = settle(values, self._step)
            for score, value in zip(group.variables, settled, strict=True):
                score.assign(value)
            changed = True
        return changed

    def current_budget(self) -> float:
        """Returns K, summed over all budgets, after the steps so far."""
        return sum(k for k, _ in self.current_budgets())

    @property
    def steps(self) -> int:
        """The updates so far, as the schedules count them."""
        return int(_number(self._step))

    def final_budget(self) -> float:
        """Returns K, summed over all budgets, at the end of the schedules."""
        return sum(_number(g.budget_at(LAST_STEP)) for g in self._live_groups())

    def whole_budgets(self) -> tuple[int, int]:
        """Returns K after the steps so far and at the end, rounded down."""
        budgets = self.current_budget(), self.final_budget()
        now, end = (math.floor(budget + WHOLE) for budget in budgets)
        return now, end

    def current_budgets(
        self, scores: list[keras.Variable] | None = None
    ) -> list[tuple[float, BudgetGroup]]:
        """Returns every K after the steps so far, and the scores under it.

        Args:
            scores: List of variables to sort, or `None` for those that are
                trained. Defaults to `None`.
        """
        groups = self._live_groups() if scores is None else self.groups(scores)
        return [(_number(g.budget_at(self._step)), g) for g in groups]

    def final_budgets(
        self, scores: list[keras.Variable]
    ) -> list[tuple[float, BudgetGroup]]:
        """Returns every K of the final mask, and the scores under it.

        Args:
            scores: List of variables to sort.
        """
        groups = self.groups(scores)
        step = self._step
        return [(_number(g.final_budget_at(step)), g) for g in groups]

    def is_final(self) -> bool:
        """Returns whether training has made the mask final."""
        return bool(self._mask_is_final())

    def groups(self, scores: list[keras.Variable]) -> list[BudgetGroup]:
        """Sorts scores by the budget they would be under."""
        return budget_groups(
            "ProjectedOptimizer", scores, self.density, self.budget, self.costs
        )

    def importance_of(self, scores: keras.Variable) -> Tensor:
        """Returns the averaged gradients of scores, zeros if there are none."""
        found = self._importance.get(id(scores))
        if found is None:
            return ops.zeros(scores.shape, "float32")
        return ops.convert_to_tensor(found)

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        for part, own in self._share(var_list):
            if own:
                part.finalize_variable_values(own)
        scores = _trained_scores(self._trainable_variables)
        # Without averages nothing has changed since the last step.
        if any(average is not None for average in self._averages(scores)):
            self._settle(scores)
            self._settle_averages(scores)

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
        if len(store.keys()) != len(self._variables):
            if store.keys() and int(np.asarray(store["0"])) == 0:
                return  # of an optimizer that has not taken a step
            # As other optimizers of Keras do.
            warnings.warn(
                f"The state of the optimizer {self.name!r} is not loaded: the "
                "weights were saved without a `ProjectedOptimizer`. The "
                "schedule of the budget stays at the step where it is.",
                SparsityWarning,
                stacklevel=2,
            )
            return
        for index, variable in enumerate(self._variables):
            variable.assign(store[str(index)])

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "inner_optimizer": serialize(self.inner_optimizer),
            "density": serialize(self.density),
            "budget": serialize(self.budget),
            "score_optimizer": (
                "auto"
                if self.score_optimizer == "auto"
                else serialize(self.score_optimizer)
            ),
            "harden_step": self.harden_step,
            "regrow": self.regrow,
            "costs": self.costs,
            "global_clipnorm": self.global_clipnorm,
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

    @property
    def _step(self) -> Any:
        """The updates so far: with accumulated gradients, not every step."""
        calls = _keras_private.calls_per_update_by(self.inner_optimizer)
        return self._iterations // calls

    def _limits(self) -> list[Any]:
        return limits_of(self.density) + limits_of(self.budget)

    def _parts(self) -> list[keras.optimizers.Optimizer]:
        if self.score_optimizer in (None, "auto"):
            return [self.inner_optimizer]
        return [self.inner_optimizer, self.score_optimizer]

    def _share(
        self, variables: Sequence[keras.Variable]
    ) -> list[tuple[keras.optimizers.Optimizer, list[keras.Variable]]]:
        """Says which optimizer steps which variables."""
        stepped = [v for v in variables if not mark_of(v).ranked]
        if self.score_optimizer is None:
            return [(self.inner_optimizer, stepped)]
        scores = marked_scores(stepped)
        marked = {id(v) for v in scores}
        rest = [v for v in stepped if id(v) not in marked]
        return [(self.inner_optimizer, rest), (self.score_optimizer, scores)]

    def _observe(self, gradients: dict[int, Tensor]) -> None:
        """Averages the gradients of scores that have them as saliencies."""
        for key, importance in self._importance.items():
            if key in gradients:
                change = gradients[key] - importance
                importance.assign_add((1.0 - _MEMORY) * change)

    def _live_groups(self) -> list[BudgetGroup]:
        """Returns the groups without scores that were frozen since."""
        scores = _trained_scores(self._trainable_variables)
        if len(scores) != sum(len(g.variables) for g in self._groups):
            self._groups = self.groups(scores) if scores else []
        return self._groups

    def _clip_jointly(self, grads: list[Tensor]) -> list[Tensor]:
        """Clips the gradients of weights and scores by their common norm."""
        if self.global_clipnorm is None:
            return grads
        scale = self.loss_scale_factor or 1.0
        clipped = self._clip_gradients([g / scale for g in grads])
        return [g * scale for g in clipped]

    def _mask_is_final(self) -> Any:
        """Returns a boolean, or in a graph a tensor."""
        if self.harden_step in (None, "auto"):
            return False
        final = self._step >= self.harden_step
        return bool(final) if _keras_private.is_eager(final) else final

    def _settle(
        self,
        scores: list[keras.Variable],
        before: list[Tensor] | None = None,
        last: keras.Variable | None = None,
    ) -> None:
        """Brings scores under the budget.

        Args:
            scores: List of variables.
            before: List of what the scores were before the step, if that is
                needed.
            last: Variable of what the projection of the last step has passed
                on, to be updated; or `None` for one that starts anew.
        """
        if not scores:
            return
        values = [ops.stop_gradient(v) for v in scores]
        if before is not None and not self.regrow:
            # One of NaN is not lost: training that diverged is to show.
            values = [
                ops.where(old <= 0.0, LOST, new)
                for old, new in zip(before, values, strict=True)
            ]
        known = [] if last is None else [ops.stop_gradient(last)]
        settled = self._by_stage(
            learning=lambda: self._project(values, *known),
            final=lambda: [*self._finish(values, before), *known],
        )
        if last is not None:
            last.assign(settled.pop())
        for score, value in zip(scores, settled, strict=True):
            score.assign(value)

    def _project(
        self, values: list[Tensor], last: Tensor | None = None
    ) -> list[Tensor]:
        """Returns scores under the budget, and what comes of `last`."""
        if last is None:
            return self._in_groups(_project, values)
        found: list[Tensor] = []

        def project(
            group: BudgetGroup, own: list[Tensor], step: Any
        ) -> list[Tensor]:
            row = last[len(found)]
            settled, following = group.project_again(own, step, row)
            found.append(following)
            return settled

        settled = self._in_groups(project, values)
        # Fewer than at first if scores were frozen since.
        return [
            *settled,
            ops.concatenate([ops.stack(found), last[len(found) :]]),
        ]

    def _finish(
        self, values: list[Tensor], before: list[Tensor] | None
    ) -> list[Tensor]:
        """Returns the final mask; from the next step on it is what it was."""
        if before is None:
            return self._in_groups(
                lambda group, own, step: group.finish(own, step), values
            )
        after = self._step > self.harden_step
        if _keras_private.is_eager(after):
            source = before if after else values
        else:
            pairs = zip(before, values, strict=True)
            source = [ops.where(after, old, new) for old, new in pairs]
        return self._in_groups(
            lambda group, own, step: group.remain(own, step, after), source
        )

    def _settle_averages(self, scores: list[keras.Variable]) -> None:
        """Brings moving averages under the budget, or to a final mask."""
        averages = self._averages(scores)
        if not any(average is not None for average in averages):
            return
        values = [ops.stop_gradient(v) for v in scores]
        means = [
            ops.copy(value) if average is None else ops.stop_gradient(average)
            for average, value in zip(averages, values, strict=True)
        ]
        settled = self._by_stage(
            learning=lambda: self._project(means),
            final=lambda: values,
        )
        for average, mean in zip(averages, settled, strict=True):
            if average is not None:
                average.assign(mean)

    def _by_stage(
        self,
        learning: Callable[[], list[Tensor]],
        final: Callable[[], list[Tensor]],
    ) -> list[Tensor]:
        """Does what is due before the mask is final, or from then on."""
        if self.harden_step is None:
            return learning()
        return either(self._step < self.harden_step, learning, final)

    def _in_groups(
        self,
        settle: Callable[[BudgetGroup, list[Tensor], Any], list[Tensor]],
        values: list[Tensor],
    ) -> list[Tensor]:
        """Brings the values of all trained scores under their budgets."""
        scores = _trained_scores(self._trainable_variables)
        found = {id(v): z for v, z in zip(scores, values, strict=True)}
        for group in self._live_groups():
            keys = [id(v) for v in group.variables]
            own = [found[key] for key in keys]
            settled = settle(group, own, self._step)
            found.update(zip(keys, settled, strict=True))
        return [found[id(v)] for v in scores]

    def _averages(
        self, scores: list[keras.Variable]
    ) -> list[keras.Variable | None]:
        """Returns the moving average of each score that has one."""
        return [
            next(
                (
                    average
                    for leaf in self.optimizers
                    for average in _keras_private.moving_averages(leaf, [score])
                ),
                None,
            )
            for score in scores
        ]


def _project(
    group: BudgetGroup, values: list[Tensor], step: Any
) -> list[Tensor]:
    return group.project(values, step)


def _trained_scores(
    variables: Iterable[keras.Variable],
) -> list[keras.Variable]:
    """Returns the scores among variables, without those that are frozen."""
    return [v for v in marked_scores(variables) if v.trainable]


def _number(value: Any) -> float:
    return float(ops.convert_to_numpy(value))
