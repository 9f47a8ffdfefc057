"""`python -m anchordetr_jax.data.shapes OUT` draws a data set."""

from anchordetr_jax.data.shapes.command import main

if __name__ == "__main__":
    main()
