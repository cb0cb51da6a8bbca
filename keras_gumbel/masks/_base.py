"""The base class of masks."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._scores import Mark
from keras_gumbel._scores import set_mark
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_integer
from keras_gumbel._validation import require_axis
from keras_gumbel.granularities import ScoreLayout


class Mask(keras.layers.Layer):
    """Base class of masks, which compute a mask from scores.

    Use a mask in one of two ways. `keras_gumbel.sparsify(model, mask)` puts a
    copy on every weight of a model. Or place the mask between layers, where it
    multiplies its inputs and selects features or channels.

    To write your own mask, subclass `Mask`, override `draw`, and register the
    class like any Keras layer. All functions and optimizers of this package
    work with it. If the scores are not learned, also override `saliency` and
    set `ranked = True`. After every step,
    `keras_gumbel.optimizers.ProjectedOptimizer` then sets the K scores with the
    largest saliency to 1 and all others to 0. Override `keep` to change the
    gradient.

    The scores are one trainable variable named `mask_scores`, with values in
    [0, 1]. It is float32 under every dtype policy.

    Args:
        axis: Integer, a sequence of integers, or `None`. The axes of the
            input that have separate scores. The mask is shared along all
            other axes. `None` gives every entry a score. It has no effect if
            the mask is on a weight. Defaults to `-1`.
        scores_initializer: Initializer of the scores. Defaults to `"ones"`.
        scores_constraint: Constraint of the scores, such as
            `keras_gumbel.constraints.CappedBox`, or `None`.
            `ProjectedOptimizer` does not accept scores with a constraint.
            Defaults to `None`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Float tensor.
        training: Boolean, whether to draw noise.

    Input shape:
        Any, with known lengths on the axes named by `axis`.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `axis` has another type; at build, if it does not fit
            the inputs.

    Example:

    >>> @keras.saving.register_keras_serializable(package="examples")
    ... class SquaredMask(keras_gumbel.masks.Mask):
    ...     def draw(self, training=False):
    ...         return keras.ops.square(self.mask_scores)
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = keras_gumbel.sparsify(model, SquaredMask())
    """

    # Whether the scores are set by saliencies, not trained by gradients.
    ranked = False
    # The number of optimizer updates from one ranking to the next.
    frequency = 1
    # Whether the mask can only be put on a weight, by `keras_gumbel.sparsify`.
    for_weights = False
    # Whether the mask can be put on coupled channels.
    for_channels = False
    # Whether the saliencies of channels are divided by the mean of their group.
    relative = False
    # Whether the saliencies are averages of squared gradients of the scores.
    observed = False
    # Whether the density of a pretrained network should fall early: see
    # docs/benchmarks/pretrained.md.
    prunes_early = False

    def __init__(
        self,
        axis: int | Sequence[int] | None = -1,
        scores_initializer: Any = "ones",
        scores_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        named = axis if isinstance(axis, Sequence) else [axis]
        if axis is not None and not all(map(is_integer, named)):
            raise invalid_argument(
                type(self).__name__,
                "axis",
                "an integer, a sequence of integers, or `None`",
                axis,
            )
        super().__init__(**kwargs)
        self.axis = axis
        self.scores_initializer = keras.initializers.get(scores_initializer)
        self.scores_constraint = keras.constraints.get(scores_constraint)
        self.supports_masking = True
        self.hardened = False
        # Whether the scores are trained while the mask is not hardened.
        self.wants_training = self.trainable

    def draw(self, training: bool | None = False) -> Tensor:
        """Returns a mask, as the next call would apply it.

        Args:
            training: Boolean, whether to draw noise. Defaults to `False`.

        Returns:
            A float32 tensor of the shape of `mask_scores`, in [0, 1].
        """
        raise NotImplementedError

    def keep(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Returns the masked inputs, with the gradient of the mask.

        Args:
            inputs: Float tensor.
            mask: Float tensor that broadcasts to `inputs`.
        """
        return inputs * ops.cast(mask, inputs.dtype)

    def saliency(self, weight: keras.Variable, layout: ScoreLayout) -> Tensor:
        """Returns how much each score of a weight matters.

        If `ranked`, it ranks the scores. Otherwise, it orders equal scores.

        Args:
            weight: The weight that has the mask.
            layout: `keras_gumbel.granularities.ScoreLayout` of its scores.

        Returns:
            A float tensor of the shape of the scores, of at least 0.
        """
        magnitudes = ops.abs(ops.cast(weight, "float32"))
        return layout.root_mean_square(magnitudes)

    def problem(
        self,
        weight: keras.Variable,
        layout: ScoreLayout,
        input_axes: tuple[int, ...] | None,
    ) -> str | None:
        """Returns why the mask does not fit a weight, or `None`.

        Args:
            weight: The weight that would get the mask.
            layout: `ScoreLayout` of its scores.
            input_axes: Tuple of integers, the axes of the weight that are
                summed over, or `None` if they are unknown.

        Returns:
            A string, which warnings show as the reason, or `None`.
        """
        return None

    def attach_to(
        self,
        weight: keras.Variable,
        layout: ScoreLayout,
        input_axes: tuple[int, ...] | None,
    ) -> None:
        """Prepares a built mask for its weight.

        When a model is loaded, the weights of the mask are loaded afterwards.

        Args:
            weight: The weight that gets the mask.
            layout: `ScoreLayout` of its scores.
            input_axes: As in `problem`.
        """

    def build(self, input_shape: Shape) -> None:
        if (self.ranked or self.for_weights) and self.axis is not None:
            raise ValueError(
                f"`{type(self).__name__}` is a mask for weights and cannot "
                "be used between layers. Pass it to `keras_gumbel.sparsify`, "
                "or use `keras_gumbel.layers.ConcreteMask` here."
            )
        axes = self._axes(len(input_shape))
        if any(input_shape[axis] is None for axis in axes):
            raise invalid_argument(
                type(self).__name__,
                "axis",
                f"axes of known length, for inputs of shape {input_shape}",
                self.axis,
            )
        self.input_spec = keras.InputSpec(ndim=len(input_shape))
        # If TensorFlow created the variable while it traces the first step, it
        # would have no values yet, and the optimizer could not project it.
        with _keras_private.outside_graph():
            self.mask_scores = self.add_weight(
                name="mask_scores",
                shape=[input_shape[axis] for axis in axes],
                initializer=self.scores_initializer,
                constraint=self.scores_constraint,
                dtype="float32",
                autocast=False,
            )
        set_mark(self.mask_scores, Mark(name=self.name))

    def call(self, inputs: Tensor, training: bool | None = False) -> Tensor:
        return self.masked(inputs, self.broadcast(self.current(training)))

    def current(self, training: bool | None = False) -> Tensor:
        """Returns the current mask: the final mask, or a drawn one."""
        if self.hardened:
            return ops.convert_to_tensor(self.final_mask)
        return self.draw(training)

    def masked(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Returns the inputs under the current mask."""
        if self.hardened:
            return Mask.keep(self, inputs, mask)
        return self.keep(inputs, mask)

    def harden(self, final: Any) -> None:
        """Makes a mask final. It then draws no noise.

        The scores are kept, but no longer trained.

        Args:
            final: Array of zeros and ones of the shape of `mask_scores`.
        """
        if not hasattr(self, "final_mask"):
            with _keras_private.unlocked(self):
                self.final_mask = self.add_weight(
                    name="final_mask",
                    shape=self.mask_scores.shape,
                    initializer="ones",
                    dtype="bool",
                    trainable=False,
                    autocast=False,
                )
        self.final_mask.assign(ops.cast(final, "bool"))
        self.hardened = True
        self._train_if(self.wants_training)

    def soften(self) -> None:
        """Undoes `harden` and uses the scores again."""
        self.hardened = False
        self._train_if(self.wants_training)

    def get_support(self, indices: bool = False) -> np.ndarray:
        """Returns which features the mask keeps.

        After `keras_gumbel.harden`, these are the ones of the final mask.
        Before, they are the features with the largest scores. Their number is
        the rounded sum of the scores, which is the average number that a drawn
        mask keeps (Eq. 19).

        Args:
            indices: Boolean, whether to return the positions of the features
                instead of a Boolean array. Defaults to `False`.

        Returns:
            A NumPy array: Boolean, of the shape of `mask_scores`; or integers,
            the positions in the flattened mask in increasing order.

        Raises:
            ValueError: If the mask is not built, or a score is NaN.

        Example:

        >>> gate = keras_gumbel.masks.LearnedMask()
        >>> gate.build((None, 3))
        >>> gate.harden([True, False, True])
        >>> gate.get_support(indices=True).tolist()
        [0, 2]
        """
        if not self.built:
            raise ValueError(
                f"The mask {self.name!r} has no scores yet. Build the mask or "
                "call its model before `get_support`."
            )
        support = self._kept()
        return np.flatnonzero(support) if indices else support

    def _kept(self) -> np.ndarray:
        if self.hardened:
            return ops.convert_to_numpy(self.final_mask).astype(bool)
        scores = np.clip(ops.convert_to_numpy(self.mask_scores), 0.0, 1.0)
        if np.isnan(scores).any():
            raise ValueError(
                f"Training diverged: scores of {self.name!r} are NaN, so no "
                "features can be chosen. Train with smaller learning rates or "
                "with gradient clipping."
            )
        count = round(float(scores.sum(dtype="float64")))
        support = np.zeros(scores.size, "bool")
        support[np.argsort(-scores, axis=None, kind="stable")[:count]] = True
        return support.reshape(scores.shape)

    @property
    def trainable(self) -> bool:
        """Whether the scores are trained."""
        return bool(super().trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._train_if(value)

    def _train_if(self, value: bool) -> None:
        # Setting `trainable` on a model must not train its hardened masks. This
        # bypasses the attribute: on TensorFlow, Keras skips an unchanged value.
        self.wants_training = value
        trained = value and not self.hardened
        keras.layers.Layer.trainable.fset(self, trained)

    def broadcast(self, mask: Tensor) -> Tensor:
        """Returns a mask in a shape that broadcasts to the inputs.

        Args:
            mask: Tensor of the shape of `mask_scores`.

        Returns:
            A tensor of the rank of the inputs, of length 1 on the axes that
            have no scores.
        """
        rank = self.input_spec.ndim
        lengths = iter(mask.shape)
        axes = self._axes(rank)
        shape = [next(lengths) if a in axes else 1 for a in range(rank)]
        return ops.reshape(mask, shape)

    def _axes(self, rank: int) -> list[int]:
        """Returns the axes that have scores, in increasing order."""
        if self.axis is None:
            return list(range(rank))
        named = self.axis if isinstance(self.axis, Sequence) else [self.axis]
        shape, owner = (None,) * rank, type(self).__name__
        return sorted({require_axis(owner, a, shape) for a in named})

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "axis": self.axis,
            "scores_initializer": keras.initializers.serialize(
                self.scores_initializer
            ),
            "scores_constraint": keras.constraints.serialize(
                self.scores_constraint
            ),
        }

    def get_build_config(self) -> dict[str, Any] | None:
        config = super().get_build_config()
        return config and {**config, "hardened": self.hardened}

    def build_from_config(self, config: dict[str, Any]) -> None:
        config = dict(config)
        hardened = config.pop("hardened", False)
        super().build_from_config(config)
        if hardened:
            self.trainable = True
            self.harden(ops.ones(self.mask_scores.shape))
