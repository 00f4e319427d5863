"""A generated clip: pictures and sound with the plan they follow; it can be saved, and plays in a notebook."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton_lightning import atomic
from baton_lightning.media import mp4_bytes, write_mp4
from baton_lightning.plan.clip_plan import ClipPlan

SHOWN = 288
"""Height of a clip in a notebook, in pixels, at least."""


@dataclass(frozen=True, eq=False)
class GeneratedClip:
    """Media of one clip.

    Args:
        frames: Pictures [T, Y, X, 3], uint8.
        audio: Sound [S], float32 in [-1, 1].
        fps: Frames per second.
        sample_rate: Samples per second.
        plan: The plan that was followed; ``None`` for a clip without one.
        seed: Seed of its noise.
        video_prompt: What should be seen.
        audio_prompt: What should be heard.
    """

    frames: NDArray[np.uint8]
    audio: NDArray[np.float32]
    fps: float
    sample_rate: int
    plan: ClipPlan | None
    seed: int
    video_prompt: str = ""
    audio_prompt: str = ""

    @property
    def seconds(self) -> float:
        """Duration of the sound, in s."""
        return len(self.audio) / self.sample_rate

    def enlarged(self, scale: int) -> NDArray[np.uint8]:
        """Pictures with every pixel repeated.

        Args:
            scale: Pixels of the result to a pixel, 1 or more.

        Raises:
            ValueError: If it is less than 1.
        """
        if scale < 1:
            raise ValueError(f"scale must be a whole number of 1 or more, got {scale}")
        return self.frames.repeat(scale, 1).repeat(scale, 2)

    def save(self, path: str | Path, *, scale: int = 1) -> Path:
        """Writes an mp4 that plays anywhere (H.264 in yuv420p, AAC); the folder is made.

        Args:
            path: Name of the file; an existing one is replaced.
            scale: See :meth:`enlarged`.

        Returns:
            The file.
        """
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(file, self.enlarged(scale), self.fps, self.audio, self.sample_rate, pix_fmt="yuv420p")
        return file

    def describe(self, path: str | Path) -> None:
        """Writes what was asked for beside a clip, as JSON."""
        told: dict[str, Any] = {"video_prompt": self.video_prompt, "audio_prompt": self.audio_prompt, "seed": self.seed}
        if self.plan is not None:
            told |= {"plan_sha256": self.plan.digest, "edits": list(self.plan.edits)}
        atomic.write_text(Path(path), json.dumps(told, indent=1))

    def _repr_html_(self) -> str:
        """The player that a notebook shows."""
        scale = max(1, -(-SHOWN // self.frames.shape[1]))
        video = base64.b64encode(mp4_bytes(self.enlarged(scale), self.fps, self.audio, self.sample_rate, pix_fmt="yuv420p")).decode()
        return f'<video controls loop height="{SHOWN}" src="data:video/mp4;base64,{video}"></video>'

    def __repr__(self) -> str:
        frames, rows, columns, _ = self.frames.shape
        return (
            f"GeneratedClip({frames} frames of {rows} x {columns}, {self.seconds:g} s of sound at {self.sample_rate} Hz, seed {self.seed})"
        )
