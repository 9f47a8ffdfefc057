"""The forward pass and the training step of the official code, from a user's own checkout.

They run as they are (eager), under `torch.compile`, in bfloat16 mixed precision, or both.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anchordetr_jax.config import Config
from anchordetr_jax.verification.cases import ImageTargets
from anchordetr_jax.verification.official import OfficialCode, weighted


class Inputs(NamedTuple):
    """What the programs compute."""

    config: Config
    state_dict: Mapping[str, np.ndarray]
    images: np.ndarray
    """float32 [B,H,W,3], normalised, not padded."""
    targets: Sequence[ImageTargets]


class OfficialPrograms:
    """The programs to time. Use it as a context manager: the code runs only inside.

    On a GPU a program returns before its work is done: `wait` returns afterwards.
    """

    def __init__(self, code: OfficialCode, inputs: Inputs):
        self.code, self.inputs = code, inputs
        self.torch = code.torch
        self.device = "cuda" if self.torch.cuda.is_available() else "cpu"
        self._running = contextlib.ExitStack()

    def __enter__(self) -> "OfficialPrograms":
        self._running.enter_context(self.code.running("float32"))
        return self

    def __exit__(self, *exception: object) -> None:
        self._running.close()

    def forward(self, *, compiled: bool, mixed: bool) -> Callable[[], None]:
        """From images to logits and boxes of all decoder layers."""
        model = self._build()[0].to(self.device).eval()
        samples = self._samples()
        call = self.torch.compile(model) if compiled else model

        def run() -> None:
            with self.torch.no_grad(), self._precision(mixed):
                call(samples)

        return run

    def train(self, *, compiled: bool, mixed: bool) -> Callable[[], None]:
        """A whole training step. Each run continues from the last one."""
        model, criterion, _, arguments = self._build()
        model, criterion = model.to(self.device).train(), criterion.to(self.device).train()
        optimizer = self.code.make_optimizer(model, arguments)
        samples = self._samples()
        tensor = self.torch.from_numpy
        wanted = [
            {
                "labels": tensor(labels.astype(np.int64)).to(self.device),
                "boxes": tensor(boxes.astype(np.float32)).to(self.device),
            }
            for boxes, labels in self.inputs.targets
        ]
        call = self.torch.compile(model) if compiled else model

        def run() -> None:
            with self._precision(mixed):
                outputs = call(samples)
            losses = criterion({name: _in_float32(value) for name, value in outputs.items()}, wanted)
            loss = weighted(losses, criterion)
            optimizer.zero_grad()
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(model.parameters(), arguments.clip_max_norm)
            optimizer.step()

        return run

    def use(self, inputs: Inputs) -> None:
        """Takes other inputs. Memory and compiled code of earlier programs are given up."""
        self.inputs = inputs
        gc.collect()
        self.torch.compiler.reset()  # Otherwise PyTorch soon stops compiling the same code for further shapes.
        if self.device == "cuda":
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        """Waits for the GPU."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def peak_bytes(self) -> int | None:
        """The most memory of the GPU that PyTorch's arrays took since `use`; None without a GPU."""
        return self.torch.cuda.max_memory_allocated() if self.device == "cuda" else None

    def memory_bytes(self) -> int | None:
        """The GPU's memory; None without a GPU."""
        return self.torch.cuda.get_device_properties(0).total_memory if self.device == "cuda" else None

    def multiply_adds(self) -> float | None:
        """Multiply-adds of a forward pass of one image, counted by fvcore. None if fvcore is not installed."""
        try:
            from fvcore.nn import FlopCountAnalysis
        except ImportError:
            return None
        code, torch, model = self.code, self.torch, self._build()[0].eval()

        class OfPixels(torch.nn.Module):  # type: ignore[misc, name-defined]
            """The model as a function of one array, because fvcore traces nothing else."""

            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, pixels: Any) -> Any:
                mask = torch.zeros(pixels.shape[0], *pixels.shape[2:], dtype=torch.bool)
                outputs = self.model(code.misc.NestedTensor(pixels, mask))
                return outputs["pred_logits"], outputs["pred_boxes"]

        analysis = FlopCountAnalysis(OfPixels(), torch.from_numpy(_channels_first(self.inputs.images[:1])))
        analysis.unsupported_ops_warnings(False)
        analysis.uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        return float(analysis.total())

    def _build(self) -> tuple[Any, Any, Any, Any]:
        """(model, criterion, postprocessors, arguments)"""
        return self.code.build(self.inputs.config, self.inputs.state_dict, "float32")

    def _samples(self) -> Any:
        images = self.inputs.images
        pixels = self.torch.from_numpy(_channels_first(images)).to(self.device)
        mask = self.torch.zeros(images.shape[:3], dtype=self.torch.bool, device=self.device)
        return self.code.misc.NestedTensor(pixels, mask)

    @contextlib.contextmanager
    def _precision(self, mixed: bool) -> Iterator[None]:
        with self.torch.autocast(self.device, dtype=self.torch.bfloat16, enabled=mixed):
            yield


def _channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)


def _in_float32(value: Any) -> Any:
    """A tensor or a list of dicts of tensors in float32, which the losses need after mixed precision."""
    if isinstance(value, list):
        return [{name: tensor.float() for name, tensor in one.items()} for one in value]
    return value.float()
