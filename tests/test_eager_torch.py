"""What an eager sample costs on torch, beside `F.gumbel_softmax`."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from tests.newer_keras import require_keras

pytestmark = pytest.mark.backends("torch")

# They launch nothing: views, memory, and numbers on their way to Python.
FREE = {
    "_local_scalar_dense",
    "alias",
    "detach",
    "empty_like",
    "expand",
    "lift_fresh",
    "view",
}

ROWS, CLASSES = 64, 100


def logits():
    import torch

    return torch.randn(ROWS, CLASSES, requires_grad=True)


def saved_bytes(run):
    """Returns how much is kept for the backward pass, beside the logits."""
    import torch

    x = logits()
    kept = {x.untyped_storage().data_ptr(): 0}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        alive.append(tensor)  # or its memory might be another one's
        return tensor

    alive = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run(x)
    return sum(kept.values())


def launched(run):
    """Returns the operations of a forward and backward pass."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            outputs = function(*args, **(kwargs or {}))
            name = function.name().split("::")[1].split(".")[0]
            # A number that says which call this is, drawn on the CPU.
            numbered = name == "randint" and not outputs.shape
            if name not in FREE and not numbered:
                names.append(name)
            return outputs

    names = []
    x = logits()
    with Recorder():
        sample = run(x)
    weights = sample.detach()
    with Recorder():
        sample.backward(weights)
    return names


def functional(x, hard=False):
    import torch

    return torch.nn.functional.gumbel_softmax(x, 0.5, hard)


def function(x):
    return kg.ops.gumbel_softmax(x, 0.5, seed=1)


def layer():
    made = kg.layers.GumbelSoftmax(0.5, seed=1)
    made.build((ROWS, CLASSES))
    return lambda x: made(x, training=True)


def at_a_tensor(x):
    return kg.ops.gumbel_softmax(x, ops.convert_to_tensor(0.5), seed=1)


@pytest.mark.parametrize("make", [lambda: function, layer])
def test_relaxed_sample_keeps_itself_and_a_byte_a_row(make):
    run = make()

    assert saved_bytes(functional) == 4 * ROWS * CLASSES
    assert saved_bytes(run) <= 4 * ROWS * CLASSES + ROWS
    assert saved_bytes(at_a_tensor) > 4 * ROWS * CLASSES + 5 * ROWS


@pytest.mark.parametrize(
    ("make", "most"), [(lambda: function, 22), (layer, 26)]
)
def test_relaxed_sample_launches_few_operations(make, most):
    run = make()

    ours, theirs = launched(run), launched(functional)

    assert len(theirs) == 8
    # What is more than theirs: noise on a grid (4), the largest logit taken
    # off (2), rows without a class (7), and states that count. Some versions of
    # Keras cast the noise once more.
    assert len(ours) <= most, ours


def breaks(run, x):
    """Returns why `torch.compile` splits a function."""
    import torch

    torch._dynamo.reset()
    explained = torch._dynamo.explain(run)(x)
    return [reason.reason for reason in explained.break_reasons]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of torch.compile
def test_compiled_model_is_split_by_the_seeds_of_keras_alone():
    require_keras("3.15", "layers that torch compiles without breaks")
    inputs = keras.Input((8,))
    choose = kg.layers.GumbelSoftmax(0.5)
    outputs = keras.layers.Dense(3)(choose(keras.layers.Dense(4)(inputs)))
    model = keras.Model(inputs, outputs)
    x = ops.convert_to_tensor(np.ones((2, 8), "float32"))
    noise = choose.draw_noise((2, 4))

    drawn = breaks(lambda x: model(x, training=True), x)
    inferred = breaks(model, x)
    given = breaks(lambda x: choose(x[:, :4], training=True, noise=noise), x)

    assert drawn
    assert all("torch_seed_generator" in reason for reason in drawn)
    assert inferred == []
    assert given == []
