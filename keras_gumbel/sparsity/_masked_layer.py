"""Layers with masks: a subclass that replaces the user's class.

Every layer with a masked weight in its `weights` gets such a class, from the
layer that owns the weight up to the model. The outermost `call` draws all
masks once, and the calls inside reuse them.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_gumbel import _keras_private
from keras_gumbel._scores import is_final
from keras_gumbel._scores import mark_final
from keras_gumbel.masks import Mask
from keras_gumbel.sparsity._budget_keeping import bring_back
from keras_gumbel.sparsity._budget_keeping import require_known_scores
from keras_gumbel.sparsity._budget_keeping import warn_of_plain_optimizer
from keras_gumbel.sparsity._masked_weight import GatedWeight
from keras_gumbel.sparsity._masked_weight import MaskedWeight
from keras_gumbel.sparsity._masked_weight import Part
from keras_gumbel.sparsity._masked_weight import make_maskable
from keras_gumbel.sparsity._masked_weight import make_plain
from keras_gumbel.sparsity._masked_weight import masks_drawn
from keras_gumbel.sparsity._masked_weight import masks_put_back
from keras_gumbel.sparsity._watched import channels_watched
from keras_gumbel.sparsity._watched import watched

# Marks the variables of layers with masks in a file of weights, and says
# which of the masks are final.
_PREFIX = "with_mask_"
_FINAL = _PREFIX + "final"

_NAME = "keras_gumbel>MaskedLayer"


class Attachment:
    """The data that a layer with masks stores.

    Attributes:
        parts: List of `MaskedWeight` and `GatedWeight`, those on the weights
            of the layer.
        quantize: The method that Keras has set on the instance, or `None`.
        reasons: Dictionary from the ids of weights to why they have no mask.
        trainable: Boolean or `None`, the flag that was changed so that the
            masks of a frozen model are trained.
    """

    def __init__(self, layer: keras.Layer) -> None:
        self.parts: list[Part] = []
        self.quantize = vars(layer).pop("quantize", None)
        self.reasons: dict[int, str] = {}
        self.trainable: bool | None = None
        # The optimizer that the user has been warned of.
        self.unfit: Any = None


class MaskedLayer:
    """What the class of a layer with masks adds to the user's class."""

    _plain_class: type[keras.Layer]
    attachment: Attachment
    weight_masks: list[Mask]
    name: str

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # For `type(model)(...)`, with which `keras.models.clone_model` creates
        # a model from layers with masks.
        model = cls._plain_class(*args, **kwargs)
        refresh(model)
        return model

    def call(self, *args: Any, **kwargs: Any) -> Any:
        training = _training(self, args, kwargs)
        parts, given = self.attachment.parts, (args, kwargs)
        with (
            masks_drawn(parts, training) as drawn,
            channels_watched(drawn, parts, training, given) as drawn,
        ):
            if args:
                args = (watched(self, parts, drawn, args[0]), *args[1:])
            return super().call(*args, **kwargs)  # type: ignore[misc]

    def rematerialized_call(
        self, layer_call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Callable[..., Any]:
        """Draws masks outside of the part that is recomputed."""
        rematerialize = super().rematerialized_call  # type: ignore[misc]

        def outside(*args: Any, **kwargs: Any) -> Any:
            training = _training(self, args, kwargs)
            parts, given = self.attachment.parts, (args, kwargs)
            with (
                masks_drawn(parts, training) as drawn,
                channels_watched(drawn, parts, training, given) as drawn,
            ):

                def inside(*args: Any, **kwargs: Any) -> Any:
                    with masks_put_back(drawn):
                        return layer_call(*args, **kwargs)

                return rematerialize(inside, *args, **kwargs)(*args, **kwargs)

        return outside

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        raise _strip_first(self, "quantized")

    def set_weights(self, weights: Any) -> None:
        super().set_weights(weights)  # type: ignore[misc]
        bring_back(self)

    def save_own_variables(self, store: Any) -> None:
        own: dict[str, Any] = {}
        super().save_own_variables(own)  # type: ignore[misc]
        prefix = _PREFIX if _owns_masks(self) else ""
        for key, value in own.items():
            store[prefix + key] = value
        if _owns_masks(self):
            final = [is_final(mask.mask_scores) for mask in self.weight_masks]
            store[_FINAL] = np.array(final)

    def load_own_variables(self, store: Any) -> None:
        keys = list(store.keys())
        if _owns_masks(self):
            if not all(key.startswith(_PREFIX) for key in keys):
                raise ValueError(
                    f"The layer {self.name!r} has masks, but the file was "
                    "saved without masks. Load it before "
                    "`keras_gumbel.sparsify`."
                )
            store = {key.removeprefix(_PREFIX): store[key] for key in keys}
            final = store.pop(_FINAL.removeprefix(_PREFIX), None)
            for i, mask in enumerate(self.weight_masks):
                mark_final(mask.mask_scores, final is not None and final[i])
        super().load_own_variables(store)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        from keras_gumbel.sparsity._saving import masked_config

        return masked_config(self)

    def get_build_config(self) -> None:
        return None  # the config contains that of the plain layer

    @staticmethod
    def from_config(
        config: dict[str, Any], custom_objects: Any = None
    ) -> keras.Layer:
        from keras_gumbel.sparsity._saving import layer_from_masked_config

        return layer_from_masked_config(config, custom_objects)

    def __reduce__(self) -> Any:
        # Pickle looks up classes by name and would find the user's class.
        return keras.Layer._unpickle_model, super().__reduce__()[1]


class _WithTraining:
    """What the class of a model with masks adds to that of a layer."""

    optimizer: Any
    attachment: Attachment

    def compile(self, *args: Any, **kwargs: Any) -> None:
        super().compile(*args, **kwargs)  # type: ignore[misc]
        # A model that is only evaluated needs no optimizer.
        if args or "optimizer" in kwargs:
            self._warn_of(self.optimizer)

    def _warn_of(self, optimizer: Any) -> None:
        """Warns if an optimizer of this or an outer model has no budget."""
        warn_of_plain_optimizer(self, optimizer)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # Keras skips models that override `compile`.
        plain: Any = self._plain_class  # type: ignore[attr-defined]
        with plain_classes(self):
            plain.compile_from_config(self, config)
        self._warn_of(self.optimizer)

    def make_train_function(self, *args: Any, **kwargs: Any) -> Any:
        # The model may have been compiled before `sparsify`.
        require_known_scores(self)
        self._warn_of(self.optimizer)
        return super().make_train_function(*args, **kwargs)  # type: ignore[misc]

    def set_state_tree(self, *args: Any, **kwargs: Any) -> None:
        super().set_state_tree(*args, **kwargs)  # type: ignore[misc]
        bring_back(self)

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        super().load_weights(*args, **kwargs)  # type: ignore[misc]
        bring_back(self)


class _WithLora:
    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        raise _strip_first(self, "given LoRA")


class _WithLayers:
    @property
    def layers(self) -> list[keras.Layer]:
        """The layers of the model, without its own masks."""
        masks = set(map(id, vars(self).get("weight_masks", ())))
        found = super().layers  # type: ignore[misc]
        return [layer for layer in found if id(layer) not in masks]


def attach(part: MaskedWeight) -> None:
    """Puts a mask on a weight. Call `refresh` afterwards."""
    layer = part.layer
    make_maskable(part.weight)
    _note(part.mask, part)
    hold(layer, part.mask)


def attach_gates(part: GatedWeight) -> None:
    """Puts masks of channels on a weight. Call `refresh` afterwards."""
    make_maskable(part.weight)
    for mask in part.masks:
        _note(mask, part)


def _note(mask: Mask, part: Part) -> None:
    """Registers a weight with its mask."""
    attributes: dict[str, Any] = (
        mask.__dict__
    )  # past Keras, which tracks tuples
    attributes["parts"] = (*attributes.get("parts", ()), part)


def hold(layer: keras.Layer, mask: Mask) -> None:
    """Lets a layer track a mask."""
    masks = [*getattr(layer, "weight_masks", ()), mask]
    with _keras_private.unlocked(layer):
        layer.weight_masks = masks


def refresh(model: keras.Layer) -> None:
    """Tells every layer of a model about the masks on its weights."""
    parts = {id(p.weight): p for p in attached_parts(model)}
    for layer in [model, *_keras_private.flatten_layers(model)]:
        own = [parts[id(w)] for w in layer.weights if id(w) in parts]
        if own and not isinstance(layer, Mask):
            if not is_masked(layer):
                vars(layer)["attachment"] = Attachment(layer)
                kind: Any = type(layer)
                layer.__class__ = _masked_class(kind)
            layer.attachment.parts = own
    _keras_private.variables_changed(model)


def detach(model: keras.Layer) -> None:
    """Removes all masks, and restores the classes of all layers."""
    for part in attached_parts(model):
        make_plain(part.weight)
    for layer in [model, *_keras_private.flatten_layers(model)]:
        if not is_masked(layer):
            continue
        attachment = vars(layer).pop("attachment")
        layer.__class__ = layer._plain_class
        if attachment.quantize is not None:
            vars(layer)["quantize"] = attachment.quantize
        if attachment.trainable is not None:
            layer._trainable = attachment.trainable
        if "weight_masks" in vars(layer):
            _keras_private.untrack(layer, list(layer.weight_masks))
            _keras_private.forget_attribute(layer, "weight_masks")
    _keras_private.variables_changed(model)


def attached_masks(model: keras.Layer) -> list[Mask]:
    """Lists the masks on the weights of a model, once each.

    Those of one layer are in the order of its `weight_masks`.
    """
    return [
        mask
        for layer in [model, *_keras_private.flatten_layers(model)]
        for mask in vars(layer).get("weight_masks", ())
    ]


def attached_parts(model: keras.Layer) -> list[Part]:
    """Lists the weights of a model that have masks, once each."""
    found = {id(p): p for m in attached_masks(model) for p in m.parts}
    return list(found.values())


def is_masked(layer: Any) -> bool:
    """Whether there are masks on weights of a layer."""
    return isinstance(layer, MaskedLayer)


@contextlib.contextmanager
def plain_classes(model: keras.Layer) -> Iterator[None]:
    """Restores the user's classes of all layers temporarily."""
    layers = [
        layer
        for layer in [model, *_keras_private.flatten_layers(model)]
        if is_masked(layer)
    ]
    kinds = [type(layer) for layer in layers]
    for layer in layers:
        layer.__class__ = type(layer)._plain_class
    try:
        yield
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind


@functools.cache
def _masked_class(kind: type[keras.Layer]) -> type[keras.Layer]:
    """Returns the subclass that replaces a class of layers."""
    bases: list[type] = [MaskedLayer]
    if hasattr(kind, "enable_lora"):
        bases.append(_WithLora)
    if hasattr(kind, "layers"):
        bases.append(_WithLayers)
    if hasattr(kind, "make_train_function"):
        bases.append(_WithTraining)
    names = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "_plain_class": kind,
        "call": _with_signature_of(kind.call),
    }
    base: Any = type(kind)
    metaclass = _metaclass(base)
    return _register(metaclass(kind.__name__, (*bases, kind), names))


