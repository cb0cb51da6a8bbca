"""Streams of noise that do not overlap."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _calls
from keras_gumbel import _keras_private
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_integer

_WORD = 0xFFFFFFFF  # seeds are words of 32 bits
_GOLDEN = 0x9E3779B9


def require_seed(owner: str, seed: Any) -> int | None:
    """Returns `seed` as a Python integer or `None`, or raises.

    A tensor or key becomes an integer, so that a config can store it.
    """
    if seed is None:
        return None
    if _is_tensor(seed):
        words = _calls.concrete_words(seed)
        if words is not None and len(words) == 1:
            seed = words[0]
        elif words is not None:
            seed = np.random.SeedSequence(words).generate_state(1)[0]
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


def another_seed(owner: str, seed: Any) -> Any:
    """Returns a seed for additional noise, independent of `seed`.

    Args:
        owner: String, for error messages.
        seed: As in `next_seed`.
    """
    if isinstance(seed, keras.random.SeedGenerator) or seed is None:
        return seed
    if _is_tensor(seed):
        return keras.random.randint(
            (2,), 0, 2**31 - 1, seed=next_seed(owner, seed)
        )
    return spawn_seeds(require_seed(owner, seed), 1)[0]


def seed_generator(seed: int | None) -> keras.random.SeedGenerator:
    """Returns a seed generator, for seeds in the whole of [0, 2**32)."""
    return keras.random.SeedGenerator(_as_word(seed))


def generator_state(generator: keras.random.SeedGenerator) -> np.ndarray:
    """Returns the state that a generator needs to continue from here."""
    return ops.convert_to_numpy(generator.state).astype("int64") & _WORD


def restore_generator(
    generator: keras.random.SeedGenerator, state: Any
) -> None:
    """Sets a generator to a state of `generator_state` of any backend."""
    words = np.asarray(state).astype("uint32")
    generator.state.assign(words.view("int32") if _is_signed() else words)


class PerExample(keras.random.SeedGenerator):
    """The seeds of a generator, different in every replica of a model.

    They are for noise of examples, because every replica has its own examples.
    Masks of weights are the same on all replicas.
    """

    def __init__(self, source: keras.random.SeedGenerator) -> None:
        self.source = source


def next_seed(owner: str, seed: Any) -> keras.random.SeedGenerator:
    """Returns a seed for one call of `keras.random`.

    The seeds of two sources share no stream. On torch, Keras seeds its
    generator with the sum of seed and counter. Without this function, call i +
    1 of seed s would give the numbers of call i of seed s + 1. On TensorFlow,
    Keras takes both modulo 2**31 - 2.

    Args:
        owner: String, for error messages.
        seed: Integer, `None`, a `keras.random.SeedGenerator`, a key of JAX, or
            an integer tensor of shape `()` or `(2,)`.
    """
    if not isinstance(seed, keras.random.SeedGenerator):
        seed = seed if _is_tensor(seed) else require_seed(owner, seed)
    return _NextSeed(seed)


class _NextSeed(keras.random.SeedGenerator):
    """Draws when Keras needs a seed, but not to infer shapes."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def next(self, ordered: bool = True) -> Any:
        seed, per_example = self.source, isinstance(self.source, PerExample)
        if per_example:
            seed = seed.source
        words = _calls.once(lambda: _words(seed))
        if keras.backend.backend() == "torch":
            return _hashed(words, per_example)
        if not _is_tensor(seed) or keras.backend.backend() == "jax":
            state = getattr(seed, "state", None)
            words = _calls.seed_of_iteration(words, state)
        if per_example:
            words = _calls.seed_of_replica(words)
        return words


def _words(seed: Any) -> Tensor:
    """Returns two words in the backend's type of seeds, or a JAX key."""
    if isinstance(seed, keras.random.SeedGenerator):
        if keras.backend.backend() == "torch" and _counts(seed):
            # They are read anyway. Counting here saves a GPU call.
            words = ops.convert_to_numpy(seed.state)
            seed.state.assign(words + np.array([0, 1], words.dtype))
            return words
        with _calls.updating(seed.state):
            words = seed.next()
    elif seed is None:
        words = _keras_private.global_seed()
    elif isinstance(seed, int):
        words = np.array([seed, 0], "uint32")
    elif len(seed.shape) == 0 and not _calls.is_key(seed):
        words = ops.stack([seed, ops.zeros_like(seed)])
    else:
        words = seed
    if keras.backend.backend() == "torch" or _calls.is_key(words):
        return words
    if keras.backend.backend() == "tensorflow":
        # The same bits as int32, which Keras does not change.
        words = ops.cast(words, "int64")
        words = ops.where(words > _WORD // 2, words - (_WORD + 1), words)
        return ops.cast(words, "int32")
    return ops.cast(words, "uint32")


def _counts(seed: keras.random.SeedGenerator) -> bool:
    """Whether a generator increments its seed by one, as in Keras."""
    return type(seed).next is keras.random.SeedGenerator.next


def _hashed(words: Tensor, per_example: bool) -> tuple[int, int]:
    """Returns one word from two and the process number, for torch."""
    seed, counter = (int(word) & _WORD for word in ops.convert_to_numpy(words))
    # The constant distinguishes (s, i) from (i, s).
    counter = _mixed((counter + _GOLDEN) & _WORD)
    word = _mixed(_mixed(seed) ^ counter)
    rank = _calls.process_rank() if per_example else 0
    if rank:
        word = _mixed(word ^ _mixed((rank + _GOLDEN) & _WORD))
    # Keras adds the two to a number. A tensor would go to the GPU and back.
    return word, 0


def _is_tensor(seed: Any) -> bool:
    """Whether a seed is a key, or a tensor of one or two integers."""
    if is_integer(seed) or not hasattr(seed, "shape"):
        return False
    shape, dtype = tuple(seed.shape), str(seed.dtype)
    return _calls.is_key(seed) or ("int" in dtype and shape in ((), (2,)))


def _mixed(word: int) -> int:
    """A bijection of words of 32 bits that scatters neighbors.

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
