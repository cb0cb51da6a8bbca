import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel import granularities
from keras_gumbel.sparsity._found import find_scores
from keras_gumbel.sparsity._masked_layer import attached_masks
from tests.gradients import to_numpy

pytestmark = pytest.mark.one_backend

X = np.random.default_rng(0).normal(size=(12, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 4)).astype("float32")


def dense_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(12, activation="relu", name="hidden"),
            layers.Dense(4, name="out"),
        ]
    )


def train(model, steps=3, **options):
    options = {"density": 0.5, **options}
    model.compile(
        kg.optimizers.ProjectedOptimizer(keras.optimizers.SGD(0.1), **options),
        "mse",
        run_eagerly=keras.config.backend() != "jax",
    )
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return model


def kernels(model):
    return [to_numpy(layer.kernel) for layer in model.layers]


def model_of(layer, *shapes):
    """Returns a model of one layer."""
    inputs = [keras.Input(shape) for shape in shapes]
    outputs = layer(*inputs)
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)


def score_shapes(model):
    return [tuple(s.variable.shape) for s in find_scores("test", model)]


AXES = kg.WeightAxes(units=-1, inputs=-2)

# A granularity, the shape of a weight, that of its scores, and how many
# weights share one.
CASES = {
    "weight": ("weight", (4, 6), (4, 6), 1),
    "unit": ("unit", (4, 6), (1, 6), 4),
    "unit of filters": ("unit", (3, 3, 2, 6), (1, 1, 1, 6), 18),
    "block": ((2, 3), (4, 6), (2, 1, 2, 1), 6),
    "block of filters": ((1, 2), (3, 2, 6), (3, 2, 1, 3, 1), 2),
    "two of four": ("2:4", (8, 6), (2, 4, 6), 1),
}


@pytest.mark.every_backend
@pytest.mark.parametrize("case", CASES)
def test_layout_expands_and_gathers(case):
    value, shape, expected, weights = CASES[case]
    layout = granularities.get(value).layout(shape, AXES)
    scores = np.random.default_rng(0).uniform(size=expected).astype("float32")

    mask = layout.expand(ops.convert_to_tensor(scores))
    again = layout.root_mean_square(mask)

    assert layout.scores == expected
    assert layout.weights_per_score == weights
    assert tuple(mask.shape) == shape
    np.testing.assert_allclose(to_numpy(again), scores, rtol=1e-6)


def test_layout_of_blocks_repeats_each_score_in_its_block():
    layout = granularities.Block(2, 3).layout((4, 6), None)
    scores = np.arange(4, dtype="float32").reshape(2, 1, 2, 1)

    mask = to_numpy(layout.expand(ops.convert_to_tensor(scores)))

    expected = np.kron([[0.0, 1.0], [2.0, 3.0]], np.ones((2, 3)))
    np.testing.assert_array_equal(mask, expected)


def test_layout_of_rows_lies_along_the_inputs():
    layout = granularities.NOfM(2, 4).layout((8, 3), AXES)
    mask = np.arange(24, dtype="float32").reshape(8, 3)

    split = to_numpy(layout.root_mean_square(ops.convert_to_tensor(mask)))

    assert layout.rows == (2, 1)
    np.testing.assert_array_equal(split[1, :, 2], mask[4:8, 2])


def test_saliency_of_shared_scores_is_the_root_mean_square():
    layout = granularities.Unit().layout((2, 2), AXES)

    found = layout.root_mean_square(ops.convert_to_tensor([[3.0, 1], [4, 7]]))

    np.testing.assert_allclose(to_numpy(found), [[12.5**0.5, 5.0]])


@pytest.mark.every_backend
def test_units_are_kept_and_dropped_as_a_whole():
    model = train(kg.sparsify(dense_model(), granularity="unit", seed=0))
    report = kg.sparsity_report(model)

    kg.strip(model)

    kept = [np.count_nonzero(k, axis=0) for k in kernels(model)]
    assert set(kept[0]) <= {0, 8}
    assert set(kept[1]) <= {0, 12}
    total = sum(k.sum() for k in kept)
    # As many of 8 and 12 as fit 72 of 144 weights.
    assert 72 - 12 < total <= 72
    assert report.kept == total
    assert report.weights == 144


