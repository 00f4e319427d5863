"""Hides messages of other libraries about themselves. Warnings about the user's own run are still shown.

Each entry states the reason. Messages without an entry are shown.
"""

from __future__ import annotations

import logging
import re
import warnings

LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "lightning.fabric.utilities.distributed",
)
LINES = {
    "💡 Tip: ": "advertises litlogger and litmodels",
    r"\w+ available: ": "the machine's devices; the configuration names those that are used",
    "Seed set to ": "repeats the configuration",
    r"`Trainer\.\w+` stopped: `max_": "the run prints itself that it is finished",
    "Restor(ing|ed) .*checkpoint": "the run prints itself the checkpoint that it resumes from",
    "Loaded model weights from the checkpoint": "the verb prints itself which weights it scores",
    "Initializing distributed: ": "one line for each rank of every start",
    r"-{20,}\s*distributed_backend=": "a box around the number of ranks",
}
"""Patterns of the beginnings of hidden log lines of Lightning."""
WARNINGS = {
    r"The `srun` command is available": "a machine with SLURM is used without it on purpose; `slurm` writes scripts",
    r"Checkpoint directory .* exists and is not empty": "true of every resumed run",
    r"`isinstance\(treespec": "torch's own pytree, called by Lightning",
    r"torch\.distributed\.\S+ is deprecated": "torch's own collectives, called by Lightning",
    r"Found \d+ module\(s\) in eval mode at the start of training": "frozen networks stay in evaluation mode on purpose",
    r"LightningCLI's args parameter": "`python -m baton_lightning` gives arguments and a command line on purpose",
    r"\s*.*was deprecated in v4\.\d+\.\d+ and will be removed in v5": "jsonargparse's own interface, called by Lightning",
    r"\s*By default only one JsonargparseDeprecationWarning": "the same",
}
"""Patterns of the beginnings of hidden warnings."""


class Advertising(logging.Filter):
    """Hides log lines up to level INFO that match an entry of ``LINES``."""

    pattern = re.compile(rf"\s*(\[rank: \d+\] )?({'|'.join(LINES)})")

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or not self.pattern.match(record.getMessage())


ADVERTISING = Advertising()


def silence() -> None:
    """Hides these messages from now on. It may be called repeatedly."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(ADVERTISING)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message)
