"""Draws the charts of the site and of the README from committed records.

Each chart is an SVG with text that can be selected, twice: for a light page
and for a dark one. Those of the site are drawn when it is built, into
docs/generated/; the one of the README is committed, and `--readme` draws it
anew. It holds a digest of its records, so a build notices when it is stale.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Callable
from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records"
IMAGES = ROOT / "docs" / "images"
GENERATED = ROOT / "docs" / "generated"


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colors of a page. The series are those of Okabe and Ito."""

    text: str
    faint: str
    ours: str
    others: tuple[str, ...]


THEMES = {
    "light": Theme(
        "#24292f",
        "#d0d7de",
        "#0072b2",
        ("#d55e00", "#007a5a", "#a3457c", "#8a6d00", "#5f6b76"),
    ),
    "dark": Theme(
        "#e6edf3",
        "#3d444d",
        "#56b4e9",
        ("#e69f00", "#2fc49a", "#e08bbd", "#d9c441", "#9aa5b1"),
    ),
}

# What the rivals are called on the charts, the most accurate first.
RIVALS = {
    "ProbMask": "ProbMask",
    "magnitude, global, dense gradient": "magnitude, dense gradient",
    "magnitude, global": "magnitude, one budget",
    "magnitude, per layer": "magnitude per layer (as TFMOT)",
    "hard concrete": "hard concrete (L0)",
}
SPARSE_TASKS = {
    "digits": "Digits, dense layers",
    "digits-conv": "Digits, convolutions",
    "mnist-5k": "MNIST, 5,000 images",
}


def records(name: str) -> list[dict]:
    """Reads the lines of a file of records."""
    return [json.loads(x) for x in (RECORDS / name).open()]


