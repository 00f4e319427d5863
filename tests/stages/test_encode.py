"""Caching: the tensors are the networks', beside their clips, whole or not there, and they know what made them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from baton_lightning.clip import ClipSpec
from baton_lightning.frozen.identity import describe
from baton_lightning.media import read_mp4
from baton_lightning.shards.format import CACHE, CACHES, STATISTICS, Shard, SplitIndex, file_digest
from baton_lightning.shards.world import build_world
from baton_lightning.shards.writer import write_shard
from baton_lightning.stages.encode import Encode
from baton_lightning.stages.features import keyframes
from baton_lightning.verbs.shards import main
from baton_lightning.world.codecs import PatchPCA, ToneBank
from callbacks.cache_writer import CacheWriter
from datamodules.webshards import WebShards

CLIP = ClipSpec(keyframe_fps=3.0, plan_grid=(4, 4), video_channels=8, video_plan_width=3, audio_plan_width=2, text_width=4, text_tokens=40)


class Eyes(nn.Module):
    """Mean colour of each cell, after a rotation of colours."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.rotation = nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))

    def forward(self, frames: Tensor) -> Tensor:
        return frames.unflatten(3, (4, -1)).unflatten(2, (4, -1)).float().mean((3, 5)) / 255 @ self.rotation


class Ears(nn.Module):
    """Loudness and offset of each step."""

    def __init__(self, rate: int = 40) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, waveform: Tensor, sample_rate: int) -> Tensor:
        steps = waveform.unflatten(1, (-1, sample_rate // self.rate))
        return torch.stack([steps.std(2), steps.mean(2)], 2)


class LoudEars(Ears):
    """The same network with another constant of its class."""

    loudness = 2.0


class Letters(nn.Module):
    """One row a word: counts of its first letters."""

    def context(self, video_prompts: list[str], audio_prompts: list[str]) -> list[Tensor]:
        return self([f"{video} {audio}" for video, audio in zip(video_prompts, audio_prompts, strict=True)])

    def forward(self, texts: list[str]) -> list[Tensor]:
        return [torch.tensor([[float(ord(c)) for c in f"{word:4.4}"] for word in text.split()]) for text in texts]


def networks(root: Path, **changes: Callable[[], nn.Module]) -> dict[str, Callable[[], nn.Module]]:
    codec = partial(PatchPCA, str(root / "codec.safetensors"))
    own = {"video_codec": codec, "audio_codec": ToneBank, "video_perceiver": Eyes, "audio_perceiver": Ears, "text_encoder": Letters}
    return own | changes


class Counter(CacheWriter):
    """Counts the clips that were predicted."""

    clips = 0

    def on_predict_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self.clips += len(batch)
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, *args)


def encode(
    root: Path,
    clip: ClipSpec = CLIP,
    dtype: Any = "float32",
    batches: int | None = None,
    precision: Any = "32-true",
    writer: Counter | None = None,
    **changes: Callable[[], nn.Module],
) -> int:
    """Caches what is not cached yet; returns how many clips that were."""
    writer = writer or Counter()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, callbacks=[writer],
        limit_predict_batches=batches, precision=precision,
    )  # fmt: skip
    trainer.predict(
        Encode(clip, **networks(root, **changes), dtype=dtype), WebShards(clip, str(root), batch_size=3), return_predictions=False
    )
    return writer.clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "set"
    build_world(root, CLIP, {"train": 9, "val": 3, "test": 2}, workers=0, shard_clips=5)
    return root


