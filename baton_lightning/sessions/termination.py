"""Ends a run on SIGTERM or Ctrl+C: all ranks finish the same step, save a checkpoint, and exit. A second signal ends the process at once.

Lightning's own handler starts a collective operation inside the signal handler. Ranks that are in different collectives then deadlock.
Its exception also carries no exit code, so a killed run would exit with 0. Here the handler only sets a flag.
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
"""Times in s: how long to wait for the other ranks of this machine to end; how long a process that is still starting may take to end by
itself; and within which two signals count as one, because `timeout` signals both a process and its group."""
REPEAT = {
    "fit": "repeat the command to resume from the last checkpoint",
    "validate": "repeat the command to score from the start",
    "test": "repeat the command to score from the start",
    "predict": "repeat the command to compute what is not written yet",
}


class Terminated(SystemExit):
    """Asks the process to exit. If it is not caught, the exit code is 128 + signal, as shells expect.

    Args:
        number: The signal.
        outcome: What happens to the work; printed for the user.
    """

    def __init__(self, number: int, outcome: str) -> None:
        super().__init__(128 + number)
        self.outcome = f"{WORDS[signal.Signals(number)]}; {outcome}"


class Termination(Callback):
    """Handles SIGTERM and SIGINT at the end of a step. A signal to one rank ends all ranks.

    Args:
        verb: fit, validate, test or predict.
    """

    def __init__(self, verb: str = "fit") -> None:
        self.outcome = REPEAT[verb]
        self.requested, self.step, self.pid = 0, 0, os.getpid()
        self.first_signal_at: float | None = None
        self.looping = self.agreed = self.ending = False
        self.timer: threading.Timer | None = None

    # ---- signals
    @contextmanager
    def signal_handlers(self) -> Iterator[None]:
        """Context in which the handlers are installed. On :class:`Terminated`, the ranks that this process launched are ended too."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle) for number in WORDS}
        try:
            with signals.signal_thread(self.on_signal):
                try:
                    yield
                except Terminated:
                    self.end_children()
                    raise
        finally:
            peers.ENDING.set()
            if self.timer is not None:
                self.timer.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle(self, number: int, frame: Any) -> None:
        """Signal handler, runs in the main thread. Outside of a loop it ends the process, as there is no step to wait for."""
        if os.getpid() != self.pid:  # a worker of a data loader, which its parent process ends
            return
        self.requested = self.requested or number
        if not self.looping and not self.ending:  # the thread of `heard` handles a second signal during the exit
            self.ending = True
            raise Terminated(self.requested, self.outcome)

    def on_signal(self, number: int) -> None:
        """Runs in a thread. Ends the process at the second signal, or if a process that is still starting does not react to the first."""
        if number not in WORDS:
            return
        now = time.monotonic()
        if self.first_signal_at is None:
            self.first_signal_at, self.requested = now, self.requested or number
            if self.looping:
                where = "the run saves and ends after this step" if self.outcome == REPEAT["fit"] else "ends after this batch"
                os.write(2, f"\nbaton_lightning: {signal.Signals(number).name}: {where}; a second signal ends it immediately\n".encode())
            else:
                self.timer = threading.Timer(GRACE, self.end_at_once, [number])
                self.timer.daemon = True
                self.timer.start()
        elif now - self.first_signal_at > TWICE:
            self.end_at_once(number)

    def end_at_once(self, number: int) -> None:
        peers.end(f"{WORDS[signal.Signals(number)]} immediately; {self.outcome}", 128 + number)

    def end_children(self) -> None:
        """Terminates the launched ranks, unless all ranks agreed to end, and waits for them."""
        peers.ENDING.set()
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
        """Installs the handler again, because Lightning registers its own after `setup` and before its loops."""
        self.looping = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handle)

    on_sanity_check_start = on_validation_start = on_test_start = on_predict_start = take_over

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        self.take_over(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Saves a checkpoint and ends all ranks at the same optimiser step. After the last step the run ends by itself."""
        stepped, self.step = trainer.global_step != self.step, trainer.global_step
        if not stepped or trainer.global_step == trainer.max_steps:
            return
        if trainer.strategy.reduce_boolean_decision(bool(self.requested), all=False):
            saver = next((c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.save_last), None)
            if saver is not None:
                saver._save_last_checkpoint(trainer, saver._monitor_candidates(trainer))  # collective: every rank is here
                trainer.strategy.barrier("terminated")
            self.end(trainer)

    def end_if_requested(self, trainer: Trainer, *_: Any) -> None:
        """Ends all ranks at the same batch. In `predict` each rank decides alone, because ranks have different numbers of batches."""
        requested = bool(self.requested)
        if requested if trainer.predicting else trainer.strategy.reduce_boolean_decision(requested, all=False):
            self.end(trainer)

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = end_if_requested

    def end(self, trainer: Trainer) -> None:
        """Ends this rank with a message about what is saved and what is lost.

        Raises:
            Terminated: Always.
        """
        peers.ENDING.set()
        self.ending = True
        self.agreed = not trainer.predicting
        fitting = trainer.state.fn == "fit"
        raise Terminated(self.requested or signal.SIGTERM, resume_message(trainer) if fitting else self.outcome)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.looping = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.looping = False


def resume_message(trainer: Trainer) -> str:
    """Text that names the checkpoint from which the run resumes, and the number of steps that are lost."""
    newest, folders = None, {str(c.dirpath) for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.dirpath}
    for folder in folders:
        try:
            newest = checkpoints.newest(Path(folder))[0] or newest
        except ValueError:  # no checkpoint in this folder is complete
            continue
    if newest is None:
        return f"no checkpoint was saved: {trainer.global_step} steps are lost; repeat the command to start from scratch"
    step = int(checkpoints.read(newest).get("step", 0))
    lost = max(0, trainer.global_step - step)
    outcome = f"{lost} steps are" if lost > 1 else f"{lost or 'no'} step is"
    return f"{REPEAT['fit']}, {newest} of step {step}; {outcome} lost"
