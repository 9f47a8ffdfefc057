"""Runs detrex's own Anchor DETR from a user's checkout in this process. Its files are not changed.

detrex stands on detectron2, which is hard to install and which its Anchor DETR hardly uses. So the few names of
detectron2 that it imports are replaced by stand-ins; the modules that compute are detrex's own.
"""

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from anchordetr_jax.errors import UserError
from anchordetr_jax.verification.cases import Case, Outputs
from anchordetr_jax.verification.torch_code import (
    FloatsAreDoubles,
    import_torchvision,
    importing_from,
    module_names,
    padded_batch,
    recording,
    replaced,
    take_out,
)
from anchordetr_jax.weights.arguments import VALUES

MODULES = ("projects", "detrex", "detectron2")
"""Top-level module names that the checkout and its stand-ins use."""
PROJECT = "projects.anchor_detr.modeling"
PACKAGES = ("detrex", "detrex.layers", "detrex.utils", "detrex.modeling", "detrex.modeling.backbone")
"""Packages of detrex whose own `__init__` would import all of detectron2."""
STAND_INS: dict[str, tuple[str, ...]] = {
    "detectron2": (),
    "detectron2.modeling": ("detector_postprocess",),
    "detectron2.structures": ("Boxes", "ImageList", "Instances"),
    "detectron2.utils": (),
    "detectron2.utils.comm": ("is_main_process",),
}
"""Names of detectron2 that the imports ask for. None of them is called here."""


class DetrexCode:
    """An imported checkout of detrex."""

    def __init__(self, repo: str | Path) -> None:
        """Imports the checkout. Raises `UserError` if `repo` is not a checkout, or if a Python package is missing."""
        self.repo = Path(repo).resolve()
        if not (self.repo / "projects" / "anchor_detr" / "modeling").is_dir() or not (self.repo / "detrex").is_dir():
            raise UserError(
                f"{repo} is not a checkout of detrex; get one: git clone https://github.com/IDEA-Research/detrex."
            )
        try:
            self.torch = importlib.import_module("torch")
            import_torchvision()
            with module_names(MODULES, self._stand_ins()), importing_from(self.repo):
                misc = importlib.import_module("detrex.utils.misc")
                importlib.import_module("detrex.utils").inverse_sigmoid = misc.inverse_sigmoid  # type: ignore[attr-defined]
                self.modeling = importlib.import_module(PROJECT)
                self.positions = importlib.import_module(f"{PROJECT}.utils")
                self.backbone = importlib.import_module("detrex.modeling.backbone.torchvision_resnet")
                self._modules = take_out(MODULES)
        except ImportError as error:
            raise UserError(
                f"detrex needs a Python package that is not installed ({error}): pip install torch torchvision."
            ) from error

    def build(self, case: Case, dtype: str) -> Any:
        """The model with strictly loaded weights, in evaluation mode. Call it inside `running`."""
        model, torch = case.config.model, self.torch
        transformer = self.modeling.AnchorDETRTransformer(
            embed_dim=model.hidden_dim,
            num_heads=model.num_heads,
            num_encoder_layers=model.encoder_layers,
            num_decoder_layers=model.decoder_layers,
            dim_feedforward=model.ffn_dim,
            num_query_position=model.num_anchors,
            num_query_pattern=model.num_patterns,
            spatial_prior=model.spatial_prior,
            attention_type={ours: theirs for theirs, ours in VALUES["attention_type"].items()}[model.attention],
            num_classes=model.num_classes,
        )
        backbone = self.backbone.TorchvisionResNet(name=model.backbone, train_backbone=True, dilation=model.dilation)
        detector = self.modeling.AnchorDETR(
            backbone=backbone,
            in_features=["res5"],
            in_channels=2048,
            transformer=transformer,
            embed_dim=model.hidden_dim,
            criterion=None,
            device="cpu",
        )
        detector.to(getattr(torch, dtype))
        tensors = {name: torch.from_numpy(np.array(array, dtype)) for name, array in case.state_dict.items()}
        detector.load_state_dict(tensors, strict=True)
        return detector.eval()

    @contextlib.contextmanager
    def running(self, dtype: str) -> Iterator[None]:
        """Makes the code run here in "float64" or "float32", while it is open."""
        torch, patches = self.torch, contextlib.ExitStack()
        with warnings.catch_warnings(), patches:
            warnings.simplefilter("ignore")
            patches.enter_context(replaced(torch.Tensor, "cuda", lambda tensor, *args, **kwargs: tensor))
            patches.enter_context(module_names(MODULES, self._modules))
            if dtype == "float64":  # Its position codes are float32 otherwise.
                patches.enter_context(replaced(self.positions, "torch", FloatsAreDoubles(torch)))
            yield

    def compute(self, case: Case, dtype: str) -> Outputs:
        """Computes stages and predictions of a case in "float64" or "float32", like `computation.compute`.

        In evaluation, detrex does not mask the padding of a batch. Here its transformer gets the mask that it gets in
        training, so that padded batches can be compared, too.
        """
        torch = self.torch
        with self.running(dtype), torch.no_grad():
            model = self.build(case, dtype)
            images, padding = (torch.from_numpy(array) for array in padded_batch(case, dtype))
            with recording(model, case, lambda output: [output["res5"]], [model.input_proj]) as stages:
                features = model.input_proj(model.backbone(images)["res5"])
                mask = torch.nn.functional.interpolate(padding[None].to(features.dtype), size=features.shape[-2:])
                model.transformer(features.unsqueeze(1), mask.to(torch.bool)[0])
        logits, boxes = stages.pop("heads")
        return Outputs(stages=stages, layers=tuple(range(len(logits))), logits=logits, boxes=boxes)

    def _stand_ins(self) -> dict[str, ModuleType]:
        modules = {}
        for name in PACKAGES:
            modules[name] = ModuleType(name)
            modules[name].__path__ = [str(self.repo.joinpath(*name.split(".")))]
        for name, attributes in STAND_INS.items():
            modules[name] = ModuleType(name)
            modules[name].__path__ = []
            for attribute in attributes:
                setattr(modules[name], attribute, None)
        return modules
