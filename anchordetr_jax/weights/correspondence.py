"""One table of the official checkpoint's tensor names and this project's variable paths."""

import dataclasses
import enum
from collections.abc import Collection, Iterator
from typing import Literal

import numpy as np

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.model.resnet import BLOCKS
from anchordetr_jax.small_backbones.efficientnet import LAYERS

Form = Literal["official", "detrex"]
"""Whose names tensors have: the official code's, or detrex's."""

IGNORED = frozenset({"num_batches_tracked", "n_averaged", "total_params", "total_ops"})
"""Last parts of names: counters that PyTorch and profilers leave in state dicts. The detector does not need them."""

DETREX_NAMES = {
    "input_proj.0.0.weight": "input_proj.0.weight",
    "input_proj.0.0.bias": "input_proj.0.bias",
    "input_proj.0.1.weight": "input_proj.1.weight",
    "input_proj.0.1.bias": "input_proj.1.bias",
}
"""Official name: name in detrex (its projects/anchor_detr). All other names are the same."""


class Layout(enum.Enum):
    """The order of a tensor's axes. The value is the transposition from PyTorch's order to ours."""

    SAME = None
    LINEAR = (1, 0)  # [out, in] -> [in, out]
    CONVOLUTION = (2, 3, 1, 0)  # OIHW -> HWIO

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """The array in our order of axes; a view."""
        return array if self.value is None else array.transpose(self.value)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `from_torch`; a view."""
        return array if self.value is None else array.transpose(np.argsort(self.value))


@dataclasses.dataclass(frozen=True)
class Correspondence:
    """One row of the table.

    Several `sources` are copies of one tensor and must be equal. With several `targets` the source is split into equal
    parts along its first axis.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    layout: Layout = Layout.SAME


RCDA_PROJECTIONS = ("query_row", "query_column", "key_row", "key_column", "value")
STANDARD_PROJECTIONS = ("query", "key", "value")


def form_of(names: Collection[str]) -> Form:
    """Whose form these tensor names have: detrex's if any of them occurs in detrex only."""
    return "detrex" if any(name in names for name in DETREX_NAMES.values()) else "official"


def correspondences(config: ModelConfig, form: Form = "official") -> tuple[Correspondence, ...]:
    """All tensors of a checkpoint with this architecture (ResNet backbones only), each once."""
    rows = (*_resnet("backbone.body.", config.backbone), *_transformer(config))
    if form == "official":
        return rows
    return tuple(
        dataclasses.replace(row, sources=tuple(DETREX_NAMES.get(name, name) for name in row.sources)) for row in rows
    )


def backbone_correspondences(backbone: str) -> tuple[Correspondence, ...]:
    """The tensors of the state dict of a published backbone without its classifier."""
    return tuple(_efficientnet_lite0() if backbone == "efficientnet_lite0" else _resnet("", backbone))


def _resnet(prefix: str, depth: str) -> Iterator[Correspondence]:
    yield _convolution(f"{prefix}conv1", "backbone/stem/conv")
    yield from _batch_norm(f"{prefix}bn1", "backbone/stem/norm")
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        for block in range(blocks):
            source, target = f"{prefix}layer{stage}.{block}", f"backbone/layer{stage}/blocks/{block}"
            for i in (1, 2, 3):
                yield _convolution(f"{source}.conv{i}", f"{target}/conv{i}")
                yield from _batch_norm(f"{source}.bn{i}", f"{target}/norm{i}")
            if block == 0:
                yield _convolution(f"{source}.downsample.0", f"{target}/shortcut_conv")
                yield from _batch_norm(f"{source}.downsample.1", f"{target}/shortcut_norm")


def _efficientnet_lite0() -> Iterator[Correspondence]:
    yield _convolution("_conv_stem", "backbone/stem/conv")
    yield from _batch_norm("_bn0", "backbone/stem/norm")
    source = 0  # Blocks are counted through all layers.
    for layer, rows in LAYERS.items():
        expansions = [row.expansion for row in rows for _ in range(row.blocks)]
        for block, expansion in enumerate(expansions):
            for i, part in enumerate(("expand", "depthwise", "project")):
                if part == "expand" and expansion == 1:
                    continue
                target = f"backbone/{layer}/blocks/{block}/{part}"
                yield _convolution(f"_blocks.{source}._{part}_conv", f"{target}_conv")
                yield from _batch_norm(f"_blocks.{source}._bn{i}", f"{target}_norm")
            source += 1


