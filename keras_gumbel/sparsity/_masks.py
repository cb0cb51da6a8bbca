"""The masks of a model, and the final mask that keeps exactly K."""

import dataclasses
import math
import re

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._scores import saliency_of
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_density
from keras_gumbel.layers._granularity import Layout
from keras_gumbel.layers._granularity import one_by_one
from keras_gumbel.layers.concrete_mask import ConcreteMask
from keras_gumbel.layers.saliency_mask import SaliencyMask
from keras_gumbel.layers.sparsified import Sparsified
from keras_gumbel.optimizers import ProjectedOptimizer
from keras_gumbel.optimizers._score_group import WHOLE


@dataclasses.dataclass(frozen=True)
class Masked:
    """A mask and what it masks.

    Attributes:
        layer: The layer in the model: a `Sparsified`, or the mask itself.
        mask: The layer with the scores.
        kernel: The variable it masks, or `None` for a mask of activations.
        layout: Where the scores are.
        name: String, the names of the layer and of its kernel, or of the mask.
    """

    layer: keras.Layer
    mask: ConcreteMask | SaliencyMask
    kernel: keras.Variable | None
    layout: Layout
    name: str

    @property
    def shared(self) -> int:
        """How many weights share a score."""
        return self.layout.weights

    @property
    def size(self) -> int:
        """How many scores there are."""
        return math.prod(self.mask.mask_scores.shape)

    @property
    def weights(self) -> int:
        """How many weights there are."""
        return self.shared * self.size

    @property
    def scores_regex(self) -> str:
        """A regex that finds the scores of this mask and no others."""
        return f"^{re.escape(self.mask.mask_scores.path)}$"

    def count(self, final: np.ndarray) -> int:
        """Returns how many weights a final mask keeps."""
        return self.shared * int(np.count_nonzero(final))

    def kept(self) -> float:
        """Returns the expected number of weights that are kept."""
        return self.shared * float(self.scores().sum(dtype="float64"))

    def scores(self) -> np.ndarray:
        """Returns the scores in [0, 1]."""
        scores = ops.convert_to_numpy(self.mask.mask_scores)
        return np.clip(scores, 0.0, 1.0)

    def magnitudes(self) -> np.ndarray:
        """Returns what decides between equal scores."""
        saliency = saliency_of(self.mask.mask_scores)
        if saliency is not None:
            return ops.convert_to_numpy(saliency())
        if self.kernel is None:
            return np.zeros(self.mask.mask_scores.shape, "float32")
        magnitudes = ops.abs(ops.cast(self.kernel, "float32"))
        return ops.convert_to_numpy(self.layout.saliency(magnitudes))


def find_masks(owner: str, model: keras.Model) -> list[Masked]:
    """Lists the masks of a model, at every depth, once each.

    Raises:
        ValueError: If there is none, or one is not built.
    """
    layers = _keras_private.flatten_layers(model)
    wrapped = [layer for layer in layers if isinstance(layer, Sparsified)]
    inside = {id(mask) for layer in wrapped for mask in layer.masks}
    gates = [
        layer
        for layer in layers
        if isinstance(layer, ConcreteMask) and id(layer) not in inside
    ]
    if not wrapped and not gates:
        raise ValueError(
            f"`{owner}` found no masked layer in the model {model.name!r}. "
            "Expected a model returned by `keras_gumbel.sparsify`, or with "
            "layers of `keras_gumbel.layers.Sparsified` in it."
        )
    if not all(layer.built for layer in wrapped + gates):
        raise ValueError(
            f"`{owner}` needs the masks of the model {model.name!r}, which is "
            "not built. Call it on data, or `model.build(input_shape)`, first."
        )
    masks = [
        Masked(layer, mask, kernel, layout, f"{layer.name}/{name}")
        for layer in wrapped
        for mask, kernel, layout, name in zip(
            layer.masks,
            layer.kernels,
            layer.layouts,
            layer.kernel_names,
            strict=True,
        )
    ]
    masks += [
        Masked(gate, gate, None, one_by_one(gate.mask_scores.shape), gate.name)
        for gate in gates
    ]
    return masks


def find_projected(
    optimizer: keras.optimizers.Optimizer | None,
) -> ProjectedOptimizer | None:
    """Returns the `ProjectedOptimizer` in what a model is compiled with."""
    if optimizer is None or isinstance(optimizer, ProjectedOptimizer):
        return optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    parts = [inner, *getattr(optimizer, "optimizers", [])]
    found = (find_projected(part) for part in parts if part is not None)
    return next((part for part in found if part is not None), None)


def divergence(masks: list[Masked]) -> str | None:
    """Says which masks have scores of NaN and what to do; or `None`."""
    names = [m.name for m in masks if np.isnan(m.scores()).any()]
    if not names:
        return None
    return (
        f"Training has diverged: scores of {', '.join(names)} are NaN. Go "
        "back to weights from before, and train at smaller learning rates or "
        "with gradients that are clipped."
    )


def require_numbers(owner: str, masks: list[Masked]) -> None:
    """Raises if scores are NaN, of which none is the largest."""
    diverged = divergence(masks)
    if diverged is not None:
        raise ValueError(f"`{owner}` found no largest scores. {diverged}")


