"""How fast training runs, and how much of it is waiting for data."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from baton_lightning.batch import Batch


class Throughput(Callback):
    """Logs ``perf/samples_per_s``, ``perf/tokens_per_s`` and ``perf/data_wait_share`` every ``log_every_n_steps`` steps.

    Tokens are latents and planned tokens of both modalities that the batch carries. Waiting is the time between the end of a step
    and the start of the next one.
    """

    def __init__(self) -> None:
        self.samples = self.tokens = 0
        self.waited = 0.0
        self.since = self.ended = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.samples, self.tokens, self.waited = 0, 0, 0.0
        self.since = self.ended = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)  # validation is neither training nor waiting

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.waited += time.monotonic() - self.ended

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.samples += len(batch)
        self.tokens += num_tokens(batch)
        self.ended = time.monotonic()
        if (trainer.global_step % trainer.log_every_n_steps) or trainer.logger is None:  # type: ignore[attr-defined]
            return
        seconds = max(self.ended - self.since, 1e-9)
        values = {"samples_per_s": self.samples, "tokens_per_s": self.tokens, "data_wait_share": self.waited}
        trainer.logger.log_metrics(
            {f"perf/{name}": value * trainer.world_size ** (name != "data_wait_share") / seconds for name, value in values.items()},
            trainer.global_step,
        )
        self.samples, self.tokens, self.waited, self.since = 0, 0, 0.0, self.ended


def num_tokens(batch: Batch) -> int:
    """Latent positions and planned tokens of a batch."""
    count = 0
    if batch.video_latents is not None:
        count += batch.video_latents.shape[0] * batch.video_latents[0, 0].numel()
    for tensor in (batch.audio_latents, batch.video_features, batch.audio_features):
        if tensor is not None:
            count += tensor.shape[0] * tensor.shape[1]
    return count
