"""Workers of a loader outlive signals that are sent to all processes of a run, which saves a checkpoint meanwhile."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from baton_lightning.clip import ClipSpec
from baton_lightning.signals import obey_parent_only
from datamodules.webshards import WebShards


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_of_others_end_no_worker_and_the_parent_s_does(
    make_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def late(worker: int) -> None:
        time.sleep(0.5 * worker)  # the second worker is still starting when the signal comes
        obey_parent_only(worker)

    monkeypatch.setattr("datamodules.loader.obey_parent_only", late)
    data = WebShards(
        ClipSpec(text_tokens=2, text_width=3), str(make_set(tmp_path / "set", [5, 8])), batch_size=4, fields=("text",), num_workers=2
    )
    data.setup("fit")
    batches = iter(data.train_dataloader())
    keys = [*next(batches).keys]
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    subprocess.run(["kill", f"-{number.value}", *(str(worker.pid) for worker in workers)], check=True)
    time.sleep(0.2)
    for batch in batches:
        keys += batch.keys
    assert len(set(keys)) == 12 and not any(worker.is_alive() for worker in workers)

    batches = iter(data.train_dataloader())
    next(batches)
    worker = multiprocessing.active_children()[0]
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0
