"""Anchor DETR, an object detector, in JAX.

Importing the package imports nothing else, so that the command line can answer a mistake before JAX has started:
`anchordetr_jax.model` turns pixels into predictions, `.detection` predictions into losses and boxes, `.data` files into
batches, `.training` batches into checkpoints, `.evaluation` checkpoints into numbers.
"""

__version__ = "0.1.0"
