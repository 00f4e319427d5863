"""Receives signals in a thread. Python runs handlers in the main thread, which may be blocked in C++, e.g. waiting for another rank."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

REQUEUE = threading.Event()
"""Set when SLURM has sent SIGUSR1, shortly before the time limit."""


def note_requeue() -> None:
    """Records SIGUSR1 from now on inside a SLURM job, where it would otherwise end a process that is still starting.

    The training loop reacts to :data:`REQUEUE`.
    """
    if "SLURM_JOB_ID" in os.environ and threading.current_thread() is threading.main_thread():
        REQUEUE.clear()
        signal.signal(signal.SIGUSR1, lambda *_: REQUEUE.set())


@contextmanager
def signal_thread(on_signal: Callable[[int], None]) -> Iterator[None]:
    """Context in which ``on_signal`` is called in a separate thread, without delay, for each signal that has a Python handler.

    Args:
        on_signal: Function of the signal's number.
    """
    leave_to_parents()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        while number := os.read(reading, 1)[0]:
            on_signal(number)

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writing, b"\0")
        thread.join()
        os.close(writing)
        os.close(reading)


@cache
def leave_to_parents() -> None:
    """Prevents forked processes, e.g. workers of a data loader, from reporting their own signals to the parent process."""

    def forget() -> None:
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)

    os.register_at_fork(after_in_child=forget)


@contextmanager
def held_signals() -> Iterator[None]:
    """Context in which SIGTERM and SIGUSR1 are held back until its end. Processes that are started in it begin with both blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent_only(worker: int = 0) -> None:
    """Makes a worker of a data loader ignore SIGTERM and SIGUSR1, unless SIGTERM comes from its parent.

    ``timeout``, ``scancel`` and SLURM's time limit send a signal to every process of a run. The run then saves a checkpoint at the end of
    its step, for which it needs its workers. A worker whose parent dies ends by itself. The worker is started in :func:`held_signals`, so
    no signal finds it before this function is called.

    Args:
        worker: Number of the worker, which torch passes.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def listen() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=listen, name="signals", daemon=True).start()
