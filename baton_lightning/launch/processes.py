"""Runs verbs in separate processes that can be killed at a given step, for benchmarks and tests.

Processes are forked from a server that has already imported all modules, so a start takes one second instead of ten. The ranks of a run
are started at the same time, as `srun` and `torchrun` do.
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
"""Longest wait for a step (``PATIENCE``), and for the other ranks after one has failed (``GRACE``), in s."""
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["baton_lightning.launch.preload"])


class Ranks:
    """Processes that run the same verb, one for each rank.

    Args:
        argv: Arguments of ``python -m baton_lightning``.
        output: File for the output.
        ranks: Number of processes. If there are several, the environment variables of ``torchrun`` are set.
    """

    def __init__(self, argv: list[str], output: Path, ranks: int = 1) -> None:
        self.output = output
        environment = dict(os.environ)
        if ranks > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
        output.write_bytes(b"")
        self.processes: list[ForkServerProcess] = []
        for rank in range(ranks):
            rank_environment = environment | ({"LOCAL_RANK": str(rank)} if ranks > 1 else {})
            process = SERVER.Process(target=forked, args=(argv, rank_environment, output))
            process.start()
            self.processes.append(process)

    @property
    def code(self) -> int | None:
        """Exit code of the first rank that failed; 0 if all ranks succeeded; ``None`` otherwise."""
        codes = [process.exitcode for process in self.processes]
        return next((code for code in codes if code), None if None in codes else 0)

    def wait(self) -> int:
        """Waits until all ranks have ended, or until :data:`GRACE` seconds after one has failed. Returns the exit code."""
        while (code := self.code) is None:
            wait([process.sentinel for process in self.processes if process.exitcode is None])
        deadline = time.monotonic() + GRACE
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return code

    def kill(self) -> None:
        """Kills all remaining ranks and their child processes with SIGKILL."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)  # fails until the process has become a group leader
            process.kill()
        for process in self.processes:
            process.join()

    def tail(self) -> str:
        """The last 3000 characters of the output."""
        return self.output.read_text(errors="replace")[-3000:]


def free_port() -> int:
    """A free TCP port on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def forked(argv: list[str], environment: dict[str, str], output: Path) -> None:
    """Body of a forked process: runs `python -m baton_lightning` with these arguments, this environment and this output file."""
    os.setsid()
    die_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    with output.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[1:] = argv
    runpy.run_module("baton_lightning", run_name="__main__", alter_sys=True)


def call(argv: list[str], output: Path, ranks: int = 1, code: int = 0) -> str:
    """Runs a verb until it exits.

    Args:
        argv: Arguments of ``python -m baton_lightning``.
        output: File for the output.
        ranks: Number of processes.
        code: Expected exit code.

    Returns:
        The output.

    Raises:
        RuntimeError: If the exit code is another one.
    """
    processes = Ranks(argv, output, ranks)
    try:
        ended = processes.wait()
    finally:
        processes.kill()
    if ended != code:
        raise RuntimeError(f"`{shlex.join(argv)}` exited with {ended}, not {code}:\n{processes.tail()}")
    return output.read_text(errors="replace")


def kill_at(argv: list[str], output: Path, ranks: int, ledger: Path, step: int) -> int:
    """Starts a run and kills it once its ledger contains a given step.

    Args:
        argv: Arguments of ``python -m baton_lightning``.
        output: File for the output.
        ranks: Number of processes.
        ledger: The run's ledger. It is read only after this session has written to it.
        step: Optimiser step.

    Returns:
        The last step in the ledger afterwards.

    Raises:
        RuntimeError: If the run ends by itself or does not reach the step in time.
    """
    before = ledger.stat().st_mtime_ns if ledger.exists() else 0
    deadline = time.monotonic() + PATIENCE
    processes = Ranks(argv, output, ranks)
    try:
        while not (ledger.exists() and ledger.stat().st_mtime_ns != before and steps_in(ledger) >= step):
            if processes.code is not None or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        if processes.code is not None or steps_in(ledger) < step:
            state = "is still running" if processes.code is None else f"ended with code {processes.code}"
            raise RuntimeError(f"the run to be killed at step {step} of {ledger} {state}:\n{processes.tail()}")
    finally:
        processes.kill()
    return steps_in(ledger)


def steps_in(ledger: Path) -> int:
    """The last step of a ledger; 0 if it has none."""
    line = last_line(ledger)
    return int(line["step"]) if line else 0
