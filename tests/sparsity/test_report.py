import gzip
import json

import keras
import numpy as np
import pytest
import scipy.sparse
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel.optimizers import ProjectedOptimizer
from keras_gumbel.optimizers import ScoreSGD
from keras_gumbel.schedules import LinearAnnealing
from keras_gumbel.sparsity import _size
from tests.sparsity.models import build
from tests.sparsity.models import compiled
from tests.sparsity.models import finals_of
from tests.sparsity.models import flat
from tests.sparsity.models import kernels_of
from tests.sparsity.models import randomized
from tests.sparsity.models import scores_of
from tests.sparsity.models import sequential
from tests.sparsity.models import values
from tests.sparsity.models import with_scores

pytestmark = pytest.mark.one_backend


@pytest.mark.every_backend
def test_report_counts_the_final_mask():
    sparse = compiled(kg.sparsify(build("functional")), budget=20)
    with_scores(sparse)
    scores = [flat([s]) for s in scores_of(sparse)]

    report = kg.sparsity_report(sparse)

    final = [flat([mask]) for mask in finals_of(kg.harden(sparse, budget=20))]
    first, second = report.rows
    assert [first.name, second.name] == ["hidden/kernel", "out/kernel"]
    assert [first.weights, second.weights] == [24, 30]
    assert [first.kept, second.kept] == [mask.sum() for mask in final]
    assert first.density == first.kept / 24
    assert first.expected == pytest.approx(scores[0].sum())
    assert (report.weights, report.kept, report.budget) == (54, 20, 20)
    assert report.density == 20 / 54
    assert report.expected == pytest.approx(np.concatenate(scores).sum())
    assert report.skipped == {}


def test_report_counts_the_undecided_scores():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    sparse = kg.sparsify(model)
    entries = [0, 0.01, 0.04, 0.06, 0.2, 0.5, 0.8, 0.94, 0.96, 0.99, 1, 1]
    scores_of(sparse)[0].assign(np.reshape(entries, (4, 3)))

    report = kg.sparsity_report(sparse)

    assert report.undecided == 5
    assert report.rows[0].undecided == 5
    assert report.undecided_fraction == 5 / 12
    assert report.expected == pytest.approx(sum(entries))
    assert report.budget == report.kept == round(sum(entries))


def test_report_of_a_hardened_model_is_the_mask_itself():
    sparse = with_scores(kg.sparsify(build("shared_layer")))

    report = kg.sparsity_report(kg.harden(sparse, budget=13))

    assert (report.budget, report.kept, report.undecided) == (13, 13, 0)
    assert (report.expected, report.budget_used) == (13.0, 1.0)
    assert report.weights == 30


def test_report_of_a_softened_model_is_the_one_from_before():
    sparse = with_scores(kg.sparsify(build("shared_layer")))
    before = kg.sparsity_report(sparse)

    kg.soften(kg.harden(sparse, budget=13))

    assert kg.sparsity_report(sparse) == before


@pytest.mark.every_backend
def test_report_changes_nothing():
    sparse = compiled(with_scores(kg.sparsify(build("functional"))), budget=20)
    before, optimizer = values(sparse.variables), sparse.optimizer

    kg.sparsity_report(sparse)

    after = values(sparse.variables)
    assert after.keys() == before.keys()
    assert all((after[path] == before[path]).all() for path in before)
    assert sparse.optimizer is optimizer


@pytest.mark.every_backend
def test_report_follows_the_schedule_of_the_budget():
    sparse = kg.sparsify(build("sequential"))
    schedule = LinearAnnealing(40.0, 10.0, steps=3)
    optimizer = ProjectedOptimizer("sgd", budget=schedule)
    compiled(sparse, optimizer)
    zeros = [ops.zeros(v.shape) for v in sparse.trainable_variables]
    budgets = [kg.sparsity_report(sparse).budget]

    for _ in range(4):
        optimizer.apply(zeros, sparse.trainable_variables)
        budgets.append(kg.sparsity_report(sparse).budget)

    assert budgets == [40, 30, 20, 10, 10]


