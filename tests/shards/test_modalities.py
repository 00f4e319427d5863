"""Clips of picture alone and of sound alone are cached and trained on beside whole ones, never in one batch with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.shards.format import STATISTICS, Shard, SplitIndex, read_root
from baton_lightning.shards.stored_clip import clip_of
from datamodules.webshards import WebShards

ROOT = Path(__file__).parents[2]
COUNTS = {"av": 8, "video": 4, "audio": 4}
"""Training clips; a validation clip of each beside them."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, recorder: Any) -> Path:
    """A set of all three buckets, built and cached by the verbs."""
    folder = tmp_path_factory.mktemp("mixed")
    rows, number = [], 0
    for bucket, count in COUNTS.items():
        without = {"video": {"mute": True}, "audio": {"blind": True}}.get(bucket, {})
        for i in range(count + 1):
            name = f"{bucket}-{i}.mp4"
            recorder(folder / name, number := number + 1, 2.1, **without)
            rows.append({"file": name, "text": f"a square and a tone {number}", "split": "train" if i < count else "val"})
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    patch = pytest.MonkeyPatch()
    patch.chdir(ROOT)
    words = ["--clip", "experiments/base.yaml", "--modalities", "av", "video", "audio", "--workers", "0", "--fit-codec", "8"]
    assert main(["shards", "build", f"{folder}/list.jsonl", f"{folder}/set", *words]) == 0
    assert main(["predict", "-c", "experiments/encode.yaml", f"--data.init_args.root={folder}/set", f"--run.root={folder}/runs"]) == 0
    yield folder / "set"
    patch.undo()


def data(root: Path, **options: Any) -> WebShards:
    made = WebShards(clip_of(read_root(root)["clip"]), str(root), **{"batch_size": 4} | options)
    made.setup("fit")
    return made


def bucket_of(keys: list[str]) -> str:
    (bucket,) = {key.partition("-")[0] for key in keys}
    return bucket


def test_a_clip_is_cached_as_far_as_it_goes(mixed: Path) -> None:
    index = SplitIndex.read(mixed / "train")
    for number, entry in enumerate(index.shards):
        names = {"av": {"video", "audio"}, "video": {"video"}, "audio": {"audio"}}[entry["bucket"]]
        for kind in ("latents", "features"):
            shard = Shard.open(index.tar(number, kind))
            assert len(shard.members) == COUNTS[entry["bucket"]]
            assert all(load(shard.read(key, f"{kind}.safetensors")).keys() == names for key in shard.members)


def test_the_set_is_checked_shown_and_counted(mixed: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["shards", "check", str(mixed), "--previews", "1", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.mp4"))) == 6 and "19 clips checked, 0 problems" in capsys.readouterr().out
    assert main(["shards", "stat", str(mixed)]) == 0
    assert "clips with video 73.7%, audio 73.7%" in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_shows_each_clip_once_in_batches_of_one_bucket_with_masks(mixed: Path, workers: int) -> None:
    made = data(mixed, num_workers=workers)
    seen = []
    for batch in made.train_dataloader():
        bucket = bucket_of(batch.keys)
        for name, other in (("video", "audio"), ("audio", "video")):
            mask, count = getattr(batch, f"has_{name}"), 0 if bucket == other else 4
            assert batch.num_with(name) == count and (mask is None) == bool(count)
            assert bool(getattr(batch, f"{name}_latents").any()) == bool(getattr(batch, f"{name}_features").any()) == bool(count)
        seen += batch.keys
    assert len(seen) == 16 and {key.rpartition("-")[0] for key in seen} == {f"{b}-{i}" for b, n in COUNTS.items() for i in range(n)}
    assert [bucket_of(batch.keys) for batch in made.val_dataloader()] == ["av", "video", "audio"]


def test_media_that_no_clip_of_a_batch_has_are_absent(mixed: Path) -> None:
    made = data(mixed, fields=("media",), batch_size=2)
    for batch in made.train_dataloader():
        bucket = bucket_of(batch.keys)
        assert (batch.frames is None) == (bucket == "audio") and (batch.waveform is None) == (bucket == "video")


def test_only_the_buckets_that_are_asked_for_are_read(mixed: Path) -> None:
    made = data(mixed, buckets=["audio"], batch_size=2)
    assert [bucket_of(batch.keys) for batch in made.train_dataloader()] == ["audio"] * 2
    with pytest.raises(ValueError, match=r"data.init_args.buckets must be among av, video, audio, got sound"):
        data(mixed, buckets=["sound"])
    with pytest.raises(ValueError, match="4 clips of the bucket video do not make one global batch: 1 ranks x 8"):
        data(mixed, batch_size=8).train_dataloader()


@pytest.mark.filterwarnings("ignore:skipped the clip")
def test_a_damaged_clip_is_replaced_by_one_of_its_bucket(mixed: Path, tmp_path: Path) -> None:
    root = shutil.copytree(mixed, tmp_path / "set")
    index = SplitIndex.read(root / "train")
    for number in range(len(index.shards)):
        tar = index.tar(number, "latents")
        offset, _ = list(Shard.open(tar).members.values())[-1]["latents.safetensors"]
        with tar.open("r+b") as file:
            file.truncate(offset + 7)
    made = data(root)
    seen = [key for batch in made.train_dataloader() for key in batch.keys if bucket_of(batch.keys)]
    assert len(made.train_dataset.damaged) == 3 and len(seen) == 16 and len(set(seen)) == 13


def test_a_modality_that_no_clip_has_keeps_its_own_scale(mixed: Path, tmp_path: Path) -> None:
    root = shutil.copytree(mixed, tmp_path / "set")
    values = {name: value for name, value in load_file(root / STATISTICS).items() if name.startswith("video")}
    save_file(values, root / STATISTICS)
    mean, std = data(root).feature_statistics()["audio"]
    assert mean.shape == (ClipSpec().audio_plan_width,) and not mean.any() and (std == 1).all()


@pytest.mark.slow
def test_all_stages_train_on_the_mix(mixed: Path, tmp_path: Path) -> None:
    words = [f"--data.init_args.root={mixed}", f"--run.root={tmp_path}", "--run.experiment=e", "--data.init_args.batch_size=4"]
    short = ["--trainer.max_steps=4", "--trainer.val_check_interval=4", "--model.init_args.scheduler.init_args.warmup_steps=1"]
    for stage in ("stage1", "stage2", "stage3_adapt", "stage3_joint"):
        assert main(["fit", "-c", f"experiments/{stage}.yaml", *words, *short]) == 0
        lines = [json.loads(line) for line in (tmp_path / f"e/{stage}/ledger.jsonl").read_text().splitlines()]
        counts = sorted((line["video_samples"], line["audio_samples"]) for line in lines)
        assert counts == [(0, 4), (4, 0), (4, 4), (4, 4)]
        assert all(torch.isfinite(torch.tensor(float.fromhex(line["loss"]))) for line in lines)
        metrics = json.loads((tmp_path / f"e/{stage}/manifest.json").read_text())["metrics"]
        assert metrics and all(torch.isfinite(torch.tensor(value)) for value in metrics.values())