@pytest.fixture(scope="module")
def cached(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = shutil.copytree(clips, tmp_path_factory.mktemp("cached") / "set")
    assert encode(root) == 14
    return root


@pytest.fixture
def copy(cached: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cached, tmp_path / "copy")


def digests(root: Path) -> dict[str, str]:
    return {str(file.relative_to(root)): file_digest(file) for file in sorted(root.rglob("*")) if file.is_file()}


def test_a_batch_of_the_cache_is_what_the_networks_give_for_the_clips(cached: Path) -> None:
    data = WebShards(CLIP, str(cached), batch_size=4, fields=("latents", "features", "text", "media"))
    data.setup("test")
    batch = data.test_dataset.batch([0, 1])
    parts = {name: make() for name, make in networks(cached).items()}
    assert torch.equal(batch.video_latents, parts["video_codec"].encode(batch.frames))
    assert torch.equal(batch.audio_latents, parts["audio_codec"].encode(batch.waveform))
    assert torch.equal(batch.video_features, parts["video_perceiver"](batch.frames[:, [0, 4, 8, 12, 16, 20]]).flatten(1, 3))
    assert torch.equal(batch.audio_features, parts["audio_perceiver"](batch.waveform, 16000))
    for i, text in enumerate(f"{v} {a}" for v, a in zip(batch.video_prompts, batch.audio_prompts, strict=True)):
        rows = parts["text_encoder"]([text])[0]
        assert torch.equal(batch.context[i, : len(rows)], rows) and not batch.context[i, len(rows) :].any()
    tar = Shard.open(cached / "test" / "clips-000000.tar")
    assert torch.equal(batch.frames[1], torch.from_numpy(read_mp4(tar.read(batch.keys[1], "mp4")).frames))


def test_statistics_are_those_of_the_training_split(cached: Path) -> None:
    data = WebShards(CLIP, str(cached), fields=("features",))
    data.setup("fit")
    batch = data.train_dataset.batch(range(9))
    for name, features in (("video", batch.video_features), ("audio", batch.audio_features)):
        mean, std = data.feature_statistics()[name]
        flat = features.double().flatten(0, 1)
        assert torch.allclose(mean.double(), flat.mean(0), atol=1e-6)
        assert torch.allclose(std.double(), flat.std(0, correction=0), atol=1e-6)


class Unlooped(list):
    """A list that may be looked up and not walked through."""

    def __iter__(self) -> Any:
        raise AssertionError("all clips of the split were walked through for one batch")


class FrugalCounter(Counter):
    def on_predict_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        dataset = trainer.predict_dataloaders[args[1] if len(args) > 1 else 0].dataset
        if not isinstance(dataset.places, Unlooped):
            dataset.places = Unlooped(dataset.places)
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, *args)


