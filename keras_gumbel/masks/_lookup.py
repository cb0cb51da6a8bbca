"""Finds masks by their short names."""

from collections.abc import Callable
from typing import Any

from keras_gumbel import _validation
from keras_gumbel.masks._base import Mask
from keras_gumbel.masks._concrete_mask import ConcreteMask
from keras_gumbel.masks._fisher_mask import FisherMask
from keras_gumbel.masks._gaussian_mask import GaussianMask
from keras_gumbel.masks._hard_concrete_mask import HardConcreteMask
from keras_gumbel.masks._learned_mask import LearnedMask
from keras_gumbel.masks._magnitude_mask import MagnitudeMask
from keras_gumbel.masks._random_mask import RandomMask
from keras_gumbel.masks._saliency_mask import SaliencyMask

_SHORT_NAMES: dict[str, Callable[[], Mask]] = {
    "learned": LearnedMask,
    "magnitude": MagnitudeMask,
    "random": RandomMask,
    "wanda": lambda: SaliencyMask("wanda"),
    "obs": lambda: SaliencyMask("obs"),
    "fisher": FisherMask,
    "concrete": ConcreteMask,
    "hard_concrete": HardConcreteMask,
    "gaussian": GaussianMask,
}


def get(identifier: Any) -> Mask:
    """Returns a mask, given a mask or its short name.

    Args:
        identifier: `Mask`, or one of `"learned"`, `"magnitude"`, `"random"`,
            `"wanda"`, `"obs"`, `"fisher"`, `"concrete"`, `"hard_concrete"` and
            `"gaussian"`.

    Returns:
        A `Mask`.

    Raises:
        ValueError: If the name is unknown.

    Example:

    >>> type(keras_gumbel.masks.get("magnitude")).__name__
    'MagnitudeMask'
    """
    if isinstance(identifier, Mask):
        return identifier
    if isinstance(identifier, str) and identifier in _SHORT_NAMES:
        return _SHORT_NAMES[identifier]()
    listed = ", ".join(repr(name) for name in _SHORT_NAMES)
    raise _validation.invalid_argument(
        "sparsify",
        "mask",
        f"a `keras_gumbel.masks.Mask`, or one of {listed}",
        identifier,
    )
