"""The Python part of scripts/measure_gpu.sh: see there."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from anchordetr_jax.benchmark.gpu.parts import Part, run_part
from anchordetr_jax.benchmark.gpu.running import run_all
from anchordetr_jax.benchmark.gpu.settings import Settings
from anchordetr_jax.errors import exit_status


def main() -> bool:
    """Measures everything, or, for one of the processes that this starts, one part. Returns whether all went well."""
    options = parser().parse_args()
    settings = Settings(
        output=os.path.abspath(options.output),
        official=os.path.abspath(options.official) if options.official else "",
        data=os.path.abspath(options.data) if options.data else "",
        minutes=options.minutes or (60.0 if options.rehearse else Settings.minutes),
        only=tuple(options.only),
        rehearse=options.rehearse,
    )
    if options.part is None:
        return run_all(settings, command_of)
    from anchordetr_jax import cli  # Not above: the process that only starts others does not compute.

    cli.prepare_computation()
    run_part(options.part, settings, options.work, options.seconds)
    return True


def parser() -> argparse.ArgumentParser:
    """The command line. The last three options are for the processes of the parts."""
    result = argparse.ArgumentParser(prog="bash scripts/measure_gpu.sh", description="See the head of that file.")
    result.add_argument("output", metavar="OUT", help="folder for report.md, report.json, log.txt and pictures")
    result.add_argument("--official", metavar="REPO", default="", help="a checkout of the official code, to run beside")
    result.add_argument("--data", metavar="COCO", default="", help="a COCO folder for parts e and f (drawn shapes)")
    result.add_argument("--minutes", type=float, help="for everything together (9; a rehearsal ends by itself)")
    result.add_argument("--only", nargs="+", default=[], metavar="PART", help="letters of the parts to measure (all)")
    result.add_argument("--rehearse", action="store_true", help="tiny sizes, also on a CPU: tries the whole command")
    result.add_argument("--part", help=argparse.SUPPRESS)
    result.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    result.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return result


def command_of(part: Part, work: Path, seconds: float) -> Sequence[str]:
    """The command of a part's process: this one's, and which part."""
    more = ["--part", part.name, "--work", str(work), "--seconds", f"{seconds:.1f}"]
    return [sys.executable, os.path.abspath(__file__), *sys.argv[1:], *more]


if __name__ == "__main__":
    outcome: list[bool] = []
    status = exit_status(lambda: outcome.append(main()))
    sys.exit(status or int(not outcome[0]))
