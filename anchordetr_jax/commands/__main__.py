"""`python -m anchordetr_jax.commands VERB …` is `anchordetr VERB …`."""

import sys

from anchordetr_jax.commands import main

if __name__ == "__main__":
    sys.exit(main())