def sparse_results(task: str) -> dict[tuple[str, float], np.ndarray]:
    """Returns the test accuracies in percent, by method and sparsity."""
    return {
        (row["method"], row["sparsity"]): 100 * np.array(row["test"])
        for row in records(f"{task}.jsonl")
    }


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Returns the mean over the seeds, and its standard error."""
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


def draw_sparse(task: str, axes: Axes, theme: Theme, labels: bool) -> None:
    """Accuracy against the share of weights that are kept."""
    found = sparse_results(task)
    sparsities = sorted({s for _, s in found if s})
    kept = [100 * (1 - s) for s in sparsities]
    colors = dict(zip(RIVALS, theme.others, strict=True))
    for name in [*reversed(RIVALS), "ours"]:
        points = [mean_and_error(found[name, s]) for s in sparsities]
        means, errors = np.transpose(points)
        ours = name == "ours"
        axes.errorbar(
            kept,
            means,
            errors,
            color=theme.ours if ours else colors[name],
            marker="o",
            markersize=5 if ours else 3.5,
            linewidth=2.8 if ours else 1.3,
            elinewidth=1,
            label="keras-gumbel" if ours else RIVALS[name],
            zorder=3 if ours else 2,
        )
    dense = found["dense", 0.0].mean()
    axes.axhline(dense, color=theme.text, linewidth=1, linestyle=(0, (2, 3)))
    axes.annotate(
        f"dense {dense:.1f}%",
        (1, dense),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
    )
    axes.set(xscale="log", xlabel="weights kept")
    axes.set_xticks(kept, [f"{k:.1f}%".replace(".0%", "%") for k in kept])
    axes.minorticks_off()
    axes.invert_xaxis()
    if labels:
        axes.set_ylabel("test accuracy, %")
        axes.legend(
            *[reversed(x) for x in axes.get_legend_handles_labels()],
            loc="lower left",
            frameon=False,
        )


def chart_readme(theme: Theme) -> Figure:
    """MNIST: where most of the weights go, ours stay accurate."""
    figure, axes = plt.subplots(figsize=(7.2, 3.9), layout="constrained")
    draw_sparse("mnist-5k", axes, theme, labels=True)
    axes.set_ylim(83.5, 96.4)
    axes.set_title(
        "Accuracy as weights are removed (5,000 images of MNIST)", loc="left"
    )
    return figure


def chart_sparsity(theme: Theme) -> Figure:
    """The three tasks of the page."""
    figure, all_axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
    for axes, (task, title) in zip(all_axes, SPARSE_TASKS.items(), strict=True):
        draw_sparse(task, axes, theme, labels=axes is all_axes[0])
        axes.set_title(title, loc="left")
        axes.set_ylim(*((83.5, 96.4) if task == "mnist-5k" else (84, 99.4)))
    return figure


CHARTS: dict[str, tuple[Callable[[Theme], Figure], tuple[str, ...]]] = {
    "sparsity": (chart_sparsity, tuple(f"{t}.jsonl" for t in SPARSE_TASKS)),
}
README = ("accuracy", chart_readme, ("mnist-5k.jsonl",))


def digest(names: tuple[str, ...]) -> str:
    """Returns a digest of files of records."""
    content = b"".join((RECORDS / name).read_bytes() for name in names)
    return hashlib.sha256(content).hexdigest()[:16]


def draw(
    name: str,
    chart: Callable[[Theme], Figure],
    sources: tuple[str, ...],
    folder: pathlib.Path,
) -> Iterator[pathlib.Path]:
    """Writes a chart for light and for dark pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, theme in THEMES.items():
        style = {
            "axes.edgecolor": theme.faint,
            "axes.grid": True,
            "axes.labelcolor": theme.text,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 11,
            "font.family": "sans-serif",
            "font.size": 10,
            "grid.color": theme.faint,
            "grid.linewidth": 0.6,
            "svg.fonttype": "none",
            "svg.hashsalt": name,
            "text.color": theme.text,
            "xtick.color": theme.text,
            "ytick.color": theme.text,
        }
        with mpl.rc_context(style):
            figure = chart(theme)
            path = folder / f"{name}-{key}.svg"
            figure.savefig(
                path,
                transparent=True,
                metadata={
                    "Date": None,
                    "Creator": None,
                    "Description": f"records {digest(sources)}",
                },
            )
            plt.close(figure)
        # The first of these fonts that a reader has.
        text = path.read_text()
        fonts = "system-ui, -apple-system, 'Segoe UI', Arial, sans-serif"
        text = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", fonts, text)
        path.write_text(
            "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
        )
        yield path


def require_fresh_readme() -> None:
    """Stops where the committed chart is not that of the records."""
    name, _, sources = README
    for key in THEMES:
        if digest(sources) not in (IMAGES / f"{name}-{key}.svg").read_text():
            raise SystemExit(
                f"docs/images/{name}-{key}.svg is not of these records: "
                "run `make charts`."
            )


def print_facts() -> None:
    """Prints what the README says of the accuracies."""
    first = cells = 0
    for task in SPARSE_TASKS:
        found = sparse_results(task)
        for sparsity in sorted({s for _, s in found if s}):
            means = {
                name: values.mean()
                for (name, s), values in found.items()
                if s == sparsity
            }
            cells += 1
            first += max(means, key=means.get) == "ours"
    rivals = len(means) - 1
    print(f"ours first of {rivals + 1} methods in {first} of {cells} cells")
    found = sparse_results("mnist-5k")
    for name in ("ours", *RIVALS):
        print(f"MNIST, 0.5% kept, {name}: {found[name, 0.995].mean():.1f}%")


def main() -> None:
    """Draws the charts of the site, or with `--readme` the README's."""
    if "--readme" in sys.argv[1:]:
        name, chart, sources = README
        for path in draw(name, chart, sources, IMAGES):
            print(path.relative_to(ROOT))
        print_facts()
        return
    require_fresh_readme()
    for name, (chart, sources) in CHARTS.items():
        for _ in draw(name, chart, sources, GENERATED):
            pass


if __name__ == "__main__":
    main()
