"""Watches the ranks of a run on this machine. If one dies, it is named, and the others end within seconds instead of waiting for it.

SLURM and `torchrun` do this for ranks that they start. Lightning's own launcher kills the first rank without a message.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

TICK, GRACE = 0.5, 5.0
"""Interval between two checks of the other ranks, and time for a rank to end by itself after another one died, in s."""
LAUNCHER = "BATON_LAUNCHER"
"""Environment variable with the id of the process that started this rank."""
LAUNCHED: dict[int, subprocess.Popen[bytes]] = {}
"""Rank -> process, of the ranks that this process started."""
ENDING = threading.Event()
"""Set when the run is ending, so that ranks may end one by one."""


def watch_launched_ranks(launcher: Any) -> None:
    """Watches the ranks that Lightning's launcher starts, instead of Lightning's observer.

    Args:
        launcher: Launcher of the strategy. Only the launcher of subprocess scripts starts ranks; others and ``None`` are ignored.
    """
    start = getattr(launcher, "_call_children_scripts", None)
    if start is None:
        return

    def started() -> None:
        os.environ[LAUNCHER] = str(os.getpid())
        try:
            start()
        finally:
            del os.environ[LAUNCHER]
        first = int(os.environ["NODE_RANK"]) * launcher.num_processes
        ENDING.clear()
        LAUNCHED.clear()
        LAUNCHED.update({first + local: process for local, process in enumerate(launcher.procs, 1)})
        launcher.procs = []  # Lightning's observer finds no ranks and does not kill this process
        threading.Thread(target=watch, args=(failed,), name="ranks", daemon=True).start()

    launcher._call_children_scripts = started


def watch_launcher() -> None:
    """Watches the process that started this rank, if there is one."""
    if LAUNCHER in os.environ:
        threading.Thread(target=watch, args=(orphaned,), name="ranks", daemon=True).start()


def watch(check: Callable[[], str]) -> None:
    """Repeats a check for dead ranks. If one is dead, ends this process after a grace period."""
    while not ENDING.wait(TICK):
        if check() and not ENDING.wait(GRACE):
            end(f"{check()}; the other ranks end too", code())


def failed() -> str:
    """Failed ranks among those that this process started, with reasons; empty if there are none."""
    codes = {rank: process.poll() for rank, process in LAUNCHED.items()}
    failures = {rank: number for rank, number in codes.items() if number}
    return ", ".join(
        f"rank {rank} (pid {LAUNCHED[rank].pid}) {reason(failures[rank])}" for rank in sorted(failures, key=lambda rank: failures[rank])
    )


def orphaned() -> str:
    """Message that the rank that started this one is dead; empty if it is alive."""
    launcher = os.environ.get(LAUNCHER, "")
    if not launcher or os.getppid() == int(launcher):
        return ""
    return f"rank 0 of this machine (pid {launcher}) has ended, and rank {os.environ.get('LOCAL_RANK', '?')} waited for it"


def dead_rank(error: BaseException) -> str:
    """Names the dead rank that caused an error; empty if none is known.

    Args:
        error: Error that a collective operation raised.
    """
    of_collective = any(word in f"{type(error).__name__} {error}" for word in ("Dist", "gloo", "NCCL", "c10d", "TCPStore"))
    deadline = time.monotonic() + 4 * TICK
    while time.monotonic() < deadline:
        message = failed() or orphaned()
        if message and (of_collective or " was killed by " in message):
            return message
        time.sleep(TICK / 5)
    return ""


def reason(number: int) -> str:
    """Describes an exit code."""
    return f"was killed by {signal.Signals(-number).name}" if number < 0 else f"ended with exit code {number}"


def code() -> int:
    """Exit code of a rank that failed; 1 if it was killed."""
    return next((p.returncode for p in LAUNCHED.values() if (p.returncode or 0) > 0), 1)


def end(message: str, code: int) -> None:
    """Ends this process and those it started immediately, even if the main thread is blocked."""
    os.write(2, f"baton_lightning: {message}\n".encode())
    for process in LAUNCHED.values():
        process.kill()
    os._exit(code)


def require_srun(devices: int, nodes: int) -> None:
    """Refuses to run as one of several tasks of a SLURM job if the other tasks were not started: it would wait for them.

    Args:
        devices: Processes per node.
        nodes: Number of nodes.

    Raises:
        ValueError: If tasks are missing. The message names the command to use.
    """
    environment = os.environ
    tasks = int(environment.get("SLURM_NTASKS", "1"))
    if "SLURM_JOB_ID" not in environment or tasks < 2 or devices * nodes < 2 or environment.get("SLURM_PROCID", "0") != "0":
        return
    if environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):  # Lightning then starts the ranks itself
        return
    if "SLURM_STEP_ID" not in environment or int(environment.get("SLURM_STEP_NUM_TASKS", tasks)) < tasks:
        command = shlex.join(["python", "-m", "baton_lightning", *sys.argv[1:]])
        raise ValueError(
            f"job {environment['SLURM_JOB_ID']} has {tasks} tasks, and this process was not started by `srun`, so it would wait for the "
            f"others; use `srun {command}`, or --trainer.devices=1 --trainer.num_nodes=1 for one process"
        )