def test_report_counts_both_kernels_of_a_separable_layer():
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.SeparableConv1D(4, 2, name="separable"),
            kg.masks.ConcreteMask(name="gate"),
        ]
    )

    report = kg.sparsity_report(kg.sparsify(model))

    assert {row.name: row.weights for row in report.rows} == {
        "separable/depthwise_kernel": 6,
        "separable/pointwise_kernel": 12,
        "gate": 4,
    }


def test_report_is_plain_data_for_json():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="one")])
    model.add(layers.Dense(2, name="two"))
    sparse = with_scores(kg.sparsify(model, filters="two"))

    report = kg.sparsity_report(sparse)
    data = json.loads(json.dumps(report.to_dict()))

    row = {
        "name": "two/kernel",
        "weights": 6,
        "kept": report.kept,
        "expected": report.expected,
        "undecided": report.undecided,
        "size": vars(report.size),
        "counts": "weights",
        "density": report.kept / 6,
        "undecided_fraction": report.undecided / 6,
    }
    assert data == {
        "rows": [row],
        "total": {**row, "name": "total"},
        "budget": report.budget,
        "budget_used": report.budget_used,
        "skipped": {"one/kernel": "left out"},
        "other_bytes": 4 * (12 + 3 + 2),
        "score_steps": None,
    }


def cells(text, name):
    """The cells of the rows of a name in a printed report."""
    return [
        [cell.strip() for cell in line.split("│")[2:-1]]
        for line in text.splitlines()
        if f"│ {name} " in line
    ]


def test_report_prints_as_tables():
    big = keras.Sequential([keras.Input((40,)), layers.Dense(50, name="wide")])
    big.add(layers.Dense(2, name="top"))
    sparse = kg.sparsify(randomized(big), filters="wide", pretrained=False)
    report = kg.sparsity_report(compiled(sparse, density=0.25))

    text = str(report)

    counts = ["2,000", "500", "25.00%", "500.0", "2,000 (100.00%)"]
    sizes = [f"{count:,}" for count in vars(report.size).values()]
    assert cells(text, "wide/kernel") == [counts, sizes]
    assert cells(text, "total") == [counts, sizes]
    lines = text.splitlines()
    assert lines[-3:] == [
        "sum s / K: 1.0000",
        f"weights without a mask: {4 * (50 + 100 + 2)} bytes",
        "not masked: top/kernel (left out)",
    ]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("hardened", [False, True])
def test_report_counts_the_bytes_of_each_form(hardened):
    model = randomized(keras.Sequential([keras.Input((40,)), layers.Dense(50)]))
    sparse = with_scores(compiled(kg.sparsify(model), budget=60))
    if hardened:
        kg.harden(sparse, budget=60)

    size = kg.sparsity_report(sparse).size

    (kernel,) = kernels_of(kg.strip(kg.harden(sparse, budget=60)))
    kernel = ops.convert_to_numpy(kernel)
    coo = scipy.sparse.coo_array(kernel)
    mask = np.packbits(kernel != 0)
    assert size.dense == kernel.nbytes == 8000
    assert size.bitmask == mask.nbytes + 60 * 4
    assert coo.nnz == 60
    assert size.coo == coo.data.nbytes + sum(c.nbytes for c in coo.coords)
    packed = gzip.compress(kernel.tobytes(), 6, mtime=0)
    assert size.gzip == len(packed)
    assert gzip.decompress(packed) == kernel.tobytes()


