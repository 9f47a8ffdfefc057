"""`anchordetr explain`, in a clone of this repository."""

import sys

from anchordetr_jax.commands import main

if __name__ == "__main__":
    sys.exit(main(["explain", *sys.argv[1:]]))
