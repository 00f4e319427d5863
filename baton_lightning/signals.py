"""Signals, heard whatever the main thread does. Python's handlers wait for it, and it may wait in C++, for another rank say."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

REQUEUE = threading.Event()
"""SLURM has sent SIGUSR1: the time limit is near."""


def note_requeue() -> None:
    """Notes SIGUSR1 from now on inside a job of SLURM, where it would end a process that still starts; whoever trains acts on it."""
    if "SLURM_JOB_ID" in os.environ and threading.current_thread() is threading.main_thread():
        REQUEUE.clear()
        signal.signal(signal.SIGUSR1, lambda *_: REQUEUE.set())


@contextmanager
def hearing(heard: Callable[[int], None]) -> Iterator[None]:
    """Inside, each signal that has a handler in Python is told to ``heard`` as well: at once, in a thread of its own.

    Args:
        heard: Takes the number of a signal.
    """
    leave_to_parents()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        while number := os.read(reading, 1)[0]:
            heard(number)

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
    """A process that is forked, of a data loader say, does not tell its parent of its own signals."""

    def forget() -> None:
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)

    os.register_at_fork(after_in_child=forget)