@pytest.mark.parametrize("granularity", ["weight", "input", "unit"])
@pytest.mark.parametrize("density", [1.0, 0.05, 0.002])
def test_report_compresses_a_part_of_a_large_weight(
    density, granularity, monkeypatch
):
    shape = (1500, 500)  # in 3 MB
    generator = np.random.default_rng(0)
    weight = generator.normal(size=shape).astype("float32")
    rows = {"weight": shape, "input": (1500, 1), "unit": (1, 500)}[granularity]
    mask = np.broadcast_to(generator.random(rows) < density, shape)
    whole = len(gzip.compress(np.where(mask, weight, 0).tobytes(), 6, mtime=0))
    compress, given = gzip.compress, []

    def counting(data, *args, **kwargs):
        given.append(len(data))
        return compress(data, *args, **kwargs)

    monkeypatch.setattr(gzip, "compress", counting)
    found = _size._gzip_size(weight, mask)

    assert found == pytest.approx(whole, rel=0.1 if rows != shape else 0.03)
    assert sum(given) <= 2**19


def test_report_counts_the_bytes_of_a_convolution():
    model = randomized(
        keras.Sequential([keras.Input((5, 5, 3)), layers.Conv2D(4, 3)])
    )

    hard = kg.harden(kg.sparsify(model), budget=10)
    size = kg.sparsity_report(hard).size

    assert size.dense == 4 * 3 * 3 * 3 * 4
    assert size.coo == 10 * (4 + 4 * 4)
    assert size.bitmask == 108 // 8 + 1 + 10 * 4


@pytest.mark.every_backend
def test_report_counts_half_precision():
    keras.config.set_dtype_policy("float16")
    model = randomized(keras.Sequential([keras.Input((4,)), layers.Dense(3)]))

    report = kg.sparsity_report(kg.harden(kg.sparsify(model), budget=5))

    assert report.size.dense == 24
    assert report.size.bitmask == 2 + 10
    assert report.size.scores == 48
    assert report.other_bytes == 6


SLOTS = {
    "sgd": (lambda: keras.optimizers.SGD(), 0),
    "momentum": (lambda: keras.optimizers.SGD(momentum=0.9), 1),
    "adam": (lambda: keras.optimizers.Adam(), 2),
    "average": (lambda: keras.optimizers.SGD(use_ema=True), 1),
    "score optimizer": (lambda: ScoreSGD(), 2),
}


@pytest.mark.parametrize("case", SLOTS)
def test_report_counts_the_memory_of_training(case):
    make, count = SLOTS[case]
    own = make() if case == "score optimizer" else None
    inner = keras.optimizers.Adam() if own else make()
    sparse = kg.sparsify(build("sequential"), pretrained=False)
    optimizer = ProjectedOptimizer(inner, density=0.5, score_optimizer=own)

    report = kg.sparsity_report(compiled(sparse, optimizer))

    assert [row.size.scores for row in report.rows] == [96, 72]
    assert [row.size.slots for row in report.rows] == [96 * count, 72 * count]
    assert report.size.slots == 168 * count


def test_report_of_a_mask_between_layers_has_no_kernel_to_store():
    gate = kg.masks.ConcreteMask(name="gate")
    model = keras.Sequential([keras.Input((4,)), gate])

    report = kg.sparsity_report(model)

    assert vars(report.size) == {
        "dense": 0,
        "gzip": 0,
        "bitmask": 0,
        "coo": 0,
        "scores": 16,
        "slots": 0,
    }
    assert report.other_bytes == 0


def test_report_speaks_of_features_where_no_weight_is_masked():
    gate = kg.masks.LearnedMask(name="gate")
    model = keras.Sequential([keras.Input((30,)), gate, layers.Dense(2)])
    compiled(model, budget=10)

    report = kg.sparsity_report(model)

    assert [row.counts for row in report.rows] == ["features"]
    assert report.total.counts == "features"
    text = str(report)
    assert cells(text, "gate") == [
        ["30", "10", "33.33%", "10.0", "30 (100.00%)"]
    ]
    assert "features" in text
    assert "sum s / K: 1.0000" in text
    assert not any(word in text for word in ("weight", "bytes", "not masked"))


