"""JAX's persistent compilation cache: what was compiled once starts at once the next time."""

import os
from pathlib import Path

import jax

MIN_SECONDS = 0.5
"""Compilations that took less are not worth a file."""


def keep_compilations(folder: str | os.PathLike[str] | None = None) -> None:
    """Turns the persistent compilation cache on.

    Args:
        folder: where compiled programs are kept. The default is `JAX_COMPILATION_CACHE_DIR` where that is set, else
            `$XDG_CACHE_HOME/anchordetr_jax` (`~/.cache/anchordetr_jax`).
    """
    if folder is None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anchordetr_jax"
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
