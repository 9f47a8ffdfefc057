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
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anchordetr_jax.config import Config
from anchordetr_jax.errors import UserError
from anchordetr_jax.verification.cases import Case, DetectionArrays, Outputs
from anchordetr_jax.verification.torch_code import (
    FloatsAreDoubles,
    import_torchvision,
    importing_from,
    module_names,
    of_doubles,
    padded_batch,
    recording,
    replaced,
    take_out,
)
from anchordetr_jax.weights.arguments import arguments_from_config

MODULES = ("models", "util", "datasets", "engine", "main")
"""Top-level module names of the checkout. Other packages may use the same names."""


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
            with module_names(MODULES, {}), importing_from(self.repo):
                self.main = importlib.import_module("main")
                self.models = importlib.import_module("models")
                self.backbone = importlib.import_module("models.backbone")
                self.transformer = importlib.import_module("models.transformer")
                self.misc = importlib.import_module("util.misc")
                self.transforms = importlib.import_module("datasets.transforms")
                self.coco = importlib.import_module("datasets.coco")
                self._modules = take_out(MODULES)
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
            patches.enter_context(replaced(self.backbone, "is_main_process", lambda: False))
            patches.enter_context(replaced(torch.Tensor, "cuda", lambda tensor, *args, **kwargs: tensor))
            # PyTorch's compiler imports the modules that it traces by name.
            patches.enter_context(module_names(MODULES, self._modules))
            if dtype == "float64":
                patches.enter_context(replaced(self.transformer, "torch", FloatsAreDoubles(torch)))
                for name in ("pos2posemb1d", "pos2posemb2d"):
                    original = getattr(self.transformer, name)
                    patches.enter_context(replaced(self.transformer, name, of_doubles(original)))
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
            replaced(self.main, "evaluate", keeping),
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
        images, padding = padded_batch(case, dtype)
        return self.misc.NestedTensor(self.torch.from_numpy(images), self.torch.from_numpy(padding))

    def _forward(self, case: Case, model: Any, postprocessors: Any, samples: Any) -> Outputs:
        with self.torch.no_grad(), recording(model, case, _feature_levels, model.input_proj) as stages:
            outputs = model(samples)
            sizes = case.image_sizes if case.target_sizes is None else case.target_sizes
            best = postprocessors["bbox"](outputs, self.torch.from_numpy(np.asarray(sizes, np.int64)))
        logits, boxes = stages.pop("heads")
        return Outputs(
            stages=stages,
            layers=tuple(range(len(logits))),
            logits=logits,
            boxes=boxes,
            detections=DetectionArrays(
                *(np.stack([one[name].numpy() for one in best]) for name in DetectionArrays._fields)
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


def _feature_levels(output: Any) -> list[Any]:
    return [level.tensors for level in output]


def _pairs(assignments: list[Any]) -> dict[tuple[int, int], dict[int, int]]:
    """Matches by layer and image. The official code calls its matcher first for the last layer, then for the others."""
    last, *earlier = assignments
    return {
        (layer, image): dict(zip(targets.tolist(), queries.tolist(), strict=True))
        for layer, pairs in enumerate([*earlier, last])
        for image, (queries, targets) in enumerate(pairs)
    }