def test_report_has_a_table_for_weights_and_one_for_features():
    gate = kg.masks.LearnedMask(name="gate")
    model = keras.Sequential(
        [keras.Input((30,)), gate, layers.Dense(2, name="out")]
    )
    report = kg.sparsity_report(kg.sparsify(model))

    text = str(report)

    assert [row.counts for row in report.rows] == ["features", "weights"]
    assert report.total.counts == "weights"
    assert len(cells(text, "gate")) == 1
    assert len(cells(text, "out/kernel")) == 2
    totals = [row[0] for row in cells(text, "total")]
    assert totals == ["60", str(report.size.dense), "30"]


def test_warning_of_an_early_mask_speaks_of_features():
    gate = kg.masks.LearnedMask()
    model = keras.Sequential([keras.Input((30,)), gate, layers.Dense(2)])
    schedule = kg.schedules.CubicDensity(0.1, steps=100)
    compiled(model, ProjectedOptimizer("sgd", density=schedule))

    with pytest.warns(kg.SparsityWarning, match=r"keeps 3 features, because"):
        kg.harden(model)


def test_report_says_how_much_of_the_budget_is_used():
    sparse = kg.sparsify(sequential())
    costs = {"hidden": 3.0, "out/kernel": 2.0}
    optimizer = ProjectedOptimizer("sgd", budget=30, costs=costs)
    sparse = with_scores(compiled(sparse, optimizer))
    for scores in scores_of(sparse):
        scores.assign(scores * 0.1)

    report = kg.sparsity_report(sparse)

    hidden, out = (flat([s]).sum() for s in scores_of(sparse))
    assert report.budget_used == pytest.approx((3 * hidden + 2 * out) / 30)


def test_report_counts_final_masks_in_no_other_bytes():
    sparse = with_scores(kg.sparsify(build("sequential")))
    before = kg.sparsity_report(sparse)

    after = kg.sparsity_report(kg.harden(sparse, budget=13))

    assert before.other_bytes == after.other_bytes == 4 * (6 + 3)
    assert after.size.scores == before.size.scores == 168


def trained(steps, mask="learned", accumulated=None):
    """A model that is trained to half of its weights in a number of steps."""
    sparse = kg.sparsify(build("sequential"), mask)
    inner = keras.optimizers.SGD(0.01, gradient_accumulation_steps=accumulated)
    schedule = kg.schedules.CubicDensity(0.5, steps // (accumulated or 1))
    compiled(sparse, ProjectedOptimizer(inner, density=schedule))
    x = np.ones((steps, *sparse.input_shape[1:]))
    y = np.ones((steps, *sparse.output_shape[1:]))
    sparse.fit(x, y, batch_size=1, verbose=0)
    return sparse


@pytest.mark.parametrize(
    ("steps", "accumulated", "live"),
    # The mask is final after 0.7 of the steps.
    [(10, None, 7), (30, None, 21), (30, 2, 11)],
)
def test_report_says_that_too_few_steps_were_given(steps, accumulated, live):
    sparse = trained(steps, accumulated=accumulated)

    for model in (sparse, kg.harden(sparse)):
        report = kg.sparsity_report(model)
        assert report.score_steps == live
        assert (f"trained for {live} steps," in str(report)) == (live < 15)


@pytest.mark.parametrize("mask", ["learned", "magnitude"])
def test_report_knows_no_steps_where_no_scores_are_learned(mask):
    sparse = kg.sparsify(build("sequential"), mask)
    reports = [kg.sparsity_report(sparse)]

    compiled(sparse, density=0.5)
    reports.append(kg.sparsity_report(sparse))

    learned = mask == "learned"
    assert [r.score_steps for r in reports] == [None, 0 if learned else None]
    assert "too few" not in "".join(map(str, reports))
    assert kg.sparsity_report(trained(4, "magnitude")).score_steps is None
