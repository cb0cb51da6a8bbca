import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from keras import ops
from matplotlib.colors import to_hex
from matplotlib.colors import to_rgb
from scipy import integrate

import keras_gumbel as kg
from keras_gumbel import visualization
from keras_gumbel.sparsity import SparsityReport
from keras_gumbel.sparsity import SparsityRow
from keras_gumbel.sparsity import SparsitySize
from keras_gumbel.visualization import plot_binary_concrete
from keras_gumbel.visualization import plot_history
from keras_gumbel.visualization import plot_mask
from keras_gumbel.visualization import plot_pareto
from keras_gumbel.visualization import plot_schedules
from keras_gumbel.visualization import plot_scores
from keras_gumbel.visualization import plot_simplex
from keras_gumbel.visualization import plot_sparsity
from keras_gumbel.visualization._axes import BLUE
from keras_gumbel.visualization._axes import COLORS
from keras_gumbel.visualization._axes import ramp
from keras_gumbel.visualization._simplex import CORNERS

pytestmark = pytest.mark.one_backend


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    def show(*args, **kwargs):
        raise AssertionError("a plot must not show itself")

    monkeypatch.setattr(plt, "show", show)
    yield
    plt.close("all")


def _report():
    size = SparsitySize(400, 60, 53, 60, 400, 800)
    rows = (
        SparsityRow("first/kernel", 100, 5, 5.5, 3, size),
        SparsityRow("second/kernel", 50, 10, 9.5, 2, size),
    )
    return SparsityReport(rows, 15, 1.0, {}, 0)


def _masked(*layers, scores):
    """Returns a model with these scores, of which it keeps all above 0."""
    model = kg.sparsify(keras.Sequential(layers))
    masks = [layer.weight_masks[0] for layer in model.layers]
    for mask, value in zip(masks, scores, strict=True):
        mask.mask_scores.assign(np.reshape(value, mask.mask_scores.shape))
    kept = sum(np.count_nonzero(value) for value in scores)
    model.compile(kg.optimizers.ProjectedOptimizer("sgd", budget=kept))
    return model


def _two_dense(first, second):
    return _masked(
        keras.Input((6,)),
        keras.layers.Dense(3, name="first"),
        keras.layers.Dense(2, name="second"),
        scores=[first, second],
    )


def _lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def _labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_plot_sparsity_draws_a_bar_for_each_row():
    ax = plot_sparsity(_report())

    assert [bar.get_width() for bar in ax.patches] == [0.05, 0.2]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["first/kernel", "second/kernel"]
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["5 of 100", "10 of 50"]


def test_plot_sparsity_draws_the_budget_of_the_model():
    ax = plot_sparsity(_report())

    (line,) = ax.get_lines()

    assert list(line.get_xdata()) == [0.1, 0.1]
    assert "dashed: the budget, 15 of 150" in ax.get_xlabel()


HISTORY = {
    "density": [0.5, 0.25],
    "undecided": [0.9, 0.1],
    "temperature": [1.0, 0.5],
    "loss": [3, 2],
}


def test_plot_history_draws_the_keys_over_the_epochs():
    ax = plot_history(HISTORY, ["density", "undecided"])

    lines = _lines(ax)
    assert sorted(lines) == ["density", "undecided"]
    assert list(lines["density"].get_xdata()) == [1, 2]
    assert list(lines["undecided"].get_ydata()) == [0.9, 0.1]
    assert len({line.get_linestyle() for line in lines.values()}) == 2


def test_plot_history_finds_the_keys_of_the_logger():
    assert list(_lines(plot_history({"density": [1.0]}))) == ["density"]
    assert _labels(plot_history(HISTORY)) == [
        "density",
        "undecided",
        "temperature",
    ]


def test_plot_history_gives_the_temperature_an_axis_of_its_own():
    ax = plot_history(HISTORY)

    left, right = ax.figure.axes
    assert left is ax
    assert sorted(_lines(left)) == ["density", "undecided"]
    assert list(_lines(right)["temperature"].get_ydata()) == [1.0, 0.5]
    assert right.get_ylabel() == "temperature"


def test_plot_schedules_draws_their_values():
    schedules = {
        "line": kg.schedules.LinearAnnealing(1.0, 0.5, steps=50),
        "cubic": kg.schedules.CubicDensity(0.1, steps=100),
    }

    lines = _lines(plot_schedules(schedules, 100))

    assert list(lines) == ["line", "cubic"]
    for label, line in lines.items():
        steps = list(line.get_xdata())
        assert steps == list(range(101))
        expected = [float(schedules[label](step)) for step in steps]
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-6)


