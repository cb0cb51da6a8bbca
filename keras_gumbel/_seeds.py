"""Independent seeds from one."""

import numpy as np


def spawn_seeds(seed: int | None, count: int) -> list[int | None]:
    """Derives seeds whose streams do not overlap.

    Neighbouring integers will not do: on torch, Keras gives call i + 1 of
    seed s the numbers of call i of seed s + 1.

    Args:
        seed: Integer, or `None` for seeds that differ in every process.
        count: Integer, the number of seeds.

    Returns:
        A list of integers in [0, 2**31), or of `None`.
    """
    if seed is None:
        return [None] * count
    words = np.random.SeedSequence(seed).generate_state(count)
    return [int(word) % 2**31 for word in words]
