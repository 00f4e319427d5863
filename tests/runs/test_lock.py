"""Two processes do not train in one folder; a process that ends in any way lets go of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from baton_lightning.runs.lock import hold_lock


def hold(folder: Path, pipe: multiprocessing.connection.Connection) -> None:
    held = hold_lock(folder)
    pipe.send("held")
    pipe.recv()
    del held


def test_a_folder_that_is_held_is_refused_until_its_holder_is_killed(tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path / "run", there))
    process.start()
    assert here.recv() == "held"
    with pytest.raises(ValueError, match="is locked by another process"):
        hold_lock(tmp_path / "run")
    assert hold_lock(tmp_path / "other")
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert hold_lock(tmp_path / "run")
