"""Small clips with sound, with all that may lie beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from baton_lightning.media import write_mp4

RATE = 16000


def write_clip(folder: Path, key: str, *, seconds: float = 1.0, pitch: float = 440.0, shade: int = 90, **meta) -> Path:
    """A moving square with a tone, and its prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.full((round(8 * seconds), 32, 32, 3), shade, np.uint8)
    for i, frame in enumerate(frames):
        frame[8:16, i % 24 : i % 24 + 8] = (220, 40, 40)
    tone = 0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)
    file = folder / f"{key}.mp4"
    write_mp4(file, frames, 8, tone, RATE)
    file.with_suffix(".json").write_text(json.dumps({"video_prompt": "a square", "audio_prompt": "a tone", **meta}))
    return file


@pytest.fixture
def clips(tmp_path):
    """Three clips: two speakers, one speaker, nobody."""
    made = tmp_path / "made"
    write_clip(made, "a", pitch=300, speech=[{"speaker": "Ann", "text": "The cat sat."}, {"speaker": "Bob", "text": "On!"}])
    write_clip(made, "b", pitch=500, speech="Hello, world", speakers=["Cy"])
    write_clip(made, "c", pitch=900)
    return made


@pytest.fixture(name="write_clip")
def writer():
    """For tests that write clips of their own."""
    return write_clip
