"""Verbs in processes of their own, which can be killed all at once at a step: the hand that pulls the plug, for benches and tests.

Processes are forked from a server that has imported everything, so one starts in a second instead of ten. The ranks of a run are started
side by side, as `srun` and `torchrun` do.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shlex
import signal
import socket
import sys
import time
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from baton_lightning.launch.launcher import die_with_parent
from baton_lightning.runs.ledgers import last_line

PATIENCE, GRACE = 600.0, 30.0
"""Longest wait for a step, and for the other ranks once one has failed, in s."""
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["baton_lightning.launch.preload"])


class Ranks:
    """Processes that run the same verb, one for each rank.

    Args:
        argv: Arguments of ``python -m baton_lightning``.
        said: File that takes the output.
        ranks: How many; more than one finds what ``torchrun`` tells its ranks in the environment.
    """

    def __init__(self, argv: list[str], said: Path, ranks: int = 1) -> None:
        self.said = said
        environment = dict(os.environ)
        if ranks > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
        said.write_bytes(b"")
        self.processes: list[ForkServerProcess] = []
        for rank in range(ranks):
            told = environment | ({"LOCAL_RANK": str(rank)} if ranks > 1 else {})
            process = SERVER.Process(target=forked, args=(argv, told, said))
            process.start()
            self.processes.append(process)

    @property
    def code(self) -> int | None:
        """Exit code of the first rank that failed, 0 if all are done, ``None`` while none has failed and not all are done."""
        codes = [process.exitcode for process in self.processes]
        return next((code for code in codes if code), None if None in codes else 0)

    def wait(self) -> int:
        """Waits until all have ended, or some time after the first has failed; gives the code."""
        while (code := self.code) is None:
            wait([process.sentinel for process in self.processes if process.exitcode is None])
        deadline = time.monotonic() + GRACE
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return code

    def kill(self) -> None:
        """Ends what is left, without a chance to tidy up; what a rank has launched ends with it."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)  # fails as long as a process has not become the first of its group
            process.kill()
        for process in self.processes:
            process.join()

    def tail(self) -> str:
        """The end of what was said."""
        return self.said.read_text(errors="replace")[-3000:]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def forked(argv: list[str], environment: dict[str, str], said: Path) -> None:
    """The life of a process: `python -m baton_lightning` with these arguments."""
    os.setsid()
    die_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    with said.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[1:] = argv
    runpy.run_module("baton_lightning", run_name="__main__", alter_sys=True)


def call(argv: list[str], said: Path, ranks: int = 1, code: int = 0) -> str:
    """Runs a verb to its end.

    Args:
        argv: Its arguments.
        said: File that takes its output.
        ranks: Processes.
        code: What it must end with.

    Returns:
        What it said.

    Raises:
        RuntimeError: If it ends otherwise.
    """
    processes = Ranks(argv, said, ranks)
    try:
        ended = processes.wait()
    finally:
        processes.kill()
    if ended != code:
        raise RuntimeError(f"`{shlex.join(argv)}` exited with {ended}, not {code}:\n{processes.tail()}")
    return said.read_text(errors="replace")


def kill_at(argv: list[str], said: Path, ranks: int, ledger: Path, step: int) -> int:
    """Starts a run and kills it once it has put a step into its ledger.

    Args:
        argv: The run.
        said: File that takes its output.
        ranks: Its processes.
        ledger: Its ledger; lines that an earlier session left do not count.
        step: Optimiser step.

    Returns:
        The last step that is in the ledger afterwards.

    Raises:
        RuntimeError: If the run ends by itself, or does not get there.
    """
    before = ledger.stat().st_mtime_ns if ledger.exists() else 0
    deadline = time.monotonic() + PATIENCE
    processes = Ranks(argv, said, ranks)
    try:
        while not (ledger.exists() and ledger.stat().st_mtime_ns != before and steps_in(ledger) >= step):
            if processes.code is not None or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        if processes.code is not None or steps_in(ledger) < step:
            state = "is still going" if processes.code is None else f"ended with code {processes.code}"
            raise RuntimeError(f"a run that was to be killed at step {step} of {ledger} {state}:\n{processes.tail()}")
    finally:
        processes.kill()
    return steps_in(ledger)


def steps_in(ledger: Path) -> int:
    """The last step of a ledger."""
    line = last_line(ledger)
    return int(line["step"]) if line else 0
