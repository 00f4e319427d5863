"""What other libraries print about themselves and is kept from users of our verbs. Warnings about the user's own run stay.

Each entry says why; a line that is in none of them is shown.
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
    r"\w+ available: ": "the machine's devices; the configuration says which are used",
    "Seed set to ": "repeats the configuration",
    r"`Trainer\.\w+` stopped: `max_": "the run says itself that it is finished",
    "Restor(ing|ed) .*checkpoint": "the run says itself what it goes on from",
    "Loaded model weights from the checkpoint": "the verb says itself which weights it scores",
    "Initializing distributed: ": "one line for each rank of every start",
    r"-{20,}\s*distributed_backend=": "a box around the number of ranks",
}
"""Beginnings of lines that Lightning logs."""
WARNINGS = {
    r"The `srun` command is available": "a machine with SLURM is used without it on purpose; `slurm` writes scripts",
    r"Checkpoint directory .* exists and is not empty": "so it is wherever a run goes on",
    r"`isinstance\(treespec": "torch's own pytree, called by Lightning",
    r"torch\.distributed\.\S+ is deprecated": "torch's own collectives, called by Lightning",
    r"LightningCLI's args parameter": "`python -m baton_lightning` gives arguments and a command line on purpose",
    r"\s*.*was deprecated in v4\.\d+\.\d+ and will be removed in v5": "jsonargparse's own interface, called by Lightning",
    r"\s*By default only one JsonargparseDeprecationWarning": "the same",
}
"""Beginnings of warnings."""


class Advertising(logging.Filter):
    """Lets pass what no entry of ``LINES`` names."""

    pattern = re.compile(rf"\s*(\[rank: \d+\] )?({'|'.join(LINES)})")

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or not self.pattern.match(record.getMessage())


ADVERTISING = Advertising()


def silence() -> None:
    """Keeps these lines from now on; as often as it is called."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(ADVERTISING)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message)
