"""`python -m anchordetr_jax.data.shapes OUT` draws a data set."""

import sys

from anchordetr_jax.data.shapes.command import main
from anchordetr_jax.errors import exit_status

if __name__ == "__main__":
    sys.exit(exit_status(main))
