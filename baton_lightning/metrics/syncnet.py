"""Sync-C and Sync-D: SyncNet's confidence and distance of lips and voice, computed by a checkout of its published scripts."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from baton_lightning.metrics.backend import Measured
from baton_lightning.metrics.clips import ClipExcluded

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip

REPOSITORY = "https://github.com/joonson/syncnet_python"


class SyncNet:
    """The published pipeline: faces are detected, cropped and tracked, and each track is scored. The most confident track counts.

    Args:
        checkout: Folder with ``run_pipeline.py``, ``run_syncnet.py`` and the weights.
        python: Python interpreter with their dependencies; ``None`` = this one.
    """

    def __init__(self, checkout: str = "syncnet_python", python: str | None = None) -> None:
        self.checkout, self.python = checkout, python or sys.executable

    @property
    def protocol(self) -> str:
        return f"syncnet_python ({Path(self.checkout).name}), the surest face track of a clip"

    def measure(self, clip: Clip) -> Measured:
        """``{"confidence": ..., "distance": ...}``."""
        scripts = [Path(self.checkout) / name for name in ("run_pipeline.py", "run_syncnet.py")]
        if missing := [script for script in scripts if not script.is_file()]:
            raise ValueError(f"needs a checkout of SyncNet with its weights, but {missing[0]} is not a file: git clone {REPOSITORY}")
        with tempfile.TemporaryDirectory() as work:
            output = [self._run(script, clip, work) for script in scripts][-1]
        tracks = list(zip(numbers("Confidence", output), numbers("Min dist", output), strict=True))
        if not tracks:
            raise ClipExcluded("SyncNet found no face")
        confidence, distance = max(tracks)
        return {"confidence": confidence, "distance": distance}

    def _run(self, script: Path, clip: Clip, work: str) -> str:
        command = [self.python, script.name, "--videofile", str(clip.file.resolve()), "--reference", clip.key, "--data_dir", work]
        run = subprocess.run(command, cwd=self.checkout, capture_output=True, text=True)
        if run.returncode:
            last = (run.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"SyncNet's {script.name} failed on {clip.file.name}: {last}")
        return run.stdout + run.stderr


def numbers(name: str, text: str) -> list[float]:
    """All numbers after a name in a log."""
    return [float(found) for found in re.findall(rf"{name}:\s+(-?\d+(?:\.\d+)?)", text)]
