"""Proofs that this project computes what the official code computes. Each proof gives one table or several."""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from anchordetr_jax.checkpoints.checkpoint import refuse_backbone_alone
from anchordetr_jax.config import ARITHMETIC, AugmentConfig, Config, Kernels, ModelConfig
from anchordetr_jax.data.images import SUFFIXES, read_image
from anchordetr_jax.data.records.locating import is_image
from anchordetr_jax.data.transforms import apply_draw, evaluation_draws
from anchordetr_jax.errors import UserError
from anchordetr_jax.model.anchor_detr import PIXEL_MEAN, PIXEL_STD
from anchordetr_jax.verification.agreement import compare_outputs
from anchordetr_jax.verification.cases import Case, Outputs, synthetic_targets
from anchordetr_jax.verification.comparison import Table
from anchordetr_jax.verification.computation import compute
from anchordetr_jax.verification.detrex import DetrexCode
from anchordetr_jax.verification.golden import read_golden
from anchordetr_jax.verification.official import OfficialCode
from anchordetr_jax.verification.synthetic import official_shapes, synthetic_image, synthetic_state_dict
from anchordetr_jax.weights.architecture import ANCHORS, BORDERS
from anchordetr_jax.weights.arguments import config_with
from anchordetr_jax.weights.convert import exported
from anchordetr_jax.weights.correspondence import DETREX_NAMES, Form
from anchordetr_jax.weights.pretrained import open_pretrained
from anchordetr_jax.weights.reading import read_weights
from anchordetr_jax.weights.torch_file import write_torch_file

