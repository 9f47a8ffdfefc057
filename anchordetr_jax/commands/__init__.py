"""The command `anchordetr VERB`: one file for each verb. A verb is imported when it is asked for.

Each file has a function `run(arguments)`, which takes the command line after the verb and returns the exit status.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

from anchordetr_jax.errors import UserError, exit_status
from anchordetr_jax.version import __version__

VERBS = {
    "inspect": "what is in a data set, and everything that is wrong with it",
    "train": "trains a detector, or continues a training that was stopped",
    "evaluate": "scores a detector with COCO's own code",
    "predict": "detects objects in images and videos, and draws them",
    "explain": "draws anchor points, patterns and attention",
    "export": "writes a detector as a program for JAX or ONNX that runs without this package",
    "convert": "weights of the official PyTorch code, detrex and Hugging Face, in and out",
    "plot": "curves of several runs in one picture",
    "shapes": "draws a small data set, to try everything on",
    "verify": "proves on your machine that this detector is the official one",
    "benchmark": "measures speed and memory, also beside the official code",
    "compile-gpu": "what a training step needs on GPUs that are not there",
    "compile-tpu": "what a training step needs on TPUs that are not there",
}
"""What each verb does. The verb `compile-gpu` is the file `compile_gpu.py`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb. Returns the status to exit with.

    Args:
        arguments: the verb and its arguments; those of this process by default.
    """
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or ("",)
    if verb in ("", "help", "-h", "--help"):
        return exit_status(lambda: print(help_text()))
    if verb == "--version":
        return exit_status(lambda: print(f"anchordetr_jax {__version__}"))
    if verb not in VERBS:
        return exit_status(lambda: _refuse(verb))
    module = importlib.import_module(f"{__name__}.{verb.replace('-', '_')}")
    status: int = module.run(rest)
    return status


def help_text() -> str:
    """All verbs, with what they do."""
    lines = [f"  {verb:12s}  {what}" for verb, what in VERBS.items()]
    return "\n".join(
        [
            "Anchor DETR in JAX.",
            "",
            "anchordetr VERB …",
            "",
            *lines,
            "",
            "anchordetr VERB --help says more about a verb.",
        ]
    )


def _refuse(verb: str) -> None:
    near = difflib.get_close_matches(verb.replace("_", "-"), VERBS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}."
    raise UserError(f"There is no verb {verb!r}; {hint}")
