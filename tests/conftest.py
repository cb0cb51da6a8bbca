import os
import re
import tempfile

# Before anything imports TensorFlow: oneDNN's bfloat16 kernels stop the
# process on CPUs whose AMX it misjudges, and its logs drown the tests'.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
# One thread a process: workers that share cores else wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests run what XLA compiles once or twice. Without its optimizations, JAX
# compiles in half the time. An empty XLA_FLAGS brings them back.
if os.environ.get("KERAS_BACKEND") == "jax":
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true "
        "--xla_cpu_use_fusion_emitters=false "
        "--xla_cpu_parallel_codegen_split_count=1",
    )

import keras
import pytest
from hypothesis import settings

from tests.nightly import KNOWN_FAILURES

# Examples are drawn from a fixed seed: a red test is a bug, not luck.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None
)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def fresh_state():
    keras.utils.set_random_seed(0)
    keras.config.disable_traceback_filtering()
    yield
    keras.config.set_dtype_policy("float32")
    # Collecting garbage after every test would double the time of the suite.
    keras.utils.clear_session(free_memory=False)


def pytest_configure(config):
    # What XLA has compiled for one `fit` serves the next one of the same
    # shapes. Each process has a folder: another one would read files that are
    # half written.
    if keras.config.backend() == "jax":
        import jax

        folder = tempfile.TemporaryDirectory()
        config.add_cleanup(folder.cleanup)
        jax.config.update("jax_compilation_cache_dir", folder.name)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_collection_modifyitems(items):
    for item in items:
        marker = item.get_closest_marker("backends")
        if marker and keras.config.backend() not in marker.args:
            names = " and ".join(marker.args)
            item.add_marker(pytest.mark.skip(reason=f"for {names} only"))
        if "dev" in keras.__version__:
            for part, reason in KNOWN_FAILURES.items():
                if part in item.nodeid:
                    allowed = pytest.mark.xfail(reason=reason, strict=False)
                    item.add_marker(allowed)


def pytest_make_parametrize_id(config, val, argname):
    text = str(getattr(val, "__name__", val))
    # Addresses differ between the workers, which compare ids.
    return f"{argname}={re.sub(' object at 0x[0-9a-f]+', '', text)}"