PIXELS = 1e-6
"""Largest difference of normalised pixels. They are float32 numbers near 1, and a few roundings are 6e-8 each."""
LARGEST_TO_SHORT = 1333 / 800
"""The largest quotient of long and short side in evaluation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """The network, weights and images that both implementations run on."""

    config: Config
    state_dict: dict[str, np.ndarray] | None = None
    """Weights by official name. None: synthetic weights."""
    photographs: tuple[Path, ...] = ()
    """Image files. Empty: synthetic images of `sizes`."""
    short_side: int = 256
    """Photographs are resized to this short side, in pixels."""
    sizes: tuple[tuple[int, int], ...] = ((128, 160), (160, 112))
    """(h,w) of synthetic images in pixels. The first is computed alone, with training; then all as one padded batch."""
    seed: int = 0
    steps: int = 3


def verify_golden(path: str | Path, dtype: str = "float64", kernels: Kernels | None = None) -> Table:
    """Computes the case of a file of golden values and compares. Raises `UserError` if the file cannot be read.

    `kernels` as for `computation.compute`. Interpreted kernels are slow, so they take one training step only.
    """
    case, reference, unused = read_golden(path)
    table = Table(f"{path}: {describe(case)}; {dtype} here, float64 there")
    if kernels == "tpu" and jax.default_backend() != "tpu":
        table.note("The TPU's kernels were interpreted, on the images repeated to a multiple of 8.")
        if dtype == "float64":
            table.note("3x3 convolutions were computed as products, because this is faster.")
        if case.steps > 1:
            table.note(f"One training step was taken instead of {case.steps}.")
            case, reference = _with_one_step(case, reference)
    compare_outputs(table, compute(case, dtype, kernels=kernels), reference, case, dtype)
    if unused:
        table.note(f"These entries of the file's meta are unknown and not used: {', '.join(unused)}.")
    return table


def _with_one_step(case: Case, reference: Outputs) -> tuple[Case, Outputs]:
    """Without everything that is known only after the last step."""
    assert reference.step_losses is not None
    assert reference.step_gradient_norms is not None
    first = dataclasses.replace(
        reference,
        step_losses=reference.step_losses[:1],
        step_gradient_norms=reference.step_gradient_norms[:1],
        norms_after={},
        tensors_after={},
    )
    return dataclasses.replace(case, steps=1), first


def trial_of(name: str | Path, form: Form = "official", **options: Any) -> Trial:
    """A trial of weights that `open_pretrained` finds (with its options), as the official code or detrex loads them.

    Where the two codes compute the boxes of anchors near the image border in different ways, the network computes them
    like the code that it is compared with.
    """
    found = open_pretrained(name, **options)
    variables = found.variables()
    refuse_backbone_alone(variables, found.name)
    # Without known classes, the class outputs stay as they are.
    outputs = None if found.categories is not None else found.config.model.num_classes
    content, _ = exported(variables, found.config, found.categories, outputs, form)
    state_dict = content["model"]
    border = BORDERS[form]
    classes = len(state_dict["transformer.class_embed.0.bias"])
    settings = {"model.num_classes": classes, "model.anchor_border": border}
    return Trial(config=config_with(found.config, settings), state_dict=state_dict)


def verify_official(repo: str | Path, trial: Trial, dtypes: Sequence[str] = ("float64", "float32")) -> Iterator[Table]:
    """Runs a checkout of the official code and this project, and compares them stage by stage.

    For each dtype there are two cases. First, one image alone with everything: stages, detections, losses, gradients
    and optimiser steps. Second, several images of different sizes in one padded batch. With several feature levels the
    second case is one padded image, because there the official code mixes the images of a batch.

    Raises:
        UserError: `repo` is not a checkout, a Python package is missing, or an image cannot be read.
    """
    code = OfficialCode(repo)
    images = _images(trial)
    if trial.photographs:
        yield _compare_pixels(code, trial, images)
    for case in official_cases(trial, images):
        for dtype in dtypes:
            yield _compare("The official code", code, case, dtype)


def verify_detrex(repo: str | Path, trial: Trial, dtypes: Sequence[str] = ("float64", "float32")) -> Iterator[Table]:
    """Runs detrex's own Anchor DETR and this project, and compares them stage by stage.

    The cases are those of `verify_official`, without training: detrex's needs detectron2.

    Raises:
        UserError: `repo` is not a checkout, a Python package is missing, or an image cannot be read.
    """
    code = DetrexCode(repo)
    trial = dataclasses.replace(trial, state_dict=trial.state_dict or _detrex_weights(trial), steps=0)
    for case in official_cases(trial, _images(trial)):
        for dtype in dtypes:
            yield _compare("detrex's code", code, case, dtype)


def official_cases(trial: Trial, images: Sequence[np.ndarray]) -> Iterator[Case]:
    """The cases that `verify_official` computes."""
    model = trial.config.model
    weights = trial.state_dict or synthetic_state_dict(official_shapes(model), trial.seed)
    targets = synthetic_targets(1, trial.seed, model.num_classes)
    alone = Case(
        name="one image",
        config=trial.config,
        images=(images[0],),
        state_dict=weights,
        targets=targets if trial.steps else (),
        steps=trial.steps,
    )
    yield alone
    padded = dataclasses.replace(alone, targets=(), steps=0)
    if model.num_feature_levels == 1 and len(images) > 1:
        yield dataclasses.replace(padded, name=f"{len(images)} images in one padded batch", images=tuple(images))
    else:
        height, width = images[0].shape[:2]
        yield dataclasses.replace(padded, name="one padded image", canvas=(height + 32, width + 64))


def verify_roundtrip(checkpoint: str | Path) -> Table:
    """Exports a checkpoint into a file, imports the file, and compares bit by bit.

    Raises `UserError` if there is no checkpoint, or if it cannot be exported.
    """
    found = open_pretrained(checkpoint)
    variables, config, categories = found.variables(), found.config, found.categories
    outputs = None if categories is not None else config.model.num_classes
    content, _ = exported(variables, config, categories, outputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported.pth"
        write_torch_file(path, content)
        back = read_weights(path)
    table = Table(f"{checkpoint}: exported ({len(content['model'])} tensors) and imported again, bit by bit")
    for part in sorted({name.partition("/")[0] for name in variables.keys() | back.variables.keys()}):
        mine, theirs = (
            {name: array for name, array in side.items() if name.partition("/")[0] == part}
            for side in (back.variables, variables)
        )
        differing = [name for name in mine.keys() | theirs.keys() if not _same_bits(mine.get(name), theirs.get(name))]
        total = sum(array.size for array in theirs.values())
        table.compare(part, len(differing), 0, 0.0, note=f"arrays that differ, of {len(theirs)} ({total} numbers)")
    table.compare("classes", float(back.categories != categories), 0.0, 0.0)
    architecture = dataclasses.asdict(back.config.model)
    kept = {name: architecture[name] for name in (*ARITHMETIC, "initialization")}
    expected = dataclasses.asdict(config.model) | kept
    table.compare("architecture", float(architecture != expected), 0.0, 0.0)
    return table


def _images(trial: Trial) -> list[np.ndarray]:
    if trial.photographs:
        return [_photograph(path, trial.short_side) for path in trial.photographs]
    return [synthetic_image(*size, trial.seed + i) for i, size in enumerate(trial.sizes)]


def _detrex_weights(trial: Trial) -> dict[str, np.ndarray]:
    """Synthetic weights by detrex's names, with some anchors at the image border and beyond."""
    weights = synthetic_state_dict(official_shapes(trial.config.model), trial.seed)
    if ANCHORS in weights:
        border = np.array([0.0, 1e-4, 9e-4, 0.9995, 1.0, 1.1], np.float32)
        weights[ANCHORS].reshape(-1)[: len(border)] = border
    return {DETREX_NAMES.get(name, name): array for name, array in weights.items()}