def test_a_batch_costs_the_same_however_many_clips_there_are_and_features_are_read_by_nobody_again(
    clips: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(clips, tmp_path / "set")
    monkeypatch.setattr("callbacks.cache_writer.load_tensors", None)  # called, it would fail
    assert encode(root, writer=FrugalCounter()) == 14
    assert digests(root) == digests(cached)


def another_shard(file: Path) -> None:
    shutil.copy(file.with_name(file.name.replace("000000", "000001")), file)


@pytest.mark.parametrize("lose", [Path.unlink, lambda file: file.write_bytes(b"cut off"), another_shard])
def test_moments_that_are_lost_or_of_other_features_are_summed_again_alike(
    copy: Path, lose: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(copy)
    lose(copy / "train" / "features-000000.moments.safetensors")
    (copy / CACHE).unlink()
    assert encode(copy) == 0
    assert "1 shards of" in capsys.readouterr().out
    assert digests(copy) == before


def test_the_trainer_s_precision_does_not_reach_the_networks(clips: Path, cached: Path, tmp_path: Path) -> None:
    root = shutil.copytree(clips, tmp_path / "set")
    assert encode(root, precision="bf16-mixed") == 14
    assert digests(root) == digests(cached)


def test_a_trainer_that_rounds_the_sound_is_refused(clips: Path) -> None:
    with pytest.raises(ValueError, match="sound in float32, got torch.bfloat16; set trainer.precision to 32-true"):
        encode(clips, precision="bf16-true")


def test_networks_that_compute_in_another_type_are_other_networks() -> None:
    whole, half = Eyes().to(torch.bfloat16).float(), Eyes().to(torch.bfloat16)
    assert describe(whole)["dtypes"] == ["float32"] and describe(half)["dtypes"] == ["bfloat16"]
    recipes = [Encode(CLIP, **dict.fromkeys(networks(Path()), lambda eyes=eyes: eyes)) for eyes in (whole, half)]
    for module in recipes:
        module.configure_model()
    assert recipes[0].recipe(CLIP) != recipes[1].recipe(CLIP)


def test_a_second_run_finds_everything_done_and_a_lost_shard_is_made_again_alike(copy: Path) -> None:
    before = digests(copy)
    assert encode(copy) == 0
    (copy / "train" / "features-000001.tar").unlink()
    (copy / CACHE).unlink()
    assert encode(copy) == 4
    assert digests(copy) == before


def test_an_interrupted_run_leaves_no_cache_and_the_next_one_finishes_it(clips: Path, cached: Path, tmp_path: Path) -> None:
    root = shutil.copytree(clips, tmp_path / "set")
    assert encode(root, batches=2) == 5 + 3 + 2
    assert not (root / CACHE).exists()
    with pytest.raises(ValueError, match="no finished cache of latents, features, text"):
        WebShards(CLIP, str(root)).setup("fit")
    assert encode(root) == 4
    assert digests(root) == digests(cached)


@pytest.mark.parametrize("change", [{"video_perceiver": partial(Eyes, 1)}, {"audio_perceiver": LoudEars}, {"dtype": "float16"}])
def test_other_networks_or_another_type_make_everything_again(copy: Path, change: dict[str, Any]) -> None:
    before = json.loads((copy / CACHE).read_text())
    assert encode(copy, **change) == 14
    after = json.loads((copy / CACHE).read_text())
    assert after["recipe"] != before["recipe"]
    data = WebShards(CLIP, str(copy))
    data.setup("fit")
    assert data.train_dataset.batch([0]).video_features.dtype == torch.float32


def test_a_half_replaced_cache_is_refused(copy: Path) -> None:
    encode(copy, batches=2, video_perceiver=partial(Eyes, 1))
    with pytest.raises(ValueError, match="was not made by the networks that"):
        WebShards(CLIP, str(copy)).setup("fit")


def test_clips_that_were_built_again_make_the_cache_stale(copy: Path) -> None:
    for file in (copy / "val").glob("clips-*"):
        file.unlink()
    build_world(copy, CLIP, {"train": 9, "val": 4, "test": 2}, workers=0, shard_clips=5)
    with pytest.raises(ValueError, match="made from clips other than those in the splits val"):
        WebShards(CLIP, str(copy)).setup("fit")
    assert encode(copy) == 4
    WebShards(CLIP, str(copy)).setup("fit")


def test_a_partial_run_over_clips_that_were_built_again_does_not_call_the_cache_whole(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(clips, tmp_path / "set")
    codec = Path(shutil.copy(root / "codec.safetensors", tmp_path))
    networks_that_stay = {"video_codec": partial(PatchPCA, str(codec))}
    assert encode(root, **networks_that_stay) == 14
    monkeypatch.setattr("baton_lightning.shards.world.QUANTISER", 40)  # the same keys, other pictures
    for file in root.glob("*/clips-*"):
        file.unlink()
    build_world(root, CLIP, {"train": 9, "val": 3, "test": 2}, workers=0, shard_clips=5)
    assert encode(root, batches=2, **networks_that_stay) == 10
    with pytest.raises(ValueError, match="made from clips other than"):
        WebShards(CLIP, str(root)).setup("fit")
    assert encode(root, **networks_that_stay) == 4
    WebShards(CLIP, str(root)).setup("fit")


@pytest.mark.filterwarnings("ignore:skipped the clip")
def test_a_damaged_clip_gets_no_tensors_and_is_named(clips: Path, tmp_path: Path) -> None:
    root = shutil.copytree(clips, tmp_path / "set")
    tar = root / "train" / "clips-000000.tar"
    shard = Shard.open(tar)
    key = list(shard.members)[2]
    contents = {k: {s: shard.read(k, s) for s in members} for k, members in shard.members.items()}
    contents[key]["mp4"] = contents[key]["mp4"][:4000]
    write_shard(tar, contents.items(), made_by=shard.made_by)
    encode(root)
    assert list(json.loads((root / CACHE).read_text())["damaged"]) == [key]
    assert key not in Shard.open(root / "train" / "features-000000.tar").members
    data = WebShards(CLIP, str(root), batch_size=9)
    data.setup("fit")
    keys = next(iter(data.train_dataloader())).keys
    assert list(data.train_dataset.damaged) == [key] and key not in keys and len(set(keys)) == 8


def test_the_record_names_networks_settings_and_splits(cached: Path) -> None:
    record = json.loads((cached / CACHE).read_text())
    assert record["networks"]["audio_perceiver"]["settings"] == {"rate": "40"}
    assert record["networks"]["video_codec"]["class"] == "baton_lightning.world.codecs.PatchPCA"
    assert record["clip"] == CLIP.to_dict()
    assert record["splits"] == {name: SplitIndex.read(cached / name).digest for name in ("train", "val", "test")}


def test_weights_buffers_and_settings_all_count() -> None:
    digest = lambda network: describe(network)["sha256"]  # noqa: E731
    assert digest(Eyes()) == digest(Eyes()) != digest(Eyes(1))
    assert digest(Ears()) != digest(Ears(80))
    assert digest(Ears()) != digest(LoudEars())
    buffered, changed = nn.Identity(), nn.Identity()
    for network, value in ((buffered, 0.0), (changed, 1.0)):
        network.register_buffer("scale", torch.tensor(value), persistent=False)  # no state dict holds it
    assert digest(buffered) != digest(changed)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"video_channels": 9}, r"video_codec must give \[9, 7, 4, 4\] a clip .* got \[8, 7, 4, 4\]"),
        ({"audio_plan_rate": 20}, r"audio_perceiver must give \[40, 2\] a clip .* got \[80, 2\]"),
        ({"text_tokens": 5}, "at most 5 rows of width 4"),
    ],
)
def test_networks_that_do_not_fit_the_clip_are_refused(clips: Path, field: dict[str, Any], message: str) -> None:
    clip = ClipSpec(**{**{k: getattr(CLIP, k) for k in CLIP.to_dict()}, **field})
    with pytest.raises(ValueError, match=message):
        encode(clips, clip)


