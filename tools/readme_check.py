"""Types the README's blocks, each alone, where nothing else is installed.

`python tools/readme_check.py WHEEL FOLDER` makes a virtual environment in the
folder and runs the README's install commands in it, with the wheel in place of
the package's name on the index. Then every Python block runs in a process of
its own, in an empty folder. The figures that it prints must be those that the
README quotes, within 5%.
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import venv

README = pathlib.Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """Returns the fenced blocks of a language."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, README.read_text(), re.M | re.S)


def quoted_output(block: str) -> str:
    """Returns the `text` block right behind a block of code, or nothing."""
    rest = README.read_text().partition(block)[2]
    found = re.match(r"```\n\n```text\n(.*?)^```$", rest, re.M | re.S)
    return found[1] if found else ""


def clean_environment() -> dict[str, str]:
    """Returns the variables of this process, without those of Python's."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "KERAS", "VIRTUAL_ENV"))
    }


def install(wheel: pathlib.Path, python: pathlib.Path) -> dict[str, str]:
    """Types the install block, and returns the environment that it leaves."""
    pip = [str(python), "-m", "pip", "install", "-q"]
    environment = clean_environment()
    subprocess.run([*pip, "--upgrade", "pip"], check=True, env=environment)
    for line in blocks("console")[0].splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            environment[name] = value
        elif words[:2] == ["pip", "install"]:
            packages = [
                re.sub(r"^keras-gumbel(?=\[|$)", str(wheel), word)
                for word in words[2:]
            ]
            subprocess.run([*pip, *packages], check=True, env=environment)
        else:
            raise SystemExit(f"Not known in the install block: {line}")
    return environment


def numbers(text: str) -> list[float]:
    """Returns the figures in a text."""
    found = re.findall(r"\d[\d,]*\.?\d*", text)
    return [float(figure.replace(",", "")) for figure in found]


def require_figures(printed: str, quoted: str) -> None:
    """Stops where a block prints something else than the README quotes."""
    if not printed.strip():
        raise SystemExit("A block of the README prints nothing.")
    pairs = list(zip(numbers(printed), numbers(quoted), strict=False))
    same = len(numbers(printed)) == len(numbers(quoted))
    near = all(abs(a - b) <= 0.05 * abs(b) for a, b in pairs)
    if quoted and not (same and near):
        raise SystemExit(f"The README quotes\n{quoted}\nit prints\n{printed}")


def main() -> None:
    """Installs, then runs each block."""
    wheel, folder = (pathlib.Path(x).resolve() for x in sys.argv[1:])
    venv.create(folder, clear=True, with_pip=True)
    python = folder / "bin" / "python"
    environment = install(wheel, python)
    for block in blocks("python"):
        with tempfile.TemporaryDirectory() as empty:
            run = subprocess.run(
                [python, "-I", "-c", block],
                cwd=empty,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
        print(run.stdout, end="")
        if run.returncode:
            raise SystemExit(f"This block of the README does not run:\n{block}")
        require_figures(run.stdout, quoted_output(block))
    print(f"{len(blocks('python'))} blocks of the README run by themselves")


if __name__ == "__main__":
    main()