def _compare(title: str, code: OfficialCode | DetrexCode, case: Case, dtype: str) -> Table:
    table = Table(f"{title} and this project, {case.name}: {describe(case)}; both in {dtype}")
    compare_outputs(table, compute(case, dtype), code.compute(case, dtype), case, dtype)
    return table


def describe(case: Case) -> str:
    """A few words about the architecture and the images."""
    model: ModelConfig = case.config.model
    words = [
        f"{model.backbone} {'DC5' if model.dilation else 'C5'}",
        f"{model.num_feature_levels} feature levels" if model.num_feature_levels > 1 else "",
        "standard attention" if model.attention == "standard" else "",
        "grid of anchors" if case.has_grid else "",
        f"{model.encoder_layers}+{model.decoder_layers} layers",
        f"{model.num_patterns}x{model.num_anchor_points} queries",
        " and ".join(f"{height}x{width}" for height, width in case.image_sizes.tolist()) + " pixels",
        'padding="official"' if case.is_padded else "",
    ]
    return ", ".join(word for word in words if word)


def image_files(folder: str | Path, count: int) -> tuple[Path, ...]:
    """The first images of a folder in the order of their names. Raises `UserError` if there are none."""
    if not Path(folder).is_dir():
        raise UserError(f"There is no folder {folder}; give a folder with images.")
    files = sorted(path for path in Path(folder).iterdir() if is_image(path.name))
    if not files:
        raise UserError(f"There are no images ({', '.join(SUFFIXES)}) in {folder}.")
    return tuple(files[:count])


def _photograph(path: Path, short_side: int) -> np.ndarray:
    """Prepares a photograph like our evaluation, for another short side: float32 [h,w,3], normalised."""
    pixels = read_image(path, _stored_size(path))
    augment = AugmentConfig(eval_size=short_side, max_size=int(short_side * LARGEST_TO_SHORT))
    draw = evaluation_draws(np.array([pixels.shape[:2]]), augment)[0]
    pixels, _, _ = apply_draw(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int32), draw)
    mean, std = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)
    return (pixels.astype(np.float32) / 255 - mean) / std


def _stored_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise UserError(f"Image file {path} cannot be read ({error}).") from None


def _compare_pixels(code: OfficialCode, trial: Trial, images: Sequence[np.ndarray]) -> Table:
    table = Table(f"Photographs, resized to {trial.short_side} pixels and normalised")
    for path, ours in zip(trial.photographs, images, strict=True):
        with Image.open(path) as image:
            theirs = code.preprocess(image.convert("RGB"), trial.short_side, int(trial.short_side * LARGEST_TO_SHORT))
        table.compare(path.name, ours, theirs, PIXELS)
    return table


def _same_bits(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    bits_of_a, bits_of_b = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (a, b))
    return np.array_equal(bits_of_a, bits_of_b)
