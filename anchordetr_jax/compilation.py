"""JAX's persistent cache of compiled programs."""

import os

import jax

from anchordetr_jax.files import user_cache

MIN_SECONDS = 0.5
"""Shortest compilation, in seconds, whose result is kept. `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` sets another."""

_HIT_EVENT = "/jax/compilation_cache/cache_hits"


def keep_compilations() -> None:
    """Turns the persistent compilation cache on, in `JAX_COMPILATION_CACHE_DIR` if it is set, else in `user_cache`."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", os.fspath(user_cache()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)


class CacheHits:
    """A context in which `count` counts the programs that JAX loads from the persistent cache instead of compiling."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "CacheHits":
        jax.monitoring.register_event_listener(self._heard)
        return self

    def __exit__(self, *exception: object) -> None:
        jax.monitoring.unregister_event_listener(self._heard)

    def _heard(self, event: str, **details: str | int) -> None:
        self.count += event == _HIT_EVENT
