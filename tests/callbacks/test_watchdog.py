"""A rank that sleeps is named with its step and clips, and the run ends by itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from baton_lightning.batch import Batch
from callbacks.watchdog import STALLED, Watchdog, slowest_ranks

ROOT = Path(__file__).parents[2]


def beat(count: int, *, waits: bool = False) -> dict[str, object]:
    return {"count": count, "waits": waits}


def test_who_has_passed_the_fewest_hooks_is_behind_and_among_equals_who_waits_for_nobody() -> None:
    assert list(slowest_ranks({0: beat(7), 1: beat(6), 2: beat(7)})) == [1]
    assert list(slowest_ranks({0: beat(7, waits=True), 1: beat(7), 2: beat(7, waits=True)})) == [1]
    assert list(slowest_ranks({0: beat(7, waits=True), 1: beat(7, waits=True)})) == [0, 1]


def test_seconds_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be positive, got 0"):
        Watchdog(0)


def test_a_heartbeat_says_step_clips_shard_and_what_the_main_thread_does(tmp_path: Path) -> None:
    tars = SimpleNamespace(tar=lambda number: Path(f"clips-{number:06d}.tar"))
    loader = SimpleNamespace(dataset=SimpleNamespace(places=[(4, "x")], index=tars))
    strategy = SimpleNamespace(barrier=lambda name: None, launcher=None)
    trainer = SimpleNamespace(default_root_dir=tmp_path, global_rank=0, global_step=9, train_dataloader=loader, strategy=strategy)
    watchdog = Watchdog(60)
    watchdog.on_train_start(trainer, None)  # type: ignore[arg-type]
    watchdog.on_train_batch_start(trainer, None, Batch(["x"], torch.arange(1), 0, [""], [""]), 0)  # type: ignore[arg-type]
    watchdog.write_heartbeat()
    heartbeat = (tmp_path / "heartbeats/rank-00000.json").read_text()
    assert '"step": 9' in heartbeat and "clips x (clips-000004.tar)" in heartbeat and "in its forward pass" in heartbeat
    assert f"pid {os.getpid()}" in heartbeat and "watchdog.py" in heartbeat
    watchdog.on_train_end()
    assert not watchdog.thread.is_alive() and not list((tmp_path / "heartbeats").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_of_two_ranks_the_one_that_sleeps_is_named_by_both_and_both_end(tmp_path: Path, strategy: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name("two_ranks.py")), str(tmp_path), strategy, "32-true", "sleep"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    descriptions = re.findall(
        r"(?m)^baton_lightning: watchdog: rank (\d) has not moved for 15 s .*; slowest: (.*); ending with code \d+$", done.stderr
    )
    assert done.returncode == STALLED and {rank for rank, _ in descriptions} == {"0", "1"}, done.stderr[-3000:]
    for _, who in descriptions:
        assert who.startswith("rank 1 (") and "at step 3, in its forward pass, clips rank1-step3-0, rank1-step3-1" in who
        assert "two_ranks.py" in who and "rank 0" not in who
