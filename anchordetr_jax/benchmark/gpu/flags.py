"""XLA flags that may be worth setting on GPUs. Those that help become defaults: `kernels.GPU_OPTIONS`."""

CompilerOptions = dict[str, bool | str | int]
OPTIMIZATION_LEVEL_O2 = 29
"""What JAX_OPTIMIZATION_LEVEL=O2 stands for."""

FLAGS: dict[str, CompilerOptions] = {
    "latency hiding": {"xla_gpu_enable_latency_hiding_scheduler": True},
    "optimization level O2": {"optimization_level": OPTIMIZATION_LEVEL_O2},
    "more autotuning": {"xla_gpu_exhaustive_tiling_search": True},
}
"""Compiler options to try, by the name of their column."""
