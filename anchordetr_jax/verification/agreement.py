"""The outputs of two implementations for one case, compared row by row."""

from collections.abc import Collection, Sequence

import numpy as np

from anchordetr_jax.verification.cases import Case, DetectionArrays, Outputs, sample
from anchordetr_jax.verification.comparison import Measure, Table
from anchordetr_jax.verification.tolerances import CLASS_ERROR, tolerances

MOST_TENSORS = 12
"""Up to this number, each tensor after training has its own row. With more, one row names the worst."""

_NOTHING = np.zeros(0)


def compare_outputs(table: Table, ours: Outputs, reference: Outputs, case: Case, dtype: str) -> None:
    """Adds a row for each output of the reference. An output that we do not have fails.

    Args:
        table: the rows are added to it.
        ours: all outputs of the case.
        reference: all outputs or some of them. Stages may be samples.
        case: the case that both computed.
        dtype: "float64", "float32" or "bfloat16". It decides the tolerances.
    """
    _compare_stages(table, ours, reference, case, dtype)
    _compare_predictions(table, ours, reference, case, dtype)
    if reference.losses:
        _compare_losses(table, ours, reference, case, dtype)
    if reference.matches:
        _compare_matches(table, ours, reference, case, dtype)
    if reference.gradient_norms:
        limits = tolerances(dtype, grid=case.has_grid)
        floor = limits.gradient_floor * float(np.linalg.norm(list(reference.gradient_norms.values())))
        norms = _under_our_names(reference.gradient_norms, ours.gradient_norms)
        table.compare_named("gradient norms", ours.gradient_norms, norms, limits.gradients, floor=floor)
    if reference.step_losses is not None:
        _compare_steps(table, ours, reference, case, dtype)
    if case.config.model.num_feature_levels > 1 and len(case.images) > 1:
        table.note("With several levels the official code lets the images of a batch attend to each other; we do not.")


def _compare_stages(table: Table, ours: Outputs, reference: Outputs, case: Case, dtype: str) -> None:
    found = {**ours.stages, "logits": ours.logits, "boxes": ours.boxes}
    for name, values in reference.stages.items():
        array = found.get(name)
        array = _NOTHING if array is None else array
        shape = reference.stage_shapes.get(name, values.shape)
        note = ""
        if array.shape == shape and shape != values.shape:
            array, note = sample(array, values.size), f"sample of {'x'.join(map(str, shape))}"
        limits = tolerances(dtype, grid=case.has_grid and name == "boxes")
        measure: Measure = "absolute" if name in ("logits", "boxes") else "scaled"
        table.compare(name, array, values, limits.predictions, measure, note)


def _compare_predictions(table: Table, ours: Outputs, reference: Outputs, case: Case, dtype: str) -> None:
    score_limit, box_limit = (tolerances(dtype, grid=grid).predictions for grid in (False, case.has_grid))
    for name, array, kept, limit in (
        ("logits", ours.logits, reference.logits, score_limit),
        ("boxes", ours.boxes, reference.boxes, box_limit),
    ):
        if kept is not None:
            assert array is not None
            for index, layer in enumerate(reference.layers):
                table.compare(f"{name}/layer {layer}", array[layer], kept[index], limit)
    if reference.detections is not None and ours.detections is not None:
        sizes = case.image_sizes if case.target_sizes is None else case.target_sizes
        table.compare("detections/scores", ours.detections.scores, reference.detections.scores, score_limit)
        mine, theirs = (
            [DetectionArrays(*(part[image] for part in detections)) for image in range(len(sizes))]
            for detections in (ours.detections, reference.detections)
        )
        compare_detections(table, mine, theirs, sizes, score_limit, box_limit)


