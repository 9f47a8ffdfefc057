"""How a process computes on CPUs: it keeps its memory, and XLA gets the flags that help."""

import ctypes
import os
import sys

import jax

from anchordetr_jax.devices import processors

COMPILER_OPTIONS: dict[str, bool | str] = {
    # XLA's CPU compiler would remove the optimization barriers of `convolutions.py`.
    "xla_disable_hlo_passes": "cse_barrier_expander",
    # YNNPACK's products are no faster here, and a program with many of them takes twice as long to load.
    "xla_cpu_experimental_ynn_fusion_type": "",
}
"""For `jax.jit`."""

_EXTRA_OPTIONS, _JOINED_LOOPS = "--xla_backend_extra_options", "xla_cpu_use_multi_output_fusion"

_THREADS = "NPROC"
"""The environment variable that XLA takes the number of its threads from."""
_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_MAX = 1, -1, -4
"""Numbers of glibc's `mallopt`."""
_NEVER = 2**31 - 1


def prepare_process() -> None:
    """Sets the process up for CPUs; other platforms lose nothing. Call it before JAX starts its backends."""
    keep_host_memory()
    set_up_xla()


def keep_host_memory() -> None:
    """Lets this process keep the memory that it frees, and use it again.

    On CPUs the temporaries of a program are one large block. glibc asks the system for it at every step and gives it
    back, so every step touches all its pages for the first time (300,000 page faults for R50-DC5 at 512x672, a seventh
    of a training step).

    JAX's CPU backend then runs programs in the thread that calls them, because glibc keeps large blocks only for the
    main thread. With another C library nothing else is done.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
        # Small pieces join their neighbours as soon as they are free. Joining all of them now and then takes an eighth
        # of the time that loading a large program from JAX's cache takes.
        mallopt(_M_MXFAST, 0)


def set_up_xla() -> None:
    """Sets the environment variables that XLA reads once, when it starts."""
    join_loops()
    leave_a_thread_for_callbacks()


def join_loops() -> None:
    """Lets XLA's CPU compiler compute in one loop what it makes from the same arrays, such as a parameter's moments.

    A train step then compiles and loads in three quarters of the time. XLA reads its flags once, when it starts, and
    takes this one for the whole process only. If `XLA_FLAGS` has extra options for the backends already, they stay as
    they are.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _EXTRA_OPTIONS not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_EXTRA_OPTIONS}={_JOINED_LOOPS}".strip()


def leave_a_thread_for_callbacks() -> None:
    """Lets XLA have two threads where the process has one processor.

    XLA's CPU backend has one thread for each processor, and with one thread a training step waits for ever: the
    matching on the host keeps that thread, and needs it to get its arguments.
    """
    if processors() == 1:
        os.environ.setdefault(_THREADS, "2")