def test_blocks_are_kept_and_dropped_as_a_whole():
    model = train(kg.sparsify(dense_model(), granularity=(4, 2), seed=0))
    report = kg.sparsity_report(model)

    kg.strip(model)

    for kernel in kernels(model):
        rows, columns = kernel.shape
        blocks = (kernel != 0).reshape(rows // 4, 4, columns // 2, 2)
        assert set(np.unique(blocks.sum(axis=(1, 3)))) <= {0, 8}
    assert report.kept == 72


@pytest.mark.every_backend
@pytest.mark.parametrize("mask", ["learned", "magnitude"])
def test_two_of_four_are_kept_exactly(mask):
    density = kg.schedules.CubicDensity(0.5, steps=6, end=0.5)
    model = kg.sparsify(dense_model(), mask, granularity="2:4", seed=0)

    kg.strip(train(model, steps=6, density=density))

    for kernel in kernels(model):
        rows = (kernel != 0).reshape(-1, 4, kernel.shape[1])
        np.testing.assert_array_equal(rows.sum(axis=1), 2)


def test_a_smaller_budget_chooses_among_rows():
    sparse = kg.sparsify(dense_model(), granularity="2:4", seed=0)

    model = train(sparse, density=0.25, harden_step=2)

    plain = kg.strip(model)
    rows = np.concatenate(
        [
            (k != 0).reshape(-1, 4, k.shape[1]).sum(axis=1).ravel()
            for k in kernels(plain)
        ]
    )
    assert rows.max() == 2
    assert len(set(rows)) > 1
    assert rows.sum() == 36


@pytest.mark.every_backend
def test_rows_follow_the_density_down():
    density = kg.schedules.CubicDensity(0.5, steps=8, end=1.0)
    sparse = kg.sparsify(dense_model(), granularity="2:4", seed=0)
    model = train(sparse, steps=0, density=density, harden_step=None)
    for step in range(1, 5):
        model.train_on_batch(X, Y)
        most = max(
            to_numpy(m.mask_scores).sum(axis=1).max()
            for m in attached_masks(model)
        )
        assert most <= 4 * float(density(step)) + 1e-5
        assert most > 2.0


# A layer, the shapes of its inputs, and those of the scores of its units.
UNITS = {
    "conv": (lambda: layers.Conv2D(5, 3), [(8, 8, 2)], [(1, 1, 1, 5)]),
    "transpose": (
        lambda: layers.Conv2DTranspose(5, 3),
        [(8, 8, 2)],
        [(1, 1, 5, 1)],
    ),
    "depthwise": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        [(8, 8, 3)],
        [(1, 1, 3, 2)],
    ),
    "separable": (
        lambda: layers.SeparableConv1D(5, 3),
        [(8, 2)],
        [(1, 2, 1), (1, 1, 5)],
    ),
    "embedding": (lambda: layers.Embedding(7, 3), [(4,)], [(1, 3)]),
    "einsum": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        [(5, 4)],
        [(1, 2, 3)],
    ),
    "lstm": (lambda: layers.LSTM(3), [(5, 4)], [(1, 12), (1, 12)]),
    "attention": (
        lambda: layers.MultiHeadAttention(2, 4),
        [(5, 6), (5, 6)],
        [(1, 2, 1)] * 3 + [(2, 1, 1)],
    ),
}


@pytest.mark.parametrize("case", UNITS)
def test_units_of_every_layer_of_keras(case):
    make, shapes, expected = UNITS[case]

    model = kg.sparsify(model_of(make(), *shapes), granularity="unit")

    assert score_shapes(model) == expected


