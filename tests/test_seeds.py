import keras
import numpy as np
import pytest

from keras_gumbel import random
from keras_gumbel._seeds import generator_state
from keras_gumbel._seeds import restore_generator
from keras_gumbel._seeds import seed_generator
from keras_gumbel._seeds import spawn_seeds
from tests.gradients import compiled
from tests.gradients import to_numpy

CALLS = 8
LARGEST = 2**32 - 1


def streams_of(seeds, draw=random.gumbel):
    """Returns what each seed's first calls draw, one row a call."""
    generators = [seed_generator(seed) for seed in seeds]
    return [
        [to_numpy(draw((4,), seed=g)) for _ in range(CALLS)] for g in generators
    ]


def overlap(one, other):
    """Counts the calls of one stream whose numbers the other has, too."""
    return sum(any((x == y).all() for y in other) for x in one)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_spawn_seeds_returns_as_many_as_asked_for(count):
    assert len(spawn_seeds(0, count)) == count
    assert len(spawn_seeds(None, count)) == count


def test_spawn_seeds_leaves_no_seed_to_chance():
    assert spawn_seeds(None, 3) == [None, None, None]


@pytest.mark.parametrize("seed", [0, 1, LARGEST])
def test_spawn_seeds_are_what_layers_take(seed):
    seeds = spawn_seeds(seed, 1000)

    assert {type(s) for s in seeds} == {int}
    assert min(seeds) >= 0
    assert max(seeds) <= LARGEST
    # Half of them are above the middle, up to chance: no bit is lost.
    assert 400 < sum(s >= 2**31 for s in seeds) < 600


@pytest.mark.parametrize("seed", [0, 7])
def test_spawn_seeds_are_repeatable(seed):
    assert spawn_seeds(seed, 4) == spawn_seeds(seed, 4)


def test_spawn_seeds_do_not_depend_on_their_number():
    assert spawn_seeds(3, 5)[:2] == spawn_seeds(3, 2)


# The last pair but one differs in the highest bit alone, and the last would
# be one stream if seed and counter were exchangeable.
NEIGHBOURS = [0, 1, 2, 3, LARGEST, LARGEST - 1, 2**31, 2**31 - 1]


def test_seeds_give_streams_that_do_not_overlap():
    # On torch `keras.layers.GaussianNoise(1.0, seed=3)` adds in its second call
    # what `seed=4` adds in its first.
    streams = streams_of(NEIGHBOURS)

    overlaps = {
        (NEIGHBOURS[i], NEIGHBOURS[j])
        for i in range(len(streams))
        for j in range(i)
        if overlap(streams[i], streams[j])
    }

    assert overlaps == set()


def test_calls_of_one_seed_differ():
    (stream,) = streams_of([3])

    assert overlap(stream, stream) == CALLS
    assert len(np.unique(stream, axis=0)) == CALLS


# Why seeds are hashed, and proof that the test above can fail.
@pytest.mark.backends("torch")
def test_neighbouring_seeds_of_keras_give_streams_that_overlap():
    one, other = streams_of([0, 1], keras.random.uniform)

    assert overlap(one, other) == CALLS - 1


@pytest.mark.parametrize("seed", [0, 5, 2**31 - 1, 2**31, LARGEST])
def test_equal_seeds_reproduce(seed):
    one, other = streams_of([seed, seed])

    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(
        to_numpy(random.gumbel((4,), seed=seed)),
        to_numpy(random.gumbel((4,), seed=seed)),
    )


@pytest.mark.parametrize("draw", [random.gumbel, random.logistic])
@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True, "0"])
def test_noise_rejects_seed(draw, seed):
    with pytest.raises(ValueError, match=r"`seed`.*integer in"):
        draw((2,), seed=seed)


@pytest.mark.parametrize("seed", [0, 2**31 - 1, LARGEST])
def test_generator_state_is_the_same_on_every_backend(seed):
    generator = seed_generator(seed)
    random.gumbel((1,), seed=generator)

    assert generator_state(generator).tolist() == [seed, 1]


@pytest.mark.parametrize("seed", [0, 2**31 - 1, LARGEST])
def test_restored_generator_goes_on_where_the_other_was(seed):
    generator, restored = seed_generator(seed), seed_generator(1)
    random.gumbel((4,), seed=generator)

    restore_generator(restored, generator_state(generator))

    np.testing.assert_array_equal(
        to_numpy(random.gumbel((4,), seed=generator)),
        to_numpy(random.gumbel((4,), seed=restored)),
    )


@pytest.mark.backends("jax", "tensorflow")
@pytest.mark.parametrize("seed", [1, LARGEST])
def test_integer_seed_works_in_a_compiled_function(seed):
    draw = compiled(lambda x: x + random.gumbel((4,), seed=seed))

    noise = to_numpy(draw(np.zeros(4, "float32")))

    expected = to_numpy(random.gumbel((4,), seed=seed))
    np.testing.assert_allclose(noise, expected, rtol=1e-6)
