"""From a file to a clip in a shard, an event stays at its time, whatever rates the file has."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from baton_lightning.__main__ import main
from baton_lightning.media import read_mp4, write_mp4
from baton_lightning.shards.format import Shard
from baton_lightning.shards.workers import run_jobs

RATES = [(12, 16000), (24000 / 1001, 44100), (25, 48000), (30000 / 1001, 44100), (30, 22050), (60, 48000)]


def flash_and_click(file: Path, fps: float, rate: int, event: float) -> tuple[float, float]:
    """Writes 4.2 s with a flash and a click in it; returns when they are."""
    count, draws = round(4.2 * fps), np.random.default_rng(0)
    frames = np.full((count, 48, 64, 3), 40, np.uint8)
    for i, picture in enumerate(frames):
        column = round(20 * i / fps) % 16
        picture[:8, column : column + 8] = 220  # something moves all the time
    flash = round(event * fps)
    frames[flash:, 16:] = 230
    sound = (0.003 * draws.standard_normal(round(4.2 * rate))).astype(np.float32)
    click = round(event * rate)
    sound[click] = 0.9
    write_mp4(file, frames, fps, sound, rate)
    return flash / fps, click / rate


@pytest.mark.parametrize(("fps", "rate"), RATES)
def test_flash_and_click_of_a_file_are_where_they_were_in_each_clip(tmp_path: Path, fps: float, rate: int) -> None:
    rows, events = [], {}
    for i, event in enumerate((0.5, 1.37, 2.71, 3.5)):
        events[f"e{i}"] = flash_and_click(tmp_path / f"e{i}.mp4", fps, rate, event)
        rows.append({"file": f"e{i}.mp4", "text": "x", "split": "train"})
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["shards", "build", f"{tmp_path}/list.jsonl", f"{tmp_path}/set", "--workers", "0", "--repeat", "caption"]
    assert main(words) == 0
    shard = Shard.open(tmp_path / "set/train/clips-000000.tar")
    for key, (flash, click) in events.items():
        number, start = (0, 0.0) if flash < 2 else (1, 2.0)
        media = read_mp4(shard.read(f"{key}-{number:04d}", "mp4"))
        seen = int((media.frames[:, 24:].mean((1, 2, 3)) > 135).argmax()) / media.fps + start
        heard = int(np.abs(media.waveform).argmax()) / media.sample_rate + start
        assert abs(seen - flash) <= 0.5 / media.fps + 1e-3
        assert abs(heard - click) <= 0.0015


def test_a_worker_that_is_killed_from_outside_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="a worker was killed from outside.*fewer --workers"):
        list(run_jobs(os.abort, [()], 1))