@functools.cache
def _metaclass(kind: Any) -> Any:
    """Returns the metaclass of layers with masks.

    Legacy files store the `__name__` of the class of a model, which has to be
    the registered name there.
    """

    def name(cls: Any) -> str:
        if _keras_private.is_saving_legacy_file():
            return _NAME
        return type.__dict__["__name__"].__get__(cls)

    return type(kind.__name__, (kind,), {"__name__": property(name)})


def _with_signature_of(call: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `MaskedLayer.call` with the signature of `call`."""

    def masked_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return MaskedLayer.call(self, *args, **kwargs)

    # Without `functools.wraps`: AutoGraph would use the source of `call`.
    masked_call.__signature__ = inspect.signature(call)  # type: ignore[attr-defined]
    return masked_call


_register = keras.saving.register_keras_serializable(*_NAME.split(">"))

# For files that are loaded before any layer has masks.
_register(MaskedLayer)


def _owns_masks(layer: Any) -> bool:
    return "weight_masks" in vars(layer)


def _training(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns whether a call is a training call."""
    if kwargs.get("training") is not None:
        return kwargs["training"]
    training = _keras_private.training_in_context()
    if training is not None or not args:
        return training
    with contextlib.suppress(TypeError):
        call = inspect.signature(layer._plain_class.call)
        return call.bind(layer, *args, **kwargs).arguments.get("training")
    return None


def _strip_first(layer: Any, what: str) -> ValueError:
    return ValueError(
        f"{layer.name!r} has masks on its weights and cannot be {what}. Call "
        "`keras_gumbel.strip` on the model first."
    )
