"""How long a train step takes to trace, to compile and to load from JAX's persistent cache."""

import tempfile
import time

import jax

from anchordetr_jax.benchmark.inputs import MAX_BOXES
from anchordetr_jax.benchmark.planning import lower_train_step
from anchordetr_jax.benchmark.programs import temporary_bytes
from anchordetr_jax.benchmark.tables import Row
from anchordetr_jax.config import Config
from anchordetr_jax.devices import make_mesh


def measure_compilation(config: Config, *, batch_size: int, image_shape: tuple[int, int]) -> list[Row]:
    """Compiles the train step of one batch shape twice: the first time into an empty cache, then from this cache.

    JAX's settings of the cache are changed for the whole process.
    """
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for run in ("first", "again"):
            jax.clear_caches()
            start, busy = time.perf_counter(), time.process_time()
            lowered = lower_train_step(
                config, mesh, batch_size=batch_size, image_shape=image_shape, max_boxes=MAX_BOXES
            )
            traced = time.perf_counter()
            compiled = lowered.compile()
            done, processor = time.perf_counter(), time.process_time() - busy
            rows.append(
                {
                    "train step": run,
                    "traced in, s": traced - start,
                    "compiled or loaded in, s": done - traced,
                    "processor time of both, s": processor,
                    "temporaries, MB": temporary_bytes(compiled) / 1e6,
                }
            )
    return rows