def test_granularity_is_saved(tmp_path):
    model = train(kg.sparsify(dense_model(), granularity=(4, 2), seed=0))
    model.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")

    parts = [mask.parts[0] for mask in attached_masks(loaded)]
    assert [p.granularity.get_config() for p in parts] == [
        {"rows": 4, "columns": 2}
    ] * 2
    np.testing.assert_allclose(to_numpy(loaded(X)), to_numpy(model(X)))


def test_granularity_by_name_and_regex():
    model = kg.sparsify(
        dense_model(), granularity={"k": (4, 1), "out/kernel": "unit"}
    )

    assert score_shapes(model) == [(2, 1, 12, 1), (1, 4)]


def test_first_regex_of_granularities_counts():
    first = kg.sparsify(
        dense_model(), granularity={"hid": "unit", "kernel": "2:4"}
    )

    assert score_shapes(first) == [(1, 12), (3, 4, 4)]


@pytest.mark.every_backend
def test_granularities_by_dictionary_go_all_the_way(tmp_path):
    model = kg.sparsify(
        dense_model(), granularity={"hidden": "unit", "out": "2:4"}, seed=0
    )
    train(model, density=0.5, harden_step=2)
    model.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")
    grains = [mask.parts[0].granularity for mask in attached_masks(loaded)]
    hidden, out = kernels(kg.strip(loaded))

    assert [type(g) for g in grains] == [granularities.Unit, granularities.NOfM]
    units = np.count_nonzero(hidden, axis=0)
    assert set(units) <= {0, 8}
    rows = (out != 0).reshape(3, 4, 4).sum(axis=1)
    assert rows.max() <= 2
    assert 72 - 8 < units.sum() + rows.sum() <= 72


def test_frozen_and_filtered_weights_need_no_granularity():
    model = dense_model()
    model.layers[0].trainable = False
    kg.sparsify(model, granularity={"out": "unit"})
    filtered = kg.sparsify(
        dense_model(), filters="hidden", granularity={"hidden": "unit"}
    )

    assert score_shapes(model) == [(1, 4)]
    assert score_shapes(filtered) == [(1, 12)]


@pytest.mark.parametrize(
    ("granularity", "message"),
    [
        ({"hidden": "unit"}, "No key matches out/kernel"),
        ({}, "No key matches hidden/kernel"),
        ({"kernel": "unit", "conv": "weight"}, "'conv' .* type str"),
        ({"(": "unit"}, "valid regexes"),
        ({3: "unit"}, "valid regexes"),
        ({"kernel": "row"}, "granularity='row'"),
        ({"hidden": "channel", "out": "unit"}, "the weights of several layers"),
    ],
)
def test_granularities_by_a_wrong_dictionary_raise(granularity, message):
    with pytest.raises(ValueError, match="`granularity` of `sparsify`") as e:
        kg.sparsify(dense_model(), granularity=granularity)

    assert re.search(message, str(e.value))


def test_weights_that_do_not_divide_are_listed():
    with pytest.warns(UserWarning, match=r"out/kernel \(.*blocks of \(4, 3\)"):
        sparse = kg.sparsify(dense_model(), granularity=(4, 3))

    assert score_shapes(sparse) == [(2, 1, 4, 1)]
    assert list(kg.sparsity_report(sparse).skipped) == ["out/kernel"]


@pytest.mark.parametrize("masked", ["A", "B"])
def test_of_two_layers_of_one_name_the_right_one_is_left_out(masked):
    def encoder(name, width, units):
        dense = layers.Dense(units, name="dense")
        return keras.Sequential([keras.Input((width,)), dense], name=name)

    widths = (8, 6, 4) if masked == "A" else (6, 8, 4)
    first = encoder("A", *widths[:2])
    model = keras.Sequential([first, encoder("B", *widths[1:])])
    left = "B" if masked == "A" else "A"

    with pytest.warns(UserWarning, match=f"{left}/dense/kernel .its 6 inputs"):
        sparse = kg.sparsify(model, granularity="2:4")

    names = [row.name for row in kg.sparsity_report(sparse).rows]
    assert names == [f"{masked}/dense/kernel"]


def test_no_warning_where_all_weights_divide():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kg.sparsify(dense_model(), granularity="2:4")


