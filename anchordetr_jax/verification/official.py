"""Runs the official PyTorch code from a user's checkout in this process. Its files are not changed.

The official code was written for the PyTorch of 2021 and for GPUs. To run it with today's PyTorch, on any machine and
in float64, some things are replaced in memory while it runs: operators that torchvision looks for, the download of
ImageNet weights, a call of `.cuda()`, and position codes that are always float32.
"""

import argparse
import contextlib
import importlib
import io
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from anchordetr_jax.config import Config
from anchordetr_jax.errors import UserError
from anchordetr_jax.verification.cases import Case, Outputs, TopDetections
from anchordetr_jax.weights.arguments import arguments_from_config

MODULES = ("models", "util", "datasets", "engine", "main")
"""Top-level module names of the checkout. Other packages may use the same names."""
TORCHVISION_OPERATORS = (
    *("nms", "qnms", "roi_align", "qroi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"),
    *("_roi_align_backward", "_roi_pool_backward", "_ps_roi_align_backward", "_ps_roi_pool_backward"),
    "_deform_conv2d_backward",
)
"""Compiled operators that the import of torchvision asks for. No detector here calls them."""

_declared: list[Any] = []  # Keeps each torch.library.Library alive: its declarations end with it.


class OfficialCode:
    """An imported checkout of the official code."""

    def __init__(self, repo: str | Path) -> None:
        """Imports the checkout. Raises `UserError` if `repo` is not a checkout, or if a Python package is missing."""
        self.repo = Path(repo).resolve()
        if not (self.repo / "models" / "anchor_detr.py").is_file() or not (self.repo / "main.py").is_file():
            raise UserError(
                f"{repo} is not a checkout of the official code; get one: git clone "
                "https://github.com/megvii-research/AnchorDETR."
            )
        try:
            self.torch = importlib.import_module("torch")
            import_torchvision()
            with _named({}), _importing_from(self.repo):
                self.main = importlib.import_module("main")
                self.models = importlib.import_module("models")
                self.backbone = importlib.import_module("models.backbone")
                self.transformer = importlib.import_module("models.transformer")
                self.misc = importlib.import_module("util.misc")
                self.transforms = importlib.import_module("datasets.transforms")
                self.coco = importlib.import_module("datasets.coco")
                self._modules = _taken_out()
        except ImportError as error:
            raise UserError(
                f"The official code needs a Python package that is not installed ({error}): pip install torch "
                "torchvision pycocotools scipy."
            ) from error

    def arguments(self, config: Config) -> Any:
        """The arguments of the official command line for these settings."""
        arguments = self.main.get_args_parser().parse_args([])
        vars(arguments).update(arguments_from_config(config), device="cpu", output_dir="")
        return arguments

    def build(self, config: Config, state_dict: Mapping[str, np.ndarray], dtype: str) -> tuple[Any, Any, Any, Any]:
        """(model, criterion, postprocessors, arguments) with strictly loaded weights. Call it inside `running`."""
        arguments = self.arguments(config)
        model, criterion, postprocessors = self.models.build_model(arguments)
        model.to(getattr(self.torch, dtype))
        tensors = {name: self.torch.from_numpy(np.array(array, dtype)) for name, array in state_dict.items()}
        model.load_state_dict(tensors, strict=True)
        return model, criterion, postprocessors, arguments

    @contextlib.contextmanager
    def running(self, dtype: str) -> Iterator[None]:
        """Makes the code run here in "float64" or "float32", while it is open."""
        torch, patches = self.torch, contextlib.ExitStack()
        with warnings.catch_warnings(), patches:
            warnings.simplefilter("ignore")
            # Only the main process downloads ImageNet weights. Here no process is the main one.
            patches.enter_context(_replaced(self.backbone, "is_main_process", lambda: False))
            patches.enter_context(_replaced(torch.Tensor, "cuda", lambda tensor, *args, **kwargs: tensor))
            # PyTorch's compiler imports the modules that it traces by name.
            patches.enter_context(_named(self._modules))
            if dtype == "float64":
                patches.enter_context(_replaced(self.transformer, "torch", _FloatsAreDoubles(torch)))
                for name in ("pos2posemb1d", "pos2posemb2d"):
                    original = getattr(self.transformer, name)
                    patches.enter_context(_replaced(self.transformer, name, _of_doubles(original)))
            yield

    def compute(self, case: Case, dtype: str) -> Outputs:
        """Computes all outputs of a case in "float64" or "float32", like `computation.compute`."""
        with self.running(dtype):
            model, criterion, postprocessors, arguments = self.build(case.config, case.state_dict, dtype)
            samples = self._samples(case, dtype)
            outputs = self._forward(case, model.eval(), postprocessors, samples)
            if case.targets:
                self._train(case, model.train(), criterion.train(), arguments, samples, outputs, dtype)
        return outputs

    def evaluate(
        self, config: Config, weights: str | Path, data: str | Path, output: str | Path
    ) -> tuple[list[float], list[dict[str, Any]]]:
        """Runs the official `main.py --eval --resume WEIGHTS --coco_path DATA`.

        Returns COCO's 12 numbers, and the content of the results.json that it writes into the folder `output`.
        """
        arguments, found = self.arguments(config), []
        vars(arguments).update(
            {"eval": True, "resume": str(weights), "coco_path": str(data), "output_dir": str(output)},
            batch_size=1,
            num_workers=0,
        )
        evaluate = self.main.evaluate

        def keeping(*args: Any, **kwargs: Any) -> Any:
            stats, evaluator = evaluate(*args, **kwargs)
            found.append(stats["coco_eval_bbox"])
            return stats, evaluator

        with (
            self.running("float32"),
            _replaced(self.main, "evaluate", keeping),
            # The official training saves a Namespace. PyTorch loads one only if it is allowed here.
            self.torch.serialization.safe_globals([argparse.Namespace]),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            self.main.main(arguments)
        return found[0], json.loads((Path(output) / "results.json").read_text())

    def preprocess(self, image: Any, size: int, max_size: int) -> np.ndarray:
        """Prepares a Pillow image like the official evaluation, for a short side of `size` pixels: float32 [h,w,3]."""
        steps = self.transforms
        mean_std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        chain = steps.Compose(
            [steps.RandomResize([size], max_size=max_size), steps.ToTensor(), steps.Normalize(*mean_std)]
        )
        pixels, _ = chain(image, None)
        return pixels.numpy().transpose(1, 2, 0)

    def _samples(self, case: Case, dtype: str) -> Any:
        batch, torch = case.batch(dtype), self.torch
        mask = np.ones(batch.shape[:3], bool)
        for rows, (height, width) in zip(mask, case.image_sizes.tolist(), strict=True):
            rows[:height, :width] = False
        images = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
        return self.misc.NestedTensor(images, torch.from_numpy(mask))

    def _forward(self, case: Case, model: Any, postprocessors: Any, samples: Any) -> Outputs:
        with self.torch.no_grad(), _recording(model, case) as stages:
            outputs = model(samples)
            sizes = case.image_sizes if case.target_sizes is None else case.target_sizes
            best = postprocessors["bbox"](outputs, self.torch.from_numpy(np.asarray(sizes, np.int64)))
        logits, boxes = stages.pop("heads")
        return Outputs(
            stages=stages,
            layers=tuple(range(len(logits))),
            logits=logits,
            boxes=boxes,
            detections=TopDetections(
                *(np.stack([one[name].numpy() for one in best]) for name in TopDetections._fields)
            ),
        )

    def _train(
        self, case: Case, model: Any, criterion: Any, arguments: Any, samples: Any, outputs: Outputs, dtype: str
    ) -> None:
        torch = self.torch
        targets = [
            {"labels": torch.from_numpy(labels.astype(np.int64)), "boxes": torch.from_numpy(boxes.astype(dtype))}
            for boxes, labels in case.targets
        ]
        optimizer = self.make_optimizer(model, arguments)
        assignments: list[Any] = []
        handle = criterion.matcher.register_forward_hook(lambda module, args, pairs: assignments.append(pairs))
        total_losses, total_norms = [], []
        for step in range(max(1, case.steps)):
            losses = criterion(model(samples), targets)
            loss = weighted(losses, criterion)
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                handle.remove()
                outputs.losses = {name: float(value) for name, value in losses.items()}
                outputs.matches = _pairs(assignments)
                outputs.gradient_norms = {
                    name: float(parameter.grad.norm())
                    for name, parameter in model.named_parameters()
                    if parameter.grad is not None
                }
            limit = arguments.clip_max_norm if arguments.clip_max_norm > 0 else float("inf")
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()
            total_losses.append(float(loss))
            total_norms.append(float(norm))
        if case.steps:
            outputs.step_losses, outputs.step_gradient_norms = np.array(total_losses), np.array(total_norms)
            outputs.tensors_after = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
            outputs.norms_after = {
                name: float(np.linalg.norm(array.astype(np.float64))) for name, array in outputs.tensors_after.items()
            }

    def make_optimizer(self, model: Any, arguments: Any) -> Any:
        """Makes the optimiser like the official command does. That part of the command is not a function."""
        groups: dict[float, list[Any]] = {arguments.lr: [], arguments.lr_backbone: []}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                slow = any(keyword in name for keyword in arguments.lr_backbone_names)
                groups[arguments.lr_backbone if slow else arguments.lr].append(parameter)
        parts = [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]
        if arguments.sgd:
            return self.torch.optim.SGD(parts, lr=arguments.lr, momentum=0.9, weight_decay=arguments.weight_decay)
        return self.torch.optim.AdamW(parts, lr=arguments.lr, weight_decay=arguments.weight_decay)


def weighted(losses: Mapping[str, Any], criterion: Any) -> Any:
    """The official total loss: a scalar tensor."""
    return sum(losses[name] * weight for name, weight in criterion.weight_dict.items() if name in losses)


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
def _importing_from(repo: Path) -> Iterator[None]:
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
def _named(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """While it is open, the module names of the checkout mean `modules`, and no modules of other packages."""
    others = _taken_out()
    sys.modules.update(modules)
    try:
        yield
    finally:
        _taken_out()
        sys.modules.update(others)


def _taken_out() -> dict[str, ModuleType]:
    """Removes all modules with names of the checkout from `sys.modules` and returns them."""
    names = [name for name in sys.modules if name.partition(".")[0] in MODULES]
    return {name: sys.modules.pop(name) for name in names}


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class _FloatsAreDoubles:
    """The module `torch`, but `torch.float32` is float64."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self.float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


def _of_doubles(function: Any) -> Any:
    return lambda positions, *args, **kwargs: function(positions.double(), *args, **kwargs)


@contextlib.contextmanager
def _recording(model: Any, case: Case) -> Iterator[dict[str, Any]]:
    """Collects outputs of the parts, with names and shapes as in `stages.run_stages`, and of the heads."""
    stages: dict[str, Any] = {}
    images = len(case.images)
    transformer = model.transformer

    def keep(name: str, layout: Any) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            stages[name] = layout(output)

        return hook

    def backbone(module: Any, args: Any, features: Any) -> None:
        stages.update({f"backbone/{i}": _channels_last(feature.tensors) for i, feature in enumerate(features)})

    def of_levels(output: Any) -> np.ndarray:
        maps = _channels_last(output)
        return maps.reshape(images, -1, *maps.shape[1:])

    def in_full(output: Any) -> Any:
        return tuple(part.numpy().copy() for part in output) if isinstance(output, tuple) else output.numpy().copy()

    hooks = [model.backbone.register_forward_hook(backbone), transformer.register_forward_hook(keep("heads", in_full))]
    for prefix, parts, layout in (
        ("input_projections", model.input_proj, _channels_last),
        ("encoder/spatial", transformer.encoder_layers, _channels_last),
        ("encoder/level", transformer.encoder_layers_level, of_levels),
        ("decoder/layers", transformer.decoder_layers, in_full),
    ):
        hooks += [part.register_forward_hook(keep(f"{prefix}/{i}", layout)) for i, part in enumerate(parts)]
    try:
        yield stages
    finally:
        for hook in hooks:
            hook.remove()


def _channels_last(maps: Any) -> np.ndarray:
    return np.ascontiguousarray(maps.detach().numpy().transpose(0, 2, 3, 1))


def _pairs(assignments: list[Any]) -> dict[tuple[int, int], dict[int, int]]:
    """Matches by layer and image. The official code calls its matcher first for the last layer, then for the others."""
    last, *earlier = assignments
    return {
        (layer, image): dict(zip(targets.tolist(), queries.tolist(), strict=True))
        for layer, pairs in enumerate([*earlier, last])
        for image, (queries, targets) in enumerate(pairs)
    }
