"""Streams of noise that do not overlap."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_integer

_WORD = 0xFFFFFFFF  # seeds are words of 32 bits
_GOLDEN = 0x9E3779B9


def require_seed(owner: str, seed: Any) -> int | None:
    """Returns `seed` as a Python integer or `None`, or raises."""
    if seed is None:
        return None
    if not is_integer(seed) or not 0 <= seed <= _WORD:
        raise invalid_argument(
            owner, "seed", "`None` or an integer in [0, 2**32)", seed
        )
    return int(seed)


def spawn_seeds(seed: int | None, count: int) -> list[int | None]:
    """Derives seeds from one.

    Args:
        seed: Integer, or `None` for seeds that differ in every process.
        count: Integer, the number of seeds.

    Returns:
        A list of integers in [0, 2**32), or of `None`.
    """
    if seed is None:
        return [None] * count
    words = np.random.SeedSequence(seed).generate_state(count)
    return [int(word) for word in words]


def seed_generator(seed: int | None) -> keras.random.SeedGenerator:
    """Returns a seed generator, for seeds in the whole of [0, 2**32)."""
    return keras.random.SeedGenerator(_as_word(seed))


def generator_state(generator: keras.random.SeedGenerator) -> np.ndarray:
    """Returns what a generator must be given to go on from here."""
    return ops.convert_to_numpy(generator.state).astype("int64") & _WORD


def restore_generator(
    generator: keras.random.SeedGenerator, state: Any
) -> None:
    """Gives a generator a state of `generator_state`, of any backend."""
    words = np.asarray(state).astype("uint32")
    generator.state.assign(words.view("int32") if _is_signed() else words)


def separated(owner: str, seed: Any) -> Any:
    """Checks a seed and returns it as one that shares no stream.

    On torch, Keras seeds its generator with the sum of seed and counter, so
    that call i + 1 of seed s gives the numbers of call i of seed s + 1. On
    TensorFlow it takes both modulo 2**31 - 2.
    """
    own = isinstance(seed, keras.random.SeedGenerator)
    if not own:
        seed = require_seed(owner, seed)
    if keras.backend.backend() == "torch" and own:
        return _HashedSeeds(seed)
    if keras.backend.backend() == "tensorflow" and seed is not None:
        return _SignedSeeds(seed)
    return seed if own else _as_word(seed)


class _DerivedSeeds(keras.random.SeedGenerator):
    """Hands out another form of an integer's or a generator's seeds."""

    def __init__(self, source: Any) -> None:
        self.source = source


class _HashedSeeds(_DerivedSeeds):
    """One word from seed and counter."""

    def next(self, ordered: bool = True) -> tuple[int, int]:
        drawn = ops.convert_to_numpy(self.source.next(ordered))
        seed, counter = (int(word) & _WORD for word in drawn)
        # The constant sets (s, i) apart from (i, s).
        counter = _mixed((counter + _GOLDEN) & _WORD)
        word = _mixed(_mixed(seed) ^ counter)
        # Keras adds the two up to a number: a tensor would go to the GPU and
        # back.
        return word, 0


class _SignedSeeds(_DerivedSeeds):
    """The same bits as int32, which Keras leaves as they are."""

    def next(self, ordered: bool = True) -> Tensor:
        if isinstance(self.source, int):
            words = ops.convert_to_tensor([self.source, 0], dtype="int64")
        else:
            words = self.source.next(ordered)
        words = ops.where(words > _WORD // 2, words - (_WORD + 1), words)
        return ops.cast(words, "int32")


def _mixed(word: int) -> int:
    """A bijection of words of 32 bits that scatters neighbours.

    It is the finalizer of MurmurHash3.
    """
    word = ((word ^ word >> 16) * 0x85EBCA6B) & _WORD
    word = ((word ^ word >> 13) * 0xC2B2AE35) & _WORD
    return word ^ word >> 16


def _as_word(seed: int | None) -> int | None:
    """The same 32 bits, as the backend keeps seeds."""
    if seed is not None and _is_signed() and seed > _WORD // 2:
        return seed - (_WORD + 1)
    return seed


def _is_signed() -> bool:
    """Whether the backend keeps seeds as int32, not as uint32."""
    return keras.backend.backend() == "torch"
