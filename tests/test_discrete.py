import numpy as np
import pytest
from keras import ops

from keras_gumbel.ops import categorical
from tests import reference
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import to_numpy
from tests.statistics import require_frequencies

DRAWS = 30_000

# Below and above the number where it draws in two steps; a square; a number
# with a last block that is not full, and one with a last block of one class.
SIZES = [3, 300, 324, 307, 257]


def spread(classes):
    """Logits whose probabilities rise and fall, none of them below 1e-3."""
    return np.cos(np.arange(classes) * 2.0).astype("float32") * 0.5


def counts_of(logits, count=DRAWS, jit=False, **kwargs):
    draw = compiled(lambda x: categorical(x, seed=1, **kwargs), jit)
    index = draw(np.tile(logits, (count, 1)))
    assert dtype_of(index) == "int32"
    return np.bincount(to_numpy(index).astype(int), minlength=len(logits))


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("classes", SIZES)
def test_categorical_has_its_distribution(classes, jit):
    logits = spread(classes)

    counts = counts_of(logits, jit=jit)

    require_frequencies(counts, reference.softmax(logits))


def test_frequencies_catch_a_draw_within_uniform_blocks():
    logits = spread(324)
    blocks = reference.softmax(logits).reshape(18, 18)
    wrong = np.repeat(blocks.mean(axis=1), 18)
    counts = np.random.default_rng(0).multinomial(DRAWS, wrong)

    with pytest.raises(AssertionError, match="chi-square"):
        require_frequencies(counts, reference.softmax(logits))


# bfloat16 noise has 128 values: `keras.random.categorical` on JAX draws the
# mean class 127 of 1000 equal ones, and the first tenth half of the time.
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_categorical_is_right_in_every_dtype(dtype):
    logits = ops.cast(ops.zeros((DRAWS, 1000)), dtype)

    index = to_numpy(categorical(logits, seed=2))

    counts, _ = np.histogram(index, np.arange(0, 1001, 10))
    require_frequencies(counts, np.full(100, 0.01))


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("how", ["mask", "infinity"])
def test_categorical_never_draws_a_forbidden_class(classes, how):
    logits = np.tile(spread(classes), (1000, 1))
    allowed = np.zeros(classes, bool)
    allowed[[0, classes // 2, classes - 1]] = True
    if how == "infinity":
        logits, mask = np.where(allowed, logits, -np.inf), None
    else:
        mask = allowed

    index = to_numpy(categorical(logits.astype("float32"), mask=mask, seed=3))

    assert set(np.unique(index)) == set(np.flatnonzero(allowed))


# Of one row without a class, `keras.random.categorical` draws 0 on JAX, the
# index K on TensorFlow, and raises on torch. With a class of +inf, TensorFlow
# draws the others.
@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("classes", SIZES)
def test_categorical_is_defined_at_infinity(classes, jit):
    # keras on TensorFlow draws 0, 9067, 24688, 66245 of 100000 for [inf, 0, 1,
    # 2]; on torch it raises, also for a row without a class.
    logits = np.zeros((4, classes), "float32")
    logits[0] = -np.inf
    logits[1, classes - 2] = np.inf
    logits[2, classes - 1] = 1e30
    logits[3, 1] = np.nan  # which `argmax` passes over on TensorFlow
    draw = compiled(lambda x: categorical(x, seed=0), jit)

    index = to_numpy(draw(logits))

    assert index.tolist() == [0, classes - 2, classes - 1, 1]


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_categorical_looks_along_its_axis(axis):
    # `keras.random.categorical` takes two dimensions only.
    logits = np.zeros((300, 300, 2), "float32")
    wanted = np.arange(600).reshape(300, 2) % 300
    np.put_along_axis(logits, np.expand_dims(wanted, axis), 1e3, axis=axis)

    index = categorical(logits, axis=axis, seed=0)

    assert (to_numpy(index) == wanted).all()


def test_categorical_depends_on_its_seed():
    logits = np.zeros((5, 1000), "float32")

    one, again, other = (
        to_numpy(categorical(logits, seed=seed)) for seed in (1, 1, 2)
    )

    assert (one == again).all()
    assert (one != other).any()
    assert np.unique(one).size > 1


def test_categorical_refuses_a_bad_axis():
    with pytest.raises(ValueError, match=r"`axis` of `categorical`"):
        categorical(np.zeros((2, 3), "float32"), axis=2)
