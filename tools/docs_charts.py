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
PAGES = ROOT / "docs" / "benchmarks"


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
BACKENDS = ("JAX", "TensorFlow", "PyTorch")
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


def page_table(page: str, below: str) -> list[list[str]]:
    """Reads the first table of a benchmark's page below a text, titles first.

    Some benchmarks have no records: what they printed is on their page.
    """
    text = (PAGES / f"{page}.md").read_text()
    rows = re.search(r"(?:^\|.*\n)+", text[text.index(below) :], re.M)
    if rows is None:
        raise SystemExit(f"{page}.md has no table below {below!r}.")
    cells = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in rows[0].splitlines()
    ]
    return [cells[0], *cells[2:]]


def draw_bars(
    axes: Axes, names: list[str], values: list[float], theme: Theme, ours: str
) -> None:
    """Draws a bar for each name. The bars of ours have its color."""
    colors = [
        theme.ours if re.search(ours, name) else theme.others[-1]
        for name in names
    ]
    bars = axes.barh(names, values, color=colors, height=0.65)
    axes.bar_label(bars, fmt="%.2f", padding=4, color=theme.text)
    if not axes.yaxis_inverted():  # a shared axis is, after the first panel
        axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.margins(x=0.12)


def chart_one_shot(theme: Theme) -> Figure:
    """What pruning a transformer costs, without training and with some."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 3.8), layout="constrained"
    )
    rows = records("pretrained-language.jsonl")
    methods = {
        "ours, one shot": "keras-gumbel, reconstructed",
        "SparseGPT": "SparseGPT",
        "magnitude, global": "magnitude, one budget",
        "Wanda, per layer": "Wanda, per layer",
    }
    colors = [theme.ours, *theme.others]
    for (name, label), color in zip(methods.items(), colors, strict=False):
        found = {
            row["density"]: np.mean(row["test"])
            for row in rows
            if row["method"] == name
            and row["steps"] == 0
            and isinstance(row["density"], float)
        }
        kept = sorted(found, reverse=True)
        left.plot(
            [100 * k for k in kept],
            [found[k] for k in kept],
            color=color,
            marker="o",
            linewidth=2.8 if color == theme.ours else 1.3,
            label=label,
        )
    left.invert_xaxis()
    left.set_xticks([50, 30, 15], ["50%", "30%", "15%"])
    left.set(xlabel="weights kept", ylabel="test loss above dense, nats")
    left.legend(frameon=False)
    left.set_title("Transformer, one shot: lower is better", loc="left")
    rows = records("pretrained-mlp.jsonl")
    methods = {
        "ours": "keras-gumbel",
        "magnitude, dense gradient": "magnitude, dense gradient",
        "magnitude": "magnitude",
        "magnitude, at once": "magnitude, at once",
    }
    for (name, label), color in zip(methods.items(), colors, strict=False):
        found = {
            row["steps"]: np.mean(row["test"])
            for row in rows
            if row["method"] == name and row.get("density") == 0.02
        }
        steps = sorted(found)
        right.plot(
            steps,
            [found[n] for n in steps],
            color=color,
            marker="o",
            linewidth=2.8 if color == theme.ours else 1.3,
            label=label,
        )
    right.set(xscale="log", xlabel="steps of fine-tuning")
    right.set_xticks([3, 6, 12, 25, 100, 400], [3, 6, 12, 25, 100, 400])
    right.minorticks_off()
    right.set_ylabel("test accuracy, %")
    right.legend(frameon=False)
    right.set_title("MNIST, 2% kept: higher is better", loc="left")
    return figure


def chart_channels(theme: Theme) -> Figure:
    """Accuracy of the rules on the network where all of them were run."""
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    found = {
        row["method"]: row["test"]
        for row in records("channels-fashion_mnist.jsonl")
        if (row["net"], row["budget"]) == ("plain uneven", 0.12)
    }
    names = sorted(found, key=lambda name: -np.mean(found[name]))
    for place, name in enumerate(names):
        mean, error = mean_and_error(np.array(found[name]))
        color = theme.ours if name == "ours" else theme.others[-1]
        axes.errorbar(
            mean, place, xerr=error, color=color, marker="o", markersize=7
        )
        axes.annotate(
            f"{mean:.1f}",
            (mean, place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
        )
    labels = ["keras-gumbel" if n == "ours" else n for n in names]
    axes.set_yticks(range(len(names)), labels)
    axes.invert_yaxis()
    axes.margins(y=0.12)
    axes.set_xlabel("test accuracy with 12% of the multiply-adds, %")
    seeds = len(found["ours"])
    axes.set_title(f"Fashion-MNIST, uneven widths, {seeds} seeds", loc="left")
    return figure


def chart_litert(theme: Theme) -> Figure:
    """Time against zeros, for two sizes of layers."""
    figure, all_axes = plt.subplots(
        1, 2, figsize=(10, 3.6), layout="constrained", sharey=True
    )
    for axes, size in zip(all_axes, (256, 1024), strict=True):
        rows = page_table("litert", f"Three layers of {size:,} units")
        at = {title: i for i, title in enumerate(rows[0])}
        for pattern, color in zip(
            ("blocks of 4", "single"),
            (theme.ours, theme.others[0]),
            strict=True,
        ):
            chosen = [r for r in rows[1:] if r[at["pattern"]] == pattern]
            zeros = [float(r[0].rstrip("%")) for r in chosen]
            for batch, dashes in (("batch 1", "-"), ("batch 64", "--")):
                axes.plot(
                    zeros,
                    [float(r[at[batch]]) for r in chosen],
                    dashes,
                    color=color,
                    marker="o",
                    label=f"{pattern}, {batch}",
                )
        axes.axhline(1, color=theme.text, linewidth=1, linestyle=":")
        axes.set(xlabel="zeros, %")
        axes.set_title(f"Three layers of {size:,} units", loc="left")
    all_axes[0].set_ylabel("time, dense file = 1")
    all_axes[0].legend(frameon=False)
    return figure


def chart_step(theme: Theme) -> Figure:
    """The cost of a training step, for two networks on JAX."""
    figure, all_axes = plt.subplots(
        1, 2, figsize=(10, 3.4), layout="constrained", sharey=True
    )
    for axes, net in zip(all_axes, ("LeNet-300-100", "convnet"), strict=True):
        rows = page_table("step", f"\n{net}, ")[1:]
        draw_bars(
            axes,
            [r[0] for r in rows],
            [float(r[1]) for r in rows],
            theme,
            "learned",
        )
        axes.set_xlim(0, 4.8)
        axes.set_title(f"{net}, JAX: dense step = 1", loc="left")
    return figure


def chart_shrink(theme: Theme) -> Figure:
    """What is left of well-known networks without half of their channels."""
    figure, all_axes = plt.subplots(
        1, 2, figsize=(10, 3), layout="constrained", sharey=True
    )
    rows = page_table("shrink", "Half of the channels")[1:]
    titles = {2: "parameters left", 3: "multiply-adds left"}
    for axes, (column, title) in zip(all_axes, titles.items(), strict=True):
        left = [float(re.findall(r"\((0\.\d+)", r[column])[0]) for r in rows]
        draw_bars(axes, [r[0] for r in rows], left, theme, ".")
        axes.set_xlim(0, 1)
        axes.set_title(f"{title}, dense = 1", loc="left")
    return figure


def chart_latency(theme: Theme) -> Figure:
    """The time of shrunk networks in the runtimes of TensorFlow models."""
    figure, all_axes = plt.subplots(
        1, 2, figsize=(10, 2.8), layout="constrained", sharey=True
    )
    for axes, net in zip(all_axes, ("ResNet50", "MobileNetV2"), strict=True):
        rows = page_table("latency", f"\n{net}, batch of 1,")
        shrunk = rows[0].index("shrunk")
        draw_bars(
            axes,
            [r[0] for r in rows[1:]],
            [float(r[shrunk]) for r in rows[1:]],
            theme,
            ".",
        )
        axes.axvline(1, color=theme.text, linewidth=1, linestyle=":")
        axes.set_xlim(0, 1.05)
        axes.set_title(f"{net}, batch of 1: full float32 = 1", loc="left")
    return figure


def chart_estimators(theme: Theme) -> Figure:
    """Bias and variance against the temperature, for one of 8 classes."""
    figure, all_axes = plt.subplots(
        1, 2, figsize=(10, 4), layout="constrained", sharex=True
    )
    rows = page_table("estimators", "| estimator")
    names = dict.fromkeys(row[0] for row in rows[1:])
    colors = [theme.ours, *theme.others, theme.text]
    for axes, title in zip(all_axes, ("bias", "variance"), strict=True):
        column = rows[0].index(title)
        for i, name in enumerate(names):
            found = [r for r in rows[1:] if r[0] == name]
            values = [float(r[column]) for r in found]
            fixed = found[0][1] == "any"
            axes.plot(
                [0.1, 2] if fixed else [float(r[1]) for r in found],
                values * 2 if fixed else values,
                "--" if fixed else "-",
                color=colors[i % len(colors)],
                marker=None if fixed else "os"[i // len(colors)],
                label=name,
            )
        axes.set(xscale="log", yscale="log", xlabel="temperature")
        ticks = [0.1, 0.25, 0.5, 1, 2]
        axes.set_xticks(ticks, ticks)
        axes.minorticks_off()
        axes.set_title(f"{title}: lower is better", loc="left")
    all_axes[1].set_ylim(bottom=0.05)  # of one, the variance vanishes
    all_axes[1].legend(
        frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return figure


def chart_features(theme: Theme) -> Figure:
    """What the selected features are worth, on each data set."""
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    found: dict[tuple[str, str], list[float]] = {}
    for row in records("features.jsonl"):
        auc = 50 * (row["network"] + row["trees"])
        found.setdefault((row["method"], row["data"]), []).append(auc)
    methods = {
        "ours": "keras-gumbel",
        "STG": "STG",
        "RFE, forest": "RFE, forest",
        "RFE, logistic": "RFE, logistic",
        "L1 logistic": "L1 logistic",
        "mutual information": "mutual information",
        "F-test": "F-test",
    }
    data = list(dict.fromkeys(name for _, name in found))
    colors = [theme.ours, *theme.others, theme.text]
    for i, (method, color) in enumerate(zip(methods, colors, strict=True)):
        points = [mean_and_error(np.array(found[method, x])) for x in data]
        means, errors = np.transpose(points)
        axes.errorbar(
            means,
            np.arange(len(data)) + 0.11 * (i - 3),
            xerr=errors,
            color=color,
            linestyle="none",
            marker="osD^vPX"[i],
            markersize=7 if method == "ours" else 5,
            label=methods[method],
        )
    for place in range(len(data) - 1):
        axes.axhline(place + 0.5, color=theme.faint, linewidth=0.6)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(data)), data)
    axes.tick_params(left=False)
    axes.invert_yaxis()
    axes.set_xlabel("test AUC with the selected features, %")
    figure.legend(frameon=False, loc="outside right center")
    axes.set_title("Feature selection, 5 seeds: higher is better", loc="left")
    return figure


def draw_projection(
    axes: Axes, rows: list[list[str]], title: str, theme: Theme
) -> None:
    """Time against the number of scores, each on its own line."""
    methods = ("ours", "30 halvings", "Newton", "sorting")
    colors = [theme.ours, *theme.others]
    cells = {row[0]: row[1:] for row in rows[1:]}
    for i, method in enumerate(methods):
        points = [
            (float(count.replace(",", "")), float(cell))
            for count, cell in zip(
                rows[0][1:], cells.get(method, ()), strict=False
            )
            if "x" not in count and cell != "-"
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                color=colors[i],
                marker="osD^"[i],
                linewidth=2.8 if method == "ours" else 1.3,
                label="keras-gumbel" if method == "ours" else method,
            )
    axes.axhline(1, color=theme.text, linewidth=1, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="scores")
    axes.set_title(title, loc="left")


def projections(
    panels: dict[str, list[list[str]]], width: float, label: str, theme: Theme
) -> Figure:
    """Times of a projection, with a panel for each title and its table."""
    figure, all_axes = plt.subplots(
        1,
        len(panels),
        figsize=(width, 3.8),
        layout="constrained",
        sharey=True,
    )
    for axes, (title, rows) in zip(all_axes, panels.items(), strict=True):
        draw_projection(axes, rows, title, theme)
    all_axes[0].set_ylabel(f"{label}, clip in place = 1")
    figure.legend(
        *all_axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return figure


def chart_projection(theme: Theme) -> Figure:
    """The time of a projection on a CPU, by several algorithms."""
    panels = {x: page_table("projection", f"## {x} (") for x in BACKENDS}
    return projections(panels, 11, "CPU time", theme)


def chart_gpu(theme: Theme) -> Figure:
    """The same on a GPU."""
    panels = {
        f"Projection on {x}, H200": page_table("gpu", f"## Projection on {x} (")
        for x in ("JAX", "PyTorch")
    }
    return projections(panels, 10, "time", theme)


def chart_sampling(theme: Theme) -> Figure:
    """The time of a relaxed sample on each backend."""
    figure, all_axes = plt.subplots(
        1, 3, figsize=(12, 2.6), layout="constrained", sharex=True
    )
    chosen = (
        r"textbook formula|keras_gumbel|jax\.random\.gumbel"
        r"|TFP RelaxedOneHotCategorical|F\.gumbel_softmax"
        r"|torch RelaxedOneHotCategorical"
    )
    for axes, backend in zip(all_axes, BACKENDS, strict=True):
        rows = page_table("sampling", f"## {backend} (")
        column = rows[0].index("256x1000")
        times = {
            r[0]: float(r[column])
            for r in rows[1:]
            if re.fullmatch(chosen, r[0])
        }
        names = sorted(times, key=times.__getitem__)
        labels = [name.replace("Relaxed", "Relaxed\n") for name in names]
        draw_bars(
            axes, labels, [times[n] for n in names], theme, "keras_gumbel"
        )
        axes.set_title(backend, loc="left")
    figure.suptitle("A relaxed sample of 256 x 1,000: CPU time, softmax = 1")
    return figure


def chart_score_learning_rate(theme: Theme) -> Figure:
    """What the final mask loses, against how far the scores could move."""
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    title, *rows = page_table("score_learning_rate", "| optimizer")
    at = {name: i for i, name in enumerate(title)}

    def percent(row: list[str], name: str) -> float:
        return float(row[at[name]].rstrip("%"))

    for i, optimizer in enumerate(("ScoreSGD", "Adam")):
        own = [r for r in rows if r[at["optimizer"]] == optimizer]
        axes.plot(
            [float(r[at["reach"]]) for r in own],
            [
                percent(r, "as it stands") - percent(r, "final mask")
                for r in own
            ],
            "os"[i],
            color=(theme.ours, theme.others[0])[i],
            markersize=8,
            label=optimizer,
        )
    axes.axvline(10, color=theme.text, linewidth=1, linestyle=":")
    axes.set(
        xscale="log",
        xlabel="reach: how far a score can move in the run",
        ylabel="test accuracy lost, points",
    )
    axes.set_xticks([0.1, 1, 10, 100], [0.1, 1, 10, 100])
    axes.legend(frameon=False)
    axes.set_title("What the final mask loses: digits, 5% kept", loc="left")
    return figure


def chart_units(theme: Theme) -> Figure:
    """Accuracy of a convnet that keeps some of its filters."""
    figure, all_axes = plt.subplots(
        1, 3, figsize=(11, 4), layout="constrained", sharex=True, sharey=True
    )
    rows = page_table("units", "| scores")
    names = [row[0] for row in rows[1:]]
    for axes, kept in zip(all_axes, ("10%", "20%", "30%"), strict=True):
        column = rows[0].index(kept)
        for place, row in enumerate(rows[1:]):
            mean, error = map(float, row[column].split(" ± "))
            learned = row[0].endswith("learned") or row[0].startswith("learned")
            axes.errorbar(
                mean,
                place,
                xerr=error,
                color=theme.ours if learned else theme.others[-1],
                marker="o",
                markersize=7,
            )
        axes.set_title(f"{kept} of the weights kept", loc="left")
        axes.set_xlabel("test accuracy, %")
    all_axes[0].set_yticks(range(len(names)), names)
    all_axes[0].invert_yaxis()
    return figure


def chart_papers(theme: Theme) -> Figure:
    """Our figures beside those of Jang et al., for every kind of samples."""
    figure, all_axes = plt.subplots(
        1, 2, figsize=(10, 3.8), layout="constrained", sharey=True
    )
    titles = {"structured": "Half digits", "vae": "Autoencoders"}
    methods = "Gumbel-Softmax", "ST Gumbel-Softmax", "straight-through"
    names = [
        (kind, method)
        for kind in ("Bernoulli", "categorical")
        for method in (*methods, "RLOO, 2 draws")
    ]
    for axes, (table, title) in zip(all_axes, titles.items(), strict=True):
        found: dict[tuple[str, str], list[dict]] = {}
        for row in records(f"papers-{table}.jsonl"):
            found.setdefault((row["kind"], row["method"]), []).append(row)
        ours = [np.mean([r["nats"] for r in found[name]]) for name in names]
        paper = [found[name][0]["paper"] for name in names]
        places = range(len(names))
        axes.hlines(places, ours, paper, color=theme.faint, linewidth=2)
        axes.plot(paper, places, "s", color=theme.others[0], label="the paper")
        axes.plot(
            ours, places, "o", color=theme.ours, label="keras-gumbel", zorder=3
        )
        axes.set_yticks(places, [f"{kind}, {method}" for kind, method in names])
        axes.set_xlabel("bound on -log p, nats: lower is better")
        axes.set_title(f"{title} of MNIST", loc="left")
    all_axes[0].invert_yaxis()
    all_axes[0].legend(frameon=False)
    return figure


CHARTS: dict[str, Callable[[Theme], Figure]] = {
    "channels": chart_channels,
    "estimators": chart_estimators,
    "features": chart_features,
    "gpu": chart_gpu,
    "latency": chart_latency,
    "litert": chart_litert,
    "papers": chart_papers,
    "pretrained": chart_one_shot,
    "projection": chart_projection,
    "sampling": chart_sampling,
    "score_learning_rate": chart_score_learning_rate,
    "shrink": chart_shrink,
    "sparsity": chart_sparsity,
    "step": chart_step,
    "units": chart_units,
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
    for name, chart in CHARTS.items():
        for _ in draw(name, chart, (), GENERATED):
            pass


if __name__ == "__main__":
    main()
