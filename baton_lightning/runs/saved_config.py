"""Saves the configuration of a run in its folder and in TensorBoard: all of it as text, and what tells runs apart as hyperparameters."""

from __future__ import annotations

from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from baton_lightning import hints

COMPARED = ("seed_everything", "clip", "data", "model", "trainer")
"""Sections with hyperparameters."""
ALWAYS = (
    "seed_everything", "data.init_args.root", "data.init_args.batch_size", "trainer.max_steps", "trainer.precision",
    "model.init_args.optimizer.class_path", "model.init_args.optimizer.init_args.lr",
)  # fmt: skip
"""Hyperparameters of every run; to them come the settings that the command changes in its first experiment file."""
METRIC = "val/loss"
"""Metric that TensorBoard's table of runs shows beside the hyperparameters."""
LAYOUT = {
    "losses": {
        "training and validation": ["Multiline", ["train/loss$", "val/loss$"]],
        "parts": ["Multiline", ["train/loss_.*", "val/loss_.*", "val/flow_loss/.*"]],
    },
    "plans": {"R2": ["Multiline", ["val/r2_.*"]], "gate": ["Multiline", ["gate/.*"]]},
    "optimiser": {"norm of the gradient": ["Multiline", ["opt/grad_norm"]], "learning rates": ["Multiline", ["opt/lr.*"]]},
    "speed": {"throughput": ["Multiline", ["perf/.*"]]},
}
"""Charts of TensorBoard's tab `custom scalars`, losses first: section -> title -> kind and tags."""


class SavedConfig(SaveConfigCallback):
    """Lightning's callback that writes ``config.yaml``. At a run's first start it adds two entries to TensorBoard. Rank 0 writes."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        logger = trainer.logger
        if stage != "fit" or not isinstance(logger, TensorBoardLogger) or trainer.ckpt_path is not None:
            return
        from torch.utils.tensorboard.summary import hparams

        text = self.parser.dump(self.config, skip_none=False)
        values = yaml.safe_load(text)
        flat = {key: value for part in COMPARED for key, value in flatten(values.get(part), part).items()}
        flat = {key: flat[key] for key in dict.fromkeys([*ALWAYS, *hints.changed_settings()]) if key in flat}
        logger.experiment.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))  # indented: verbatim in Markdown
        logger.experiment.add_custom_scalars(LAYOUT)
        for summary in hparams(flat, {METRIC: 0.0}):
            logger.experiment._get_file_writer().add_summary(summary)


def flatten(values: Any, name: str) -> dict[str, Any]:
    """Nested mappings as dotted keys; values are numbers, booleans and strings."""
    if isinstance(values, dict):
        return {k: v for key, child in values.items() for k, v in flatten(child, f"{name}.{key}").items()}
    return {name: values if isinstance(values, (int, float, str, bool)) else str(values)}
