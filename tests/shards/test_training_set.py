"""A set of recordings is a set like any other: it is cached, checked, looked at and trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baton_lightning.__main__ import main
from baton_lightning.media import read_mp4
from baton_lightning.shards.format import STATISTICS, Shard
from baton_lightning.shards.writer import write_shard

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, recorder: Any) -> Path:
    """24 clips of recordings, encoded by the demo's networks."""
    folder = tmp_path_factory.mktemp("films")
    rows = []
    for i in range(24):
        recorder(folder / f"{i}.mp4", i, 2.1)
        rows.append({"file": f"{i}.mp4", "text": f"a square and a tone {i}", "split": "val" if i % 6 == 0 else "train"})
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    words = ["--clip", "experiments/base.yaml", "--workers", "0", "--shard-size", "8", "--fit-codec", "20"]
    assert main(["shards", "build", f"{folder}/list.jsonl", f"{folder}/set", *words]) == 0
    assert main(["predict", "-c", "experiments/encode.yaml", f"--data.init_args.root={folder}/set", f"--run.root={folder}/runs"]) == 0
    yield folder / "set"
    patch.undo()


@pytest.fixture
def copy(cached: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cached, tmp_path / "copy")


def test_a_stage_trains_on_it(cached: Path, tmp_path: Path) -> None:
    words = [f"--data.init_args.root={cached}", "--data.init_args.batch_size=4", f"--run.root={tmp_path}", "--run.experiment=e"]
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--model.init_args.scheduler.init_args.warmup_steps=1"]
    assert main(["fit", "-c", "experiments/stage1.yaml", *words, *steps]) == 0
    metrics = json.loads((tmp_path / "e/stage1/manifest.json").read_text())["metrics"]
    assert metrics and all(np.isfinite(value) for value in metrics.values())


def test_previews_are_the_clips_as_training_sees_them(cached: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["shards", "check", str(cached), "--previews", "2", str(tmp_path / "seen")]) == 0
    files = sorted((tmp_path / "seen").glob("*.mp4"))
    assert len(files) == 4 and "24 clips checked, 0 problems" in capsys.readouterr().out
    split, _, key = files[0].stem.partition("-")
    shard = next(s for tar in sorted((cached / split).glob("clips-*.tar")) if key in (s := Shard.open(tar)).members)
    seen, clip = read_mp4(files[0]), read_mp4(shard.read(key, "mp4"))
    assert seen.frames.shape == clip.frames.shape and len(seen.waveform) == len(clip.waveform)
    assert np.abs(seen.frames.astype(int) - clip.frames).mean() < 12


def test_codecs_that_did_not_make_the_cache_show_nothing(copy: Path, tmp_path: Path, capsys: Any) -> None:
    cache = json.loads((copy / "cache.json").read_text())
    cache["networks"]["audio_codec"]["sha256"] = "0"
    (copy / "cache.json").write_text(json.dumps(cache))
    assert main(["shards", "check", str(copy), "--previews", "1", str(tmp_path / "seen")]) == 1
    assert "the audio codec of experiments/encode.yaml" in capsys.readouterr().err
    (copy / "cache.json").unlink()
    assert main(["shards", "check", str(copy), "--previews", "1", str(tmp_path / "seen")]) == 1
    assert "has no cache to show" in capsys.readouterr().err


def change(folder: Path, kind: str, change: Any) -> None:
    """Rewrites every cached tensor of a split."""
    from safetensors.torch import load, save

    for tar in sorted(folder.glob(f"{kind}-*.tar")):
        shard, suffix = Shard.open(tar), f"{kind}.safetensors"
        members = {key: load(shard.read(key, suffix)) for key in shard.members}
        made = [(key, {suffix: save({name: change(name, t) for name, t in tensors.items()})}) for key, tensors in members.items()]
        write_shard(tar, made, made_by=shard.made_by, notes=shard.notes)


@pytest.mark.parametrize(
    ("kind", "altered", "message"),
    [
        ("latents", lambda name, t: t * 0 + 1 if name == "audio" else t, "audio latents are constant over all clips"),
        ("latents", lambda name, t: t * 1e4 if name == "video" else t, "video latents have standard deviation"),
        ("features", lambda name, t: t + 1 if name == "video" else t, "video statistics are not those of the cached features"),
    ],
)
def test_check_finds_tensors_that_no_working_network_gives(copy: Path, capsys: Any, kind: str, altered: Any, message: str) -> None:
    change(copy / "train", kind, altered)
    change(copy / "val", kind, altered)
    assert main(["shards", "check", str(copy)]) == 1
    assert message in capsys.readouterr().out


def test_check_misses_lost_statistics(copy: Path, capsys: Any) -> None:
    (copy / STATISTICS).unlink()
    assert main(["shards", "check", str(copy)]) == 1
    assert f"{STATISTICS}: is missing" in capsys.readouterr().out


def test_check_names_clips_that_were_never_cached(copy: Path, capsys: Any) -> None:
    cache = json.loads((copy / "cache.json").read_text())
    key = next(iter(Shard.open(copy / "val/clips-000000.tar").members))
    (copy / "cache.json").write_text(json.dumps(cache | {"damaged": {key: "no picture"}}))
    assert main(["shards", "check", str(copy)]) == 1
    out = capsys.readouterr().out
    assert f"{key}: has no cached tensors" in out and "no picture" in out and ", 1 problem\n" in out


def test_check_knows_what_a_bucket_must_hold(copy: Path, capsys: Any) -> None:
    index = json.loads((copy / "val/index.json").read_text())
    index["shards"][0]["bucket"] = "audio"
    (copy / "val/index.json").write_text(json.dumps(index))
    assert main(["shards", "check", str(copy)]) == 1
    assert "its json says has_video = True, its bucket is audio" in capsys.readouterr().out