@pytest.mark.parametrize(
    ("make", "granularity", "reason"),
    [
        (
            lambda: layers.Dense(3),
            (2, 2),
            r"\(4, 3\) does not divide into blocks",
        ),
        (lambda: layers.Dense(3), "2:5", "its 4 inputs do not divide by 2:5"),
        (
            lambda: layers.Embedding(4, 4),
            "2:4",
            "no single known axis of inputs",
        ),
    ],
)
def test_a_model_with_nothing_to_mask_raises(make, granularity, reason):
    layer = make()
    layer.build((None, 4))

    with pytest.raises(ValueError, match=f"no weight to mask.*{reason}"):
        kg.sparsify(layer, granularity=granularity)


@pytest.mark.parametrize(
    ("granularity", "argument"),
    [
        ("row", "`granularity` of `sparsify`"),
        ((2,), "`granularity` of `sparsify`"),
        (3, "`granularity` of `sparsify`"),
        (None, "`granularity` of `sparsify`"),
        ("4:2", "`m` of `NOfM`"),
        ("2:2", "`m` of `NOfM`"),
        ("0:4", "`n` of `NOfM`"),
        ((0, 2), "`rows` of `Block`"),
        ((2.0, 2), "`rows` of `Block`"),
        ((2, -1), "`columns` of `Block`"),
    ],
)
def test_granularity_of_another_value_raises(granularity, argument):
    with pytest.raises(ValueError, match=argument):
        kg.sparsify(dense_model(), granularity=granularity)


@keras.saving.register_keras_serializable(package="tests")
class Inputs(granularities.Granularity):
    """One score for some inputs in a row, with all that reads them."""

    def __init__(self, count):
        self.count = count

    def layout(self, shape, axes):
        if len(shape) != 2 or shape[0] % self.count:
            raise ValueError(f"no rows of {self.count}")
        groups = shape[0] // self.count
        split = (groups, self.count, shape[1])
        return granularities.ScoreLayout(shape, split, (groups, 1, 1))

    def get_config(self):
        return {"count": self.count}


def kept_rows(kernel, count=2):
    """Returns of which groups of inputs all, and of which some, are kept."""
    groups = (kernel != 0).reshape(-1, count * kernel.shape[1])
    return groups.all(axis=1), groups.any(axis=1)


@pytest.mark.every_backend
def test_granularity_of_ones_own_goes_all_the_way(tmp_path):
    model = kg.sparsify(dense_model(), granularity=Inputs(2))
    train(model, steps=0, density=0.5)
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0)
    report = kg.sparsity_report(kg.harden(model))
    model.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = to_numpy(loaded(X))
    kg.strip(loaded)

    assert [row.weights for row in report.rows] == [96, 48]
    assert score_shapes(model) == [(4, 1, 1), (6, 1, 1)]
    whole, some = zip(*map(kept_rows, kernels(loaded)), strict=True)
    np.testing.assert_array_equal(np.hstack(whole), np.hstack(some))
    kept = sum(np.count_nonzero(k) for k in kernels(loaded))
    # As many of 24 and 8 as fit 72 of 144 weights.
    assert report.kept == kept == 72
    np.testing.assert_allclose(to_numpy(loaded(X)), before, atol=1e-6)


def test_granularity_of_ones_own_says_why_a_weight_is_left_out():
    with pytest.warns(UserWarning, match=r"hidden/kernel \(no rows of 3\)"):
        sparse = kg.sparsify(dense_model(), granularity=Inputs(3))

    assert score_shapes(sparse) == [(4, 1, 1)]


class Mixing(layers.Layer):
    """A linear layer whose units are rows."""

    def build(self, shape):
        self.mixer = self.add_weight(shape=(5, shape[-1]), name="mixer")

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.mixer))


class Registered(Mixing):
    pass


class BelowRegistered(Registered):
    pass


kg.register_weight_axes(
    Registered, {"mixer": kg.WeightAxes(units=-2, inputs=-1)}
)


