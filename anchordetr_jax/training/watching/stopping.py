"""Stopping on request: after a signal the current step is completed and saved before the run ends."""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While it is entered, SIGTERM and SIGINT do not end the process but are noted. A second one ends it at once.

    Several processes must all stop after the same step. JAX's preemption service finds that step after a SIGTERM to any
    of them; SIGINT is sent on as SIGTERM. That service takes every SIGTERM, so only a second SIGINT ends one at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread take signals.
        if jax.process_count() == 1:
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        else:
            self._before = {signal.SIGINT: signal.signal(signal.SIGINT, self._pass_on)}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def after_step(self, step: int) -> bool:
        """Whether to stop now. If there are several processes, all must call it after every step."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.received = signal.SIGTERM
        return self.received is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
