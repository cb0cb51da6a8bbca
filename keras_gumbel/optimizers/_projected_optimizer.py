"""The optimizer that keeps the scores within the budget (Algorithm 1)."""

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
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import own_schedule
from keras_gumbel._validation import require_positive
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.ops._loops import either
from keras_gumbel.optimizers._defaults import default_harden_step
from keras_gumbel.optimizers._defaults import default_rate
from keras_gumbel.optimizers._defaults import default_score_optimizer
from keras_gumbel.optimizers._defaults import find_steps
from keras_gumbel.optimizers._defaults import has_unknown_steps
from keras_gumbel.optimizers._defaults import schedule_steps
from keras_gumbel.optimizers._requirements import leaves_of
from keras_gumbel.optimizers._requirements import require_optimizer
from keras_gumbel.optimizers._requirements import require_partner
from keras_gumbel.optimizers._requirements import require_scores
from keras_gumbel.optimizers._requirements import require_sound

# The fraction that a moving average keeps in a step.
_MEMORY = 0.95


@keras.saving.register_keras_serializable(package="keras_gumbel")
class ProjectedOptimizer(keras.optimizers.Optimizer):
    """Wraps an optimizer and keeps the scores of all masks within a budget.

    After each step, the scores of all masked layers together are projected onto
    the budget. They move to the nearest point at which at most K scores are
    kept in expectation, or at which their cost is at most K (Algorithm 1):

    ```
    w, z <- inner step on the gradients of w, s
    s <- argmin_s 1/2 ||s - z||^2
         subject to 0 <= s_i <= 1 and sum_i c_i s_i <= K          # Eq. (30)
    ```

    The scores are the trainable variables that masked layers have marked. All
    other variables are updated only by the inner optimizer. When the optimizer
    is built, it projects the scores, so they start within the budget. Weight
    decay is not applied to scores.

    The learned scores of a pretrained network start from the magnitudes |w| of
    its weights. If scores of 1 have not been trained before, and not all of
    them fit the final budget, those of each weight matrix are multiplied by

    ```
    (1 + erf(|w| / sqrt(2 * mean of w**2))) / 2
    ```

    For a score of several weights, |w| is their root mean square. If weights
    are normally distributed, erf is the fraction of weights with smaller
    magnitudes. The fewer steps the scores are trained, the more the final mask
    is like that of magnitude pruning.

    After `harden_step` steps, the mask is final: the K largest scores are 1 and
    all others are 0. The rest of the training fine-tunes the kept weights.

    Scores of frozen layers (`trainable = False`) do not change, whether they
    were frozen before or after `compile`. They do not count against a budget:
    `density` is a fraction of the weights with trained scores, and `budget` is
    a number of these. As always in Keras, call `compile` again after freezing.

    A `minimum` in `keras_gumbel.sparsify` is a lower limit for the sum of the
    scores of each weight. It is part of the projection, in training and for the
    final mask.

    Scores that are assigned from outside are projected in the next step, and a
    final mask becomes final again. An example is
    `EarlyStopping(restore_best_weights=True)`, which restores the scores of an
    earlier epoch.

    Set the arguments of other optimizers, such as `clipnorm`, `use_ema` or
    `gradient_accumulation_steps`, on the inner optimizer. Callbacks such as
    `ReduceLROnPlateau` change its learning rate, but not that of the scores.
    Under `mixed_float16`, `compile` wraps this optimizer in a
    `LossScaleOptimizer`, as it wraps any other.

    Args:
        inner_optimizer: Optimizer, its name, or its config.
        density: Number in (0, 1], the fraction to keep of the weights that
            have masks: K is this fraction of their number, or of the sum of
            their costs. Or a `LearningRateSchedule` of the training step, such
            as `keras_gumbel.schedules.CubicDensity`. Or, for separate budgets,
            a dictionary from regex strings to one of these: a variable belongs
            to the first regex found in its path. Pass either `density` or
            `budget`. Defaults to `None`.
        budget: Positive number K of weights to keep, or their largest cost, a
            `LearningRateSchedule`, or a dictionary of these. Defaults to
            `None`.
        score_optimizer: The optimizer of the scores, with its own learning
            rate and without moving averages (`use_ema`):

            - `"auto"`: `ScoreSGD`, whose learning rate decays along a cosine
              over the `steps` of the schedule of the density or budget, if it
              has any. It starts at 0.05, or higher in a run of under 80
              steps, in which scores that start at 1 need more to be decided.
              If the inner optimizer is a `MultiOptimizer`, the same as `None`.
            - `None`: the inner optimizer updates the scores.
            - an optimizer, its name, or its config.

            Defaults to `"auto"`.
        harden_step: The number of steps after which the mask is final, with
            the final K of the schedule:

            - `"auto"`: 70% of the `steps` of the schedule, or its `end` if
              that is later. If no weights are trained, all of the `steps`.
              Without a schedule that has `steps`, the same as `None`. Keras
              schedules have them in `decay_steps` or `boundaries`.
            - `None`: scores are trained to the end.
            - a positive integer.

            Defaults to `"auto"`.
        regrow: Boolean, whether a score that has fallen to 0 may rise again.
            If not, a weight stays pruned once its score is 0. Defaults to
            `True`.
        costs: Dictionary from regex strings to positive numbers c, the cost
            of one score of a variable, such as the multiply-adds of a weight.
            The first regex found in its path is used. The default cost is 1.
            Defaults to `None`.
        global_clipnorm: Positive number, the largest norm of the gradients of
            weights and scores together, or `None`. Defaults to `None`.
        name: String or `None`. Defaults to `None`.

    Raises:
        TypeError: If an optimizer is not one, or is itself a
            `LossScaleOptimizer` or `ProjectedOptimizer`.
        ValueError: If both or neither of `density` and `budget` are given, or
            one of them or a cost is out of range; at build, if no variable is
            marked, a score has a constraint or no budget, a regex matches no
            path, or the budget is larger than the cost of all scores or too
            small for their minimums.

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
        if not isinstance(costs, (dict, type(None))):
            raise invalid_argument(
                "ProjectedOptimizer",
                "costs",
                "a dictionary, as `keras_gumbel.sparsity_costs` returns it",
                costs,
            )
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
        # Those of `build`, with scores that may have been frozen or stripped.
        self._all_groups: list[BudgetGroup] = []
        self._importance: dict[int, keras.Variable] = {}
        self.density = _own(density)
        self.budget = _own(budget)
        self.costs = costs
        self.inner_optimizer = inner_optimizer
        self.score_optimizer = score_optimizer
        self.harden_step = harden_step
        # For `build`, which knows whether there are weights to fine-tune, and
        # whether scores start in a good order.
        self._last_step: int | None = None
        self._rate_is_default = False
        self.regrow = regrow
        if not has_unknown_steps(self._limits()):
            self.complete()

    @property
    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """The optimizers that update the weights, as in `MultiOptimizer`.

        Keras callbacks set their learning rates.
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
        """Replaces "auto" by actual values.

        Schedules without `steps` take them from the running `fit`.

        Raises:
            ValueError: If a schedule has no `steps` and no `fit` is running.
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
            self._rate_is_default = self.score_optimizer is not None
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
        self._groups = self._all_groups = self.groups(scores)
        for group in self._groups:
            require_sound(group)
            group.plan()
        if self._rate_is_default and all(
            mark_of(score).prunes_early for score in scores
        ):
            steps = schedule_steps(self._limits())
            self.score_optimizer.learning_rate = default_rate(steps)
        marked = marked_scores(variables)
        if self._last_step is not None and len(marked) == len(variables):
            self.harden_step = self._last_step
        # From 3.16 on, Keras decides on weight decay in `build`.
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
        # For each budget, what its projection passes to the next step.
        self._last = self.add_variable(
            shape=(len(self._groups), 2),
            dtype="float32",
            aggregation="only_first_replica",
            name="last_projection",
        )
        for leaf in leaves:
            _keras_private.forgo_needless_weight_decay(leaf)
        # Scores of a layer that TensorFlow builds while it traces the first
        # step have no values yet. They are projected at the end of that step.
        ready = all(map(_keras_private.has_values, scores))
        if ready:
            with _keras_private.outside_graph():
                for group in self._groups:
                    group.start()
        for score in scores:
            train_by(score, self)
        if ready:
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
                    "called without variables. Call "
                    "`optimizer.build(trainable_variables)` first."
                )
            with keras.name_scope(self.name):
                self.build(trainable_variables)
        variables = list(trainable_variables or self._trainable_variables)
        grads = self._clip_jointly(list(grads))
        gradients = {id(v): g for g, v in zip(grads, variables, strict=True)}
        scores = _trained_scores(self._trainable_variables)
        final = self._mask_is_final()
        # In a graph it is unknown whether the mask is final.
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
        """Projects scores that were assigned from outside onto the budget.

        If training has made the mask final, they become zeros and ones again.
        Scores that are already within the budget do not change.

        Returns:
            Boolean, whether any score has changed.
        """
        if not self.built:
            return False
        final = self.is_final()
        if final and self.holds_final_mask():
            return False
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
        """The number of updates so far, as the schedules count them."""
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
            scores: List of variables to group, or `None` for the trained
                scores. Defaults to `None`.
        """
        groups = self._live_groups() if scores is None else self.groups(scores)
        return [(_number(g.budget_at(self._step)), g) for g in groups]

    def final_budgets(
        self, scores: list[keras.Variable]
    ) -> list[tuple[float, BudgetGroup]]:
        """Returns every K of the final mask, and the scores under it.

        Args:
            scores: List of variables to group.
        """
        groups = self.groups(scores)
        step = self._step
        return [(_number(g.final_budget_at(step)), g) for g in groups]

    def is_final(self) -> bool:
        """Returns whether training has made the mask final."""
        return bool(self._mask_is_final())

    def holds_final_mask(self) -> bool:
        """Whether scores are the final mask that training has made."""
        return self.is_final() and bool(self._is_whole_mask({}))

    def groups(self, scores: list[keras.Variable]) -> list[BudgetGroup]:
        """Groups scores by their budgets."""
        others = None
        if self.built:
            own = {id(v) for v in scores}
            known = [v for g in self._all_groups for v in g.variables]
            others = [v for v in known if id(v) not in own]
        return budget_groups(
            "ProjectedOptimizer",
            scores,
            self.density,
            self.budget,
            self.costs,
            others,
        )

    def importance_of(self, scores: keras.Variable) -> Tensor:
        """Returns the averaged gradients of scores, or zeros."""
        found = self._importance.get(id(scores))
        if found is None:
            return ops.zeros(scores.shape, "float32")
        return ops.convert_to_tensor(found)

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        for part, own in self._share(var_list):
            if own:
                part.finalize_variable_values(own)
        scores = _trained_scores(self._trainable_variables)
        # Without averages, nothing has changed since the last step.
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
        # Keras saves the inner optimizers separately.
        for index, variable in enumerate(self._variables):
            store[str(index)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store: Any) -> None:
        if len(store.keys()) != len(self._variables):
            if store.keys() and int(np.asarray(store["0"])) == 0:
                return  # from an optimizer that has taken no step
            # As other Keras optimizers do.
            reason = (
                "the file was saved without a `ProjectedOptimizer`. The budget "
                "schedule continues from its current step."
                if self.built
                else "the optimizer is not built. The budget schedule starts "
                "anew. To continue the run, call "
                "`optimizer.build(model.trainable_variables)` before the "
                "weights are loaded, or save the whole model."
            )
            warnings.warn(
                f"The state of the optimizer {self.name!r} is not loaded, "
                f"because {reason}",
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
        """The updates so far, which accumulated gradients make fewer."""
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
        """Returns each optimizer with the variables that it updates."""
        stepped = [v for v in variables if not mark_of(v).ranked]
        if self.score_optimizer is None:
            return [(self.inner_optimizer, stepped)]
        scores = marked_scores(stepped)
        marked = {id(v) for v in scores}
        rest = [v for v in stepped if id(v) not in marked]
        return [(self.inner_optimizer, rest), (self.score_optimizer, scores)]

    def _observe(self, gradients: dict[int, Tensor]) -> None:
        """Averages the gradients of scores that are ranked by them."""
        for key, importance in self._importance.items():
            if key in gradients:
                change = gradients[key] - importance
                importance.assign_add((1.0 - _MEMORY) * change)

    def _live_groups(self) -> list[BudgetGroup]:
        """Returns the groups, without scores that have been frozen."""
        scores = _trained_scores(self._trainable_variables)
        if len(scores) != sum(len(g.variables) for g in self._groups):
            self._groups = self.groups(scores) if scores else []
        return self._groups

    def _clip_jointly(self, grads: list[Tensor]) -> list[Tensor]:
        """Clips the gradients of weights and scores by their joint norm."""
        if self.global_clipnorm is None:
            return grads
        scale = self.loss_scale_factor or 1.0
        clipped = self._clip_gradients([g / scale for g in grads])
        return [g * scale for g in clipped]

    def _mask_is_final(self) -> Any:
        """Returns a boolean, or a tensor in a graph."""
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
            before: List of the scores before the step, if they are needed.
            last: Variable with the state of the last projection, which is
                updated; or `None` to start without it.
        """
        if not scores:
            return
        values = [ops.stop_gradient(v) for v in scores]
        if before is not None and not self.regrow:
            # A NaN is not lost: it must stay visible that training diverged.
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
        """Returns the projected scores, and the new `last`."""
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
        # Fewer than in `build` if scores have been frozen.
        return [
            *settled,
            ops.concatenate([ops.stack(found), last[len(found) :]]),
        ]

    def _finish(
        self, values: list[Tensor], before: list[Tensor] | None
    ) -> list[Tensor]:
        """Returns the final mask, which later steps do not change."""
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
        scores = _trained_scores(self._trainable_variables)
        kept: Any = False
        if len(scores) < sum(len(g.variables) for g in self._all_groups):
            found = {id(v): z for v, z in zip(scores, source, strict=True)}
            kept = self._is_whole_mask(found)
        return self._in_groups(
            lambda group, own, step: group.remain(own, step, after, kept),
            source,
        )

    def _is_whole_mask(self, values: dict[int, Tensor]) -> Any:
        """Whether scores are a mask that fits, with those frozen meanwhile.

        Args:
            values: Dictionary from the ids of scores to new values.
        """
        fits: Any = True
        for group in self._all_groups:
            own = [
                values[id(v)] if id(v) in values else ops.stop_gradient(v)
                for v in group.variables
            ]
            budget = group.final_budget_at(self._step)
            fits = ops.logical_and(fits, group.fits(own, budget))
        return fits

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
        """Calls one function before the mask is final, and another after."""
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


def _own(limits: Any) -> Any:
    """Returns limits whose schedules no other optimizer completes."""
    if isinstance(limits, dict):
        return {key: own_schedule(limit) for key, limit in limits.items()}
    return own_schedule(limits)


def _number(value: Any) -> float:
    return float(ops.convert_to_numpy(value))
