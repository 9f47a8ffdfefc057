"""`anchordetr compile-gpu`, in a clone of this repository."""

import sys

from anchordetr_jax.commands import main

if __name__ == "__main__":
    sys.exit(main(["compile-gpu", *sys.argv[1:]]))
