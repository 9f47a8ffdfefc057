"""Official state dicts to models and back, bit for bit."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.model.anchor_detr import AnchorDETR, definition_of
from anchordetr_jax.model.definition import variables_of
from anchordetr_jax.model.precision import param_dtype
from anchordetr_jax.weights.architecture import config_from_state_dict, read_depth
from anchordetr_jax.weights.correspondence import (
    IGNORED,
    PARALLEL_PREFIX,
    Correspondence,
    correspondences,
    resnet_correspondences,
)

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
        state_dict: the official names and arrays (`checkpoint["model"]`). They are copied.
        dilated: whether it is a DC5 model; the weights of C5 and DC5 models look the same.
        padding: `ModelConfig.padding`.
        dtype: what the network computes in: float32, bfloat16 (parameters stay float32) or float64.
        architecture: further fields of `ModelConfig` that the tensors do not tell: `num_heads`, or `num_anchors` of a
            grid (the official defaults, 8 and 300, where they are not given).

    Raises:
        UserError: names every tensor that is unknown, missing, there twice, of a wrong shape, or unequal where copies
            must be equal; or JAX is not set to float64 where that is asked for.
    """
    config = config_from_state_dict(
        state_dict, dilated=dilated, padding=padding, dtype=jnp.dtype(dtype).name, **architecture
    )
    if jax.dtypes.canonicalize_dtype(param_dtype(config)) != param_dtype(config):
        raise UserError("dtype=float64 needs JAX's 64-bit mode: call jax.config.update('jax_enable_x64', True) first.")
    variables = variables_from_state_dict(state_dict, config)
    return definition_of(config).merge({path: jnp.asarray(value) for path, value in variables.items()})


def state_dict_from_model(model: AnchorDETR) -> dict[str, np.ndarray]:
    """The official names and arrays of a model, heads once a decoder layer; the inverse of `model_from_state_dict`."""
    return state_dict_from_variables(
        {path: np.asarray(value) for path, value in variables_of(model).items()}, model.config
    )


def variables_from_state_dict(
    state_dict: Mapping[str, np.ndarray], config: ModelConfig, *, consume: bool = False
) -> dict[str, np.ndarray]:
    """Arrays by variable path, in the parameters' dtype. Raises `UserError` as `model_from_state_dict` does.

    With `consume`, each tensor is taken out of the state dict (a dict) once it is converted: less memory is needed.
    """
    expected = {path: leaf.shape for path, leaf in definition_of(config).shapes.items()}
    return _translate(state_dict, correspondences(config), expected, np.dtype(param_dtype(config)), consume=consume)


def backbone_from_state_dict(state_dict: Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """A torchvision ResNet state dict as (`resnet50` or `resnet101`, arrays by variable path).

    Raises:
        UserError: names every tensor that is unknown, missing or of a wrong shape.
    """
    depth = read_depth(state_dict)
    config = ModelConfig(backbone=depth, num_classes=1, encoder_layers=0, decoder_layers=1)  # type: ignore[arg-type]
    expected = {path: leaf.shape for path, leaf in definition_of(config).shapes.items() if path.startswith("backbone/")}
    without_classifier = {name: array for name, array in state_dict.items() if name not in CLASSIFIER}
    return depth, _translate(without_classifier, resnet_correspondences(depth), expected, np.dtype(np.float32))


def state_dict_from_variables(variables: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """Arrays by variable path -> the official names and arrays (copies, writable; a shared head is one array).

    Raises:
        UserError: the architecture has no official counterpart, or names every variable that is unknown or missing.
    """
    if config.backbone == "compact":
        raise UserError(
            "model.backbone='compact' has no counterpart in the official code: only ResNet models can be exported."
        )
    table = correspondences(config)
    targets = {target for row in table for target in row.targets}
    problems = [f"missing {path}" for path in sorted(targets - variables.keys())]
    problems += [f"unknown {path}" for path in sorted(variables.keys() - targets)]
    if problems:
        raise UserError(f"The variables are not those of the architecture: {'; '.join(problems)}.")
    state_dict = {}
    for row in table:
        parts = [row.layout.to_torch(np.asarray(variables[target])) for target in row.targets]
        whole = np.array(parts[0], order="C") if len(parts) == 1 else np.concatenate(parts)
        state_dict.update(dict.fromkeys(row.sources, whole))
    return state_dict


def is_ignored(name: str) -> bool:
    """Whether a tensor of this name means nothing to the detector."""
    return name.rpartition(".")[2] in IGNORED


def _translate(
    state_dict: Mapping[str, np.ndarray],
    table: Iterable[Correspondence],
    expected: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    *,
    consume: bool = False,
) -> dict[str, np.ndarray]:
    variables: dict[str, np.ndarray] = {}
    known: set[str] = set()
    names, problems = _bare_names(state_dict)
    for row in table:
        known.update(row.sources)
        present = {source: np.asarray(state_dict[names[source]]) for source in row.sources if source in names}
        found = _problems_of(row, present, _source_shape(row, expected))
        problems += found
        if not found:
            for target, part in zip(row.targets, np.split(present[row.sources[0]], len(row.targets)), strict=True):
                variables[target] = np.array(row.layout.from_torch(part), dtype, order="C")
        if consume:
            assert isinstance(state_dict, dict)
            for source in present:
                del state_dict[names[source]]
    problems += [f"unknown {name}" for name in names if name not in known and not is_ignored(name)]
    if problems:
        raise UserError(f"The weights do not fit the architecture they imply: {'; '.join(problems)}.")
    return variables


def _bare_names(state_dict: Mapping[str, np.ndarray]) -> tuple[dict[str, str], list[str]]:
    """The names without the prefix that `DistributedDataParallel` gives them, and which of these then come twice."""
    names: dict[str, str] = {}
    duplicates = []
    for name in state_dict:
        bare = name.removeprefix(PARALLEL_PREFIX)
        if bare in names and not is_ignored(bare):
            duplicates.append(f"duplicate {bare} (with and without '{PARALLEL_PREFIX}')")
        names[bare] = name
    return names, duplicates


def _problems_of(row: Correspondence, present: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> list[str]:
    problems, first = [], None
    for source in row.sources:
        if source not in present:
            problems.append(f"missing {source}")
            continue
        array = present[source]
        if array.shape != shape:
            problems.append(f"{source} has shape {list(array.shape)} instead of {list(shape)}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            problems.append(f"{source} has numbers of type {array.dtype} instead of floating-point ones")
        elif first is None:
            first = array
        elif array.dtype != first.dtype or array.tobytes() != first.tobytes():
            problems.append(f"{source} differs from {row.sources[0]}, but they are one shared head")
    return problems


def _source_shape(row: Correspondence, expected: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of a row's source in PyTorch's layout."""
    first, *rest = row.layout.to_torch(np.broadcast_to(np.int8(0), expected[row.targets[0]])).shape
    return (first * len(row.targets), *rest)
