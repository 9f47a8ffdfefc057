"""Reads the architecture from an official state dict."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.class_outputs import COCO_OUTPUTS
from anchordetr_jax.weights.correspondence import Form, form_of, head_correspondences
from anchordetr_jax.weights.wrappers import bare_names

StateDict = Mapping[str, np.ndarray]

DEPTHS = {6: "resnet50", 23: "resnet101"}
"""Number of blocks in the third stage: backbone."""
ANCHORS = "transformer.position.weight"
BORDERS: Mapping[Form, float] = {"official": ModelConfig.anchor_border, "detrex": 1e-3}
"""`ModelConfig.anchor_border` of both codes."""
PROJECTIONS = {5: "rcda", 3: "standard"}
"""Number of input projections of cross-attention: kind of attention."""


def config_from_state_dict(state_dict: StateDict, *, dilated: bool, **settings: Any) -> ModelConfig:
    """The settings of the network that these weights belong to.

    Args:
        state_dict: arrays by official name.
        dilated: DC5 (True) or C5. The tensors look the same.
        settings: further fields of `ModelConfig`. They replace the values that are read from the tensors.

    Raises:
        UserError: this is not an Anchor DETR state dict.
    """
    return ModelConfig(**(read_architecture(state_dict) | {"dilation": dilated} | settings))


def read_architecture(state_dict: StateDict) -> dict[str, Any]:
    """The fields of `ModelConfig` that follow from names and shapes.

    These are all fields except C5 or DC5, the number of attention heads, and the size of a grid of anchors. If a tensor
    is missing, its field is read from similar tensors or has the official default; the conversion then names it.

    Raises:
        UserError: this is not an Anchor DETR state dict.
    """
    state_dict = {bare: state_dict[name] for bare, name in bare_names(state_dict).originals.items()}
    decoder_layers = _count(state_dict, r"transformer\.decoder_layers\.(\d+)\.")
    depth = _count(state_dict, r"backbone\.body\.layer3\.(\d+)\.")
    if decoder_layers == 0 or depth == 0:
        missing = "transformer.decoder_layers" if decoder_layers == 0 else "backbone.body.layer3"
        raise UserError(f"This is not an Anchor DETR state dict: it has no tensors under '{missing}'.")
    detrex = form_of(state_dict) == "detrex"
    read: dict[str, Any] = {
        "backbone": backbone_of_depth(depth),
        "num_feature_levels": 1 if detrex else max(1, _count(state_dict, r"input_proj\.(\d+)\.")),
        "spatial_prior": "learned" if ANCHORS in state_dict else "grid",
        "encoder_layers": _count(state_dict, r"transformer\.encoder_layers\.(\d+)\.")
        + _count(state_dict, r"transformer\.encoder_layers_level\.(\d+)\."),
        "decoder_layers": decoder_layers,
    }
    if cross := _matrix(state_dict, r"transformer\.decoder_layers\.\d+\.cross_attn\.in_proj_weight"):
        projections = cross[0] // cross[1]
        if projections not in PROJECTIONS:
            raise UserError(
                f"The cross-attention projects to {projections} times its width; row-column attention has 5 "
                "projections and standard attention 3."
            )
        read |= {"attention": PROJECTIONS[projections], "hidden_dim": cross[1]}
    if patterns := _matrix(state_dict, r"transformer\.pattern\.weight"):
        read["num_patterns"] = patterns[0]
    if anchors := _matrix(state_dict, r"transformer\.position\.weight"):
        read["num_anchors"] = anchors[0]
    if classes := _matrix(state_dict, r"transformer\.class_embed\.\d+\.weight"):
        read["num_classes"] = classes[0]
    else:
        read["num_classes"] = COCO_OUTPUTS["detrex" if detrex else "official"]
    if hidden := _matrix(state_dict, r"transformer\.(?:en|de)coder_layers\.\d+\.ffn\.linear1\.weight"):
        read["ffn_dim"] = hidden[0]
    if detrex and coordinates_near_border(state_dict.get(ANCHORS), BORDERS["detrex"]):
        read["anchor_border"] = BORDERS["detrex"]
    return read


def coordinates_near_border(anchors: np.ndarray | None, border: float) -> int:
    """How many coordinates of anchors [A,2], relative to the image, are less than `border` from the image border."""
    if anchors is None:
        return 0
    wide = np.asarray(anchors, np.float64)
    return int((np.minimum(wide, 1 - wide) < border).sum())


def heads_kept_once(state_dict: StateDict) -> dict[str, str]:
    """Where a shared head is there under exactly one of its names: each missing name, with the name that is there."""
    missing: dict[str, str] = {}
    for row in head_correspondences(_count(state_dict, r"transformer\.decoder_layers\.(\d+)\.")):
        there = [name for name in row.sources if name in state_dict]
        if len(there) == 1:
            missing |= {name: there[0] for name in row.sources if name != there[0]}
    return missing


def is_resnet(state_dict: StateDict) -> bool:
    """True if this is a ResNet alone with torchvision's names."""
    return "conv1.weight" in state_dict and any(name.startswith("layer1.0.") for name in state_dict)


def is_efficientnet(state_dict: StateDict) -> bool:
    """True if this is an EfficientNet alone, with the names of the package that publishes EfficientNet-Lite0."""
    return "_conv_stem.weight" in state_dict


def read_backbone(state_dict: StateDict) -> str | None:
    """`ModelConfig.backbone`, if this is a backbone alone. None: it is something else. Raises like `read_depth`."""
    if is_efficientnet(state_dict):
        return "efficientnet_lite0"
    return read_depth(state_dict) if is_resnet(state_dict) else None


def read_depth(state_dict: StateDict) -> str:
    """`resnet50` or `resnet101`, for a torchvision state dict. Raises `UserError` if it is neither."""
    if not any(re.match(r"layer1\.0\.conv3\.", name) for name in state_dict):
        raise UserError("This ResNet has no bottlenecks of three convolutions; give a ResNet-50 or a ResNet-101.")
    return backbone_of_depth(_count(state_dict, r"layer3\.(\d+)\."))


def backbone_of_depth(blocks: int) -> str:
    """The backbone with `blocks` blocks in its third stage. Raises `UserError` if there is none."""
    if blocks not in DEPTHS:
        raise UserError(
            f"The backbone's third stage has {blocks} blocks; the backbones here are ResNet-50 (6) and ResNet-101 (23)."
        )
    return DEPTHS[blocks]


def _matrix(state_dict: StateDict, pattern: str) -> tuple[int, int] | None:
    """Shape of the first non-empty matrix whose name matches `pattern`."""
    for name, array in state_dict.items():
        shape = np.shape(array)
        if re.fullmatch(pattern, name) and len(shape) == 2 and min(shape) > 0:
            return shape
    return None


def _count(state_dict: StateDict, pattern: str) -> int:
    """One more than the largest index that `pattern` finds."""
    found = [int(match[1]) for name in state_dict if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1
