"""Training is tested on programs that take far longer to compile than to run, so they are compiled once, and simply."""

from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

SETTINGS = {"jax_disable_most_optimizations": True, "jax_persistent_cache_min_compile_time_secs": 0.0}


@pytest.fixture(scope="package", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what was compiled for the runs that follow (steps with a host callback excepted, which JAX never keeps)."""
    changed = {**SETTINGS, "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled"))}
    before = {name: jax.config.values[name] for name in changed}
    for name, value in changed.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