def _transformer(config: ModelConfig) -> Iterator[Correspondence]:
    projections = RCDA_PROJECTIONS if config.attention == "rcda" else STANDARD_PROJECTIONS
    levels = config.num_feature_levels
    for i in range(levels):
        yield _convolution(f"input_proj.{i}.0", f"input_projections/{i}/conv")
        yield Correspondence((f"input_proj.{i}.0.bias",), (f"input_projections/{i}/conv/bias",))
        yield from _norm(f"input_proj.{i}.1", f"input_projections/{i}/norm")

    for i in range(config.encoder_layers - config.level_layers):
        source, target = f"transformer.encoder_layers.{i}", f"encoder/spatial/{i}"
        yield from _attention(f"{source}.self_attn", f"{target}/attention", projections)
        yield from _norm(f"{source}.norm1", f"{target}/norm")
        yield from _feed_forward(source, target)
    for i in range(config.level_layers):
        source, target = f"transformer.encoder_layers_level.{i}", f"encoder/level/{i}"
        yield from _attention(f"{source}.self_attn_level", f"{target}/attention", STANDARD_PROJECTIONS)
        yield from _norm(f"{source}.norm1", f"{target}/norm")
        yield from _feed_forward(source, target)
    for i in range(config.decoder_layers):
        source, target = f"transformer.decoder_layers.{i}", f"decoder/layers/{i}"
        yield from _attention(f"{source}.self_attn", f"{target}/self_attention", STANDARD_PROJECTIONS)
        yield from _norm(f"{source}.norm2", f"{target}/self_norm")
        yield from _attention(f"{source}.cross_attn", f"{target}/cross_attention", projections)
        yield from _norm(f"{source}.norm1", f"{target}/cross_norm")
        if levels > 1:
            yield from _linear(f"{source}.level_fc", f"{target}/level_fc")
        yield from _feed_forward(source, target)

    if levels > 1:
        yield Correspondence(("transformer.level_embed.weight",), ("encoder/level_embedding",))
    yield Correspondence(("transformer.pattern.weight",), ("patterns",))
    if config.spatial_prior == "learned":
        yield Correspondence(("transformer.position.weight",), ("anchors",))
    for name in ("adapt_pos1d", "adapt_pos2d"):
        for i in (0, 1):
            yield from _linear(f"transformer.{name}.{2 * i}", f"{name}/layers/{i}")
    yield from head_correspondences(config.decoder_layers)


def head_correspondences(decoder_layers: int) -> Iterator[Correspondence]:
    """The tensors of both heads. All decoder layers share them, but they are written once per layer."""
    layers = range(decoder_layers)
    yield from _linear([f"transformer.class_embed.{layer}" for layer in layers], "class_head")
    for i in (0, 1, 2):
        yield from _linear([f"transformer.bbox_embed.{layer}.layers.{i}" for layer in layers], f"box_head/layers/{i}")


def _convolution(source: str, target: str) -> Correspondence:
    return Correspondence((f"{source}.weight",), (f"{target}/kernel",), Layout.CONVOLUTION)


def _batch_norm(source: str, target: str) -> Iterator[Correspondence]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    for theirs, ours in names.items():
        yield Correspondence((f"{source}.{theirs}",), (f"{target}/{ours}",))


def _norm(source: str, target: str) -> Iterator[Correspondence]:
    yield Correspondence((f"{source}.weight",), (f"{target}/scale",))
    yield Correspondence((f"{source}.bias",), (f"{target}/bias",))


def _linear(source: str | list[str], target: str) -> Iterator[Correspondence]:
    sources = [source] if isinstance(source, str) else source
    yield Correspondence(tuple(f"{name}.weight" for name in sources), (f"{target}/kernel",), Layout.LINEAR)
    yield Correspondence(tuple(f"{name}.bias" for name in sources), (f"{target}/bias",))


def _attention(source: str, target: str, projections: tuple[str, ...]) -> Iterator[Correspondence]:
    parts = tuple(f"{target}/{name}" for name in projections)
    yield Correspondence((f"{source}.in_proj_weight",), tuple(f"{part}/kernel" for part in parts), Layout.LINEAR)
    yield Correspondence((f"{source}.in_proj_bias",), tuple(f"{part}/bias" for part in parts))
    yield from _linear(f"{source}.out_proj", f"{target}/out")


def _feed_forward(source: str, target: str) -> Iterator[Correspondence]:
    yield from _linear(f"{source}.ffn.linear1", f"{target}/ffn/linear1")
    yield from _linear(f"{source}.ffn.linear2", f"{target}/ffn/linear2")
    yield from _norm(f"{source}.ffn.norm2", f"{target}/ffn/norm")
