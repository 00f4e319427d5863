"""Counts of a set: what its buckets hold, what it covers, what was rejected, and pictures of it."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.shards.format import SplitIndex, read_root
from baton_lightning.shards.stat import PICTURE, bars, contents, facts_of, histogram, tokens_of
from baton_lightning.verbs.shards import homes


@pytest.fixture(scope="module")
def built(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "set"
    words = [
        "shards",
        "build",
        str(recordings),
        str(out),
        "--seconds",
        "1",
        "--workers",
        "0",
        "--repeat",
        "caption",
        "--modalities",
        "av",
        "video",
        "audio",
    ]
    assert main(words) == 0
    return out


def test_facts_count_what_clips_have_and_measure_recordings(built: Path) -> None:
    facts = facts_of(built, {split: SplitIndex.read(built / split) for split in read_root(built)["splits"]})
    assert facts.num_clips == 35
    assert facts.covered == {"video": 34, "audio": 34, "speech": 10, "speakers": 10}
    assert {name: len(values) for name, values in facts.values.items()} == {"seconds": 35, "fps": 34, "loudness": 34, "motion": 34}
    assert set(facts.values["fps"]) == {12.0} and max(facts.values["seconds"]) == pytest.approx(3.4, abs=0.1)
    assert all(-16 < level < -11 for level in facts.values["loudness"])  # a sine of amplitude 0.3 has -13.5 dBFS


def test_the_verb_shows_buckets_coverage_and_rejections_and_draws_histograms(built: Path, capsys: Any) -> None:
    assert main(["shards", "stat", str(built)]) == 0
    out = capsys.readouterr().out
    for text in ("video 97.1%, audio 97.1%, speech 28.6%, speakers 28.6%", "frozen_video", "duplicate", "loudness of the clips, dBFS"):
        assert text in out
    with Image.open(built / PICTURE) as picture:
        assert picture.size == (4 * 360, 240) and len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 2


def test_a_set_of_the_world_needs_no_measurements(tmp_path: Path, capsys: Any) -> None:
    assert main(["shards", "world", str(tmp_path / "set"), "--train", "2", "--val", "1", "--test", "0", "--workers", "0"]) == 0
    assert "video 100.0%, audio 100.0%" in capsys.readouterr().out
    assert not (tmp_path / "set" / PICTURE).exists() and homes(tmp_path / "set") == [tmp_path / "set"]


@pytest.mark.parametrize("clips", [44, 8000, 1_500_000])
def test_no_number_of_the_table_is_cut_at_80_columns(clips: int) -> None:
    entry = {"num_clips": clips, "num_bytes": clips * 10_000, "bucket": "av"}
    index = SimpleNamespace(shards=[entry], clip=ClipSpec().to_dict())
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(contents(Path("data/demo"), {"train": index}))
    assert "…" not in console.export_text()


def test_tokens_count_only_what_a_bucket_holds() -> None:
    clip = ClipSpec()
    both, seen, heard = (tokens_of(clip, bucket) for bucket in ("av", "video", "audio"))
    assert both == tuple(a + b for a, b in zip(seen, heard, strict=True))
    assert seen[1] == heard[0] == 0 and both[0] == clip.num_video_tokens


@pytest.mark.parametrize("values", [[3.0], [1.0, 1.0], list(np.linspace(-60, 0, 50))])
def test_every_value_falls_into_a_bar(values: list[float]) -> None:
    counts, edges = histogram(values)
    assert counts.sum() == len(values) and len(edges) == len(counts) + 1
    assert bars("x", counts, edges).row_count == len(counts)
