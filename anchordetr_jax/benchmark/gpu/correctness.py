"""Part a: what the GPU computes is right."""

import concurrent.futures
import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anchordetr_jax.benchmark.gpu.networks import cell_config
from anchordetr_jax.benchmark.gpu.results import Results
from anchordetr_jax.benchmark.gpu.settings import Settings
from anchordetr_jax.benchmark.inputs import network_variables, random_batch
from anchordetr_jax.benchmark.tables import Row
from anchordetr_jax.config import Config, MatcherConfig
from anchordetr_jax.detection.matching import Targets, match, matching_costs
from anchordetr_jax.devices import global_batch, make_mesh, processors, replicated
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.training.optimizer import make_optimizer
from anchordetr_jax.training.state import new_state, split_variables, trainable_paths
from anchordetr_jax.training.step import make_train_step
from anchordetr_jax.verification.comparison import Table
from anchordetr_jax.verification.proofs import verify_golden
from anchordetr_jax.verification.synthetic import synthetic_image
from anchordetr_jax.verification.tolerances import tolerances
from anchordetr_jax.weights.class_outputs import OFFICIAL_OUTPUTS

GOLDEN_FOLDER = Path(__file__).parents[3] / "tests" / "golden"
DTYPES = ("float32", "bfloat16")
TITLE = "Checks"
PADDING, STEP, MATCHING = "padding invariance", "training step, GPU and CPU", "matching, host and device"


class Check(NamedTuple):
    """The outcome of one check, small enough to be sent by another process."""

    name: str
    passed: bool
    judged: int
    """Comparisons with a tolerance."""
    comparisons: int
    worst: str
    """The stage that comes closest to its tolerance, or passes it by most."""
    error: float
    """Of that stage."""
    tolerance: float | None
    text: str
    """The whole table."""