def test_plot_binary_concrete_draws_densities():
    ax = plot_binary_concrete(0.3, (0.5, 2.0))

    lines = _lines(ax)
    assert list(lines) == ["temperature 0.5", "temperature 2"]
    for t, line in zip((0.5, 2.0), lines.values(), strict=True):
        m, density = line.get_xdata(), line.get_ydata()
        # Maddison et al., 2016, for odds of 3 / 7.
        alpha = 3 / 7
        top = t * alpha * m ** (-t - 1) * (1 - m) ** (-t - 1)
        bottom = (alpha * m**-t + (1 - m) ** -t) ** 2
        np.testing.assert_allclose(density, top / bottom, rtol=2e-3)
        mass = integrate.trapezoid(density, m)
        assert mass == pytest.approx(1.0, abs=0.05)
    assert "0.3" in ax.get_xlabel()


def test_plot_simplex_draws_samples_of_each_temperature():
    logits, temperatures = (1.0, 0.0, -1.0), (0.05, 1.0, 20.0)

    ax = plot_simplex(logits, temperatures, num_samples=400, seed=0)

    shares = []
    for points in ax.collections:
        corners = np.vstack([CORNERS.T, np.ones(3)])
        places = np.vstack([points.get_offsets().T, np.ones(400)])
        y = np.linalg.solve(corners, places).T
        assert y.min() > -1e-5
        shares.append(y)
    cold, _, hot = shares
    assert (cold.max(axis=1) > 0.99).mean() > 0.7
    assert np.abs(hot - 1 / 3).max() < 0.3
    chosen = np.bincount(cold.argmax(axis=1), minlength=3) / 400
    probs = ops.convert_to_numpy(ops.softmax(np.array(logits)))
    np.testing.assert_allclose(chosen, probs, atol=0.1)
    assert _labels(ax) == [f"temperature {t:g}" for t in temperatures]
    assert [text.get_text() for text in ax.texts] == [
        "class 1",
        "class 2",
        "class 3",
    ]


def test_plot_simplex_repeats_itself_with_a_seed():
    first, again, other = (
        plot_simplex(seed=seed).collections[0].get_offsets()
        for seed in (3, 3, 4)
    )

    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_plot_scores_counts_them():
    first = np.linspace(0.0, 1.0, 18)
    second = [0.0, 0.0, 0.04, 0.96, 1.0, 0.5]

    ax = plot_scores(_two_dense(first, second), bins=10)

    counts, edges = np.histogram([*first, *second], 10, (0, 1))
    bars = [p for p in ax.patches if to_hex(p.get_facecolor()) == BLUE.lower()]
    # Float32 scores may fall on either side of an edge.
    assert sum(bar.get_height() for bar in bars) == 24
    np.testing.assert_allclose([b.get_x() for b in bars], edges[:-1])
    drawn = np.array([bar.get_height() for bar in bars])
    assert np.abs(drawn - counts).sum() <= 2
    assert ax.get_yscale() == "log"


def test_plot_scores_shades_the_undecided():
    ax = plot_scores(_two_dense(np.linspace(0.0, 1.0, 18), [0.5] * 6))

    (zone,) = (p for p in ax.patches if "undecided" in str(p.get_label()))

    assert zone.get_x() == 0.05
    assert zone.get_x() + zone.get_width() == pytest.approx(0.95)
    assert zone.get_label() == "undecided: 22 (91.67%)"


FIRST = np.eye(6, 3)
SECOND = [[1, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("name", "title", "mask"),
    [
        (None, "first/kernel: 3 of 18 kept", FIRST),
        ("second", "second/kernel: 3 of 6 kept", SECOND),
        ("second/kernel", "second/kernel: 3 of 6 kept", SECOND),
    ],
)
def test_plot_mask_draws_a_matrix(name, title, mask):
    ax = plot_mask(_two_dense(FIRST, SECOND), name)

    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), mask)
    assert ax.get_title() == title


def test_plot_mask_draws_the_mask_that_harden_would_fix():
    model = kg.sparsify(
        keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    )
    model.compile(kg.optimizers.ProjectedOptimizer("sgd", budget=4))
    model.optimizer.build(model.trainable_variables)
    scores = np.random.default_rng(0).uniform(size=(6, 3))
    model.layers[0].weight_masks[0].mask_scores.assign(scores)

    (image,) = plot_mask(model).images

    largest = scores >= np.sort(scores.ravel())[-4]
    np.testing.assert_array_equal(image.get_array(), largest)


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3)])
def test_plot_mask_counts_what_is_kept_of_each_pixel(shape):
    mask = np.random.default_rng(0).integers(0, 2, (6, 3))

    ax = plot_mask(_two_dense(mask, SECOND), image_shape=shape)

    (image,) = ax.images
    kept = mask.sum(axis=1).reshape(shape)
    expected = kept if len(shape) == 2 else kept.sum(axis=2)
    np.testing.assert_array_equal(image.get_array(), expected)