def compare_detections(
    table: Table,
    ours: Sequence[DetectionArrays],
    reference: Sequence[DetectionArrays],
    sizes: np.ndarray,
    score_limit: float | None,
    box_limit: float | None,
    *,
    labels: Collection[int] | None = None,
) -> None:
    """Compares each detection of the reference with our nearest box of the same score and label.

    Detections with equal scores may have another order. The last detections may differ where scores are equal. Boxes
    are compared relative to the image size.

    Args:
        table: the rows are added to it.
        ours: the D detections of each image: scores [D], labels [D], boxes [D,4] (xyxy, pixels).
        reference: the same, best first.
        sizes: int [B,2], (h,w) of the images in pixels.
        score_limit: the largest allowed difference of two scores. None: nothing is compared, because detections cannot
            be paired.
        box_limit: the largest allowed difference of two boxes, relative to the image.
        labels: only detections with these labels are compared. None: all.
    """
    if score_limit is None:
        return
    differences, without = [], 0
    for mine, theirs, (height, width) in zip(ours, reference, sizes.tolist(), strict=True):
        scale = np.array([width, height, width, height], np.float64)
        free = np.ones(len(mine.scores), bool)
        for score, label, box in zip(*theirs, strict=True):
            if labels is not None and label not in labels:
                continue
            same = free & (mine.labels == label) & (np.abs(mine.scores - score) <= score_limit)
            if not same.any():
                without += int(score > theirs.scores[-1] + score_limit)
                continue
            gaps = np.where(same[:, None], np.abs(mine.boxes - box) / scale, np.inf)
            nearest = int(gaps.max(axis=1).argmin())
            free[nearest] = False
            differences.append(gaps[nearest])
    table.compare("detections/labels", without, 0, 0.0, note="detections without counterpart")
    found = np.array(differences).reshape(-1, 4)
    table.compare("detections/boxes", found, np.zeros_like(found), box_limit, note="relative to the image")


def _compare_losses(table: Table, ours: Outputs, reference: Outputs, case: Case, dtype: str) -> None:
    for name in sorted(reference.losses.keys() | ours.losses.keys()):
        a, b = (outputs.losses.get(name, np.nan) for outputs in (ours, reference))
        if name == "class_error":
            limit = None if tolerances(dtype).losses is None else CLASS_ERROR
            table.compare(f"loss/{name}", a, b, limit, note="percent; the official code uses float32")
            continue
        limits = tolerances(dtype, grid=case.has_grid and not name.startswith("loss_ce"))
        table.compare(f"loss/{name}", a, b, limits.losses, "relative")


def _compare_matches(table: Table, ours: Outputs, reference: Outputs, case: Case, dtype: str) -> None:
    """Compares the costs of both assignments, by our cost matrix: another assignment of equal cost is also right."""
    assert ours.costs is not None
    limit = tolerances(dtype, grid=case.has_grid).matching
    for layer in sorted({layer for layer, _ in reference.matches}):
        sums: list[list[float]] = [[], []]
        different = 0
        for image in sorted(image for at, image in reference.matches if at == layer):
            pairs = [outputs.matches.get((layer, image), {}) for outputs in (ours, reference)]
            different += sum(pairs[0].get(target) != query for target, query in pairs[1].items())
            for total, assignment in zip(sums, pairs, strict=True):
                costs = [ours.costs[layer, image, target, query] for target, query in sorted(assignment.items())]
                total.append(float(sum(costs)) if pairs[0].keys() == pairs[1].keys() else np.nan)
        note = "identical" if different == 0 else f"{different} targets have another query"
        table.compare(f"matching/layer {layer}", np.array(sums[0]), np.array(sums[1]), limit, note=f"costs; {note}")


def _compare_steps(table: Table, ours: Outputs, reference: Outputs, case: Case, dtype: str) -> None:
    limit = tolerances(dtype, grid=case.has_grid).steps
    for name, a, b in (
        ("loss of each step", ours.step_losses, reference.step_losses),
        ("gradient norm of each step", ours.step_gradient_norms, reference.step_gradient_norms),
    ):
        if b is not None:
            table.compare(name, _NOTHING if a is None else a, b, limit, "relative")
    if len(reference.tensors_after) <= MOST_TENSORS:
        if reference.norms_after:
            table.compare_named("tensors' norms after", ours.norms_after, reference.norms_after, limit)
        for name, tensor in reference.tensors_after.items():
            table.compare(f"after: {name}", ours.tensors_after.get(name, _NOTHING), tensor, limit, "norm")
        return
    distances = {
        name: float(np.linalg.norm(ours.tensors_after[name] - tensor)) / max(float(np.linalg.norm(tensor)), 1e-300)
        for name, tensor in reference.tensors_after.items()
        if name in ours.tensors_after
    }
    nothing = dict.fromkeys(reference.tensors_after, 0.0)
    table.compare_named("tensors after the steps", distances, nothing, limit, floor=1.0)


def _under_our_names(reference: dict[str, float], ours: dict[str, float]) -> dict[str, float]:
    """Renames shared heads. The official code lists such a head once, with the name of one layer. We use the first."""
    named = {}
    for name, value in reference.items():
        head, _, rest = name.partition("_embed.")
        first = f"{head}_embed.0.{rest.partition('.')[2]}"
        named[first if name not in ours and first in ours and first not in reference else name] = value
    return named
