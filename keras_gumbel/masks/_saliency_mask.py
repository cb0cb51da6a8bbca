"""The mask that prunes by the change of the outputs of a layer."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._moments import missing_moments
from keras_gumbel._moments import moments_of
from keras_gumbel._moments import scale_shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_choice
from keras_gumbel.granularities import ScoreLayout
from keras_gumbel.masks._magnitude_mask import RankedMask


@keras.saving.register_keras_serializable(package="keras_gumbel")
class SaliencyMask(RankedMask):
    """Keeps the weights whose removal would change outputs most.

    Use it to prune a trained model in one shot. Call `keras_gumbel.calibrate`
    first, because the mask needs the inputs x of each weight.

    ```
    "wanda":  m = 1 for the K largest |w_ij| sqrt(E x_i^2)
    "obs":    m = 1 for the K largest |w_ij| / sqrt([H^-1]_ii)
    H = E x x^T + 0.01 mean_i(E x_i^2) I
    ```

    In `keras_gumbel.sparsify`, the short names of the two saliencies are
    `"wanda"` and `"obs"`. Wanda is the change of the outputs if a weight is
    removed and all others do not change. OBS (optimal brain surgeon) is the
    change if the other weights of the unit compensate, as in
    `keras_gumbel.harden(model, density=d, reconstruct=True)`.

    Saliencies are in the units of the layer outputs, which differ between
    layers. Whether all layers should share a budget depends on the model, so
    try both `density=d` and `density=keras_gumbel.layer_densities(model, d,
    "uniform")`.

    The mask stores one number for each input, which depends on the data. It is
    computed by `sparsify` and saved with the mask. A weight without calibration
    data gets no mask, and a warning says so.

    Args:
        method: String, `"wanda"` or `"obs"`. Defaults to `"wanda"`.
        gradient: String, `"masked"` to train only the kept weights, or
            `"dense"` to train all weights with the gradient of a kept weight,
            so that pruned weights can come back. Defaults to `"masked"`.
        frequency: Positive integer. The mask is chosen every `frequency`
            updates of the optimizer, and does not change in between. It has no
            effect for `granularity="channel"`. Defaults to `1`.
        **kwargs: Arguments of `keras_gumbel.masks.Mask`.

    Call arguments:
        inputs: Float tensor, the weight.
        training: Boolean. The mask is the same with and without.

    Input shape:
        Any, without unknown lengths.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `method` or `gradient` is unknown or `frequency` is not
            a positive integer; at build, if the mask stands between layers.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> x = keras.random.normal((32, 8), seed=0)
    >>> keras_gumbel.calibrate(model, x, verbose=0)
    >>> mask = keras_gumbel.masks.SaliencyMask("obs")
    >>> model = keras_gumbel.sparsify(model, mask)
    >>> model = keras_gumbel.harden(model, density=0.5)

    References:
        - [Sun et al., 2023](https://arxiv.org/abs/2306.11695), Wanda
        - [Hassibi and Stork,
          1992](https://proceedings.neurips.cc/paper/1992/hash/303ed4c69846ab36c2904d3ba8573050-Abstract.html),
          the optimal brain surgeon
        - [Frantar and Alistarh, 2023](https://arxiv.org/abs/2301.00774),
          SparseGPT, its damping
    """

    def __init__(
        self,
        method: str = "wanda",
        gradient: str = "masked",
        frequency: int = 1,
        **kwargs: Any,
    ) -> None:
        require_choice("SaliencyMask", "method", method, ("wanda", "obs"))
        super().__init__(gradient, frequency, **kwargs)
        self.method = method

    def problem(
        self,
        weight: keras.Variable,
        layout: ScoreLayout,
        input_axes: tuple[int, ...] | None,
    ) -> str | None:
        return missing_moments(weight, input_axes)

    def attach_to(
        self,
        weight: keras.Variable,
        layout: ScoreLayout,
        input_axes: tuple[int, ...] | None,
    ) -> None:
        moments = moments_of(weight)
        axes = moments.axes if moments else input_axes or ()
        shape = scale_shape(tuple(weight.shape), axes)
        with _keras_private.unlocked(self):
            self.input_scale = self.add_weight(
                name="input_scale",
                shape=shape,
                initializer="ones",
                dtype="float32",
                trainable=False,
                autocast=False,
            )
        if moments is not None:
            scale = moments.scale(self.method)
            self.input_scale.assign(np.reshape(scale, shape))
        self._last_scale = ops.convert_to_numpy(self.input_scale)

    def saliency(self, weight: keras.Variable, layout: ScoreLayout) -> Tensor:
        scaled = ops.cast(weight, "float32") * self._scale()
        return super().saliency(scaled, layout)

    def _scale(self) -> Tensor:
        if not _keras_private.is_readable(self.input_scale):
            return ops.convert_to_tensor(self._last_scale)
        scale = ops.convert_to_tensor(self.input_scale)
        if _keras_private.is_eager(scale):
            self._last_scale = ops.convert_to_numpy(scale)
        return scale

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self._last_scale = ops.convert_to_numpy(self.input_scale)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "method": self.method}
