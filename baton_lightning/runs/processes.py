"""Verbs in processes of their own, which can be killed all at once at a step: the hand that pulls the plug, for benches and tests."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from baton_lightning.runs.conductor import die_with_parent
from baton_lightning.runs.standing import last_line

PATIENCE = 600.0
"""Longest wait for a step, in s."""


def start(argv: list[str], said: IO[bytes]) -> subprocess.Popen[bytes]:
    """Starts a verb; it and what it launches are one group.

    Args:
        argv: Arguments of ``python -m baton_lightning``.
        said: Takes its output.
    """
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    command = [sys.executable, "-m", "baton_lightning", *argv]
    return subprocess.Popen(
        command, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of the group, without a chance to tidy up."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def call(argv: list[str]) -> None:
    """Runs a verb to its end.

    Raises:
        RuntimeError: If it fails.
    """
    with tempfile.TemporaryFile() as said:
        process = start(argv, said)
        try:
            process.wait()
        finally:
            kill(process)
        if process.returncode:
            raise RuntimeError(f"`{shlex.join(argv)}` exited with {process.returncode}:\n{tail(said)}")


def kill_at(argv: list[str], ledger: Path, step: int) -> int:
    """Starts a run and kills it once it has put a step into its ledger.

    Args:
        argv: The run.
        ledger: Its ledger; lines that an earlier session left do not count.
        step: Optimiser step.

    Returns:
        The last step that is in the ledger afterwards.

    Raises:
        RuntimeError: If the run ends by itself, or does not get there.
    """
    before = ledger.stat().st_mtime_ns if ledger.exists() else 0
    deadline = time.monotonic() + PATIENCE
    with tempfile.TemporaryFile() as said:
        process = start(argv, said)
        try:
            while not (ledger.exists() and ledger.stat().st_mtime_ns != before and steps_in(ledger) >= step):
                if process.poll() is not None or time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            if process.poll() is not None or steps_in(ledger) < step:
                state = "is still going" if process.returncode is None else f"ended with code {process.returncode}"
                raise RuntimeError(f"a run that was to be killed at step {step} of {ledger} {state}:\n{tail(said)}")
        finally:
            kill(process)
        return steps_in(ledger)


def steps_in(ledger: Path) -> int:
    """The last step of a ledger."""
    line = last_line(ledger)
    return int(line["step"]) if line else 0


def tail(said: IO[bytes]) -> str:
    """The end of what was said."""
    said.seek(0)
    return said.read().decode(errors="replace")[-3000:]
