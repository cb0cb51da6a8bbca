"""The granularity of each weight: one for all, or by a dictionary."""

from collections.abc import Container
from typing import Any

from keras_gumbel import granularities
from keras_gumbel._budgets import keys_of
from keras_gumbel._validation import invalid_argument
from keras_gumbel.granularities import Channel
from keras_gumbel.granularities import Granularity
from keras_gumbel.sparsity._scan import WeightMatrix


def is_coupled(granularity: Any) -> bool:
    """Whether scores are for channels, which span several weights."""
    if _is_dictionary(granularity):
        return False
    return isinstance(granularities.get(granularity), Channel)


def granularities_of(
    granularity: Any,
    matrices: list[WeightMatrix],
    unmasked: Container[str],
) -> dict[str, Granularity]:
    """Returns the granularities of weights, by their names.

    Args:
        granularity: As in `keras_gumbel.sparsify`.
        matrices: List of `WeightMatrix`.
        unmasked: The names of weights that get no mask at any granularity.
            These need no granularity.

    Raises:
        ValueError: If a key matches no weight, or no key matches a weight.
    """
    names = [matrix.name for matrix in matrices]
    if not _is_dictionary(granularity):
        return dict.fromkeys(names, granularities.get(granularity))
    owner, argument = "sparsify", "granularity"
    grains = {key: granularities.get(g) for key, g in granularity.items()}
    if any(isinstance(grain, Channel) for grain in grains.values()):
        raise invalid_argument(
            owner,
            argument,
            "'channel' for the whole model, or a dictionary without it",
            granularity,
            "Channels span the weights of several layers.",
        )
    keys = keys_of(owner, argument, grains, [(n,) for n in names], "weights")
    found = {}
    for name, key in zip(names, keys, strict=True):
        if key is not None:
            found[name] = grains[key]
        elif name not in unmasked:
            raise invalid_argument(
                owner,
                argument,
                "a granularity, or a dictionary with a name or regex for all "
                "weights",
                granularity,
                f"No key matches {name}.",
            )
    return found


def _is_dictionary(granularity: Any) -> bool:
    """Whether it is a dictionary of granularities, not a config of one."""
    return isinstance(granularity, dict) and "class_name" not in granularity
