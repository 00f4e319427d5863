"""The bench of the data: both sides give the same clips, the figures are there and sane. No timing is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from baton_lightning.__main__ import main
from baton_lightning.bench import data, data_baseline
from baton_lightning.bench.data import LEAST_RATIO, MOST_WAIT, Size, compare, geometry, ours, show

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    root = folder / "set"
    data.make_set(root, Size(clips=48, shards=4, repetitions=1, batches={}, steps=0))
    patch.undo()
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["media", "cached"])
def test_both_sides_give_the_same_tensors_of_the_same_clips(cached: Path, kind: str) -> None:
    clip, shards, count = geometry(cached)
    assert count == 48 and len(shards) == 4
    sides = ours("datamodules.webshards.WebShards", cached, clip, kind, 4, 0)(), data_baseline.loader(shards, clip, kind, 4, 0)
    found = []
    for side in sides:
        clips = {}
        for batch in side:
            tensors = {name: v for name, v in vars(batch).items() if isinstance(v, torch.Tensor) and name != "index"}
            for i, key in enumerate(batch.keys):
                clips[key] = {"text": batch.video_prompts[i] + batch.audio_prompts[i], **{n: v[i] for n, v in tensors.items()}}
        found.append(clips)
    assert found[0].keys() == found[1].keys() and len(found[0]) == 48
    for key, mine in found[0].items():
        other = found[1][key]
        assert other.keys() <= mine.keys() and len(other) >= 3 and mine["text"] == other["text"]
        assert all(torch.equal(mine[name], value) for name, value in other.items() if name != "text")


@pytest.mark.slow
def test_a_quick_run_writes_figures_that_can_be(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(data, "QUICK", Size(clips=0, shards=0, repetitions=2, batches={"media": 2, "cached": 4}, steps=10))
    out = tmp_path / "bench.json"
    assert main(["bench", "data", "--quick", "--data", str(cached), "--batch-size", "4", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [(row["kind"], row["num_workers"]) for row in found["loaders"]] == [("media", 1), ("media", 2), ("cached", 1), ("cached", 2)]
    for row in found["loaders"]:
        assert all(len(speeds) == 2 and min(speeds) > 0 for speeds in row["samples_per_s"].values())
        assert row["ratios"] == sorted(row["ratios"]) and row["ratios"][0] <= row["ratio"] <= row["ratios"][-1]
    assert found["headline"]["ratio_to_webdataset"] == min(row["ratio"] for row in found["loaders"])
    assert 0 < found["headline"]["data_wait"] < 1 and len(found["data_wait"]["shares"]) == 4
    assert "worst ratio to webdataset" in capsys.readouterr().out


def test_sides_take_turns_and_the_first_pair_does_not_count() -> None:
    order: list[str] = []

    def side(name: str) -> Callable[[], list[str]]:
        def batches() -> list[str]:
            order.append(name)
            return ["clip"] * 9

        return batches

    found = compare({"ours": side("o"), "webdataset": side("w")}, batches=3, repetitions=3, tick=lambda: None)  # type: ignore[dict-item]
    assert "".join(order) == "owwoowwo" or "".join(order) == "woowwoow"
    assert all(len(speeds) == 3 for speeds in found["samples_per_s"].values()) and len(found["ratios"]) == 3


@pytest.mark.parametrize(("ratio", "wait", "good"), [(LEAST_RATIO, MOST_WAIT, True), (0.89, 0.0, False), (2.0, 0.021, False)])
def test_the_verdict_follows_the_bounds(ratio: float, wait: float, good: bool, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"kind": "media", "num_workers": 1, "ratio": ratio, "ratios": [ratio], "samples_per_s": {"ours": [1.0], "webdataset": [1.0]}}
    assert show({"headline": {"ratio_to_webdataset": ratio, "data_wait": wait}, "loaders": [row]}) is good
    assert ("MISSED" in capsys.readouterr().out) is not good


def test_a_set_without_a_cache_says_how_to_make_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "world", str(tmp_path / "set"), "--train", "2", "--val", "1", "--test", "1", "--workers", "0"]) == 0
    assert main(["bench", "data", "--data", str(tmp_path / "set")]) == 1
    assert "experiments/encode.yaml" in capsys.readouterr().err