def measure(settings: Settings, results: Results) -> None:
    """Golden cases in other processes, several at a time, and the other checks in this one."""
    golden = [(name, dtype) for dtype in DTYPES for name in settings.sizes.golden]
    names = [_golden_name(name, dtype) for name, dtype in golden]
    results.plan([*names, *(f"{PADDING}, {dtype}" for dtype in DTYPES), STEP, MATCHING])
    rows: list[Row] = []

    def add(check: Check) -> None:
        print(check.text, flush=True)
        rows.append(_row(check))
        results.table(TITLE, rows)
        if not check.passed:
            results.fail(check.name)
            results.note(f"FAILED: {check.name}: {check.worst} (log.txt has the whole table).")

    context = multiprocessing.get_context("spawn")
    workers = max(1, min(4, processors() // 3, len(golden)))
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        running = {pool.submit(_golden_check, *case): _golden_name(*case) for case in golden}
        for dtype in DTYPES:
            with results.measuring(f"{PADDING}, {dtype}"):
                add(_padding(settings, dtype))
        with results.measuring(MATCHING):
            add(_matching())
        with results.measuring(STEP):
            add(_training_step(settings))
        for future in concurrent.futures.as_completed(running):
            with results.measuring(running[future]):
                add(future.result())
    results.note(
        "Golden cases: our network beside what the official code computed in float64 on a CPU. In bfloat16 the "
        "differences are reported and not judged."
    )


def _golden_name(case: str, dtype: str) -> str:
    return f"golden case {case}, {dtype}"


def _golden_check(case: str, dtype: str) -> Check:
    return _check(_golden_name(case, dtype), verify_golden(GOLDEN_FOLDER / f"{case}.npz", dtype))


def _padding(settings: Settings, dtype: str) -> Check:
    """An image alone, and the same image in a larger batch with padding around it."""
    config = cell_config(settings, "R50-DC5", "bfloat16" if dtype == "bfloat16" else "float32")
    height, width = settings.sizes.check_shape
    image = synthetic_image(height, width, seed=0)[None]
    padded = np.zeros((2, height + 32, width + 64, 3), np.float32)
    padded[0, :height, :width], padded[1] = image[0], synthetic_image(height + 32, width + 64, seed=1)
    sizes = np.array([[height, width], padded.shape[1:3]], np.int32)
    definition, variables = definition_of(config.model), network_variables(config.model)
    forward = jax.jit(lambda variables, *inputs: definition.merge(variables)(*inputs))
    alone, beside = (forward(variables, *inputs) for inputs in ((image, sizes[:1]), (padded, sizes)))
    table = Table(f"An image alone and with padding around it, {dtype}")
    limit = tolerances(dtype).predictions
    for name in ("logits", "boxes"):
        table.compare(name, np.asarray(getattr(beside, name))[:, :1], np.asarray(getattr(alone, name)), limit)
    return _check(f"{PADDING}, {dtype}", table)


def _matching() -> Check:
    """Both backends find assignments of the same cost."""
    layers, images, rows, queries = 6, 4, 60, 900
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(-3, 1.5, (layers, images, queries, OFFICIAL_OUTPUTS)), jnp.float32)
    boxes = jnp.asarray(rng.uniform(0.1, 0.6, (layers, images, queries, 4)), jnp.float32)
    targets = Targets(
        jnp.asarray(rng.uniform(0.1, 0.6, (images, rows, 4)), jnp.float32),
        jnp.asarray(rng.integers(1, OFFICIAL_OUTPUTS, (images, rows)), jnp.int32),
        jnp.asarray([rows, 20, 1, 0], jnp.int32),
    )
    costs = np.asarray(matching_costs(logits, boxes, targets, MatcherConfig()), np.float64)

    def total(matches: jax.Array) -> np.ndarray:
        chosen = np.asarray(matches)
        of_pairs = np.take_along_axis(costs, np.maximum(chosen, 0)[..., None], axis=-1)[..., 0]
        return np.where(chosen >= 0, of_pairs, 0.0).sum(-1)

    host, device = (match(logits, boxes, targets, MatcherConfig(backend=name)) for name in ("host", "device"))
    table = Table("Cost of the assignments of both backends, by decoder layer and image")
    table.compare("costs", total(device), total(host), tolerances("float32").matching)
    table.compare("matched", np.asarray(device >= 0).sum(-1), np.asarray(host >= 0).sum(-1), 0.0)
    return _check(MATCHING, table)


class _Stepped(NamedTuple):
    metrics: dict[str, float]
    params: dict[str, np.ndarray]


def _training_step(settings: Settings) -> Check:
    """The same step in float32 on the first device and on the CPU."""
    config = cell_config(settings, "R50-DC5")
    variables = network_variables(config.model)
    devices = _both_devices()  # In a rehearsal on a CPU they are one, and its step is compiled once.
    stepped = {
        device: _step(config, variables, settings.sizes.check_shape, device) for device in dict.fromkeys(devices)
    }
    gpu, cpu = (stepped[device] for device in devices)
    limits = tolerances("float32")
    table = Table("One training step in float32, on the GPU and on the CPU")
    for name, limit in (("loss", limits.losses), ("grad_norm", limits.gradients)):
        table.compare(name, gpu.metrics[name], cpu.metrics[name], limit, "relative")
    # AdamW divides by the size of the gradient, so where that is almost 0 the last bits decide: not judged.
    changes_on_gpu, changes_on_cpu = (
        {name: float(np.linalg.norm(stepped.params[name] - np.asarray(variables[name]))) for name in stepped.params}
        for stepped in (gpu, cpu)
    )
    table.compare_named("norms of the parameters' changes", changes_on_gpu, changes_on_cpu, None, floor=1e-6)
    return _check(STEP, table)


def _both_devices() -> tuple[jax.Device, jax.Device]:
    return jax.devices()[0], jax.devices("cpu")[0]


def _step(config: Config, variables: Mapping[str, Any], shape: tuple[int, int], device: jax.Device) -> _Stepped:
    mesh = make_mesh(config.mesh, [device])
    definition = definition_of(config.model, device.platform)
    optimizer = make_optimizer(config.optimizer, steps_before=lambda epoch: 1000 * epoch, epochs=1)
    parts = split_variables(dict(variables), trainable_paths(definition, config.optimizer.freeze))
    state = jax.device_put(new_state(*parts, optimizer.init), replicated(mesh))
    batch, _ = random_batch(2, shape)
    step = make_train_step(definition, optimizer, config, mesh, state)
    state, metrics = step(state, global_batch(batch, mesh))
    return _Stepped(
        {name: float(value) for name, value in metrics.items()},
        {name: np.asarray(value) for name, value in state.params.items()},
    )


def _check(name: str, table: Table) -> Check:
    def closeness(row: Any) -> float:
        if not row.passed:
            return float("inf")
        return row.error / row.tolerance if row.tolerance else row.error * 1e-9

    worst = max(table.rows, key=closeness)
    judged = sum(row.tolerance is not None for row in table.rows)
    return Check(
        name, table.passed, judged, len(table.rows), worst.stage.strip(), worst.error, worst.tolerance, str(table)
    )


def _row(check: Check) -> Row:
    verdict = "ok" if check.judged else "reported"
    return {
        "check": check.name,
        "comparisons": str(check.comparisons),
        "nearest to its tolerance": check.worst,
        "error": f"{check.error:.1e}",
        "tolerance": "-" if check.tolerance is None else f"{check.tolerance:.1e}",
        "verdict": verdict if check.passed else "FAILED",
    }
