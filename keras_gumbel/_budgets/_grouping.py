"""Which scores share a budget, by what a user says."""

import math
import re
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._budgets._even_rows import EvenRowsGroup
from keras_gumbel._budgets._even_rows import is_even
from keras_gumbel._budgets._group import LAST_STEP
from keras_gumbel._budgets._group import WHOLE
from keras_gumbel._budgets._group import BudgetGroup
from keras_gumbel._budgets._group import floor_of
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import name_of
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel._validation import is_schedule
from keras_gumbel._validation import require_density
from keras_gumbel._validation import require_positive


def budget_groups(
    owner: str,
    variables: list[keras.Variable],
    density: Any = None,
    budget: Any = None,
    costs: dict[str, float] | None = None,
    others: list[keras.Variable] | None = None,
) -> list[BudgetGroup]:
    """Sorts scores by the budget they are under.

    Args:
        owner: String, the function or class for errors.
        variables: List of variables.
        density: Limit for all scores, or a dictionary of names or regexes to
            limits; or `None`.
        budget: The same for K, if `density` is `None`.
        costs: Dictionary of names or regexes to costs, or `None`.
        others: List of variables that keys may belong to as well, although
            they are no longer under a budget. With `None`, every key must
            belong to one of `variables`. Defaults to `None`.

    Raises:
        ValueError: If a key of a dictionary fits no scores, or scores have no
            limit, or a budget is larger than what all of its scores cost.
    """
    name = "budget" if density is None else "density"
    limits = budget if density is None else density
    unit_costs = _unit_costs(owner, variables, costs or {}, others)
    if not isinstance(limits, dict):
        groups = _groups(owner, variables, unit_costs, False, density, budget)
    else:
        names = list(map(_names, [*variables, *(others or [])]))
        keys = keys_of(owner, name, limits, names, complete=others is None)[
            : len(variables)
        ]
        for variable, key in zip(variables, keys, strict=True):
            if key is None:
                raise invalid_argument(
                    owner,
                    name,
                    "a number, or a dictionary with a name or regex for all "
                    "scores",
                    limits,
                    f"No key matches {name_of(variable)}.",
                )
        groups = [
            group
            for key, limit in limits.items()
            for group in _groups(
                owner,
                [v for v, k in zip(variables, keys, strict=True) if k == key],
                unit_costs,
                True,
                None if density is None else limit,
                limit if density is None else None,
            )
        ]
    for group in groups:
        _require_affordable(owner, group)
    return groups


def group_of(
    variables: list[keras.Variable],
    unit_costs: list[float],
    density: Any = None,
    budget: Any = None,
) -> BudgetGroup:
    """Puts the scores of weights under one budget."""
    kind = EvenRowsGroup if any(map(is_even, variables)) else BudgetGroup
    return kind(variables, unit_costs, density, budget)


def _groups(
    owner: str,
    variables: list[keras.Variable],
    unit_costs: dict[str, float],
    apart: bool,
    density: Any,
    budget: Any,
) -> list[BudgetGroup]:
    """Puts scores under one budget: weights, and channels.

    Args:
        owner: String, the function or class for errors.
        variables: List of variables.
        unit_costs: Dictionary of names to what one weight costs.
        apart: Boolean, whether other scores of the model have budgets of their
            own. Channels are counted then. If not, what counts is what is
            computed with them.
        density: Limit, or `None`.
        budget: Limit, or `None`.
    """
    weights = [v for v in variables if mark_of(v).place is None]
    networks: dict[int, list[keras.Variable]] = {}
    for v in variables:
        if mark_of(v).place is not None:
            networks.setdefault(id(mark_of(v).place.network), []).append(v)
    found = []
    if weights:
        costs = [unit_costs[name_of(v)] for v in weights]
        found.append(group_of(weights, costs, density, budget))
    for own in networks.values():
        network = mark_of(own[0]).place.network
        found.append(
            network.share(own, density, budget)
            if apart
            else network.budget(own, unit_costs, density, budget)
        )
    if len(found) > 1 and budget is not None:
        listed = ", ".join(map(name_of, variables))
        raise invalid_argument(
            owner,
            "budget",
            "a dictionary with separate budgets for weights and channels of "
            f"{listed}; or pass `density`",
            budget,
        )
    return found


def _unit_costs(
    owner: str,
    variables: list[keras.Variable],
    costs: dict[str, float],
    others: list[keras.Variable] | None,
) -> dict[str, float]:
    """Returns what one weight costs, by the names of scores and kernels."""
    known = [*variables, *(others or [])]
    places = [mark_of(v).place for v in known]
    names = [
        _names(v)
        for v, place in zip(known, places, strict=True)
        if place is None
    ]
    networks = {id(p.network): p.network for p in places if p is not None}
    names += [(k.name,) for n in networks.values() for k in n.kernels]
    keys = keys_of(owner, "costs", costs, names, complete=others is None)
    return {
        own[0]: 1.0 if key is None else float(costs[key])
        for own, key in zip(names, keys, strict=True)
    }


