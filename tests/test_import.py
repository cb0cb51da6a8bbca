import subprocess
import sys

import pytest

# What a module may bring in beyond what `import keras` has brought in, which is
# matplotlib where it is installed.
_PROBE = """
import sys
import keras
for name in [x for x in sys.modules if x.startswith("matplotlib")]:
    del sys.modules[name]
before = set(sys.modules)
{statement}
heavy = {{"jax", "torch", "tensorflow", "matplotlib", "sqlite3"}}
print(sorted(heavy & (set(sys.modules) - before)))
"""


def _brought_in(statement):
    code = _PROBE.format(statement=statement)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return run.stdout.strip().splitlines()[-1]


@pytest.mark.slow
def test_import_brings_in_no_backend_and_no_plots():
    assert _brought_in("import keras_gumbel") == "[]"


@pytest.mark.backends("jax")
def test_import_probe_sees_what_is_brought_in():
    assert _brought_in("import keras_gumbel, sqlite3") == "['sqlite3']"
