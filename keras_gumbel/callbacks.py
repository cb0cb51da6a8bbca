"""Callbacks; none is needed to train."""

from typing import Any

import keras

from keras_gumbel.sparsity import sparsity_report


class SparsityLogger(keras.callbacks.Callback):
    """Logs at the end of each epoch how far the masks are decided.

    Adds to the logs, where `History`, the progress bar, `CSVLogger` and
    `TensorBoard` (listed after it) find them:

    - `density`: the share of the weights the final mask would keep now;
    - `undecided`: the share of the scores between 0.05 and 0.95.

    Example:

    >>> logger = keras_gumbel.callbacks.SparsityLogger()
    """

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        report = sparsity_report(self.model)
        if logs is not None:
            logs["density"] = report.density
            logs["undecided"] = report.undecided / report.weights
