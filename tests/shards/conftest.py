"""Recordings to build sets from: tiny, real, each with a picture and sound of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baton_lightning.media import write_mp4

Recorder = Callable[..., None]


def record(file: Path, number: int, seconds: float = 1.2, *, side: tuple[int, int] = (32, 32), fps: float = 12, **without: bool) -> None:
    """A square that wanders, and a tone; both depend on the number."""
    draws = np.random.default_rng(number)
    count, rate = round(seconds * fps), 16000
    frames = np.full((count, *side, 3), draws.integers(20, 90, 3), np.uint8)
    colour, row = draws.integers(120, 255, 3), draws.integers(0, side[0] - 12)
    for i, picture in enumerate(frames):
        column = round(i * 24 / fps + draws.integers(0, 2)) % (side[1] - 12)
        picture[row : row + 12, column : column + 12] = colour
    t = np.arange(round(seconds * rate)) / rate
    sound = (0.3 * np.sin(2 * np.pi * draws.uniform(200, 2000) * t) + 0.02 * draws.standard_normal(len(t))).astype(np.float32)
    if without.get("still"):
        frames[:] = frames[0]
    write_mp4(file, None if without.get("blind") else frames, fps, None if without.get("mute") else sound, rate)


@pytest.fixture(scope="session")
def recorder() -> Recorder:
    return record


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of good and bad recordings: 30 good ones of 1.2 s, a long one, and one for each way to be refused."""
    folder = tmp_path_factory.mktemp("recordings")
    rows: list[dict[str, Any]] = []

    def add(name: str, **more: Any) -> Path:
        rows.append({"file": name, "video_prompt": f"a square, {name}", "audio_prompt": f"a tone, {name}"} | more)
        return folder / name

    for i in range(30):
        speaking = {"speakers": ["Ann"], "speech": "oh"} if i % 3 == 0 else {}
        record(add(f"good-{i}.mp4", split="train" if i % 5 else "val", **speaking), i)
    record(add("long.mp4", split="train"), 100, 3.4)
    (add("copy.mp4")).write_bytes((folder / "good-3.mp4").read_bytes())
    record(add("short.mp4"), 101, 0.6)
    record(add("still.mp4"), 102, still=True)
    record(add("mute.mp4", split="train"), 103, mute=True)
    record(add("blind.mp4", split="train"), 104, blind=True)
    add("garbage.mp4").write_bytes(b"garbage" * 100)
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "list.jsonl"
