"""SIGTERM ends a run between two steps, on all ranks together, with exit code 143.

Lightning's own handler broadcasts from inside the signal handler, where ranks that stand at different collectives wait for each other,
and its exception carries no code, so that a killed run would exit 0. Here the handler sets a flag, nothing else.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
PATIENCE = 30.0
"""Time that the other ranks of this machine are given to end, in s."""


class Terminated(SystemExit):
    """The process was asked to end; whoever does not catch it exits with the code that a shell expects."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class Termination(Callback):
    """Takes SIGTERM over from Lightning and acts on it before the next step; one rank that was told is enough."""

    def __init__(self) -> None:
        self.asked = self.looping = False
        self.children: list[subprocess.Popen] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Holds the signal's handler; on :class:`Terminated` the processes that this one launched end as well."""
        ours = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, self.handle) if ours else None
        try:
            yield
        except Terminated:
            self.end_children()
            raise
        finally:
            if ours:
                signal.signal(signal.SIGTERM, before)

    def handle(self, signum: int, frame: Any) -> None:
        """Outside of a loop there is no next step to wait for."""
        self.asked = True
        if not self.looping:
            raise Terminated

    def end_children(self) -> None:
        """Passes the signal on and waits."""
        for child in self.children:
            child.terminate()
        for child in self.children:
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()

    # ---- loops
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.children = list(getattr(trainer.strategy.launcher, "procs", ()))

    def take_over(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning registers its handlers after `setup` and before its loops."""
        self.looping = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handle)

    on_sanity_check_start = on_train_start = on_validation_start = on_test_start = on_predict_start = take_over

    def end_if_asked(self, trainer: Trainer, *_: Any) -> None:
        """Ends all ranks at the same step; a rank of `predict` is alone, as ranks have different numbers of batches."""
        alone = trainer.predicting
        if self.asked if alone else trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            launcher_procs = getattr(trainer.strategy.launcher, "procs", None)
            if launcher_procs:
                launcher_procs.clear()  # Lightning's observer would kill this process when it finds that a child has ended
            raise Terminated

    on_train_batch_start = on_validation_batch_start = on_test_batch_start = on_predict_batch_start = end_if_asked

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.looping = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.looping = False
