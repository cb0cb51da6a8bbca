"""Finds the estimator for an identifier."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_gumbel._validation import invalid_argument
from keras_gumbel.estimators._arm import ARM
from keras_gumbel.estimators._base import Estimator
from keras_gumbel.estimators._disarm import DisARM
from keras_gumbel.estimators._from_function import FromFunction
from keras_gumbel.estimators._gapped import Gapped
from keras_gumbel.estimators._gumbel_rao import GumbelRao
from keras_gumbel.estimators._rebar import REBAR
from keras_gumbel.estimators._reinmax import ReinMax
from keras_gumbel.estimators._rloo import RLOO
from keras_gumbel.estimators._straight_through import StraightThrough
from keras_gumbel.estimators._straight_through_gumbel import (
    StraightThroughGumbel,
)

SHORT_NAMES: dict[str, Callable[[], Estimator]] = {
    "straight_through_gumbel": StraightThroughGumbel,
    "straight_through": StraightThrough,
    "identity": lambda: StraightThrough(backward_temperature=1.0),
    "reinmax": ReinMax,
    "gumbel_rao": GumbelRao,
    "gapped": Gapped,
    "rloo": RLOO,
    "disarm": DisARM,
    "arm": ARM,
    "rebar": REBAR,
}


def get(identifier: Any) -> Estimator:
    """Returns the gradient estimator for an identifier.

    Args:
        identifier: An `Estimator`, its class or its config; a function of
            `hard`, `logits`, `noise` and `temperature` that returns the
            surrogate; or one of `"straight_through_gumbel"`,
            `"straight_through"`, `"identity"`, `"reinmax"`, `"gumbel_rao"`,
            `"gapped"`, `"rloo"`, `"disarm"`, `"arm"` and `"rebar"`.

    Returns:
        An `Estimator`.

    Raises:
        ValueError: If `identifier` is not one of these.

    Example:

    >>> keras_gumbel.estimators.get("gumbel_rao").num_samples
    10
    """
    return get_for("estimators.get", identifier, "identifier")


def get_for(owner: str, identifier: Any, name: str = "estimator") -> Estimator:
    """Returns an estimator for an argument of a layer or function."""
    if isinstance(identifier, Estimator):
        return identifier
    if isinstance(identifier, str) and identifier in SHORT_NAMES:
        return SHORT_NAMES[identifier]()
    if isinstance(identifier, dict) and "class_name" in identifier:
        found = keras.saving.deserialize_keras_object(identifier)
        return get_for(owner, found, name)
    if inspect.isclass(identifier):
        if issubclass(identifier, Estimator):
            return identifier()
    elif callable(identifier):
        return FromFunction(identifier)
    listed = ", ".join(repr(short) for short in SHORT_NAMES)
    raise invalid_argument(
        owner,
        name,
        "a `keras_gumbel.estimators.Estimator`, a function, or one of "
        f"{listed}",
        identifier,
    )


def require_relaxing(owner: str, estimator: Estimator) -> None:
    """Raises unless an estimator supports relaxed samples."""
    if not estimator.relaxes:
        raise invalid_argument(
            owner,
            "estimator",
            "'straight_through_gumbel' with `hard=False`",
            estimator,
            "A relaxed sample has its own gradient. Pass `hard=True`.",
        )


def require_temperature_to_learn(
    owner: str, estimator: Estimator, learned: bool
) -> None:
    """Raises if a learned temperature would have no gradient."""
    if learned and not estimator.needs_temperature:
        raise invalid_argument(
            owner,
            "learn_temperature",
            f"`False` with estimator={estimator!r}, which gives the "
            "temperature no gradient",
            learned,
        )


def require_independent_samples(
    owner: str, estimator: Estimator, noise_shape: Any, return_soft: bool
) -> None:
    """Raises if log-probabilities would not be those of the samples."""
    if not estimator.compares_losses:
        return
    if noise_shape is not None:
        raise invalid_argument(
            owner,
            "noise_shape",
            f"`None` with estimator={estimator!r}, which needs independent "
            "samples",
            noise_shape,
            "Draw one sample and repeat it.",
        )
    if return_soft:
        raise invalid_argument(
            owner,
            "return_soft",
            f"`False` with estimator={estimator!r}, which is biased if the "
            "loss depends on the noise of a soft sample",
            return_soft,
        )
