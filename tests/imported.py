"""What the fork server of tests/processes.py imports. It starts none of JAX's devices: a fork could not use them."""

import gc

import jaxlib.mlir.dialects.mhlo
import matplotlib.backends.backend_agg
import matplotlib.pyplot
import PIL.Image

import anchordetr_jax.commands.evaluate
import anchordetr_jax.commands.train
import anchordetr_jax.kernels.cpu

__all__ = ["PIL", "anchordetr_jax", "jaxlib", "matplotlib"]

PIL.Image.preinit()  # Else each process imports the usual formats when it reads its first picture.

gc.collect()
gc.freeze()  # No fork has to look through all this for garbage.