def test_plot_mask_draws_a_mask_of_inputs_as_an_image():
    scores = [1, 0, 0, 1, 1, 0]
    gate = kg.masks.LearnedMask(name="pixels")
    model = keras.Sequential([keras.Input((6,)), gate])
    gate.mask_scores.assign(scores)

    ax = plot_mask(model, "pixels", image_shape=(2, 3))

    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), [[1, 0, 0], [1, 1, 0]])


@pytest.mark.parametrize("channels", [1, 2])
def test_plot_mask_sets_kernels_side_by_side(channels):
    shape = (3, 2, channels, 5)
    mask = np.random.default_rng(0).integers(0, 2, shape)
    model = _masked(
        keras.Input((6, 6, channels)),
        keras.layers.Conv2D(5, (3, 2)),
        scores=[mask],
    )

    (image,) = plot_mask(model).images

    pixels = np.ma.filled(image.get_array().astype(float), np.nan)
    columns = 3 if channels == 1 else 5
    for output in range(5):
        for channel in range(channels):
            row = channel if channels > 1 else output // columns
            top, left = 4 * row, 3 * (output % columns)
            tile = pixels[top : top + 3, left : left + 2]
            np.testing.assert_array_equal(tile, mask[:, :, channel, output])
    assert np.isnan(pixels[3]).all()
    assert np.nansum(pixels) == mask.sum()


def test_plot_pareto_draws_means_and_errors():
    results = {
        "ours": [(0.1, 0.95, 0.01), (0.01, 0.9, 0.02)],
        "theirs": [(0.1, 0.94, 0.0), (0.02, 0.8, 0.03)],
    }

    ax = plot_pareto(results)

    for container, (name, points) in zip(
        ax.containers, results.items(), strict=True
    ):
        assert container.get_label() == name
        line, _, (bars,) = container.lines
        densities, means, errors = map(list, zip(*sorted(points), strict=True))
        assert list(line.get_xdata()) == densities
        assert list(line.get_ydata()) == means
        ends = [segment[:, 1] for segment in bars.get_segments()]
        expected = [(m - e, m + e) for m, e in zip(means, errors, strict=True)]
        np.testing.assert_allclose(ends, expected)
    ax.figure.canvas.draw()
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks == ["1.0%", "2.0%", "10.0%"]


PLOTS = {
    "plot_binary_concrete": lambda ax: plot_binary_concrete(ax=ax),
    "plot_history": lambda ax: plot_history(HISTORY, ax=ax),
    "plot_mask": lambda ax: plot_mask(_two_dense(FIRST, SECOND), ax=ax),
    "plot_pareto": lambda ax: plot_pareto({"a": [(0.1, 0.9, 0.0)]}, ax=ax),
    "plot_schedules": lambda ax: plot_schedules(
        {"a": kg.schedules.Constant(1.0)}, 10, ax=ax
    ),
    "plot_scores": lambda ax: plot_scores(_two_dense(FIRST, SECOND), ax=ax),
    "plot_simplex": lambda ax: plot_simplex(ax=ax),
    "plot_sparsity": lambda ax: plot_sparsity(_report(), ax=ax),
}


def test_every_plot_is_tested():
    public = [n for n in vars(visualization) if n.startswith("plot_")]

    assert sorted(public) == sorted(PLOTS)


@pytest.mark.parametrize("name", PLOTS)
def test_plot_draws_on_the_axes_it_is_given(name):
    before = plt.get_fignums()  # the examples of the documentation draw too
    figure, (other, ax) = plt.subplots(1, 2)

    assert PLOTS[name](ax) is ax
    assert ax.has_data()
    assert not other.has_data()
    assert plt.get_fignums() == [*before, figure.number]


def _seen(color, deficiency):
    """What a reader without one kind of cones sees (Machado et al., 2009)."""
    matrix = {
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    }[deficiency]
    c = np.array(to_rgb(color))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return np.clip(np.array(matrix) @ linear, 0, 1)


def _closest(colors, deficiency):
    seen = [_seen(color, deficiency) for color in colors]
    return min(
        np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]
    )


@pytest.mark.parametrize("deficiency", ["protanopia", "deuteranopia"])
def test_colors_are_told_apart_by_colour_blind_readers(deficiency):
    assert _closest(COLORS, deficiency) > 0.08
    assert _closest(ramp([0.1, 0.5, 1.0, 5.0]), deficiency) > 0.08
    # The check itself sees a green and a red that are confused.
    assert _closest(["#7a8b00", "#a0803a"], deficiency) < 0.08
