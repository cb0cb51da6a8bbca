"""Runs examples cell by cell, and writes down what each cell prints.

`make outputs` runs all of them, `make outputs NAMES="hash_codes"` some. The
outputs go to docs/outputs/, the pictures to docs/images/; both are committed,
and pages and notebooks are made from them.
"""

import contextlib
import datetime
import hashlib
import io
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

import matplotlib as mpl
import tutorials

CONTROL = re.compile(r"\x1b\[[\d;]*m|[^\n]*[\r\b]")


class Tee(io.StringIO):
    """Keeps what is printed, and shows it."""

    def write(self, text: str) -> int:
        """Prints as well."""
        sys.__stdout__.write(text)
        sys.__stdout__.flush()
        return super().write(text)


def digest(code: list[str]) -> str:
    """Returns a digest of the code that was run."""
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def record(name: str) -> None:
    """Runs one example in a folder of its own."""
    code = tutorials.read(name).code
    namespace = {"__name__": "__main__"}
    start, outputs = time.process_time(), []
    for number, cell in enumerate(code, 1):
        with contextlib.redirect_stdout(Tee()) as printed:
            exec(compile(cell, f"{name}.py, cell {number}", "exec"), namespace)
        text = CONTROL.sub("", printed.getvalue()).rstrip()
        outputs.append("\n".join(x.rstrip() for x in text.splitlines()))
    minutes = max(1, round((time.process_time() - start) / 60))
    unit = "minute" if minutes == 1 else "minutes"
    keras = sys.modules["keras"]
    backend = keras.config.backend()
    version = getattr(sys.modules[backend], "__version__", "")
    facts = {
        "code": digest(code),
        "run": (
            f"{datetime.date.today()}, backend {backend} {version},"
            f" keras {keras.__version__}, {minutes} {unit} of CPU time"
        ),
    }
    lines = [f"#### {kind} {value}\n" for kind, value in facts.items()]
    lines += [
        f"#### cell {number}\n{text}\n"
        for number, text in enumerate(outputs, 1)
    ]
    tutorials.OUTPUTS.mkdir(exist_ok=True)
    (tutorials.OUTPUTS / f"{name}.txt").write_text("".join(lines))
    shutil.copy(f"{name}/{name}.png", tutorials.IMAGES)


def main() -> None:
    """Records the example that is named."""
    mpl.use("agg")
    (name,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        record(name)
        os.chdir(pathlib.Path(folder).parent)


if __name__ == "__main__":
    main()
