"""What is needed to run other people's PyTorch code in this process, without a change to its files."""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from anchordetr_jax.verification.cases import Case

TORCHVISION_OPERATORS = (
    *("nms", "qnms", "roi_align", "qroi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"),
    *("_roi_align_backward", "_roi_pool_backward", "_ps_roi_align_backward", "_ps_roi_pool_backward"),
    "_deform_conv2d_backward",
)
"""Compiled operators that the import of torchvision asks for. No detector here calls them."""

_declared: list[Any] = []  # Keeps each torch.library.Library alive: its declarations end with it.


def import_torchvision() -> ModuleType:
    """Imports torchvision, also where its compiled operators do not fit the installed PyTorch (as with CPU builds).

    Raises `ImportError` if torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = importlib.import_module("torch.library").Library("torchvision", "DEF")
    _declared.append(library)
    for operator in TORCHVISION_OPERATORS:
        library.define(f"{operator}(Tensor a) -> Tensor")
    return importlib.import_module("torchvision")


@contextlib.contextmanager
def importing_from(repo: Path) -> Iterator[None]:
    """Imports find the checkout first and print no warnings."""
    sys.path.insert(0, str(repo))
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # Nothing is written into the checkout.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.dont_write_bytecode = bytecode
        sys.path.remove(str(repo))


@contextlib.contextmanager
def module_names(names: Collection[str], modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """While it is open, the top-level module `names` mean `modules`, and no modules of other packages."""
    others = take_out(names)
    sys.modules.update(modules)
    try:
        yield
    finally:
        take_out(names)
        sys.modules.update(others)


def take_out(names: Collection[str]) -> dict[str, ModuleType]:
    """Removes all modules with these top-level names from `sys.modules` and returns them."""
    found = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in found}


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """While it is open, the attribute `name` of `owner` is `value`."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class FloatsAreDoubles:
    """The module `torch`, but `torch.float32` is float64."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self.float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


def of_doubles(function: Any) -> Any:
    """The function, with its first argument converted to float64."""
    return lambda positions, *args, **kwargs: function(positions.double(), *args, **kwargs)


@contextlib.contextmanager
def recording(model: Any, case: Case, features: Any, projections: Any) -> Iterator[dict[str, Any]]:
    """Collects outputs of the parts, with names and shapes as in `stages.run_stages`, and of the heads.

    Args:
        model: a PyTorch detector.
        case: what it computes.
        features: makes the tensors [B,C,h,w] of the feature levels from the backbone's output.
        projections: the modules that project these features.
    """
    stages: dict[str, Any] = {}
    images = len(case.images)
    transformer = model.transformer

    def keep(name: str, layout: Any) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            stages[name] = layout(output)

        return hook

    def backbone(module: Any, args: Any, output: Any) -> None:
        stages.update({f"backbone/{i}": channels_last(maps) for i, maps in enumerate(features(output))})

    def of_levels(output: Any) -> np.ndarray:
        maps = channels_last(output)
        return maps.reshape(images, -1, *maps.shape[1:])

    def in_full(output: Any) -> Any:
        return tuple(part.numpy().copy() for part in output) if isinstance(output, tuple) else output.numpy().copy()

    hooks = [model.backbone.register_forward_hook(backbone), transformer.register_forward_hook(keep("heads", in_full))]
    for prefix, parts, layout in (
        ("input_projections", projections, channels_last),
        ("encoder/spatial", transformer.encoder_layers, channels_last),
        ("encoder/level", transformer.encoder_layers_level, of_levels),
        ("decoder/layers", transformer.decoder_layers, in_full),
    ):
        hooks += [part.register_forward_hook(keep(f"{prefix}/{i}", layout)) for i, part in enumerate(parts)]
    try:
        yield stages
    finally:
        for hook in hooks:
            hook.remove()


def channels_last(maps: Any) -> np.ndarray:
    """A tensor [B,C,h,w] as an array [B,h,w,C]."""
    return np.ascontiguousarray(maps.detach().numpy().transpose(0, 2, 3, 1))


def padded_batch(case: Case, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The images of a case as PyTorch wants them: [B,3,H,W], and which pixels are padding: bool [B,H,W]."""
    batch = case.batch(dtype)
    padding = np.ones(batch.shape[:3], bool)
    for rows, (height, width) in zip(padding, case.image_sizes.tolist(), strict=True):
        rows[:height, :width] = False
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)), padding
