"""The command line of the drawn data set."""

from anchordetr_jax.data.shapes.drawing import main

main()
