"""GPUs that are not there, as XLA's compiler knows them, and what a train step would need on them."""

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from anchordetr_jax.benchmark.compiled import Plan, library_calls, read_plan
from anchordetr_jax.benchmark.planning import lower_train_step, slice_mesh
from anchordetr_jax.config import Config
from anchordetr_jax.errors import UserError


class Gpu(NamedTuple):
    """What the compiler must know about a GPU, by the maker's published figures. Units are in the fields' names."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory_gb: float
    memory_gb_per_second: float
    cache_mb: int
    shared_kb: int
    """Shared memory of a multiprocessor. A block may have one kilobyte less."""
    clock_ghz: float


GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 80, 2039, 40, 164, 1.41),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 80, 3352, 50, 228, 1.98),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 141, 4800, 50, 228, 1.98),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuPlan:
    """A train step compiled for some GPUs of one host."""

    gpu: str
    """A name in `GPUS`."""
    gpus: int
    images_per_gpu: int
    image_shape: tuple[int, int]
    """(H, W) pixels."""
    plan: Plan
    calls: Counter[str]
    """How often the step calls each function of NVIDIA's libraries."""
    compile_seconds: float

    def figures(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            "gpu": self.gpu,
            "gpus": self.gpus,
            "images_per_gpu": self.images_per_gpu,
            "shape": "x".join(map(str, self.image_shape)),
            "temporary_bytes": self.plan.temporary_bytes,
            "argument_bytes": self.plan.argument_bytes,
            "library_calls": self.calls,
            "collectives": [dataclasses.asdict(collective) for collective in self.plan.collectives],
        }

    def __str__(self) -> str:
        gpu, plan = GPUS[self.gpu], self.plan
        height, width = self.image_shape
        temporaries = f"temporaries {plan.temporary_bytes / 1e9:.2f}"
        lines = [
            f"{self.gpus} {gpu.name}, {self.images_per_gpu} image(s) of {height}x{width} per GPU "
            f"(compiled in {self.compile_seconds:.0f} s)",
            f"  memory per GPU  {plan.memory_bytes / 1e9:.2f} GB of {gpu.memory_gb:g} ({temporaries})",
            f"  library calls   {', '.join(f'{count} {name}' for name, count in self.calls.most_common())}",
            *(
                f"  {collective.operation:15} {collective.count} of {collective.bytes / 1e6:.2f} MB together"
                for collective in plan.collectives
            ),
        ]
        return "\n".join(lines)


def plan_gpus(
    config: Config, gpu: str, count: int, *, images_per_gpu: int, image_shape: tuple[int, int], max_boxes: int
) -> GpuPlan:
    """Compiles the train step for `count` GPUs of one host. Call `prepare_compiler` first.

    The matching is solved on the device, whatever the settings say: XLA compiles a program that calls the host only on
    the machine where it runs.

    Args:
        config: all settings; `model.num_classes` must be set.
        gpu: a name in `GPUS`.
        count: number of GPUs.
        images_per_gpu: images per step on each GPU.
        image_shape: (H, W) pixels.
        max_boxes: targets that each image is padded to.

    Raises:
        UserError: the GPU is unknown, or JAX's CUDA plug-in is missing.
    """
    config = dataclasses.replace(config, matcher=dataclasses.replace(config.matcher, backend="device"))
    mesh = slice_mesh(config.mesh, gpu_devices(gpu, count))
    start = time.perf_counter()
    lowered = lower_train_step(
        config, mesh, batch_size=count * images_per_gpu, image_shape=image_shape, max_boxes=max_boxes
    )
    compiled = lowered.compile()
    return GpuPlan(
        gpu=gpu,
        gpus=count,
        images_per_gpu=images_per_gpu,
        image_shape=image_shape,
        plan=read_plan(compiled),
        calls=library_calls(compiled.as_text() or ""),
        compile_seconds=time.perf_counter() - start,
    )


def prepare_compiler() -> None:
    """Lets XLA compile for GPUs on a machine without a GPU. Call it before JAX looks for devices.

    XLA tries products on the GPU to decide which of them go to Triton. Without a GPU, all products go to cuBLAS.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false".strip()


def gpu_devices(gpu: str, count: int) -> Sequence[jax.Device]:
    """`count` GPUs of one host. None of them needs to exist. Call `prepare_compiler` first.

    Raises:
        UserError: the GPU is unknown, or JAX's CUDA plug-in is not installed or takes no description of a GPU.
    """
    from jax.experimental import topologies

    if gpu not in GPUS:
        raise UserError(f"GPU {gpu!r} must be one of {', '.join(GPUS)}.")
    try:
        return topologies.get_topology_desc(
            platform="cuda", target_config=_description(GPUS[gpu]), topology=f"1x1x{count}"
        ).devices
    except Exception as error:  # JAX passes on whatever the compiler's plug-in raises.
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"XLA cannot compile for {gpu!r}: {first_line} (its compiler comes with `pip install 'jax[cuda12]'`)."
        ) from error


def _description(gpu: Gpu) -> str:
    """The GPU as XLA's `GpuTargetConfigProto`."""
    return f"""
        gpu_device_info {{
            threads_per_block_limit: 1024
            threads_per_warp: 32
            threads_per_core_limit: 2048
            fpus_per_core: 128
            block_dim_limit_x: 2147483647
            block_dim_limit_y: 65535
            block_dim_limit_z: 65535
            registers_per_core_limit: 65536
            registers_per_block_limit: 65536
            shared_memory_per_block: 49152
            shared_memory_per_core: {gpu.shared_kb * 1024}
            shared_memory_per_block_optin: {(gpu.shared_kb - 1) * 1024}
            core_count: {gpu.multiprocessors}
            memory_bandwidth: {gpu.memory_gb_per_second * 1e9:.0f}
            device_memory_size: {gpu.memory_gb * 1e9:.0f}
            l2_cache_size: {gpu.cache_mb << 20}
            clock_rate_ghz: {gpu.clock_ghz}
            cuda_compute_capability {{ major: {gpu.compute_capability[0]} minor: {gpu.compute_capability[1]} }}
        }}
        platform_name: "CUDA"
        device_description_str: "{gpu.name}"
        dnn_version_info {{ major: 9 minor: 8 }}
        runtime_version {{ major: 12 minor: 8 patch: 0 }}
    """
