"""What older versions of Keras do not have.

A test that needs it is skipped on them, and fails where it has to be there.
"""

import keras
import pytest


def has_keras(version):
    """Whether Keras is of this version or a later one."""
    return _release(keras.__version__) >= _release(version)


def require_keras(version, what):
    """Skips the test where Keras is of an earlier version."""
    if not has_keras(version):
        pytest.skip(f"Keras has {what} from {version} on")


def _release(version):
    return tuple(int(number) for number in version.split(".")[:2])


def multi_optimizer(default, mapped):
    require_keras("3.15", "MultiOptimizer")
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(default, mapped)
    )
