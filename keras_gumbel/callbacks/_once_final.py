"""The callback that starts another callback with the final mask."""

from collections.abc import Callable
from typing import Any

import keras

from keras_gumbel._validation import invalid_argument
from keras_gumbel.sparsity._budget_keeping import find_projected
from keras_gumbel.sparsity._choices import mask_is_final
from keras_gumbel.sparsity._found import find_scores


def _pass_on(hook: str, waits: bool = True) -> Callable[..., None]:
    """Returns a hook that calls the one of the wrapped callback."""

    def method(self: "OnceFinal", *args: Any, **kwargs: Any) -> None:
        if self.awake or not waits:
            getattr(self.callback, hook)(*args, **kwargs)

    method.__name__ = hook
    return method


class OnceFinal(keras.callbacks.Callback):
    """Starts another callback once the mask is final.

    Wrap callbacks that choose the best epoch, such as `EarlyStopping` and
    `ModelCheckpoint(save_best_only=True)`. While the density falls, the loss
    says little about the final model, because the model still has more weights
    than it will keep. These callbacks would choose a model that is not pruned
    yet.

    The wrapped callback sees only epochs that end with the final mask. These
    are the epochs after the `harden_step` of
    `keras_gumbel.optimizers.ProjectedOptimizer`, or all epochs if
    `keras_gumbel.harden` was called before.

    Args:
        callback: `keras.callbacks.Callback`.

    Raises:
        TypeError: If `callback` is not a callback.
        ValueError: When training begins, if the model has no masks, or will
            not get a final mask, with `harden_step=None`.

    Example:

    >>> stopping = keras_gumbel.callbacks.OnceFinal(
    ...     keras.callbacks.EarlyStopping("val_loss", patience=3)
    ... )
    """

    def __init__(self, callback: keras.callbacks.Callback) -> None:
        if not isinstance(callback, keras.callbacks.Callback):
            raise invalid_argument(
                "OnceFinal",
                "callback",
                "a `keras.callbacks.Callback`",
                callback,
                error=TypeError,
            )
        super().__init__()
        self.callback = callback
        self.awake = False

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self.callback.set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._look()
        optimizer = find_projected(self.model.optimizer)
        coming = optimizer is not None and optimizer.harden_step is not None
        if not self.awake and not coming:
            raise ValueError(
                "`OnceFinal` waits for a final mask, but this training will "
                "not have one. Compile the model with a `ProjectedOptimizer` "
                "that has a `harden_step` or a schedule with `steps`, or call "
                "`keras_gumbel.harden` first. Received: an optimizer of type "
                f"{type(self.model.optimizer).__name__} without `harden_step`."
            )
        self.callback.on_train_begin(logs)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._look()
        if self.awake:
            self.callback.on_epoch_end(epoch, logs)

    on_epoch_begin = _pass_on("on_epoch_begin")
    on_train_batch_begin = _pass_on("on_train_batch_begin")
    on_train_batch_end = _pass_on("on_train_batch_end")
    on_test_batch_begin = _pass_on("on_test_batch_begin")
    on_test_batch_end = _pass_on("on_test_batch_end")
    on_test_begin = _pass_on("on_test_begin")
    on_test_end = _pass_on("on_test_end")
    on_train_end = _pass_on("on_train_end", waits=False)

    def _look(self) -> None:
        """Checks whether the mask is final.

        It does so only at the end of epochs, because on JAX the variables have
        no current values in between.
        """
        scores = find_scores("OnceFinal", self.model)
        self.awake = mask_is_final(self.model, scores)
