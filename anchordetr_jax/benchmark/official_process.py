"""The official code in a process of its own, with its own threads and its own memory."""

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal

from anchordetr_jax.benchmark.official import Inputs, OfficialPrograms
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.cpu.process import keep_host_memory
from anchordetr_jax.verification.official import OfficialCode


class OfficialProcess:
    """A process that runs the official code. Use it as a context manager: the process lives only inside.

    Every method raises `UserError` where `OfficialCode` raises it, if the code does not run in the process, and if the
    process has died.
    """

    def __init__(self, repo: str, inputs: Inputs, *, keep_memory: bool = False):
        """Starts the process.

        Args:
            repo: a checkout of the official code.
            inputs: what to compute.
            keep_memory: whether the process keeps the memory it frees, as this package's commands do.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, repo, inputs, keep_memory), daemon=True)
        self._process.start()
        other.close()

    def __enter__(self) -> "OfficialProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()
        self._process.join()

    def program(self, what: Literal["forward", "train"], *, compiled: bool, mixed: bool) -> Callable[..., None]:
        """A function that runs a forward pass or a training step once, or `times` times one after the other, and
        returns when the work is done."""
        number = self._ask("make", what, compiled, mixed)

        def run(times: int = 1) -> None:
            self._ask("run", number, times)

        return run

    def use(self, inputs: Inputs) -> None:
        """Takes other inputs. Programs made before are gone, with their memory."""
        self._ask("use", inputs)

    def peak_bytes(self) -> int | None:
        """As `OfficialPrograms.peak_bytes`."""
        return self._ask("peak")

    def memory_bytes(self) -> int | None:
        """As `OfficialPrograms.memory_bytes`."""
        return self._ask("memory")

    def multiply_adds(self) -> float | None:
        """As `OfficialPrograms.multiply_adds`."""
        return self._ask("count")

    def _ask(self, *request: Any) -> Any:
        try:
            self._connection.send(request)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise UserError("The process of the official code has died: see what it printed above.") from error
        if isinstance(answer, UserError):
            raise answer
        return answer


def _serve(connection: Connection, repo: str, inputs: Inputs, keep_memory: bool) -> None:
    """The loop of the process: answers requests until the other end closes."""
    if keep_memory:
        keep_host_memory()
    programs: list[Callable[[], Any]] = []
    with contextlib.ExitStack() as stack:
        official: OfficialPrograms | None = None
        while True:
            try:
                kind, *details = connection.recv()
            except EOFError:
                return
            try:
                official = official or stack.enter_context(OfficialPrograms(OfficialCode(repo), inputs))
                if kind == "make":
                    what, compiled, mixed = details
                    programs.append(getattr(official, what)(compiled=compiled, mixed=mixed))
                    answer: Any = len(programs) - 1
                elif kind == "run":
                    number, times = details
                    for _ in range(times):
                        programs[number]()
                    official.wait()
                    answer = None
                elif kind == "use":
                    programs.clear()
                    official.use(*details)
                    answer = None
                elif kind == "peak":
                    answer = official.peak_bytes()
                elif kind == "memory":
                    answer = official.memory_bytes()
                else:
                    answer = official.multiply_adds()
            except UserError as error:
                answer = error
            except Exception as error:  # As a sentence, because not every exception can be sent.
                first_line = str(error).strip().partition("\n")[0]
                answer = UserError(f"The official code does not run here: {type(error).__name__}: {first_line}")
            connection.send(answer)
