"""The callback that logs density and undecided scores."""

from typing import Any

import keras
import numpy as np

from keras_gumbel._validation import require_positive_integer
from keras_gumbel.callbacks._advice import Advice
from keras_gumbel.callbacks._advice import steps_taken
from keras_gumbel.callbacks._hardened import evaluate_soft_and_hard
from keras_gumbel.sparsity._budget_keeping import bring_back
from keras_gumbel.sparsity._choices import Decisions
from keras_gumbel.sparsity._choices import find_decisions
from keras_gumbel.sparsity._found import divergence
from keras_gumbel.sparsity._found import find_scores

# The names that are logged for every model.
_ALWAYS = ("density", "undecided", "budget_used", "mask_churn")


class SparsityLogger(keras.callbacks.Callback):
    """Logs density and undecided scores at the end of each epoch.

    It adds these values to the logs of the epoch:

    - `density`: the fraction of the weights that the final mask would keep now.
    - `undecided`: the fraction of the scores between 0.05 and 0.95.
    - `budget_used`: the sum of the scores divided by K, or their cost divided
      by the budget.
    - `mask_churn`: the fraction of the weights in the current mask that were
      not in the mask one epoch ago, or when training began.
    - `temperature`: the mean temperature of the masks, if they have one.
    - `val_hard_loss`, with `validation_data`: the loss of the model with its
      final mask. The same for each metric.
    - `val_gap_loss`, with `validation_data`: `val_hard_loss` minus the loss of
      the model as it is, in inference. The same for each metric.

    The progress bar and `History` show them. Keras passes the logs from one
    callback to the next, so list this callback before `CSVLogger`,
    `TensorBoard` and callbacks that monitor one of these names, such as
    `ModelCheckpoint`.

    It warns once in each of these cases:

    - The scheduled density has not reached its end when `fit` ends, as planned
      or because a callback stopped the training.
    - The schedule ends in the first tenth of the steps.
    - The learning rate of the scores is too small for the steps that train
      them. By a rule of thumb, measured in
      `docs/benchmarks/score_learning_rate.md`, the sum of the learning rates of
      all steps should be 10 or more for `Adam` and similar optimizers, and
      `10 * (1 - momentum)` for `ScoreSGD`.
    - For each kept weight, more than 3 scores are undecided when the mask
      becomes final, or more than 1 when training ends. At the end, it checks
      the weights that earlier callbacks have restored.
    - An optimizer without a budget trains the masks.
    - A layer loses all its weights.
    - Training diverges. If a score is NaN, all logged values are NaN.

    Nothing is computed within an epoch.

    Args:
        validation_data: Tuple `(x, y)` or `(x, y, sample_weight)`, or a
            dataset, as for `Model.evaluate`; or `None`. The model is evaluated
            on it twice in each epoch, and does not change. Defaults to `None`.
        batch_size: Positive integer for arrays in `validation_data`, or
            `None`, as in `Model.evaluate`. Defaults to `None`.

    Raises:
        ValueError: If `batch_size` is not a positive integer.

    Example:

    >>> logger = keras_gumbel.callbacks.SparsityLogger()
    """

    def __init__(
        self, validation_data: Any = None, batch_size: int | None = None
    ) -> None:
        if batch_size is not None:
            require_positive_integer("SparsityLogger", "batch_size", batch_size)
        super().__init__()
        self.validation_data = validation_data
        self.batch_size = batch_size
        self._advice = Advice()
        # The values of the last epoch, by their names in the logs.
        self._values = dict.fromkeys(_ALWAYS, 0.0)
        self._finals: list[np.ndarray] | None = None
        # Steps of an epoch; unknown for a dataset of unknown length.
        self._steps: int | None = None
        self._begun = False
        self._steps_before = 0

    def set_model(self, model: keras.Model) -> None:
        if model is not self._model:
            self._finals = None
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._steps = self.params.get("steps")
        self._begun = False

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if self._begun:
            return
        self._begun = True
        self._steps_before = steps_taken(self.model)
        if self._steps is not None:
            self._look_ahead(epoch, self._steps)
        scores = find_scores("SparsityLogger", self.model)
        if self._finals is None and divergence(scores) is None:
            self._churn(find_decisions("SparsityLogger", self.model))

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        model = self.model
        if self._steps is None:
            self._steps = steps_taken(model) - self._steps_before
            self._look_ahead(epoch + 1, self._steps)
        diverged = divergence(find_scores("SparsityLogger", model))
        if diverged is None:
            decisions = find_decisions("SparsityLogger", model)
            self._advice.on_decisions(model, decisions)
            self._values = self._describe(decisions)
        else:
            self._advice.on_divergence(diverged)
            self._values = dict.fromkeys(self._values, float("nan"))
        if logs is not None:
            logs.update(self._values)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        # Callbacks before this one may have restored the weights of another
        # epoch.
        bring_back(self.model)
        diverged = divergence(find_scores("SparsityLogger", self.model))
        if diverged is None:
            decisions = find_decisions("SparsityLogger", self.model)
            self._advice.on_end(self.model, decisions)
        else:
            self._advice.on_divergence(diverged)

    def _describe(self, decisions: Decisions) -> dict[str, float]:
        """Returns the values to log for an epoch."""
        values = {
            "density": decisions.kept / decisions.num_weights,
            "undecided": decisions.undecided / decisions.num_weights,
            "budget_used": decisions.budget_used,
            "mask_churn": self._churn(decisions),
        }
        if decisions.temperature is not None:
            values["temperature"] = decisions.temperature
        if self.validation_data is not None:
            soft, hard = evaluate_soft_and_hard(
                self.model, decisions, self.validation_data, self.batch_size
            )
            for name, value in hard.items():
                values[f"val_hard_{name}"] = value
                values[f"val_gap_{name}"] = value - soft[name]
        return values

    def _look_ahead(self, epoch: int, steps: int) -> None:
        """Checks the plan, given the next epoch and the steps of each."""
        epochs = self.params["epochs"] - epoch
        self._advice.on_plan(self.model, steps * epochs)

    def _churn(self, decisions: Decisions) -> float:
        """Returns the fraction of new ones in the mask, and stores the mask."""
        last, now = self._finals, [f > 0 for f in decisions.finals]
        self._finals = now
        if last is None:  # the scores were NaN when training began
            return float("nan")
        new = [
            np.count_nonzero(mask & ~before)
            for mask, before in zip(now, last, strict=True)
        ]
        return sum(new) / max(decisions.kept, 1)
