"""One pass over a model: its dead units, and a copy without them."""

from typing import Any

import keras

from keras_gumbel._scores import marked_scores
from keras_gumbel.shrinking._channels import Edit
from keras_gumbel.shrinking._graph import copy_layer
from keras_gumbel.shrinking._graph import copy_weights
from keras_gumbel.shrinking._graph import rewrite
from keras_gumbel.shrinking._liveness import Liveness
from keras_gumbel.shrinking._steps import built_models
from keras_gumbel.shrinking._steps import shared_layers


def follow(owner: str, model: keras.Model) -> dict[str, Liveness]:
    """Follows the model and its nested models, by prefix of names."""
    models = built_models(owner, model)
    if marked_scores(model.variables):
        raise ValueError(
            f"`{owner}` needs a model without masks. Received: the model "
            f"{model.name!r} with masks. Call `keras_gumbel.strip` on it first."
        )
    shared = shared_layers(models)
    return {name: Liveness(part, shared) for name, part in models.items()}


def edits_of(found: dict[str, Liveness]) -> dict[int, Edit]:
    """Returns the layers that change, by their ids."""
    return {
        id(edit.layer): edit
        for liveness in found.values()
        for edit in liveness.edits()
    }


def needs_another(found: dict[str, Liveness]) -> bool:
    """Whether the copy has more units to remove.

    A convolution with one remaining group becomes an ordinary convolution,
    which can lose single units.
    """
    return any(
        edit.config.get("groups") == 1 and edit.layer.groups > 1
        for edit in edits_of(found).values()
    )


def rebuilt(model: keras.Model, found: dict[str, Liveness]) -> keras.Model:
    """Returns a copy of a model without the dead units."""
    edits = edits_of(found)

    def replace(layer: keras.Layer) -> keras.Layer:
        if id(layer) not in edits:
            return copy_layer(layer)
        config = {**layer.get_config(), **edits[id(layer)].config}
        return type(layer).from_config(config)

    def fill(layer: keras.Layer, replacement: keras.Layer) -> None:
        if id(layer) in edits:
            replacement.set_weights(edits[id(layer)].weights)
        else:
            copy_weights(layer, replacement)

    def arguments(operation: keras.Operation) -> dict[int | str, Any]:
        edit = edits.get(id(operation))
        return {} if edit is None else dict(edit.arguments)

    return rewrite(model, replace, fill, arguments)
