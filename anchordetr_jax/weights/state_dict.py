"""Converts official state dicts to models and back, without changing a bit."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import definition_of, variables_of
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.model.precision import param_dtype
from anchordetr_jax.model.resnet import BLOCKS
from anchordetr_jax.weights.architecture import config_from_state_dict
from anchordetr_jax.weights.correspondence import (
    IGNORED,
    Correspondence,
    Form,
    backbone_correspondences,
    correspondences,
    form_of,
)
from anchordetr_jax.weights.wrappers import bare_names

CLASSIFIER = re.compile(r"(fc|_fc|_conv_head|_bn1)\.\w+")
"""Tensors of the classifier of a torchvision ResNet and of EfficientNet-Lite0. A detector does not need them."""


def model_from_state_dict(
    state_dict: Mapping[str, np.ndarray],
    *,
    dilated: bool,
    padding: str = "invariant",
    dtype: DTypeLike = jnp.float32,
    **architecture: Any,
) -> AnchorDETR:
    """Makes the detector that a state dict describes, with its weights.

    Args:
        state_dict: arrays by official name (`checkpoint["model"]`), or by detrex's. They are copied.
        dilated: True for a DC5 model, False for C5. Their weights look the same.
        padding: `ModelConfig.padding`.
        dtype: dtype of the computation: float32, bfloat16 (parameters stay float32) or float64.
        architecture: further fields of `ModelConfig` that do not follow from the tensors: `num_heads`, or `num_anchors`
            of a grid. The defaults are the official ones, 8 and 300.

    Raises:
        UserError: names each tensor that is unknown, missing, duplicate, of a wrong shape, not finite, or unequal to
            its copies. Also raised if float64 is wanted and JAX's 64-bit mode is off.
    """
    config = config_from_state_dict(
        state_dict, dilated=dilated, padding=padding, dtype=jnp.dtype(dtype).name, **architecture
    )
    variables = variables_from_state_dict(state_dict, config)
    return definition_of(config).merge({path: jnp.asarray(value) for path, value in variables.items()})


def state_dict_from_model(model: AnchorDETR) -> dict[str, np.ndarray]:
    """Arrays by official name, with the heads once per decoder layer. The inverse of `model_from_state_dict`."""
    return state_dict_from_variables(
        {path: np.asarray(value) for path, value in variables_of(model).items()}, model.config
    )


def variables_from_state_dict(
    state_dict: Mapping[str, np.ndarray], config: ModelConfig, *, consume: bool = False
) -> dict[str, np.ndarray]:
    """Arrays by variable path, in the parameters' dtype. Raises `UserError` like `model_from_state_dict`.

    With `consume`, each tensor is removed from the state dict (a dict) after its conversion, which saves memory.
    """
    expected = {path: leaf.shape for path, leaf in definition_of(config).shapes.items()}
    table = correspondences(config, form_of(bare_names(state_dict).originals))
    return _translate(state_dict, table, expected, np.dtype(param_dtype(config)), consume=consume)


def backbone_from_state_dict(state_dict: Mapping[str, np.ndarray], backbone: str) -> dict[str, np.ndarray]:
    """Converts the state dict of a published backbone (`architecture.read_backbone`) to arrays by variable path.

    Raises:
        UserError: names each tensor that is unknown, missing, of a wrong shape or not finite.
    """
    config = ModelConfig(backbone=backbone, num_classes=1, encoder_layers=0, decoder_layers=1)  # type: ignore[arg-type]
    expected = {path: leaf.shape for path, leaf in definition_of(config).shapes.items() if path.startswith("backbone/")}
    without_classifier = {name: array for name, array in state_dict.items() if not CLASSIFIER.fullmatch(name)}
    return _translate(without_classifier, backbone_correspondences(backbone), expected, np.dtype(np.float32))


def state_dict_from_variables(
    variables: Mapping[str, np.ndarray], config: ModelConfig, form: Form = "official"
) -> dict[str, np.ndarray]:
    """Converts arrays by variable path to arrays by official name, or by detrex's. They are writable copies.

    The names of a shared head have one array object.

    Raises:
        UserError: the official code or detrex does not have this architecture. Or a variable is unknown or missing; all
            such variables are named.
    """
    if config.backbone not in BLOCKS:
        raise UserError(
            f"The official code has no model.backbone={config.backbone!r}: only detectors with a ResNet can be "
            "exported."
        )
    if form == "detrex" and config.num_feature_levels > 1:
        raise UserError("detrex has no Anchor DETR with several feature levels: export it in the official form.")
    table = correspondences(config, form)
    targets = {target for row in table for target in row.targets}
    problems = [f"missing {path}" for path in sorted(targets - variables.keys())]
    problems += [f"unknown {path}" for path in sorted(variables.keys() - targets)]
    if problems:
        raise UserError(f"The variables are not those of the architecture: {'; '.join(problems)}.")
    state_dict = {}
    for row in table:
        parts = [row.layout.to_torch(np.asarray(variables[target])) for target in row.targets]
        # Rows must follow each other in memory: safetensors writes other arrays wrongly, and says nothing.
        whole = np.array(parts[0], order="C") if len(parts) == 1 else np.ascontiguousarray(np.concatenate(parts))
        state_dict.update(dict.fromkeys(row.sources, whole))
    return state_dict


def is_ignored(name: str) -> bool:
    """True if the detector does not need a tensor of this name."""
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
    bare = bare_names(state_dict)
    names = bare.originals
    problems = [f"duplicate {name} (with and without a prefix)" for name in bare.duplicates if not is_ignored(name)]
    for row in table:
        known.update(row.sources)
        present = {source: np.asarray(state_dict[names[source]]) for source in row.sources if source in names}
        found = _problems_of(row, present, _source_shape(row, expected), dtype)
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
        raise UserError(f"The weights do not fit their architecture: {'; '.join(problems)}.")
    return variables


def _problems_of(
    row: Correspondence, present: Mapping[str, np.ndarray], shape: tuple[int, ...], dtype: np.dtype
) -> list[str]:
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
        elif not_finite := _count_not_finite(array, dtype):
            problems.append(f"{source} has {not_finite} numbers of {array.size} that are not finite")
        elif first is None:
            first = array
        elif array.dtype != first.dtype or array.tobytes() != first.tobytes():
            problems.append(f"{source} differs from {row.sources[0]}, but they are one shared head")
    return problems


def _count_not_finite(array: np.ndarray, dtype: np.dtype) -> int:
    """How many numbers are infinite or not a number, also those that `dtype` cannot hold."""
    with np.errstate(over="ignore"):
        return int(array.size - np.isfinite(array.astype(dtype, copy=False)).sum())


def _source_shape(row: Correspondence, expected: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of a row's source in PyTorch's order of axes."""
    first, *rest = row.layout.to_torch(np.broadcast_to(np.int8(0), expected[row.targets[0]])).shape
    return (first * len(row.targets), *rest)
