"""A generated clip: pictures and sound with their plan. It can be saved, and is played in a notebook."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baton_lightning.media import mp4_bytes, write_mp4
from baton_lightning.plan.clip_plan import ClipPlan

PLAYER_HEIGHT = 288
"""Smallest height of a clip in a notebook, in pixels."""


@dataclass(frozen=True, eq=False)
class GeneratedClip:
    """Media of one clip.

    Args:
        frames: Pictures [T, Y, X, 3], uint8.
        audio: Sound [S], float32 in [-1, 1].
        fps: Frames per second.
        sample_rate: Samples per second.
        plan: Plan of the clip; ``None`` = none.
        seed: Seed of the noise.
        video_prompt: Description of the picture.
        audio_prompt: Description of the sound.
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
            scale: Repetitions of every pixel in both directions, >= 1.

        Raises:
            ValueError: If ``scale`` is less than 1.
        """
        if scale < 1:
            raise ValueError(f"scale must be a whole number of 1 or more, got {scale}")
        return self.frames.repeat(scale, 1).repeat(scale, 2)

    def save(self, path: str | Path, *, scale: int = 1) -> Path:
        """Writes an mp4 for any player (H.264 with yuv420p, AAC), and creates its folder.

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

    def _repr_html_(self) -> str:
        """HTML video player for notebooks."""
        scale = max(1, -(-PLAYER_HEIGHT // self.frames.shape[1]))
        video = base64.b64encode(mp4_bytes(self.enlarged(scale), self.fps, self.audio, self.sample_rate, pix_fmt="yuv420p")).decode()
        return f'<video controls loop height="{PLAYER_HEIGHT}" src="data:video/mp4;base64,{video}"></video>'

    def __repr__(self) -> str:
        frames, rows, columns, _ = self.frames.shape
        return (
            f"GeneratedClip({frames} frames of {rows} x {columns}, {self.seconds:g} s of sound at {self.sample_rate} Hz, seed {self.seed})"
        )
