"""Feature selection by the conventions of scikit-learn."""

import contextlib
import copy
import dataclasses
import math
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._budgets import WHOLE
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_integer
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.masks import LearnedMask
from keras_gumbel.optimizers import ProjectedOptimizer
from keras_gumbel.optimizers import ScoreSGD
from keras_gumbel.schedules import CubicDensity
from keras_gumbel.sparsity._harden import harden

try:
    from sklearn.base import BaseEstimator
    from sklearn.feature_selection import SelectorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils import column_or_1d
    from sklearn.utils.multiclass import type_of_target
    from sklearn.utils.validation import check_is_fitted
    from sklearn.utils.validation import validate_data
except ImportError as error:
    raise ImportError(
        "`keras_gumbel.FeatureSelector` needs scikit-learn 1.6 or later. "
        'Install it with `pip install "keras-gumbel[sklearn]"`.'
    ) from error

# The standard deviation of a constant that is only rounded, as a fraction.
_CONSTANT = 10 * np.finfo("float64").eps

# It and its inverse are numbers in float32.
_HUGE = 1e37

# Of the default network.
_HIDDEN = (64, 64)

# The network first learns from all features. Until then, a feature that helps
# only together with others, or as a square, looks like noise. If this phase is
# long or has no weight decay, the network also learns the noise.
_BEGIN, _END = 0.1, 0.6
_WEIGHT_DECAY = 0.3

# With few scores, the noise of a batch moves them too much at a rate of 0.05,
# which is good for millions of scores. In a short run, the scores have to move
# just as far.
_SCORE_RATE = 0.01
_SCORE_REACH = 2.0

# The number of batches in an epoch if the user does not set the batch size.
_BATCHES = 20
_SMALLEST, _LARGEST = 32, 512


