"""The architecture that an official state dict implies."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError

DEPTHS = {6: "resnet50", 23: "resnet101"}
"""Blocks of the third stage, which tell the two apart."""
ARGUMENTS = {"dilation": "dilation", "nheads": "num_heads", "num_query_position": "num_anchors"}
"""Official command-line arguments (kept in training checkpoints) that tell what the tensors do not."""


def config_from_state_dict(state_dict: Mapping[str, np.ndarray], *, dilated: bool, **settings: Any) -> ModelConfig:
    """Reads depth, levels, layers, attention, anchors, patterns, widths and classes from names and shapes.

    Args:
        state_dict: the official names and arrays.
        dilated: DC5 or C5, which the tensors do not tell.
        settings: further fields of `ModelConfig`; they win over what is read here.

    Raises:
        UserError: this is not an Anchor DETR state dict.
    """
    patterns = _shape(state_dict, "transformer.pattern.weight")
    cross = _shape(state_dict, "transformer.decoder_layers.0.cross_attn.in_proj_weight")
    depth = _count(state_dict, r"backbone\.body\.layer3\.(\d+)\.")
    if depth not in DEPTHS:
        raise UserError(
            f"The state dict's third backbone stage has {depth} blocks; Anchor DETR backbones are ResNet-50 (6) and ResNet-101 (23)."
        )
    projections = cross[0] // cross[1]
    if projections not in (3, 5):
        raise UserError(
            f"The cross-attention projects to {projections} times its width; row-column attention has 5, standard attention 3."
        )
    read: dict[str, Any] = {
        "backbone": DEPTHS[depth],
        "dilation": dilated,
        "num_feature_levels": _count(state_dict, r"input_proj\.(\d+)\."),
        "attention": "rcda" if projections == 5 else "standard",
        "spatial_prior": "learned" if "transformer.position.weight" in state_dict else "grid",
        "num_patterns": patterns[0],
        "num_classes": _shape(state_dict, "transformer.class_embed.0.weight")[0],
        "hidden_dim": patterns[1],
        "ffn_dim": _shape(state_dict, "transformer.decoder_layers.0.ffn.linear1.weight")[0],
        "encoder_layers": _count(state_dict, r"transformer\.encoder_layers\.(\d+)\.")
        + _count(state_dict, r"transformer\.encoder_layers_level\.(\d+)\."),
        "decoder_layers": _count(state_dict, r"transformer\.decoder_layers\.(\d+)\."),
    }
    if read["spatial_prior"] == "learned":
        read["num_anchors"] = _shape(state_dict, "transformer.position.weight")[0]
    return ModelConfig(**(read | settings))


def settings_from_arguments(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a checkpoint's `args` tell beyond its tensors, as fields of `ModelConfig`; `dilation` among them where it is known."""
    if arguments is None:
        return {}
    settings = {ours: arguments[theirs] for theirs, ours in ARGUMENTS.items() if arguments.get(theirs) is not None}
    if isinstance(settings.get("dilation"), str):  # the official command line accepts the words, too
        settings["dilation"] = settings["dilation"].lower() == "true"
    return settings


def _shape(state_dict: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    if name not in state_dict:
        raise UserError(f"This is not an Anchor DETR state dict: it has no tensor {name!r}.")
    return tuple(np.shape(state_dict[name]))


def _count(state_dict: Mapping[str, np.ndarray], pattern: str) -> int:
    """One more than the highest index that `pattern` finds."""
    found = [int(match[1]) for name in state_dict if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1
