"""SIGTERM and Ctrl+C end a run at the end of a step, which is saved, on all ranks together; a second signal ends it at once.

Lightning's own handler broadcasts from inside the signal handler, where ranks that stand at different collectives wait for each other,
and its exception carries no code, so that a killed run would exit 0. Here the handler sets a flag.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from baton_lightning import peers, signals
from baton_lightning.runs import checkpoints

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
PATIENCE, GRACE, TWICE = 30.0, 5.0, 0.5
"""Times in s: for the other ranks of this machine to end; for a process that still starts; within which two signals count as one, as of
`timeout`, which tells a process and its group."""
GOES_ON = {
    "fit": "the same command goes on from the last checkpoint",
    "validate": "the same command scores from the start",
    "test": "the same command scores from the start",
    "predict": "the same command goes on with what is not written yet",
}


class Terminated(SystemExit):
    """The process was asked to end; whoever does not catch it exits with the code that a shell expects.

    Args:
        number: The signal.
        told: What becomes of the work.
    """

    def __init__(self, number: int, told: str) -> None:
        super().__init__(128 + number)
        self.told = f"{WORDS[signal.Signals(number)]}; {told}"


class Termination(Callback):
    """Takes SIGTERM and SIGINT over and acts on them at a step's end; one rank that was told is enough.

    Args:
        verb: fit, validate, test or predict.
    """

    def __init__(self, verb: str = "fit") -> None:
        self.told = GOES_ON[verb]
        self.asked, self.step, self.pid = 0, 0, os.getpid()
        self.heard_at: float | None = None
        self.looping = self.agreed = self.ending = False
        self.timer: threading.Timer | None = None

    # ---- signals
    @contextmanager
    def listening(self) -> Iterator[None]:
        """Holds the handlers; on :class:`Terminated` the ranks that this one launched end as well."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle) for number in WORDS}
        try:
            with signals.hearing(self.heard):
                try:
                    yield
                except Terminated:
                    self.end_children()
                    raise
        finally:
            peers.LET_GO.set()
            if self.timer is not None:
                self.timer.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle(self, number: int, frame: Any) -> None:
        """In the main thread: outside of a loop there is no step to wait for."""
        if os.getpid() != self.pid:  # a process of a data loader, which its parent ends
            return
        self.asked = self.asked or number
        if not self.looping and not self.ending:  # a second one, amid the way out, is the thread's to judge
            self.ending = True
            raise Terminated(self.asked, self.told)

    def heard(self, number: int) -> None:
        """In a thread: ends the process at the second signal, and if it starts and its main thread does not come back."""
        if number not in WORDS:
            return
        now = time.monotonic()
        if self.heard_at is None:
            self.heard_at, self.asked = now, self.asked or number
            if self.looping:
                where = "the run is saved and ends when this step is done" if self.told == GOES_ON["fit"] else "ends after this batch"
                os.write(2, f"\nbaton_lightning: {signal.Signals(number).name}: {where}; another one ends it at once\n".encode())
            else:
                self.timer = threading.Timer(GRACE, self.end_at_once, [number])
                self.timer.daemon = True
                self.timer.start()
        elif now - self.heard_at > TWICE:
            self.end_at_once(number)

    def end_at_once(self, number: int) -> None:
        peers.end(f"{WORDS[signal.Signals(number)]} at once; {self.told}", 128 + number)

    def end_children(self) -> None:
        """Passes the signal on, unless all ranks agreed, and waits."""
        peers.LET_GO.set()
        for child in peers.LAUNCHED.values():
            if not self.agreed:
                child.terminate()
        for child in peers.LAUNCHED.values():
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()

    # ---- loops
    def take_over(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning registers its handlers after `setup` and before its loops."""
        self.looping = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handle)

    on_sanity_check_start = on_validation_start = on_test_start = on_predict_start = take_over

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        self.take_over(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Saves and ends all ranks at the same optimiser step, if it is not the last, after which the run ends anyway."""
        stepped, self.step = trainer.global_step != self.step, trainer.global_step
        if not stepped or trainer.global_step == trainer.max_steps:
            return
        if trainer.strategy.reduce_boolean_decision(bool(self.asked), all=False):
            saver = next((c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.save_last), None)
            if saver is not None:
                saver._save_last_checkpoint(trainer, saver._monitor_candidates(trainer))  # collective: every rank is here
                trainer.strategy.barrier("terminated")
            self.end(trainer)

    def end_if_asked(self, trainer: Trainer, *_: Any) -> None:
        """Ends all ranks at the same batch; a rank of `predict` is alone, as ranks have different numbers of batches."""
        asked = bool(self.asked)
        if asked if trainer.predicting else trainer.strategy.reduce_boolean_decision(asked, all=False):
            self.end(trainer)

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = end_if_asked

    def end(self, trainer: Trainer) -> None:
        """Raises what ends this rank, with what is saved and what is lost."""
        peers.LET_GO.set()
        self.ending = True
        self.agreed = not trainer.predicting
        fitting = trainer.state.fn == "fit"
        raise Terminated(self.asked or signal.SIGTERM, saved(trainer) if fitting else self.told)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.looping = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.looping = False


def saved(trainer: Trainer) -> str:
    """From which checkpoint a run goes on, and how many steps it has made since."""
    newest, folders = None, {str(c.dirpath) for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.dirpath}
    for folder in folders:
        try:
            newest = checkpoints.newest(Path(folder))[0] or newest
        except ValueError:  # there are checkpoints, none of which is whole
            continue
    if newest is None:
        return f"no checkpoint was saved: {trainer.global_step} steps are lost, and the same command starts afresh"
    step = int(checkpoints.read(newest).get("step", 0))
    lost = max(0, trainer.global_step - step)
    told = f"{lost} steps are" if lost > 1 else f"{lost or 'no'} step is"
    return f"{GOES_ON['fit']}, {newest} of step {step}; {told} lost"
