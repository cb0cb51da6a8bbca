"""Configs of layers with masks."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._scores import Mark
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import name_of
from keras_gumbel._scores import set_mark
from keras_gumbel._typing import Tensor
from keras_gumbel.granularities import Granularity
from keras_gumbel.granularities import ScoreLayout
from keras_gumbel.masks import Mask
from keras_gumbel.shrinking._coupling import ChannelGroup
from keras_gumbel.shrinking._coupling import coupled_channels
from keras_gumbel.sparsity._channel_masks import put_channel_masks
from keras_gumbel.sparsity._layer_inputs import input_axes
from keras_gumbel.sparsity._masked_layer import attach
from keras_gumbel.sparsity._masked_layer import attached_masks
from keras_gumbel.sparsity._masked_layer import plain_classes
from keras_gumbel.sparsity._masked_layer import refresh
from keras_gumbel.sparsity._masked_weight import MaskedWeight
from keras_gumbel.sparsity._masked_weight import unreadable
from keras_gumbel.sparsity._scan import WeightMatrix
from keras_gumbel.sparsity._scan import weight_matrices


def put_mask_on(
    matrix: WeightMatrix,
    mask: Mask,
    granularity: Granularity,
    pretrained: bool,
    minimum: float = 0.0,
    name: str | None = None,
) -> Mask:
    """Puts a separate mask on a weight. Call `refresh` afterwards.

    Args:
        matrix: `WeightMatrix`.
        mask: `Mask`, not built.
        granularity: `Granularity`.
        pretrained: Boolean, whether the network has been trained before.
        minimum: Number in [0, 1), the smallest fraction of the scores that is
            kept.
        name: String, the name in reports, or `None` for that of the matrix.
    """
    weight, layer = matrix.weight, matrix.layer
    layout = granularity.layout(tuple(weight.shape), matrix.axes)
    part = MaskedWeight(layer, weight, mask, granularity, layout)
    name = name or matrix.name
    mask.axis = None
    # Keras makes the name of the mask unique, and so the path of its scores.
    with keras.name_scope(name.replace("/", "_")):
        mask.build(layout.scores)
        mask.attach_to(weight, layout, input_axes(layer, weight))
    set_mark(
        mask.mask_scores,
        Mark(
            saliency=lambda: _saliency(mask, weight, layout),
            ranked=mask.ranked,
            frequency=mask.frequency,
            weights_per_score=layout.weights_per_score,
            rows=layout.rows,
            pretrained=pretrained,
            prunes_early=pretrained and mask.prunes_early,
            minimum=minimum,
            name=name,
        ),
    )
    attach(part)
    return mask


def _saliency(
    mask: Mask, weight: keras.Variable, layout: ScoreLayout
) -> Tensor:
    if _keras_private.is_readable(weight):
        return mask.saliency(weight, layout)
    if mask.ranked:
        raise unreadable(mask, weight)
    # Equal scores of frozen weights are then ranked by their order.
    return ops.zeros(layout.scores)


def masked_config(layer: keras.Layer) -> dict[str, Any]:
    """Returns the config of a layer with masks: the plain one, and the masks.

    Weights are identified by their index among the weight matrices, because
    names that Keras generates differ after loading.
    """
    matrices = weight_matrices(layer)
    places = {id(m.weight): i for i, m in enumerate(matrices)}
    with plain_classes(layer):
        plain = keras.saving.serialize_keras_object(layer)
    plain.pop("compile_config", None)
    plain.pop("shared_object_id", None)
    channels = [m for m in attached_masks(layer) if _place(m) is not None]
    serialized = [
        {
            "index": places[id(mask.parts[0].weight)],
            "weight": _describe(matrices[places[id(mask.parts[0].weight)]]),
            "name": name_of(mask.mask_scores),
            "mask": _unshared(keras.saving.serialize_keras_object(mask)),
            "granularity": _unshared(
                keras.saving.serialize_keras_object(mask.parts[0].granularity)
            ),
            "pretrained": mark_of(mask.mask_scores).pretrained,
            "minimum": mark_of(mask.mask_scores).minimum,
            "trainable": mask.wants_training,
            "hardened": mask.hardened,
        }
        for mask in attached_masks(layer)
        if _place(mask) is None
    ]
    config = {"layer": plain, "masks": serialized}
    if channels:
        config["channels"] = _channel_config(layer, channels)
    return config


def _place(mask: Mask) -> Any:
    return mark_of(mask.mask_scores).place


def _channel_config(
    layer: keras.Layer, masks: list[Mask]
) -> list[dict[str, Any]]:
    """Returns the configs of the masks of coupled channels of a model.

    A group is identified by its position on one of its weights.
    """
    matrices = weight_matrices(layer)
    places = {id(m.weight): i for i, m in enumerate(matrices)}
    entries = []
    for mask in masks:
        outside = [p.name for p in mask.parts if id(p.weight) not in places]
        if outside:
            raise ValueError(
                f"{layer.name!r} has masks of channels that are coupled with "
                f"{', '.join(outside)}, which it does not contain. Save or "
                "copy the whole model that `sparsify` was called on, with "
                "`model.save`, `copy.deepcopy(model)` or `pickle`. "
                "`keras.models.clone_model` copies layers one by one, so it "
                "cannot copy such a model."
            )
        part = mask.parts[0]
        gate = next(gate for gate in part.gates if gate.mask is mask)
        place = places[id(part.weight)]
        entries.append(
            {
                "index": place,
                "weight": _describe(matrices[place]),
                "axis": gate.axis,
                "first": int(np.flatnonzero(gate.index == 0)[0]),
                "size": int(mask.mask_scores.shape[0]),
                "name": name_of(mask.mask_scores),
                "mask": _unshared(keras.saving.serialize_keras_object(mask)),
                "minimum": mark_of(mask.mask_scores).minimum,
                "trainable": mask.wants_training,
                "hardened": mask.hardened,
            }
        )
    return entries


def _put_channel_masks_on(
    layer: keras.Layer, entries: list[dict[str, Any]], custom_objects: Any
) -> None:
    """Puts masks on the coupled channels that had them."""
    matrices = weight_matrices(layer)
    groups = coupled_channels("sparsify", layer)
    found = []
    for entry in entries:
        group = _group_of(entry, groups, matrices)
        if group is None:
            raise ValueError(
                f"The saved model {layer.name!r} has a mask on the "
                f"{entry['size']} coupled channels of {entry['name']}, which "
                "do not exist in the loaded model. Check whether the class of "
                "a layer has changed, or builds its weights only when called."
            )
        found.append(dataclasses.replace(group, name=entry["name"]))
    masks = [
        keras.saving.deserialize_keras_object(
            entry["mask"], custom_objects=custom_objects
        )
        for entry in entries
    ]
    put_channel_masks(found, masks, matrices, entries[0]["minimum"])
    for mask, entry in zip(masks, entries, strict=True):
        mask.trainable = entry["trainable"]
        if entry["hardened"]:
            mask.harden(mask.mask_scores)


def _group_of(
    entry: dict[str, Any],
    groups: list[ChannelGroup],
    matrices: list[WeightMatrix],
) -> ChannelGroup | None:
    if entry["index"] >= len(matrices):
        return None
    matrix = matrices[entry["index"]]
    if _describe(matrix) != entry["weight"]:
        return None
    for group in groups:
        for slot in group.slots:
            if (
                slot.weight is matrix.weight
                and slot.axis == entry["axis"]
                and group.size == entry["size"]
                and slot.index[entry["first"]] == 0
            ):
                return group
    return None


def layer_from_masked_config(
    config: dict[str, Any], custom_objects: Any = None
) -> keras.Layer:
    """Builds a layer, and puts masks on it."""
    layer = keras.saving.deserialize_keras_object(
        config["layer"], custom_objects=custom_objects
    )
    matrices = weight_matrices(layer)
    for entry in config["masks"]:
        found = None
        if entry["index"] < len(matrices):
            found = matrices[entry["index"]]
        if found is None or _describe(found) != entry["weight"]:
            raise ValueError(
                f"The saved model {layer.name!r} has a mask on "
                f"{entry['name']}, which was {entry['weight']}. Received: "
                f"{found and _describe(found)} at this place. Check whether "
                "the class of the model has changed, or builds its layers "
                "only when called."
            )
        mask = keras.saving.deserialize_keras_object(
            entry["mask"], custom_objects=custom_objects
        )
        granularity = keras.saving.deserialize_keras_object(
            entry["granularity"], custom_objects=custom_objects
        )
        put_mask_on(
            found,
            mask,
            granularity,
            entry["pretrained"],
            entry["minimum"],
            entry["name"],
        )
        mask.trainable = entry["trainable"]
        if entry["hardened"]:
            mask.harden(mask.mask_scores)
    if "channels" in config:
        _put_channel_masks_on(layer, config["channels"], custom_objects)
    refresh(layer)
    return layer


def copy_of(mask: Mask, **changes: Any) -> Mask:
    """Returns a mask with the same config, except for some arguments."""
    config = {**mask.get_config(), "trainable": True, "name": None}
    known = {k: v for k, v in changes.items() if k in config}
    return type(mask).from_config({**config, **known})


def _describe(matrix: WeightMatrix) -> list[Any]:
    shape = [int(n) for n in matrix.weight.shape]
    kind: Any = type(matrix.layer)
    kind = getattr(kind, "_plain_class", kind)
    return [kind.__name__, matrix.weight.name, *shape]


def _unshared(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of an object, for a new object with a new name.

    Shared objects are marked by ids, which a later object may also have.
    """
    config = {
        k: v
        for k, v in config.items()
        if k not in ("shared_object_id", "build_config")
    }
    if "name" in config["config"]:
        inner = {**config["config"], "name": None, "trainable": True}
        config["config"] = inner
    return config
