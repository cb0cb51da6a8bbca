"""The wrapper that masks the kernels of any layer."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._scores import mark_scores
from keras_gumbel._seeds import require_seed
from keras_gumbel._seeds import spawn_seeds
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel.layers._granularity import Granularity
from keras_gumbel.layers._granularity import Layout
from keras_gumbel.layers._granularity import require_granularity
from keras_gumbel.layers.concrete_mask import ConcreteMask
from keras_gumbel.layers.saliency_mask import SaliencyMask


@keras.saving.register_keras_serializable(package="keras_gumbel")
class Sparsified(keras.layers.Wrapper):
    """Calls a layer with its kernel times a learned mask.

    Use it to sparsify one layer, or the layers of a subclassed model; for
    Sequential and Functional models `keras_gumbel.sparsify` wraps every layer
    it can.

    ```
    output = layer(inputs) with kernel * m in place of the kernel # Eq. (17)
    ```

    There is one score for each entry of the kernel, or for each unit or block
    of them. By default the mask is s
    itself, without noise. With
    `mask=ConcreteMask(relaxation="binary_concrete")` one is drawn for all
    examples of a batch (Eqs. 18, 26). Biases are not masked. A
    kernel regularizer of the layer sees the kernel without the mask.

    Layers with a kernel that are known:

    - Dense, EinsumDense and Embedding;
    - Conv1D, Conv2D, Conv3D and their transposes, DepthwiseConv1D,
      DepthwiseConv2D, SeparableConv1D and SeparableConv2D (both kernels);
    - SimpleRNN, LSTM, GRU, the ConvLSTMs, and RNN of such cells (`kernel` and
      `recurrent_kernel`);
    - MultiHeadAttention and GroupQueryAttention (the kernels of query, key,
      value, gate and output);
    - Bidirectional and TimeDistributed around any of these, TimeDistributed
      also around a Sequential or Functional model.

    Args:
        layer: The Keras layer to wrap, built or not.
        mask: A `ConcreteMask` or `SaliencyMask`, the pattern of the masks:
            every kernel gets one with its arguments, for the shape of the
            kernel and with noise of its own. `None` is
            `ConcreteMask(relaxation="mean")`. Defaults to `None`.
        granularity: String or pair of integers, what has a score:

            - `"weight"`: every entry of a kernel.
            - `"unit"`: every neuron of a Dense layer, filter of a
              convolution, head of an attention layer, feature of an
              embedding: all weights that lead into it.
            - `(rows, columns)`: every block of this size on the last two
              axes of a kernel.
            - `"N:M"`, such as `"2:4"`: every entry, and of every M inputs in
              a row of a unit at most N are kept in the end, however large
              the budget.

            Defaults to `"weight"`.
        fixed: Boolean, whether the scores are a final mask: not trainable,
            applied as they are, without noise. Defaults to `False`.
        seed: Integer in [0, 2**32) or `None`. Defaults to `None`.
        **kwargs: Base layer keyword arguments. The `name` defaults to that of
            the layer behind `sparsified_`, the `dtype` to the layer's.

    Call arguments:
        *args: What the layer takes, under the same names.
        training: Boolean, whether to draw noise. The layer sees it as well.

    Input shape:
        That of the layer.

    Output shape:
        That of the layer.

    Raises:
        TypeError: If `layer` is not a Keras layer.
        ValueError: If the layer has no kernel that is known, or
            `granularity` is unknown; at build, if a kernel does not divide
            into it.

    Example:

    >>> layer = keras_gumbel.layers.Sparsified(keras.layers.Dense(4))
    >>> tuple(layer(keras.ops.ones((2, 3))).shape)
    (2, 4)

    References:
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571)
    """

    def __init__(
        self,
        layer: keras.Layer,
        mask: ConcreteMask | SaliencyMask | None = None,
        granularity: str | Sequence[int] = "weight",
        fixed: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.Layer):
            raise invalid_argument(
                "Sparsified",
                "layer",
                "a Keras layer",
                layer,
                "Pass the layer, then call the result: "
                "`Sparsified(Dense(10))(x)`.",
                error=TypeError,
            )
        slots = _keras_private.kernel_slots(layer)
        if not slots:
            raise invalid_argument(
                "Sparsified",
                "layer",
                "a layer with a kernel that is known",
                layer,
                "See the documentation of `Sparsified` for the list.",
            )
        if mask is None:
            mask = ConcreteMask(relaxation="mean")
        if not isinstance(mask, (ConcreteMask, SaliencyMask)):
            raise invalid_argument(
                "Sparsified",
                "mask",
                "a `ConcreteMask`, a `SaliencyMask` or `None`",
                mask,
                error=TypeError,
            )
        granularity = require_granularity("Sparsified", granularity).value
        seed = require_seed("Sparsified", seed)
        pattern = _unshared(keras.saving.serialize_keras_object(mask))
        masks = [
            _like(
                pattern,
                fixed=fixed,
                seed=mask_seed,
                name=f"{slot.name.replace('/', '_')}_mask",
                dtype=slot.dtype_policy,
            )
            for slot, mask_seed in zip(
                slots, spawn_seeds(seed, len(slots)), strict=True
            )
        ]
        kwargs.setdefault("name", f"sparsified_{layer.name}")
        kwargs.setdefault("dtype", layer.dtype_policy)
        kwargs.setdefault("autocast", layer.autocast)
        super().__init__(layer, **kwargs)
        self._pattern = pattern
        self.granularity = granularity
        self.fixed = fixed
        self.seed = seed
        self.masks = masks
        self.supports_masking = layer.supports_masking
        _keras_private.mirror_signatures(self, layer)

    @property
    def mask(self) -> ConcreteMask | SaliencyMask:
        """A mask like those of the kernels, not built."""
        return keras.saving.deserialize_keras_object(_unshared(self._pattern))

    @property
    def kernels(self) -> list[keras.Variable]:
        """The kernels of the layer, in the order of `masks`."""
        return _keras_private.kernels(self.layer)

    @property
    def kernel_names(self) -> list[str]:
        """The names of the kernels in the layer, in the order of `masks`."""
        return [slot.name for slot in _keras_private.kernel_slots(self.layer)]

    def build(self, *shapes: Shape, **named_shapes: Shape) -> None:
        if not self.layer.built:
            self.layer.build(*shapes, **named_shapes)
        slots = _keras_private.kernel_slots(self.layer)
        # Where the scores of each kernel are, in the order of `masks`.
        self.layouts = tuple(map(self._layout, self.kernels, slots))
        for mask, kernel, layout in zip(
            self.masks, self.kernels, self.layouts, strict=True
        ):
            mask.build(layout.scores)
            saliency = None
            if isinstance(mask, SaliencyMask):
                saliency = mask.ranking(partial(_saliency, kernel, layout))
            if not self.fixed:
                mark_scores(
                    mask.mask_scores, saliency, layout.weights, layout.rows
                )

    def call(
        self, *args: Any, training: bool | None = None, **kwargs: Any
    ) -> Any:
        masked = [
            _masked(mask, kernel, layout, training)
            for mask, kernel, layout in zip(
                self.masks, self.kernels, self.layouts, strict=True
            )
        ]
        places = _keras_private.kernel_places(self.layer)
        with _keras_private.substituted(places, masked):
            return self.layer(*args, **kwargs)

    def compute_output_shape(
        self, *shapes: Shape, **named_shapes: Shape
    ) -> Any:
        return self.layer.compute_output_shape(*shapes, **named_shapes)

    def compute_output_spec(
        self, *args: Any, training: bool | None = None, **kwargs: Any
    ) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)

    def get_build_config(self) -> dict[str, Any] | None:
        return self.layer.get_build_config()

    def compute_mask(self, inputs: Tensor, previous_mask: Any) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def _layout(
        self, kernel: keras.Variable, slot: _keras_private.Slot
    ) -> Layout:
        where = tuple(kernel.shape), slot.units, slot.inputs
        granularity = Granularity(self.granularity)
        problem = granularity.problem(*where)
        if problem is not None:
            raise invalid_argument(
                "Sparsified",
                "granularity",
                f"one that fits {self.layer.name}/{slot.name}",
                self.granularity,
                f"Not possible: {problem}.",
            )
        return granularity.layout(*where)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "mask": _unshared(self._pattern),
            "granularity": self.granularity,
            "fixed": self.fixed,
            "seed": self.seed,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> "Sparsified":
        mask = keras.saving.deserialize_keras_object(
            config["mask"], custom_objects=custom_objects
        )
        return super().from_config({**config, "mask": mask}, custom_objects)


def _saliency(kernel: keras.Variable, layout: Layout) -> Tensor:
    return layout.saliency(ops.abs(ops.cast(kernel, "float32")))


def _masked(
    mask: ConcreteMask | SaliencyMask,
    kernel: keras.Variable,
    layout: Layout,
    training: bool | None,
) -> Tensor:
    """Returns what is kept of a kernel, in the dtype it computes in."""
    weights = ops.cast(kernel, mask.compute_dtype)
    if isinstance(mask, SaliencyMask):
        return mask.keep(weights, layout.expand(mask.mask_scores))
    kept = layout.expand(mask.draw(training))
    return weights * ops.cast(kept, weights.dtype)


def _like(pattern: dict[str, Any], **changes: Any) -> keras.Layer:
    """Returns a mask of the same config, with some arguments changed."""
    config = {**pattern["config"], **changes}
    if "axis" in config:
        config["axis"] = None
    return keras.saving.deserialize_keras_object(
        {**_unshared(pattern), "config": config}
    )


def _unshared(pattern: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of a mask without the mark of a shared object.

    While it loads a model, Keras marks objects by their `id`, which a later
    one may have as well, and hands out the same mask twice.
    """
    return {k: v for k, v in pattern.items() if k != "shared_object_id"}