@dataclasses.dataclass(frozen=True)
class Share:
    """Masks that share a budget.

    Attributes:
        masks: List of `Masked`.
        budget: Number K, the ones to keep, or what they may cost.
        costs: List of floats, what a one of each mask costs.
        final: Boolean, whether training has made the masks final. They stay
            as they are then, also where the budget could pay for more.
            Defaults to `False`.
    """

    masks: list[Masked]
    budget: float
    costs: list[float]
    final: bool = False


def decide_budgets(
    owner: str,
    model: keras.Model,
    masks: list[Masked],
    density: float | None = None,
    budget: float | None = None,
) -> list[Share] | None:
    """Returns what the final mask may keep.

    It is the argument where one is given, else what is in force in the
    optimizer the model is compiled with, else the number of ones of masks
    that are fixed already, else `None`.
    """
    count = sum(m.weights for m in masks)
    if density is not None and budget is not None:
        raise invalid_argument(
            owner, "density", "given only if `budget` is not", density
        )
    if density is not None:
        require_density(owner, "density", density)
        return [together(masks, density * count)]
    if budget is not None:
        if not is_number(budget) or not 0 < budget <= count:
            raise invalid_argument(
                owner,
                "budget",
                f"a number in (0, {count}], the number of scores of the model",
                budget,
            )
        return [together(masks, budget)]
    optimizer = find_projected(getattr(model, "optimizer", None))
    if optimizer is not None and optimizer.built:
        return _budgets_in_force(optimizer, masks)
    if all(m.mask.fixed for m in masks):
        return [together(masks, sum(m.kept() for m in masks))]
    return None


def together(masks: list[Masked], budget: float) -> Share:
    """Puts all masks under one budget, the number of ones."""
    return Share(masks, budget, [float(m.shared) for m in masks])


def _budgets_in_force(
    optimizer: ProjectedOptimizer, masks: list[Masked]
) -> list[Share]:
    budgets = optimizer.current_budgets()
    by_scores = {id(m.mask.mask_scores): m for m in masks}
    final = optimizer.is_final()
    shares = []
    for budget, group in budgets:
        pairs = [
            (by_scores.pop(id(v)), c)
            for v, c in zip(group.variables, group.prices, strict=True)
            if id(v) in by_scores
        ]
        members, costs = [m for m, _ in pairs], [c for _, c in pairs]
        shares.append(Share(members, budget, costs, final))
    for m in by_scores.values():  # frozen: under no budget, kept as they are
        shares.append(together([m], m.kept()))
    return shares


def final_masks(
    masks: list[Masked],
    shares: list[Share],
    generator: np.random.Generator | None = None,
) -> list[np.ndarray]:
    """Keeps the largest scores, as many as fit the budgets.

    Of equal scores the one on the larger weight is kept.

    Args:
        masks: List of `Masked`.
        shares: List of `Share`, the budgets.
        generator: The source of the noise of a random mask, or `None` for
            the one without noise. Defaults to `None`.

    Returns:
        A list of float32 arrays of zeros and ones, one for each mask.
    """
    kept = {}
    for share in shares:
        finals = _largest(share, generator)
        for m, final in zip(share.masks, finals, strict=True):
            kept[id(m)] = final
    return [kept[id(m)] for m in masks]


def _ranks(order: np.ndarray) -> np.ndarray:
    """Returns the place of every entry in an order."""
    ranks = np.empty_like(order)
    ranks[order] = np.arange(order.size)
    return ranks


def _top_of_rows(m: Masked, ranks: np.ndarray) -> np.ndarray:
    """Marks what the rows of N:M allow to keep, by rank."""
    if m.layout.rows is None:
        return np.ones(ranks.shape, bool)
    at_most, axis = m.layout.rows
    places = np.argsort(np.argsort(ranks, axis=axis), axis=axis)
    return places < at_most


def _largest(
    share: Share, generator: np.random.Generator | None
) -> list[np.ndarray]:
    scores = [m.scores() for m in share.masks]
    magnitudes = np.concatenate([m.magnitudes().ravel() for m in share.masks])
    values = np.concatenate([s.ravel() for s in scores])
    if share.final and np.isin(values, (0.0, 1.0)).all():
        return [s.astype("float32") for s in scores]
    if generator is not None:
        values = _perturbed(values, generator)
    order = np.lexsort((-magnitudes, -values))
    sizes = [s.size for s in scores]
    ranks = np.split(_ranks(order), np.cumsum(sizes)[:-1])
    allowed = np.concatenate(
        [
            _top_of_rows(m, r.reshape(s.shape)).ravel()
            for m, r, s in zip(share.masks, ranks, scores, strict=True)
        ]
    )
    prices = np.repeat(share.costs, sizes)[order] * allowed[order]
    fitting = np.cumsum(prices) <= share.budget + WHOLE
    chosen = np.zeros(order.size, "float32")
    chosen[order[fitting]] = 1.0
    chosen *= allowed
    parts = np.split(chosen, np.cumsum(sizes)[:-1])
    return [p.reshape(s.shape) for p, s in zip(parts, scores, strict=True)]


def _perturbed(
    scores: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Adds the noise of Eq. (26) to the logits of scores.

    The signs alone are Bernoulli masks (Eq. 18); their K largest are a mask of
    K ones, which is Pareto sampling.
    """
    probs = scores.astype("float64")
    with np.errstate(divide="ignore"):  # scores of 0 and 1 are certain
        logits = np.log(probs) - np.log1p(-probs)
    return logits + generator.logistic(size=probs.shape)
