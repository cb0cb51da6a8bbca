import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_gumbel as kg
from keras_gumbel._moments import DAMPING
from keras_gumbel._moments import Moments
from keras_gumbel._moments import moments_of
from keras_gumbel.sparsity import _least_squares
from keras_gumbel.sparsity import _reconstruct
from keras_gumbel.sparsity._least_squares import LeastSquares
from tests.gradients import to_numpy

RNG = np.random.default_rng(0)
WIDTH, UNITS = 32, 12
SPECTRUM = np.exp(-np.linspace(0, 3, WIDTH))[:, None]
X = RNG.normal(size=(300, WIDTH)) @ (RNG.normal(size=(WIDTH, WIDTH)) * SPECTRUM)
X = X.astype("float32")
IMAGES = RNG.normal(size=(20, 6, 6, 4)).astype("float32").cumsum(axis=2)
SEQUENCES = X[:60].reshape(10, 6, WIDTH)

# Layers with what they are called on.
LAYERS = {
    "dense": (lambda: layers.Dense(UNITS), X),
    "conv": (lambda: layers.Conv2D(8, 2), IMAGES),
    "einsum": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 3)),
        SEQUENCES,
    ),
    "attention output": (
        lambda: layers.EinsumDense("acd,cde->ae", (8,)),
        SEQUENCES,
    ),
}
GRANULARITIES = {"weight": 0.3, "2:4": 0.5, (2, 1): 0.4, "unit": 0.5}


def model_of(make=LAYERS["dense"][0], x=X, mask="magnitude", **kwargs):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(x.shape[1:]), make()])
    kg.calibrate(model, x, verbose=0)
    return kg.sparsify(model, mask, **kwargs)


def matrix_of(weight):
    return moments_of(weight).as_matrix(to_numpy(weight)).astype("float64")


def damped(h):
    return h + DAMPING * np.mean(np.diag(h)) * np.eye(len(h))


def hessian(weight):
    return damped(moments_of(weight).blocks[0].astype("float64"))


def exact(h, before, mask):
    """Returns the least squares, unit by unit."""
    found = np.zeros_like(before)
    for unit, kept in enumerate(mask.T):
        pull = h[kept] @ before[:, unit]
        found[kept, unit] = np.linalg.solve(h[np.ix_(kept, kept)], pull)
    return found


def loss(h, before, after):
    change = before - after
    return np.sum(change * (h @ change)) / np.sum(before * (h @ before))


def sparse_gpt(h, weights, density=None, block=32):
    """Returns what SparseGPT does, one input after the other; 2:4 if `None`.

    Frantar and Alistarh, 2023, Algorithm 1.
    """
    w, found = weights.T.copy(), np.zeros_like(weights.T)
    inverse = np.linalg.cholesky(np.linalg.inv(h)).T
    for first in range(0, len(h), block):
        last = min(first + block, len(h))
        errors = np.zeros((len(w), last - first))
        saliency = (w / np.diag(inverse)) ** 2
        own = saliency[:, first:last]
        pruned = np.zeros(w.shape, bool)
        if density is not None:
            at = int((1 - density) * own.size)
            pruned[:, first:last] = own < np.sort(own.ravel())[at]
        for i in range(first, last):
            if density is None and i % 4 == 0:
                four = (w / np.diag(inverse))[:, i : i + 4] ** 2
                order = np.argsort(four, axis=1)[:, :2] + i
                np.put_along_axis(pruned, order, True, axis=1)
            found[:, i] = np.where(pruned[:, i], 0, w[:, i])
            error = (w[:, i] - found[:, i]) / inverse[i, i]
            w[:, i:last] -= np.outer(error, inverse[i, i:last])
            errors[:, i - first] = error
        w[:, last:] -= errors @ inverse[first:last, last:]
    return found.T


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("kind", LAYERS)
def test_weights_are_the_least_squares_of_the_final_mask(kind, granularity):
    if kind == "attention output" and granularity == "2:4":
        pytest.skip("its inputs are on two axes")
    make, x = LAYERS[kind]
    model = model_of(make, x, granularity=granularity)
    weight = model.layers[0].kernel
    before, h = matrix_of(weight), hessian(weight)

    kg.harden(model, density=GRANULARITIES[granularity], reconstruct=True)

    after = matrix_of(weight)
    (mask,) = model.layers[0].weight_masks
    final = to_numpy(mask.parts[0].layout.expand(mask.final_mask))
    kept = moments_of(weight).as_matrix(final) > 0
    best = exact(h, before, kept)
    assert loss(h, before, after) < 1.0001 * loss(h, before, best)
    np.testing.assert_allclose(after, best, atol=0.06 * np.abs(best).max())
    assert (after[~kept] == 0).all()


