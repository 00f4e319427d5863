"""Ends a run that no longer moves, and names the rank that the others wait for, before a collective times out without a word."""

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
from callbacks.whereabouts import names

STALLED = 124
"""Exit code of a run that no longer moved, as of `timeout`."""
FOLDER = "heartbeats"
COLLECTIVES = ("torch/distributed", "deepspeed/comm", "lightning/fabric/utilities/distributed")


class Watchdog(Callback):
    """A thread on every rank that watches whether its rank moves from hook to hook.

    All ranks pass the same hooks in the same order, so whoever has passed the fewest is the one the others wait for. Each rank writes
    how far it is, with its clips and what its main thread is doing, to ``heartbeats/`` in the run's folder, which all ranks have to see.
    A rank that has not moved for ``seconds`` prints who is behind, and ends its process with code 124.

    Args:
        seconds: Longest that anything may take between two hooks, in s: a step, a batch's reading, a checkpoint, a validation's samples.
            Below the timeout of collectives, which is 1800 s (NCCL's own is 600 s where torch sets it).

    Raises:
        ValueError: If ``seconds`` is not positive.
    """

    def __init__(self, seconds: float = 1200.0) -> None:
        if seconds <= 0:
            raise ValueError(f"Watchdog: seconds must be positive, got {seconds}")
        self.seconds, self.tick = seconds, min(seconds / 8, 10.0)
        self.count, self.doing, self.moved = 0, "starting", time.monotonic()
        self.batch: Batch | None = None
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None

    def move(self, doing: str) -> None:
        """The rank has passed a hook."""
        self.count, self.doing, self.moved = self.count + 1, doing, time.monotonic()

    # ---- hooks
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder = Path(trainer.default_root_dir) / FOLDER
        self.folder.mkdir(parents=True, exist_ok=True)
        self.trainer, self.main = trainer, threading.get_ident()
        self.count = 0
        self.ended.clear()
        self.move("waiting for its first batch")
        self.beat()
        trainer.strategy.barrier("heartbeats")  # from here on nobody reads those of an earlier start
        self.thread = threading.Thread(target=self.watch, name="watchdog", daemon=True)
        self.thread.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.batch = batch
        self.move("in its forward pass")

    def on_before_backward(self, *_: Any) -> None:
        self.move("in its backward pass")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.move("in its optimiser step")

    def on_train_batch_end(self, *_: Any) -> None:
        self.move("waiting for the batch after the one named")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, *_: Any) -> None:
        self.batch = batch
        self.move("in validation")

    def on_validation_batch_end(self, *_: Any) -> None:
        self.move("waiting for a validation batch")

    def on_validation_end(self, *_: Any) -> None:
        self.move("at the end of a validation")

    def on_save_checkpoint(self, *_: Any) -> None:
        self.move("saving a checkpoint")

    def on_train_end(self, *_: Any) -> None:
        self.stop()

    def on_exception(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Nobody is watched any more."""
        self.ended.set()
        if self.thread is not None:
            self.thread.join(self.tick)
            self.file(self.trainer.global_rank).unlink(missing_ok=True)

    # ---- the thread
    def watch(self) -> None:
        while not self.ended.wait(self.tick):
            self.beat()
            if time.monotonic() - self.moved > self.seconds:
                self.end()

    def file(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.json"

    def beat(self) -> None:
        """Writes how far this rank is."""
        stack = traceback.extract_stack(sys._current_frames()[self.main])
        said = {
            "count": self.count,
            "step": self.trainer.global_step,
            "doing": self.doing,
            "clips": names(self.trainer, self.batch),
            "at": f"{stack[-1].name} ({stack[-1].filename}:{stack[-1].lineno})",
            "waits": any(part in frame.filename for frame in stack for part in COLLECTIVES),
            "process": f"{socket.gethostname()}, pid {os.getpid()}",
        }
        atomic.write_text(self.file(self.trainer.global_rank), json.dumps(said))

    def end(self) -> None:
        """Says who is behind and ends the process: its main thread may never come back."""
        rank = self.trainer.global_rank
        beats = {r: json.loads(self.file(r).read_text()) for r in range(self.trainer.world_size) if self.file(r).exists()}
        told = "; ".join(
            f"rank {r} ({b['process']}) at step {b['step']}, {b['doing']}, {b['clips']}, at {b['at']}" for r, b in behind(beats).items()
        )
        text = f"baton_lightning: watchdog: rank {rank} has not moved for {self.seconds:g} s ({self.doing}); behind is {told}"
        sys.stderr.write(f"{text}; ending with code {STALLED}\n")  # its end in the same write, so that the lines of two ranks do not mix
        sys.stderr.flush()
        peers.LET_GO.set()
        time.sleep(2 * self.tick)  # the others say the same
        for process in peers.LAUNCHED.values():
            process.kill()
        os._exit(STALLED)


def behind(beats: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Heartbeats of the ranks that have passed the fewest hooks; among equals, of those that do not wait in a collective, if any."""
    fewest = min(beat["count"] for beat in beats.values())
    last = {rank: beat for rank, beat in beats.items() if beat["count"] == fewest}
    busy = {rank: beat for rank, beat in last.items() if not beat["waits"]}
    return busy or last
