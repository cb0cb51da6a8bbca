"""The callback that logs how far masks are decided."""

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

# What is logged of every model.
_ALWAYS = ("density", "undecided", "budget_used", "mask_churn")


class SparsityLogger(keras.callbacks.Callback):
    """Logs at the end of each epoch how far the masks are decided.

    Adds to the logs of the epoch:

    - `density`: the share of the weights the final mask would keep now;
    - `undecided`: the share of the scores between 0.05 and 0.95;
    - `budget_used`: the sum of the scores over K, or of their costs over the
      budget of costs;
    - `mask_churn`: the share of the weights it would keep now that it would not
      have kept an epoch ago, or when training began;
    - `temperature`: that of the masks, their mean if they differ, where they
      have one;
    - with `validation_data`, for the loss and each metric, `val_hard_loss`:
      the loss of the model with its final mask; and `val_gap_loss`: what it
      has more than the model as it stands, in inference.

    The progress bar and `History` show them. `CSVLogger`, `TensorBoard` and
    what monitors one of these names, such as `ModelCheckpoint`, must be
    listed after this callback: Keras hands the logs from one to the next.

    It warns, once each, with advice, where

    - the density, as scheduled, has not come to its end when `fit` ends, as
      planned or because a callback has stopped it;
    - the schedule ends in the first tenth of the steps;
    - the learning rate of the scores is too small for the steps that train
      them. A rule of thumb, measured in
      `docs/benchmarks/score_learning_rate.md`: the sum of the learning rates
      of all steps should be 10 or more for `Adam` and its kin, and
      `10 * (1 - momentum)` for `ScoreSGD`;
    - more than 3 scores for each weight kept are undecided where the
      optimizer fixes the mask, or more than 1 where training has ended, with
      the weights that callbacks before this one have restored;
    - masks are trained by an optimizer that knows no budget;
    - nothing is kept of a layer;
    - training diverges. Where a score is NaN, so is all that is logged.

    Nothing is computed between the ends of epochs.

    Args:
        validation_data: What `Model.evaluate` takes: a tuple `(x, y)` or
            `(x, y, sample_weight)`, or a data set, or `None`. The model is
            evaluated twice on it in each epoch, and left as it was. Defaults
            to `None`.
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
        # Of the last epoch, by the names they have in the logs.
        self._values = dict.fromkeys(_ALWAYS, 0.0)
        self._finals: list[np.ndarray] | None = None
        # Of an epoch; unknown for a data set of unknown length.
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
        """Returns what is logged of an epoch."""
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
        """Asks for advice, given the epoch to come and the steps of each."""
        epochs = self.params["epochs"] - epoch
        self._advice.on_plan(self.model, steps * epochs)

    def _churn(self, decisions: Decisions) -> float:
        """Returns the share of new ones in the mask, and remembers it."""
        last, now = self._finals, [f > 0 for f in decisions.finals]
        self._finals = now
        if last is None:  # the scores were NaN when training began
            return float("nan")
        new = [
            np.count_nonzero(mask & ~before)
            for mask, before in zip(now, last, strict=True)
        ]
        return sum(new) / max(decisions.kept, 1)
