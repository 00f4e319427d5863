"""The ranks of a run on this machine: one that dies is named, and the others end within seconds instead of waiting for it.

Where SLURM or `torchrun` started the ranks, these do so. Lightning's own launcher kills the first rank without a word.
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
"""Between two looks at the others, and until a rank that saw another die must have ended by itself, in s."""
LAUNCHER = "BATON_LAUNCHER"
"""Environment variable: process that started this rank."""
LAUNCHED: dict[int, subprocess.Popen[bytes]] = {}
"""Rank -> process that this one started."""
LET_GO = threading.Event()
"""The run ends, ranks may go one by one."""


def watch_those_launched(launcher: Any) -> None:
    """Watches the ranks that Lightning's launcher starts, in its place.

    Args:
        launcher: The strategy's; ``None`` and others than the launcher of scripts start none.
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
        LET_GO.clear()
        LAUNCHED.clear()
        LAUNCHED.update({first + local: process for local, process in enumerate(launcher.procs, 1)})
        launcher.procs = []  # Lightning's observer finds nobody to kill this process for
        threading.Thread(target=watch, args=(failed,), name="ranks", daemon=True).start()

    launcher._call_children_scripts = started


def watch_launcher() -> None:
    """In a rank that another one started, watches that one."""
    if LAUNCHER in os.environ:
        threading.Thread(target=watch, args=(orphaned,), name="ranks", daemon=True).start()


def watch(looks: Callable[[], str]) -> None:
    """Looks until a rank is dead, and ends this process unless it ends by itself."""
    while not LET_GO.wait(TICK):
        if looks() and not LET_GO.wait(GRACE):
            end(f"{looks()}; the other ranks end as well", code())


def failed() -> str:
    """Ranks that this one started and that have failed, with the reason; empty if there are none."""
    codes = {rank: process.poll() for rank, process in LAUNCHED.items()}
    told = {rank: number for rank, number in codes.items() if number}
    return ", ".join(f"rank {rank} (pid {LAUNCHED[rank].pid}) {reason(told[rank])}" for rank in sorted(told, key=lambda rank: told[rank]))


def orphaned() -> str:
    """Says so if the rank that started this one is dead."""
    launcher = os.environ.get(LAUNCHER, "")
    if not launcher or os.getppid() == int(launcher):
        return ""
    return f"rank 0 of this machine (pid {launcher}) has ended, and rank {os.environ.get('LOCAL_RANK', '?')} waited for it"


def dead(error: BaseException) -> str:
    """Names the rank whose death is the cause of an error; empty if none is known.

    Args:
        error: What a collective raised.
    """
    of_collective = any(word in f"{type(error).__name__} {error}" for word in ("Dist", "gloo", "NCCL", "c10d", "TCPStore"))
    deadline = time.monotonic() + 4 * TICK
    while time.monotonic() < deadline:
        told = failed() or orphaned()
        if told and (of_collective or " was killed by " in told):
            return told
        time.sleep(TICK / 5)
    return ""


def reason(number: int) -> str:
    """What an exit code says."""
    return f"was killed by {signal.Signals(-number).name}" if number < 0 else f"ended with exit code {number}"


def code() -> int:
    """The exit code of a rank that failed, 1 for one that was killed."""
    return next((p.returncode for p in LAUNCHED.values() if (p.returncode or 0) > 0), 1)


def end(said: str, code: int) -> None:
    """Ends this process, whatever its main thread does, and those it started."""
    os.write(2, f"baton_lightning: {said}\n".encode())
    for process in LAUNCHED.values():
        process.kill()
    os._exit(code)


def require_srun(devices: int, nodes: int) -> None:
    """Refuses to be one of several tasks of a SLURM job that nobody has started: it would wait for the others.

    Args:
        devices: Processes a node.
        nodes: Nodes.

    Raises:
        ValueError: With the command to use.
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
