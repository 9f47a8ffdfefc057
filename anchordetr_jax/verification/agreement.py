"""Two implementations' figures of one case, compared row by row."""

from collections.abc import Collection, Sequence

import numpy as np

from anchordetr_jax.verification.comparison import Measure, Table
from anchordetr_jax.verification.figures import Case, Detected, Figures, sample
from anchordetr_jax.verification.tolerances import CLASS_ERROR, tolerances

MOST_TENSORS = 12
"""Tensors after training that get a row each; of more, the worst is named."""

_NOTHING = np.zeros(0)


def compare_figures(table: Table, ours: Figures, reference: Figures, case: Case, dtype: str) -> None:
    """Adds a row for everything that the reference has. What we lack of it fails.

    Args:
        table: gets the rows.
        ours: all figures of the case.
        reference: all or some of them, stages maybe as samples.
        case: what they are of.
        dtype: "float64", "float32" or "bfloat16", whose tolerances hold.
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


def _compare_stages(table: Table, ours: Figures, reference: Figures, case: Case, dtype: str) -> None:
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


def _compare_predictions(table: Table, ours: Figures, reference: Figures, case: Case, dtype: str) -> None:
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
            [Detected(*(part[image] for part in detections)) for image in range(len(sizes))]
            for detections in (ours.detections, reference.detections)
        )
        compare_detections(table, mine, theirs, sizes, score_limit, box_limit)


def compare_detections(
    table: Table,
    ours: Sequence[Detected],
    reference: Sequence[Detected],
    sizes: np.ndarray,
    score_limit: float | None,
    box_limit: float | None,
    *,
    labels: Collection[int] | None = None,
) -> None:
    """Each detection of the reference beside ours of the same score and label whose box is nearest.

    Detections of equal score may come in another order, and the last ones may be others of equal score. Boxes are
    compared relative to the image.

    Args:
        table: gets the rows.
        ours: of each image, its D detections: scores [D], labels [D], boxes [D,4].
        reference: likewise, best first.
        sizes: int [B,2], (h,w) of the images.
        score_limit: how far two scores may be apart; None: nothing is compared, as nothing says which are the same.
        box_limit: how far two boxes may be apart, relative to the image.
        labels: only these are looked for; None: all.
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


def _compare_losses(table: Table, ours: Figures, reference: Figures, case: Case, dtype: str) -> None:
    for name in sorted(reference.losses.keys() | ours.losses.keys()):
        a, b = (figures.losses.get(name, np.nan) for figures in (ours, reference))
        if name == "class_error":
            limit = None if tolerances(dtype).losses is None else CLASS_ERROR
            table.compare(f"loss/{name}", a, b, limit, note="percent; in float32 in the official code")
            continue
        limits = tolerances(dtype, grid=case.has_grid and not name.startswith("loss_ce"))
        table.compare(f"loss/{name}", a, b, limits.losses, "relative")


def _compare_matches(table: Table, ours: Figures, reference: Figures, case: Case, dtype: str) -> None:
    """The cost of their pairs beside that of ours, both by our costs: another assignment of equal cost is as right."""
    assert ours.costs is not None
    limit = tolerances(dtype, grid=case.has_grid).matching
    for layer in sorted({layer for layer, _ in reference.matches}):
        sums: list[list[float]] = [[], []]
        different = 0
        for image in sorted(image for at, image in reference.matches if at == layer):
            pairs = [figures.matches.get((layer, image), {}) for figures in (ours, reference)]
            different += sum(pairs[0].get(target) != query for target, query in pairs[1].items())
            for total, assignment in zip(sums, pairs, strict=True):
                costs = [ours.costs[layer, image, target, query] for target, query in sorted(assignment.items())]
                total.append(float(sum(costs)) if pairs[0].keys() == pairs[1].keys() else np.nan)
        note = "identical" if different == 0 else f"{different} targets have another query"
        table.compare(f"matching/layer {layer}", np.array(sums[0]), np.array(sums[1]), limit, note=f"costs; {note}")


def _compare_steps(table: Table, ours: Figures, reference: Figures, case: Case, dtype: str) -> None:
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
    """The official code counts a shared head once, under the name of one of its layers; here it is the first."""
    named = {}
    for name, value in reference.items():
        head, _, rest = name.partition("_embed.")
        first = f"{head}_embed.0.{rest.partition('.')[2]}"
        named[first if name not in ours and first in ours and first not in reference else name] = value
    return named
