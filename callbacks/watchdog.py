"""Ends a run that makes no progress, and names the rank for which the others wait, before a collective times out silently."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from baton_lightning import atomic, peers
from baton_lightning.batch import Batch
from callbacks.batch_description import names

STALLED = 124
"""Exit code of a run without progress, as that of `timeout`."""
FOLDER = "heartbeats"
COLLECTIVES = ("torch/distributed", "deepspeed/comm", "lightning/fabric/utilities/distributed")


class Watchdog(Callback):
    """A thread on every rank that checks whether its rank progresses from hook to hook.

    All ranks call the same hooks in the same order, so the others wait for the rank that has called the fewest. Each rank writes its
    progress, its clips and the state of its main thread to ``heartbeats/`` in the run's folder, which must be visible to all ranks. A rank
    without progress for ``seconds`` prints the slowest ranks and ends its process with code 124.

    Args:
        seconds: Longest time between two hooks, in s: for a step, for reading a batch, for a checkpoint, for a validation's samples. It
            must be below the timeout of collectives, which is 1800 s (600 s for NCCL if torch sets it).

    Raises:
        ValueError: If ``seconds`` is not positive.
    """

    def __init__(self, seconds: float = 1200.0) -> None:
        if seconds <= 0:
            raise ValueError(f"Watchdog: seconds must be positive, got {seconds}")
        self.seconds, self.tick = seconds, min(seconds / 8, 10.0)
        self.count, self.doing, self.last_progress = 0, "starting", time.monotonic()
        self.batch: Batch | None = None
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None

    def record_progress(self, doing: str) -> None:
        """Records that the rank has called a hook."""
        self.count, self.doing, self.last_progress = self.count + 1, doing, time.monotonic()

    # ---- hooks
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder = Path(trainer.default_root_dir) / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self.trainer, self.main = trainer, threading.get_ident()
        self.count = 0
        self.ended.clear()
        self.record_progress("waiting for its first batch")
        self.write_heartbeat()
        trainer.strategy.barrier("heartbeats")  # afterwards no rank can read heartbeats of an earlier start
        self.thread = threading.Thread(target=self.watch, name="watchdog", daemon=True)
        self.thread.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.batch = batch
        self.record_progress("in its forward pass")

    def on_before_backward(self, *_: Any) -> None:
        self.record_progress("in its backward pass")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.record_progress("in its optimiser step")

    def on_train_batch_end(self, *_: Any) -> None:
        self.record_progress("waiting for the next batch")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, *_: Any) -> None:
        self.batch = batch
        self.record_progress("in validation")

    def on_validation_batch_end(self, *_: Any) -> None:
        self.record_progress("waiting for a validation batch")

    def on_validation_end(self, *_: Any) -> None:
        self.record_progress("at the end of a validation")

    def on_save_checkpoint(self, *_: Any) -> None:
        self.record_progress("saving a checkpoint")

    def on_train_end(self, *_: Any) -> None:
        self.stop()

    def on_exception(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops the thread."""
        self.ended.set()
        if self.thread is not None:
            self.thread.join(self.tick)
            self.file(self.trainer.global_rank).unlink(missing_ok=True)

    # ---- the thread
    def watch(self) -> None:
        while not self.ended.wait(self.tick):
            self.write_heartbeat()
            if time.monotonic() - self.last_progress > self.seconds:
                self.end_process()

    def file(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.json"

    def write_heartbeat(self) -> None:
        """Writes this rank's progress."""
        stack = traceback.extract_stack(sys._current_frames()[self.main])
        heartbeat = {
            "count": self.count,
            "step": self.trainer.global_step,
            "doing": self.doing,
            "clips": names(self.trainer, self.batch),
            "at": f"{stack[-1].name} ({stack[-1].filename}:{stack[-1].lineno})",
            "waits": any(part in frame.filename for frame in stack for part in COLLECTIVES),
            "process": f"{socket.gethostname()}, pid {os.getpid()}",
        }
        atomic.write_text(self.file(self.trainer.global_rank), json.dumps(heartbeat))

    def end_process(self) -> None:
        """Prints the slowest ranks and ends the process; its main thread may never return."""
        rank = self.trainer.global_rank
        beats = {r: json.loads(self.file(r).read_text()) for r in range(self.trainer.world_size) if self.file(r).exists()}
        descriptions = "; ".join(
            f"rank {r} ({b['process']}) at step {b['step']}, {b['doing']}, {b['clips']}, at {b['at']}"
            for r, b in slowest_ranks(beats).items()
        )
        text = f"baton_lightning: watchdog: rank {rank} has not moved for {self.seconds:g} s ({self.doing}); slowest: {descriptions}"
        sys.stderr.write(f"{text}; ending with code {STALLED}\n")  # one write, so that the lines of two ranks do not mix
        sys.stderr.flush()
        peers.ENDING.set()
        # For the other ranks' messages. Local rank 0 ends first: Lightning kills it when a process that it started has ended.
        time.sleep((2 if self.trainer.local_rank == 0 else 10) * self.tick)
        for process in peers.LAUNCHED.values():
            process.kill()
        os._exit(STALLED)


def slowest_ranks(beats: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Heartbeats of the ranks that have called the fewest hooks; of these, the ranks that do not wait in a collective, if there are any."""
    fewest = min(beat["count"] for beat in beats.values())
    last = {rank: beat for rank, beat in beats.items() if beat["count"] == fewest}
    busy = {rank: beat for rank, beat in last.items() if not beat["waits"]}
    return busy or last
