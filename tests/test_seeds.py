import keras
import numpy as np
import pytest

from keras_gumbel._seeds import spawn_seeds
from tests.gradients import to_numpy

CALLS = 8


def streams_of(seeds):
    """Returns what each seed's first calls draw, one row a call."""
    generators = [keras.random.SeedGenerator(seed) for seed in seeds]
    return [
        [to_numpy(keras.random.uniform((4,), seed=g)) for _ in range(CALLS)]
        for g in generators
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


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_spawn_seeds_are_what_layers_take(seed):
    seeds = spawn_seeds(seed, 1000)

    assert {type(s) for s in seeds} == {int}
    assert min(seeds) >= 0
    assert max(seeds) < 2**31
    # Half of them are above the middle, up to chance: no bit is lost.
    assert 400 < sum(s >= 2**30 for s in seeds) < 600


@pytest.mark.parametrize("seed", [0, 7])
def test_spawn_seeds_are_repeatable(seed):
    assert spawn_seeds(seed, 4) == spawn_seeds(seed, 4)


def test_spawn_seeds_do_not_depend_on_their_number():
    assert spawn_seeds(3, 5)[:2] == spawn_seeds(3, 2)


def test_spawn_seeds_differ_within_and_between_neighbours():
    seeds = [s for seed in range(100) for s in spawn_seeds(seed, 10)]

    assert len(set(seeds)) == 1000
    assert not np.isin(np.add(seeds, 1), seeds).any()


def test_spawn_seeds_give_streams_that_do_not_overlap():
    streams = streams_of(spawn_seeds(0, 4))

    overlaps = [
        overlap(streams[i], streams[j]) for i in range(4) for j in range(i)
    ]

    assert overlaps == [0] * 6


# Why seeds are spawned, and proof that the test above can fail.
@pytest.mark.backends("torch")
def test_neighbouring_seeds_give_streams_that_overlap():
    one, other = streams_of([0, 1])

    assert overlap(one, other) == CALLS - 1
