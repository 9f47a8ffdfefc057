"""GPUs that are not there, as XLA's compiler knows them."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax

from anchordetr_jax.errors import UserError


class Gpu(NamedTuple):
    """What the compiler must know of a GPU, by its maker's published figures. Units are those of the fields' names."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory_gb: float
    memory_gb_a_second: float
    cache_mb: int
    shared_kb: int
    """Shared memory of a multiprocessor; a block may have one kilobyte less."""
    clock_ghz: float


GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 80, 2039, 40, 164, 1.41),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 80, 3352, 50, 228, 1.98),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 141, 4800, 50, 228, 1.98),
}


def prepare_compiler() -> None:
    """Has XLA compile for GPUs without one. Call it before JAX looks for devices.

    Which products go to Triton is decided by trying them on the GPU; without one, all go to cuBLAS.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false".strip()


def gpu_devices(gpu: str, count: int) -> Sequence[jax.Device]:
    """`count` GPUs of one host; none need be there. Call `prepare_compiler` first.

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
    except Exception as error:  # JAX raises whatever the compiler's plug-in does.
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
            memory_bandwidth: {gpu.memory_gb_a_second * 1e9:.0f}
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