def _names(variable: keras.Variable) -> tuple[str, ...]:
    return name_of(variable), variable.path


def require_limits(owner: str, density: Any, budget: Any) -> None:
    """Raises unless one of the two is given, and is in range."""
    if (density is None) == (budget is None):
        received = "neither" if density is None else "both"
        raise ValueError(
            f"Pass either `density` or `budget` to `{owner}`. Received "
            f"{received}."
        )
    for limit in limits_of(density):
        if not is_schedule(limit):
            require_density(owner, "density", limit)
    for limit in limits_of(budget):
        if not is_schedule(limit):
            require_positive(owner, "budget", limit)


def limits_of(limit: Any) -> list[Any]:
    """Lists the numbers and schedules of a budget, a density, or `None`."""
    if isinstance(limit, dict):
        return list(limit.values())
    return [] if limit is None else [limit]


def _require_affordable(owner: str, group: BudgetGroup) -> None:
    _require_floors(owner, group)
    most = group.total_cost
    if is_number(group.budget) and group.budget > most:
        listed = ", ".join(map(name_of, group.variables))
        raise invalid_argument(
            owner,
            "budget",
            f"at most {most:,.12g}, the cost of all of these scores: {listed}",
            group.budget,
        )


def _require_floors(owner: str, group: BudgetGroup) -> None:
    """Raises if a budget is too small for the minimums."""
    least, most = group.least_cost, group.total_cost
    limit = group.budget if group.density is None else group.density
    if not least or limit is None:
        return
    with _keras_private.outside_graph():
        ends = [group.budget_at(step) for step in (0, LAST_STEP)]
        lowest = min(float(ops.convert_to_numpy(end)) for end in ends)
    payable = lowest * (1.0 + 1e-6) + WHOLE
    if least > payable:
        name = "budget" if group.density is None else "density"
        share = 1.0 if group.density is None else most
        if group.fixed_cost > payable:
            listed = ", ".join(
                f"{max(1, floor_of(v)):,} of {math.prod(v.shape):,} of "
                f"{name_of(v)}"
                for v in group.variables
            )
            raise invalid_argument(
                owner,
                name,
                f"at least {least / share:.6g}, which the fewest channels "
                f"cost: {listed}",
                limit,
                f"It falls to {lowest / share:.6g}. Keep more: even without a "
                "`minimum`, every group of channels keeps one, and "
                f"{group.fixed_cost / share:.6g} cannot be removed.",
            )
        listed = ", ".join(
            f"{name_of(v)} ({floor_of(v):,} of {math.prod(v.shape):,} scores)"
            for v in group.variables
        )
        raise invalid_argument(
            owner,
            name,
            f"at least {least / share:.6g}, for the minimums of these scores: "
            f"{listed}",
            limit,
            f"It falls to {lowest / share:.6g}. Keep more, or pass a smaller "
            "`minimum` to `keras_gumbel.sparsify`. If the granularity is "
            "'fan_in', every unit keeps at least one input.",
        )


def keys_of(
    owner: str,
    argument: str,
    keys: Any,
    names: Sequence[tuple[str, ...]],
    what: str = "scores",
    complete: bool = True,
) -> list[str | None]:
    """Returns the key of a dictionary that each thing belongs to, or `None`.

    A key that is the name of one stands for that alone. Any other is a regex,
    searched in all of its names; the first that is found counts.

    Args:
        owner: String, the function or class for errors.
        argument: String, the argument for errors.
        keys: Dictionary.
        names: List of tuples of strings: the name of each thing, and others
            that a regex may be found in.
        what: String, what the things are. Defaults to `"scores"`.
        complete: Boolean, whether every key must belong to something.
            Defaults to `True`.

    Raises:
        ValueError: If a key is no regex, or belongs to nothing.
    """
    own = [known[0] for known in names]
    regexes = {
        key: _compiled(owner, argument, key) for key in keys if key not in own
    }
    found: list[str | None] = []
    for known in names:
        fitting = (
            key
            for key, regex in regexes.items()
            if any(map(regex.search, known))
        )
        found.append(known[0] if known[0] in keys else next(fitting, None))
    for key in keys:
        if complete and key not in found:
            raise invalid_argument(
                owner,
                argument,
                f"a dictionary of names of {what}, or regexes that match them: "
                + ", ".join(own),
                key,
            )
    return found


def _compiled(owner: str, argument: str, key: Any) -> re.Pattern[str]:
    try:
        return re.compile(key)
    except (TypeError, re.error) as error:
        raise invalid_argument(
            owner,
            argument,
            f"a dictionary whose keys are names or valid regexes ({error})",
            key,
        ) from error