@pytest.mark.one_backend
@pytest.mark.parametrize("mask", ["magnitude", "wanda", "obs"])
@pytest.mark.parametrize("density", [0.5, 0.3, 0.15, "2:4"])
def test_the_loss_is_below_that_of_sparse_gpt(mask, density):
    granularity = "2:4" if density == "2:4" else "weight"
    model = model_of(mask=mask, granularity=granularity)
    weight = model.layers[0].kernel
    before, h = matrix_of(weight), hessian(weight)
    target = 0.5 if density == "2:4" else density

    kg.harden(model, density=target, reconstruct=True)

    after = matrix_of(weight)
    rival = sparse_gpt(h, before, None if density == "2:4" else target)
    kept = int(target * before.size)
    assert np.count_nonzero(after) == kept
    assert np.count_nonzero(rival) <= kept + 1
    assert loss(h, before, after) < loss(h, before, rival)


@pytest.mark.one_backend
def test_rounds_choose_a_better_mask_than_one_shot(monkeypatch):
    losses = []
    for rounds, at_end in ((1, 0), (16, 4)):
        monkeypatch.setattr(_reconstruct, "ROUNDS", rounds)
        monkeypatch.setattr(_reconstruct, "ROUNDS_AT_END", at_end)
        model = model_of()
        weight = model.layers[0].kernel
        before = matrix_of(weight)
        kg.harden(model, density=0.2, reconstruct=True)
        losses.append(loss(hessian(weight), before, matrix_of(weight)))

    assert losses[1] < 0.7 * losses[0]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("mask", "solutions"), [("random", 1), ("magnitude", 17)]
)
def test_rounds_are_for_rankings_that_follow_the_weights(
    monkeypatch, mask, solutions
):
    solved = []
    original = _reconstruct.Reconstruction._solve

    def counted(self, finals, tolerance):
        solved.append(tolerance)
        return original(self, finals, tolerance)

    monkeypatch.setattr(_reconstruct.Reconstruction, "_solve", counted)
    model = model_of(mask=mask)
    weight = model.layers[0].kernel
    before, h = matrix_of(weight), hessian(weight)

    kg.harden(model, density=0.3, reconstruct=True)

    after = matrix_of(weight)
    best = exact(h, before, after != 0)
    assert len(solved) == solutions
    assert np.count_nonzero(after) == int(0.3 * after.size)
    assert loss(h, before, after) < 1.0001 * loss(h, before, best)


@pytest.mark.one_backend
def test_learned_scores_choose_the_mask_themselves():
    model = model_of(mask="learned")
    (mask,) = model.layers[0].weight_masks
    scores = RNG.uniform(0.1, 0.9, size=(WIDTH, UNITS)).astype("float32")
    mask.mask_scores.assign(scores)
    weight = model.layers[0].kernel
    before = matrix_of(weight)

    kg.harden(model, budget=100, reconstruct=True)

    kept = scores >= np.sort(scores.ravel())[-100]
    np.testing.assert_array_equal(to_numpy(mask.final_mask), kept)
    np.testing.assert_allclose(
        matrix_of(weight), exact(hessian(weight), before, kept), atol=1e-3
    )


@pytest.mark.one_backend
def test_a_hardened_model_is_reconstructed_for_its_mask():
    model = model_of()
    kg.harden(model, density=0.3)
    (mask,) = model.layers[0].weight_masks
    final = to_numpy(mask.final_mask)
    weight = model.layers[0].kernel
    before = matrix_of(weight)

    kg.harden(model, reconstruct=True)

    np.testing.assert_array_equal(to_numpy(mask.final_mask), final)
    np.testing.assert_allclose(
        matrix_of(weight),
        exact(hessian(weight), before, final > 0),
        atol=1e-3,
    )


@pytest.mark.one_backend
def test_blocks_are_solved_one_by_one(monkeypatch):
    monkeypatch.setattr(Moments, "LARGEST", 20)
    model = model_of()
    weight = model.layers[0].kernel
    before = matrix_of(weight)

    kg.harden(model, density=0.5, reconstruct=True)

    after = matrix_of(weight)
    for part, block in moments_of(weight).each():
        h = damped(block.astype("float64"))
        kept = after[part] != 0
        np.testing.assert_allclose(
            after[part], exact(h, before[part], kept), atol=1e-3
        )