def test_keyframes_are_the_frames_nearest_to_their_times() -> None:
    assert keyframes(ClipSpec(keyframe_fps=3.0)) == [0, 4, 8, 12, 16, 20]
    clip = ClipSpec(seconds=1.0, fps=10, keyframe_fps=6)
    nearest = keyframes(clip)
    assert all(abs(i / 10 - t) <= 0.05 + 1e-9 for i, t in zip(nearest, clip.keyframe_times, strict=True)) and len(nearest) == 6


def test_check_looks_into_the_cache(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(copy)]) == 0
    tar = copy / "val" / "latents-000000.tar"
    shard = Shard.open(tar)
    from safetensors.torch import load, save

    contents = {k: load(shard.read(k, "latents.safetensors")) for k in shard.members}
    next(iter(contents.values()))["video"][0, 0, 0, 0] = float("inf")
    write_shard(tar, ((k, {"latents.safetensors": save(v)}) for k, v in contents.items()), made_by=shard.made_by)
    (copy / "test" / "text-000000.tar").unlink()
    assert main(["check", str(copy)]) == 1
    out = capsys.readouterr().out
    assert "latents-000000.tar: val-single-0-000000: video holds 1 values that are not finite" in out
    assert "text-000000.tar: is missing" in out and "14 clips checked, 2 problems" in out


def test_nothing_is_left_half_written(cached: Path) -> None:
    names = {file.name for file in cached.rglob("*") if file.is_file()}
    assert not [name for name in names if name.endswith(".part")]
    assert {CACHE, STATISTICS, *[f"{kind}-000000.tar" for kind in CACHES]} <= names
