"""What holds for every test: eight CPU devices, quick compilation, no silent broadcasting, float64 on demand."""

import importlib.metadata
import os
import sys
import tempfile


def _version(package: str) -> tuple[int, ...]:
    return tuple(map(int, importlib.metadata.version(package).split(".")[:3]))


# Read by XLA when it starts, so set before anything imports jax. NPROC: XLA's CPU thread pool has one thread a core,
# and a step whose host callback and all-reduce wait for each other then hangs; four threads a device are enough.
_DEVICES = 8
_FORCED = f"--xla_force_host_platform_device_count={_DEVICES}"
# Most of a test's time is compilation. XLA's older code generator takes a quarter of the time, and one piece of code
# for LLVM less than 32. Where optimisations are on, the first level of them is enough: programs run as fast.
# A flag of XLA_FLAGS that was set outside comes later in the line, so it counts more than these.
_OLDER = ("--xla_cpu_use_fusion_emitters=false", "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling")
_QUICKLY = " ".join(
    (
        # jaxlib 0.11.1 no longer has the older one, and ends the process if it gets its flag. With joined loops
        # (kernels/cpu/process.py) the older one makes wrong gradients; another option in their place keeps loops apart.
        *(_OLDER if _version("jaxlib") < (0, 11, 1) else ()),
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_backend_optimization_level=1",
    )
)
_OUTSIDE = os.environ.get("XLA_FLAGS", "")
for _own in (_FORCED, _QUICKLY):  # Workers of pytest-xdist inherit them.
    _OUTSIDE = _OUTSIDE.replace(_own, "").strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] = f"{_QUICKLY} {_OUTSIDE} {_FORCED}"
    os.environ["NPROC"] = str(4 * _DEVICES)

# LLVM's costly passes are left out, too. What one test compiled the others take from a cache, also the processes that
# they start; it is gone when the run ends, so that no run depends on an earlier one. Whoever runs the same tests again
# and again may name a folder that stays, in JAX's own variable.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # The workers of pytest-xdist inherit it.
    _compiled = tempfile.TemporaryDirectory(prefix="anchordetr_jax-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
# Also the smallest programs are kept: a hundred processes, which begin with the same ones, load them.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# A process that may not keep bytecode compiles each of its two thousand modules at every start, for six seconds. So
# this process and those that tests start keep it in a folder of their own.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    _bytecode = tempfile.TemporaryDirectory(prefix="anchordetr_jax-bytecode-", ignore_cleanup_errors=True)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = _bytecode.name
    sys.dont_write_bytecode = False

import functools
import gc
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest
from jax._src.interpreters import mlir

from anchordetr_jax.kernels.cpu.process import join_loops

join_loops()  # As commands do.

# JAX lowers each program in a context of its own, and loads all of MLIR's dialects into it. For a small program that
# takes longer than everything else of the lowering. In these processes all programs share one context.
if hasattr(mlir, "make_ir_context"):  # It belongs to JAX alone, and may go.
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)

# What is imported by now stays, and tracing makes many objects that live on. Python looks for garbage among all of
# them again and again, so it leaves out those that stay, and looks less often.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 50)

# Shapes of different ranks never broadcast by accident, in the model or in a test.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run, so that a failure repeats; no time limit, because the first example compiles.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=30, database=None)
hypothesis.settings.load_profile("repeatable")

SLOWEST_FILES = (
    "verification/test_golden_tpu_kernels.py",
    "training/test_train_script.py",
    "verification/test_golden_training.py",
    "benchmark/gpu/test_rehearsal.py",
    "training/test_exactness.py",
    "training/test_train_processes.py",
    "model/test_padding.py",
    "export/test_export.py",
    "notebooks/test_finetune.py",
    "training/test_step.py",
    "training/test_train_saves.py",
    "verification/test_golden.py",
    "commands/test_wheel.py",
)
"""They run first, so that no process of pytest-xdist is left with one of them when the others have nothing to do."""


QUICK_TESTS = (
    "test_config.py",
    "test_cli.py",
    "test_files.py",
    "detection/",
    "model/test_positions.py",
    "model/test_valid_area.py",
    "model/test_padding.py::test_an_image_alone_padded_and_beside_another_has_one_result[odd-dc5]",
    "data/sources/test_coco.py",
    "data/test_batching.py",
    "data/test_buckets.py",
    "data/test_transforms.py",
    "checkpoints/",
    "weights/test_class_outputs.py",
    "weights/test_state_dict.py",
    "weights/test_convert.py::test_export_and_import_give_back_every_bit",
    "evaluation/test_coco_metrics.py",
    "evaluation/test_evaluate.py::test_scores_equal_pycocotools_on_the_written_results",
    "evaluation/test_evaluate.py::test_batch_size_does_not_change_detections",
    "training/test_step.py::test_the_loss_falls_on_a_batch_that_is_repeated",
    "training/test_step.py::test_micro_batches_add_up_to_the_gradient_of_the_whole_batch",
    "training/test_step.py::test_both_matchers_take_the_same_step",
    "training/test_loop.py::test_a_run_that_is_stopped_and_resumed_ends_like_one_that_is_not",
    "prediction/test_detector.py::test_an_image_gives_the_same_detections_alone_and_in_any_batch",
    "verification/test_agreement.py",
    "verification/test_comparison.py",
    "verification/test_golden.py::test_values_of_the_official_code_are_reproduced[r50_c5]",
)
"""They are marked `quick`, as single tests elsewhere may be: some of each kind, those that find most in little time.

Tests of these that start processes are left out.
"""


@pytest.hookimpl(tryfirst=True)  # Before tests are chosen by their markers.
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Orders the tests by file, the slowest ones first and the others as they were, and marks the quick ones."""
    folder = Path(__file__).parent
    ranks = {folder / name: rank for rank, name in enumerate(SLOWEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
    found = set()
    for item in items:
        names = [name for name in QUICK_TESTS if item.nodeid.startswith(f"tests/{name}")]
        if names and item.get_closest_marker("processes") is None:
            item.add_marker("quick")
        found.update(names)
    missing = [path.name for path in ranks if not path.exists()]
    if config.option.markexpr == "quick":
        missing += [name for name in QUICK_TESTS if name not in found]
    if missing:
        raise pytest.UsageError(f"tests/conftest.py names tests that do not exist: {', '.join(missing)}.")


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test.

    Set for the whole process, not with the thread-local `jax.enable_x64` context, so that host callbacks, which run in
    threads of XLA's own, see it too.
    """
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def optimized() -> Iterator[None]:
    """All optimisations of XLA for one test, which pays where a program computes for longer than it compiles."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def script_environment() -> dict[str, str]:
    """Environment variables for a process that a test starts: this one's, with one ordinary CPU device."""
    environment = {**os.environ, "XLA_FLAGS": f"{_QUICKLY} {_OUTSIDE}".strip(), "JAX_PLATFORMS": "cpu"}
    environment.pop("NPROC", None)  # One device needs no more threads than there are cores.
    return environment


@pytest.fixture
def usual_environment(script_environment: dict[str, str]) -> dict[str, str]:
    """The same for a process that compiles as it does for users."""
    return {**script_environment, "XLA_FLAGS": _OUTSIDE}
