"""What the fork server of tests/processes.py imports. It starts none of JAX's devices: a fork could not use them."""

import gc

import matplotlib.backends.backend_agg
import matplotlib.pyplot

import anchordetr_jax.commands.evaluate
import anchordetr_jax.commands.train

__all__ = ["anchordetr_jax", "matplotlib"]

gc.collect()
gc.freeze()  # No fork has to look through all this for garbage.