@pytest.mark.one_backend
def test_few_steps_solve_inputs_that_depend_on_each_other(monkeypatch):
    generator = np.random.default_rng(0)
    size, units = 128, 24
    scales = np.geomspace(1.0, 1e-3, size)
    inputs = generator.normal(size=(400, size)) * scales
    inputs = inputs @ np.linalg.qr(generator.normal(size=(size, size)))[0]
    block = (inputs.T @ inputs).astype("float32")
    before = generator.normal(size=(size, units)).astype("float32")
    mask = generator.uniform(size=before.shape) < 0.5
    monkeypatch.setattr(_least_squares, "MOST_UNITS", 10)
    monkeypatch.setattr(_least_squares, "MOST_STEPS", 25)

    problem = LeastSquares(before, Moments(400, [block], (0,)))
    after = problem.solve(mask, before, 1e-4)

    h = damped(block.astype("float64"))
    assert not after[~mask].any()
    least = loss(h, before, exact(h, before, mask))
    assert loss(h, before, after) < 1.0001 * least


def test_outputs_change_less_than_without():
    outputs = []
    for reconstruct in (False, True):
        model = model_of()
        dense = to_numpy(model(X))
        kg.harden(model, density=0.3, reconstruct=reconstruct)
        outputs.append(np.mean((to_numpy(model(X)) - dense) ** 2))
    kg.strip(model)

    assert outputs[1] < 0.3 * outputs[0]
    assert np.mean((to_numpy(model(X)) - dense) ** 2) == pytest.approx(
        outputs[1], rel=1e-3
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_solved_in_float32(dtype):
    model = model_of(lambda: layers.Dense(UNITS, dtype=dtype))
    weight = model.layers[0].kernel
    before = moments_of(weight).as_matrix(
        to_numpy(keras.ops.cast(weight, "float32"))
    )

    kg.harden(model, density=0.3, reconstruct=True)

    assert keras.backend.standardize_dtype(weight.dtype) == dtype
    after = to_numpy(keras.ops.cast(weight, "float32"))
    expected = exact(hessian(weight), before.astype("float64"), after != 0)
    np.testing.assert_allclose(after, expected, atol=1e-2)


@pytest.mark.one_backend
def test_softening_keeps_the_changed_weights():
    model = model_of()
    kg.harden(model, density=0.3, reconstruct=True)
    changed = to_numpy(model.layers[0].kernel).copy()

    kg.soften(model)

    np.testing.assert_array_equal(to_numpy(model.layers[0].kernel), changed)


@pytest.mark.one_backend
def test_weights_are_put_back_on_errors(monkeypatch):
    model = model_of()
    before = to_numpy(model.layers[0].kernel).copy()

    def interrupted(self, finals, tolerance):
        raise KeyboardInterrupt

    monkeypatch.setattr(_reconstruct.Reconstruction, "_solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kg.harden(model, density=0.3, reconstruct=True)

    np.testing.assert_array_equal(to_numpy(model.layers[0].kernel), before)
    assert not model.layers[0].weight_masks[0].hardened


@pytest.mark.one_backend
def test_weights_without_calibration_data_stay_as_they_are():
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 8, name="table")(tokens)
    model = keras.Model(tokens, layers.Dense(4)(x))
    kg.calibrate(model, np.arange(35).reshape(7, 5) % 7, verbose=0)
    kg.sparsify(model, "magnitude")
    before = to_numpy(model.get_layer("table").embeddings).copy()

    with pytest.warns(UserWarning, match=r"table/embeddings \(not a layer"):
        kg.harden(model, density=0.5, reconstruct=True)

    after = to_numpy(model.get_layer("table").embeddings)
    np.testing.assert_array_equal(after, before)


@pytest.mark.one_backend
def test_a_calibrated_model_has_no_warning():
    model = model_of()

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kg.harden(model, density=0.5, reconstruct=True)


@pytest.mark.one_backend
def test_reconstruct_needs_calibration_data():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    kg.sparsify(model)

    with pytest.raises(ValueError, match="Call `keras_gumbel.calibrate`"):
        kg.harden(model, density=0.5, reconstruct=True)