@pytest.mark.parametrize("kind", [Registered, BelowRegistered])
def test_registered_layer_has_units(kind):
    model = kg.sparsify(model_of(kind(), (8,)), granularity="unit")

    kg.strip(kg.harden(model, density=0.4))

    kept = np.count_nonzero(model.get_weights()[0], axis=1)
    assert sorted(kept) == [0, 0, 0, 8, 8]


def test_registered_layer_has_rows_of_inputs():
    model = kg.sparsify(model_of(Registered(), (8,)), granularity="2:4")

    assert score_shapes(model) == [(5, 2, 4)]
    kg.strip(kg.harden(model, density=0.5))

    rows = model.get_weights()[0].reshape(5, 2, 4) != 0
    np.testing.assert_array_equal(rows.sum(axis=2), 2)


@pytest.mark.parametrize("granularity", ["unit", "2:4"])
def test_layer_that_is_not_registered_has_single_weights_alone(granularity):
    with pytest.raises(ValueError, match=r"mixer \(.*known"):
        kg.sparsify(model_of(Mixing(), (8,)), granularity=granularity)

    assert score_shapes(kg.sparsify(model_of(Mixing(), (8,)))) == [(5, 8)]


def test_registered_layer_names_weights_of_layers_inside():
    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Mixing()

        def call(self, inputs):
            return self.inner(inputs)

    axes = kg.WeightAxes(units=-2, inputs=-1)
    kg.register_weight_axes(Outer, lambda layer: {"inner.mixer": axes})

    model = kg.sparsify(model_of(Outer(), (8,)), granularity="unit")

    assert score_shapes(model) == [(5, 1)]


@pytest.mark.parametrize(
    ("layer_class", "axes", "argument"),
    [
        (Mixing(), {}, "layer_class"),
        (dict, {}, "layer_class"),
        (Mixing, [kg.WeightAxes()], "axes"),
    ],
)
def test_register_of_other_types_raises(layer_class, axes, argument):
    with pytest.raises(TypeError, match=f"`{argument}` of"):
        kg.register_weight_axes(layer_class, axes)


def normalized_model(activation=None, trainable=True, branch=False):
    inputs = keras.Input((4,))
    units = layers.Dense(3, activation, name="units")(inputs)
    normalization = layers.BatchNormalization(name="norm", trainable=trainable)
    x = normalization(units)
    if branch:
        x = layers.add([x, units])
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


@pytest.mark.parametrize("nested", [False, True])
def test_sparsify_warns_of_units_whose_scale_is_undone(nested):
    model, prefix = normalized_model(), ""
    if nested:
        prefix = f"{model.name}/"
        inputs = keras.Input((4,))
        model = keras.Model(inputs, layers.ReLU()(model(inputs)))

    with pytest.warns(
        UserWarning, match=r"normalization: units \(norm\)\."
    ) as got:
        sparse = kg.sparsify(model, granularity="unit")

    (warning,) = (x for x in got if x.category is kg.SparsityWarning)
    assert warning.filename == __file__
    names = [row.name for row in kg.sparsity_report(sparse).rows]
    assert names == [f"{prefix}units/kernel", f"{prefix}out/kernel"]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {"granularity": "weight"}),
        ({}, {"mask": "magnitude"}),
        ({}, {"filters": "out"}),
        ({"activation": "tanh"}, {}),
        ({"trainable": False}, {}),
        ({"branch": True}, {}),
    ],
)
def test_sparsify_does_not_warn_of_units_whose_scale_counts(options, settings):
    model = normalized_model(**options)

    sparse = kg.sparsify(model, **{"granularity": "unit", **settings})

    assert len(kg.sparsity_report(sparse).rows) == 2 - ("filters" in settings)


def test_sparsify_takes_units_of_a_model_that_leaves_an_output_unused():
    inputs = keras.Input((5, 4))
    _, state, _ = layers.LSTM(3, return_state=True, name="lstm")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="out")(state))

    sparse = kg.sparsify(model, granularity="unit")

    assert len(kg.sparsity_report(sparse).rows) == 3
