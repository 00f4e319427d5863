"""A table at the end of training: steps, time, parameters, memory, metrics and the folder of checkpoints."""

from __future__ import annotations

import resource
import time

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table


class RunSummary(Callback):
    """Prints the table on rank 0 and logs it as text."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        rows = self.rows(trainer, pl_module)
        table = Table(title=f"{type(pl_module).__name__}: {trainer.default_root_dir}", show_header=False)
        for name, value in rows.items():
            table.add_row(name, value)
        Console().print(table)
        writer = getattr(trainer.logger, "experiment", None)
        if writer is not None and hasattr(writer, "add_text"):
            writer.add_text(
                "summary", "\n".join(f"| {k} | {v} |" if i else f"| {k} | {v} |\n|---|---|" for i, (k, v) in enumerate(rows.items()))
            )

    def rows(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:
        """Rows of the table, by name."""
        parameters = list(pl_module.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        memory = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB resident"
        if torch.cuda.is_available():
            memory += f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU"
        rows = {
            "steps": f"{trainer.global_step}",
            "wall time": f"{time.monotonic() - self.started:.0f} s",
            "parameters": f"{trained:,} trained, {sum(p.numel() for p in parameters) - trained:,} frozen",
            "peak memory": memory,
        }
        rows |= {name: f"{float(value):.4f}" for name, value in sorted(trainer.callback_metrics.items()) if not name.endswith("_step")}
        if trainer.checkpoint_callback is not None:
            rows["checkpoints"] = str(getattr(trainer.checkpoint_callback, "dirpath", ""))
        return rows