class FeatureSelector(SelectorMixin, BaseEstimator):
    """Selects the features that a neural network predicts the target from.

    A mask with one score for each feature precedes a Keras model. The model and
    the scores are trained together. Meanwhile, a budget for the sum of the
    scores falls from all features to the wanted number
    (`keras_gumbel.schedules.CubicDensity`). Exactly this number is selected.
    The features are chosen jointly. A feature that helps only together with
    others is found, and a redundant feature is not needed.

    It is a scikit-learn transformer with `fit_transform`, `transform`,
    `inverse_transform`, `get_support` and `get_feature_names_out`. Use it in a
    `Pipeline`, with `clone` and in a `GridSearchCV`. It needs scikit-learn 1.6
    or later, which the extra `keras-gumbel[sklearn]` installs.

    The type of `y` decides what the model predicts:

    - integers, Booleans or strings: classes;
    - a matrix of the integers 0 and 1: several labels for each example;
    - floats, in one or more columns: numbers, by regression;
    - `None`: the features themselves, from those that are selected.

    Features are standardized in float64 before the mask, so their units do not
    matter. The model sees a dropped feature as its mean.

    Args:
        model: Compiled Keras model, which is cloned with new weights; or a
            function that returns one; or `None` for two hidden layers of 64
            units, trained by AdamW. The function is called as `model(X=X, y=y)`
            with arrays as in `keras.wrappers`, with one-hot classes. The inputs
            of the model are batches of all features, standardized. Classes are
            integers if the loss is sparse or the model has one output, and
            one-hot otherwise. Defaults to `None`.
        n_features_to_select: Positive integer, the number of features; a float
            in (0, 1], the fraction of the features; or `None` for half of the
            features. Defaults to `None`.
        epochs: Positive integer. Defaults to `100`.
        batch_size: Positive integer, or `None` for 20 batches an epoch of 32
            to 512 examples each. Defaults to `None`.
        random_state: Integer, `numpy.random.RandomState` or `None`. It seeds
            the weights and the order of the examples. The same integer gives
            the same features. Defaults to `None`.
        verbose: Integer or `"auto"`, as in `keras.Model.fit`. Defaults to `0`.

    Attributes:
        support_: Boolean array, which features are selected.
        scores_: Float array in [0, 1], the mean score of each feature over the
            epochs. Features that were kept longer have larger scores.
        ranking_: Integer array, 1 for selected features, then 2, 3, ... for the
            others in order of falling `scores_`.
        n_features_: Integer, the number of selected features.
        model_: Keras model, trained with the selected features. Its inputs are
            all features of `X`, not standardized. Keras casts them to float32,
            which can be too coarse for features that are almost constant. The
            default model predicts standardized numbers, or logits.
        history_: Dictionary, the history of the training.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: In `fit`, if an argument is out of its range, the model is
            not compiled, `y` has another type, or training diverges.

    Example:

    >>> from sklearn.datasets import make_classification
    >>> X, y = make_classification(n_features=20, random_state=0)
    >>> selector = keras_gumbel.FeatureSelector(
    ...     n_features_to_select=4, epochs=5, random_state=0
    ... )
    >>> selector.fit_transform(X, y).shape
    (100, 4)

    References:
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571)
    """

    def __init__(
        self,
        model: Any = None,
        *,
        n_features_to_select: int | float | None = None,
        epochs: int = 100,
        batch_size: int | None = None,
        random_state: Any = None,
        verbose: Any = 0,
    ) -> None:
        self.model = model
        self.n_features_to_select = n_features_to_select
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "FeatureSelector":
        """Trains the model and selects the features.

        Args:
            X: Array of shape `(n_samples, n_features)`.
            y: Array of shape `(n_samples,)` or `(n_samples, n_outputs)`, or
                `None` to select the features that predict the others. Defaults
                to `None`.

        Returns:
            The selector itself.
        """
        x, y = self._validated(X, y)
        features = x.shape[1]
        count = self._count(features)
        generator = check_random_state(self.random_state)
        target = Target.of(x if y is None else y)
        scaling = Scaling.of(x)
        x = scaling.standardized(x)
        if self.model is None:
            target = target.standardized()
        with _seeded(generator.randint(2**31 - 1)):
            source, network = self._network(x, target)
            gate = LearnedMask(name="features")
            optimizer = _copy_of(source.optimizer)
            _keras_private.uncompile(network)
            inputs = keras.Input((features,))
            model = keras.Model(inputs, network(gate(inputs)))
            batches = _Batches(
                x.astype("float32"),
                target.for_model(model, source.loss),
                self._examples(len(x)),
                generator,
            )
            steps = self.epochs * len(batches)
            model.compile(
                ProjectedOptimizer(
                    optimizer,
                    density=CubicDensity(
                        count / features, steps, begin=_BEGIN, end=_END
                    ),
                    score_optimizer=ScoreSGD(
                        max(_SCORE_RATE, _SCORE_REACH / steps)
                    ),
                ),
                loss=source.loss,
                run_eagerly=source.run_eagerly,
                jit_compile=source.jit_compile,
            )
            path = _Path(gate)
            history = model.fit(
                batches,
                epochs=self.epochs,
                callbacks=[path],
                shuffle=False,
                verbose=self.verbose,
            )
            raw = keras.Input((features,))
            whole = keras.Model(raw, network(gate(scaling.layers()(raw))))
            whole.compile(
                model.optimizer,
                loss=source.loss,
                run_eagerly=source.run_eagerly,
                jit_compile=source.jit_compile,
            )
        harden(whole, budget=count)
        self.model_ = whole
        self.history_ = history.history
        self.n_features_ = count
        self.support_ = gate.get_support()
        self.scores_ = np.mean(path.scores, axis=0)
        self.ranking_ = _ranking(self.support_, self.scores_)
        return self

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        return self.support_

    def __sklearn_clone__(self) -> "FeatureSelector":
        # `fit` does not change the model, so it need not be copied. Keras would
        # warn about a copy of an optimizer without variables.
        bare = copy.copy(self)
        bare.model = None
        twin = super(FeatureSelector, bare).__sklearn_clone__()
        twin.model = self.model
        return twin

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        tags.target_tags.multi_output = True
        return tags

    def _validated(self, X: Any, y: Any) -> tuple[np.ndarray, Any]:
        """Checks the data and the arguments that do not depend on it."""
        require_positive_integer("FeatureSelector", "epochs", self.epochs)
        if self.batch_size is not None:
            require_positive_integer(
                "FeatureSelector", "batch_size", self.batch_size
            )
        options: dict[str, Any] = {
            "dtype": (np.float64, np.float32),
            "ensure_min_samples": 2,
        }
        if y is None:
            return validate_data(self, X, **options), None
        X, y = validate_data(self, X, y, multi_output=True, **options)
        return X, y.toarray() if hasattr(y, "toarray") else y

    def _count(self, features: int) -> int:
        """Returns the number of features to select."""
        wanted = self.n_features_to_select
        if wanted is None:
            return max(1, features // 2)
        if is_integer(wanted) and 1 <= wanted <= features:
            return int(wanted)
        if not is_integer(wanted) and is_number(wanted) and 0 < wanted <= 1:
            return max(1, math.floor(wanted * features + WHOLE))
        raise invalid_argument(
            "FeatureSelector",
            "n_features_to_select",
            f"an integer in [1, {features}], a float in (0, 1] or `None`, for "
            f"{features} features",
            wanted,
        )

    def _examples(self, all_examples: int) -> int:
        """Returns the number of examples in a batch."""
        wanted = self.batch_size
        if wanted is None:
            wanted = np.clip(all_examples // _BATCHES, _SMALLEST, _LARGEST)
        return int(min(wanted, all_examples))

    def _network(self, x: np.ndarray, target: "Target") -> tuple[Any, Any]:
        """Returns a compiled model, and the model or a clone to train."""
        if self.model is None:
            source = network = _default_network(x.shape[1], target)
        elif isinstance(self.model, keras.Model):
            source, network = self.model, keras.models.clone_model(self.model)
        elif callable(self.model):
            source = network = self.model(X=x, y=target.values)
        else:
            raise invalid_argument(
                "FeatureSelector",
                "model",
                "a compiled Keras model, a function that returns one, or "
                "`None`",
                self.model,
            )
        if not (source.compiled and source.loss and source.optimizer):
            raise ValueError(
                "`FeatureSelector` trains your model with its own loss and "
                "optimizer. "
                f"Received: the model {source.name!r}, which is not compiled "
                "with a loss. Call `model.compile(optimizer, loss)` first."
            )
        return source, network


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The mean and the standard deviation of columns of numbers of any size.

    Attributes:
        exponents: Integer array. The columns are divided by these powers of 2,
            which is exact, so that squares do not overflow.
        mean: Float64 array, of the divided columns.
        scale: Float64 array, the standard deviation, or 1 for a constant.
    """

    exponents: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> "Scaling":
        """Measures the columns of a matrix."""
        x = x.astype("float64")
        _, exponents = np.frexp(np.abs(x).max(axis=0))
        x = np.ldexp(x, -exponents)
        # The second mean is the rounding error of the first.
        mean = x[0] + (x - x[0]).mean(axis=0)
        mean = mean + (x - mean).mean(axis=0)
        scale = np.sqrt(np.square(x - mean).mean(axis=0))
        constant = scale < _CONSTANT
        return cls(
            exponents,
            np.where(constant, x[0], mean),
            np.where(constant, 1.0, scale),
        )

    def standardized(self, x: np.ndarray) -> np.ndarray:
        """Returns columns of mean 0 and variance 1, in float64."""
        x = np.ldexp(x.astype("float64"), -self.exponents)
        return (x - self.mean) / self.scale

    def layers(self) -> keras.Sequential:
        """Returns layers that do the same in float32."""
        mean = np.clip(np.ldexp(self.mean, self.exponents), -_HUGE, _HUGE)
        scale = np.clip(np.ldexp(self.scale, self.exponents), 1 / _HUGE, _HUGE)
        return keras.Sequential(
            [
                # Three axes, so that `Rescaling` takes the last one in every
                # image data format.
                layers.Reshape((1, len(mean)), dtype="float32"),
                # Its variance has to be between 1e-14 and 3e38.
                layers.Normalization(
                    mean=mean, variance=np.ones_like(mean), dtype="float32"
                ),
                layers.Rescaling(1.0 / scale[None, None], dtype="float32"),
                layers.Reshape((len(mean),), dtype="float32"),
            ],
            name="standardize",
        )


@dataclasses.dataclass(frozen=True)
class Target:
    """The target of a model.

    Attributes:
        kind: String, `"classes"`, `"labels"` or `"numbers"`.
        values: Array, with classes one-hot.
    """

    kind: str
    values: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray) -> "Target":
        """Finds the kind of a target by its type."""
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if y.dtype.kind == "f":
            return cls("numbers", y)
        kind = type_of_target(y, input_name="y", raise_unknown=True)
        if kind == "multilabel-indicator":
            return cls("labels", y)
        if kind not in ("binary", "multiclass"):
            raise invalid_argument(
                "FeatureSelector",
                "y",
                "integers, Booleans or strings for classes, a matrix of 0 and "
                "1 for several labels, or floats for regression",
                kind,
            )
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                "`FeatureSelector` needs at least two classes. "
                f"Received: y with one class, {classes[0]!r}."
            )
        return cls("classes", np.eye(len(classes))[labels])

    def standardized(self) -> "Target":
        """Returns the target with numbers of mean 0 and variance 1."""
        if self.kind != "numbers":
            return self
        columns = self.values.reshape(len(self.values), -1)
        return Target(self.kind, Scaling.of(columns).standardized(columns))

    def for_model(self, model: keras.Model, loss: Any) -> np.ndarray:
        """Returns the target in the form that a model and its loss take."""
        values = self.values.astype("float32")
        if self.kind != "classes":
            return values
        labels = np.argmax(values, axis=1)
        if "sparse" in _name_of(loss):
            return labels.astype("int32")
        if model.output_shape[-1] == 1:
            return labels.astype("float32")[:, None]
        return values


class _Batches(keras.utils.PyDataset):
    """Batches of equal size, in an order from the generator only."""

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int,
        generator: np.random.RandomState,
    ) -> None:
        super().__init__()
        self.x = x
        self.y = y
        self.batch_size = batch_size
        self.generator = generator
        self.on_epoch_end()

    def __len__(self) -> int:
        # A smaller last batch would need another compilation.
        return len(self.x) // self.batch_size

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        start = index * self.batch_size
        own = self.order[start : start + self.batch_size]
        return self.x[own], self.y[own]

    def on_epoch_end(self) -> None:
        self.order = self.generator.permutation(len(self.x))


class _Path(keras.callbacks.Callback):
    """Records the scores of each epoch."""

    def __init__(self, gate: LearnedMask) -> None:
        super().__init__()
        self.gate = gate
        self.scores: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        scores = ops.convert_to_numpy(self.gate.mask_scores)
        self.scores.append(np.clip(scores, 0.0, 1.0))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the source of Keras's seeds for initializers and layers."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _default_network(features: int, target: Target) -> keras.Model:
    outputs = math.prod(target.values.shape[1:])
    losses = {
        "classes": keras.losses.CategoricalCrossentropy(from_logits=True),
        "labels": keras.losses.BinaryCrossentropy(from_logits=True),
        "numbers": keras.losses.MeanSquaredError(),
    }
    network = keras.Sequential([keras.Input((features,))])
    for units in _HIDDEN:
        network.add(layers.Dense(units, activation="relu"))
    network.add(layers.Dense(outputs))
    network.compile(
        keras.optimizers.AdamW(1e-3, weight_decay=_WEIGHT_DECAY),
        losses[target.kind],
    )
    return network


def _copy_of(optimizer: Any) -> Any:
    """Returns an unused copy of the optimizer of the weights."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return type(optimizer).from_config(optimizer.get_config())


def _name_of(loss: Any) -> str:
    """Returns the lower-case name of a loss, its class or its function."""
    if isinstance(loss, str):
        return loss.lower()
    return getattr(loss, "__name__", type(loss).__name__).lower()


def _ranking(support: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns 1 for selected features, and ranks from 2 on for the rest."""
    ranking = np.ones(len(support), "int64")
    dropped = np.flatnonzero(~support)
    falling = dropped[np.argsort(-scores[dropped], kind="stable")]
    ranking[falling] = np.arange(2, len(falling) + 2)
    return ranking
