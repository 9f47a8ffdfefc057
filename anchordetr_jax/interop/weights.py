"""Official state dicts to models and back, bit for bit."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.interop.architecture import config_from_state_dict
from anchordetr_jax.interop.correspondence import (
    IGNORED_SUFFIXES,
    Correspondence,
    correspondences,
    resnet_correspondences,
)
from anchordetr_jax.model import AnchorDETR
from anchordetr_jax.model.precision import param_dtype
from anchordetr_jax.training.state import ModelDefinition, variables_of

CLASSIFIER = ("fc.weight", "fc.bias")
"""The part of a torchvision ResNet that classifies images; a detector has no use for it."""


def model_from_state_dict(
    state_dict: Mapping[str, np.ndarray],
    *,
    dilated: bool,
    padding: str = "invariant",
    dtype: DTypeLike = jnp.float32,
    **architecture: Any,
) -> AnchorDETR:
    """The detector that an official state dict describes, with its weights.

    Args:
        state_dict: the official names and arrays (`checkpoint["model"]`).
        dilated: whether it is a DC5 model; the weights of C5 and DC5 models look the same.
        padding: `ModelConfig.padding`.
        dtype: what the network computes in: float32, bfloat16 (parameters stay float32) or float64.
        architecture: further fields of `ModelConfig` that the tensors do not tell, e.g. `num_heads`, or `num_anchors` of a grid.

    Raises:
        UserError: names every tensor that is unknown, missing, of a wrong shape, or unequal where copies must be equal.
    """
    config = config_from_state_dict(
        state_dict, dilated=dilated, padding=padding, dtype=jnp.dtype(dtype).name, **architecture
    )
    variables = variables_from_state_dict(state_dict, config)
    return definition_of(config).merge({path: jnp.asarray(value) for path, value in variables.items()})


def state_dict_from_model(model: AnchorDETR) -> dict[str, np.ndarray]:
    """The official names and arrays of a model, heads repeated once a decoder layer; the inverse of `model_from_state_dict`."""
    return state_dict_from_variables({path: np.asarray(value) for path, value in variables_of(model).items()}, model.config)


def definition_of(config: ModelConfig) -> ModelDefinition:
    """The architecture without its arrays."""
    return ModelDefinition.abstract(lambda: AnchorDETR(config, rngs=nnx.Rngs(0)))


def variables_from_state_dict(state_dict: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """Arrays by variable path, in the parameters' dtype. Raises `UserError` as `model_from_state_dict` does."""
    expected = {path: leaf.shape for path, leaf in definition_of(config).shapes.items()}
    return _translate(state_dict, correspondences(config), expected, np.dtype(param_dtype(config)))


def backbone_from_state_dict(state_dict: Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """A torchvision ResNet state dict as (`resnet50` or `resnet101`, arrays by variable path).

    Raises:
        UserError: names every tensor that is unknown, missing or of a wrong shape.
    """
    depth = "resnet101" if "layer3.22.conv1.weight" in state_dict else "resnet50"
    config = ModelConfig(backbone=depth, num_classes=1, encoder_layers=0, decoder_layers=1)
    expected = {
        path: leaf.shape for path, leaf in definition_of(config).shapes.items() if path.startswith("backbone/")
    }
    without_classifier = {name: array for name, array in state_dict.items() if name not in CLASSIFIER}
    return depth, _translate(without_classifier, resnet_correspondences(depth), expected, np.dtype(np.float32))


def state_dict_from_variables(variables: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """Arrays by variable path -> the official names and arrays.

    Raises:
        UserError: the architecture has no official counterpart.
    """
    if config.backbone == "compact":
        raise UserError(
            "model.backbone='compact' has no counterpart in the official code: only ResNet models can be exported."
        )
    state_dict = {}
    for row in correspondences(config):
        parts = [row.layout.to_torch(np.asarray(variables[target])) for target in row.targets]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        for source in row.sources:
            state_dict[source] = np.ascontiguousarray(whole)
    return state_dict


def _translate(
    state_dict: Mapping[str, np.ndarray],
    table: Iterable[Correspondence],
    expected: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
) -> dict[str, np.ndarray]:
    variables: dict[str, np.ndarray] = {}
    problems: list[str] = []
    known: set[str] = set()
    for row in table:
        known.update(row.sources)
        missing = [source for source in row.sources if source not in state_dict]
        problems += [f"missing {source}" for source in missing]
        if missing:
            continue
        arrays = [np.asarray(state_dict[source]) for source in row.sources]
        shape = _source_shape(row, expected)
        wrong = [
            f"{source} has shape {list(array.shape)} instead of {list(shape)}"
            for source, array in zip(row.sources, arrays, strict=True)
            if array.shape != shape
        ]
        if not wrong:
            wrong = [
                f"{source} differs from {row.sources[0]}, but they are one shared head"
                for source, array in zip(row.sources[1:], arrays[1:], strict=True)
                if not np.array_equal(array, arrays[0], equal_nan=False) and array.tobytes() != arrays[0].tobytes()
            ]
        problems += wrong
        if wrong:
            continue
        for target, part in zip(row.targets, np.split(arrays[0], len(row.targets)), strict=True):
            variables[target] = np.ascontiguousarray(row.layout.from_torch(part)).astype(dtype)
    unknown = [name for name in state_dict if name not in known and not name.endswith(IGNORED_SUFFIXES)]
    problems += [f"unknown {name}" for name in unknown]
    if problems:
        raise UserError(f"The weights do not fit the architecture they imply: {'; '.join(problems)}.")
    return variables


def _source_shape(row: Correspondence, expected: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of a row's source in PyTorch's layout."""
    first, *rest = row.layout.to_torch(np.broadcast_to(np.int8(0), expected[row.targets[0]])).shape
    return (first * len(row.targets), *rest)
