"""Features online: the perceivers' work in the step is what a float32 cache holds, and nobody keeps the perceivers."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file
from torch import nn

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.frozen.llm import TinyLLM
from baton_lightning.frozen.siglip import TinySiglip
from baton_lightning.frozen.text import TinyText
from baton_lightning.frozen.wavtokenizer import TinyEncodec
from baton_lightning.models.planner import VAPlanner
from baton_lightning.shards.format import CACHE, STATISTICS
from baton_lightning.shards.world import build_world
from baton_lightning.stages.encode import Encode
from baton_lightning.stages.features import OnlineFeatures
from baton_lightning.stages.plan_sources import GroundTruthPlan
from baton_lightning.stages.pretraining import PlannerPretraining
from baton_lightning.stages.statistics import FeatureStatistics
from baton_lightning.world.codecs import PatchPCA, ToneBank
from callbacks.cache_writer import CacheWriter
from callbacks.ledger import Ledger
from callbacks.statistics_writer import StatisticsWriter
from datamodules.webshards import WebShards

CLIP = ClipSpec()
EYES, EARS = partial(TinySiglip, grid=(3, 3), depth=2), TinyEncodec


def online(clip: ClipSpec, seed: int = 0) -> OnlineFeatures:
    return OnlineFeatures(clip, partial(EYES, seed=seed), EARS)


def make_planner(clip: ClipSpec) -> VAPlanner:
    return VAPlanner(clip, lambda: TinyLLM(width=16, depth=1, num_heads=2, num_kv_heads=1))


def trainer(*callbacks: Any, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **quiet, **options)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "set"
    build_world(root, CLIP, {"train": 6, "val": 3}, workers=0, shard_clips=3)
    return root


@pytest.fixture(scope="module")
def cached(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = shutil.copytree(clips, tmp_path_factory.mktemp("cached") / "set")
    codec = partial(PatchPCA, str(root / "codec.safetensors"))
    module = Encode(CLIP, codec, ToneBank, EYES, EARS, TinyText)
    trainer(CacheWriter()).predict(module, WebShards(CLIP, str(root), batch_size=3), return_predictions=False)
    return root


def estimate(root: Path, num_clips: int, make: Any = online, batch_size: int = 3) -> dict[str, torch.Tensor]:
    module = FeatureStatistics(CLIP, make, num_clips=num_clips)
    trainer(StatisticsWriter()).predict(module, WebShards(CLIP, str(root), batch_size=batch_size), return_predictions=False)
    return load_file(root / STATISTICS)


@pytest.fixture
def estimated(clips: Path, tmp_path: Path) -> Path:
    root = shutil.copytree(clips, tmp_path / "set")
    estimate(root, 6)
    return root


def opened(root: Path, *fields: str, batch_size: int = 3) -> WebShards:
    data = WebShards(CLIP, str(root), batch_size=batch_size, fields=fields)
    data.setup("fit")
    return data


def stage(features: Any = None, rate: float = 0.1) -> PlannerPretraining:
    torch.manual_seed(0)
    return PlannerPretraining(CLIP, make_planner, partial(torch.optim.SGD, lr=rate), features=features)


def test_features_online_are_those_of_a_float32_cache_to_the_bit_whatever_the_trainer_s_precision(cached: Path) -> None:
    kept = opened(cached, "features").train_dataset.batch(range(3))
    batch = opened(cached, "media").train_dataset.batch(range(3))
    with torch.autocast("cpu", torch.bfloat16):
        online(CLIP).fill(batch)
    assert torch.equal(batch.video_features, kept.video_features) and torch.equal(batch.audio_features, kept.audio_features)


def test_a_training_step_has_the_loss_of_the_cached_way_to_the_bit(cached: Path) -> None:
    losses = []
    for fields, features in (("features", None), ("media", online)):
        module, data = stage(features), opened(cached, fields)
        module.configure_model()
        for name, norm in (("video", module.planner.video_norm), ("audio", module.planner.audio_norm)):
            norm.fit(*data.feature_statistics(module.online)[name])
        module.log = lambda *_, **__: None
        losses.append(module.training_step(data.train_dataset.batch(range(3)), 0))
    assert torch.equal(*losses)


def test_a_run_trains_as_on_cached_features_to_rounding_and_keeps_no_perceiver(cached: Path, tmp_path: Path) -> None:
    weights = []
    for fields, features in (("features", None), ("media", online)):
        module, folder = stage(features), tmp_path / fields
        fit = trainer(Ledger(), max_steps=4, default_root_dir=folder, val_check_interval=2)
        fit.fit(module, opened(cached, fields, batch_size=2))
        weights.append(module.state_dict())
        lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
        assert [line["plan_samples"] for line in lines] == [2] * 4 and "val/r2_video" in fit.callback_metrics
    assert weights[0].keys() == weights[1].keys()
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, atol=1e-6, rtol=1e-4)


def test_statistics_of_a_whole_split_are_the_cache_s_and_of_a_sample_those_of_its_clips(cached: Path, clips: Path, tmp_path: Path) -> None:
    root = shutil.copytree(clips, tmp_path / "set")
    for name, value in estimate(root, 100).items():
        torch.testing.assert_close(value, load_file(cached / STATISTICS)[name], atol=1e-5, rtol=1e-5)
    sample = estimate(root, 2)
    kept = opened(cached, "features").train_dataset.batch([0, 3]).video_features.double().flatten(0, 1)
    torch.testing.assert_close(sample["video_mean"].double(), kept.mean(0), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, sample[name]) for name, value in estimate(root, 2, batch_size=2).items())


def test_statistics_of_a_cache_are_not_replaced_by_a_sample_s(cached: Path) -> None:
    with pytest.raises(ValueError, match="it is not replaced with a sample's"):
        estimate(cached, 2)


def test_statistics_of_other_perceivers_other_clips_or_unknown_ones_are_refused(estimated: Path) -> None:
    data = opened(estimated, "media")
    data.feature_statistics(online(CLIP))
    with pytest.raises(ValueError, match="must be of this run's perceivers .* differ in video_perceiver; .*statistics.yaml"):
        data.feature_statistics(online(CLIP, seed=1))
    with pytest.raises(ValueError, match="differ in keyframe_fps: 3.0 != 6.0"):
        data.feature_statistics(online(ClipSpec(keyframe_fps=3.0)))
    save_file(load_file(estimated / STATISTICS), estimated / STATISTICS)
    with pytest.raises(ValueError, match="differ in video_perceiver"):
        data.feature_statistics(online(CLIP))
    (estimated / STATISTICS).unlink()
    with pytest.raises(ValueError, match="does not exist; make it with .*statistics.yaml"):
        data.feature_statistics(online(CLIP))


def test_statistics_of_clips_that_were_built_again_are_refused(estimated: Path) -> None:
    for file in (estimated / "train").glob("clips-*"):
        file.unlink()
    build_world(estimated, CLIP, {"train": 7, "val": 3}, workers=0, shard_clips=3)
    with pytest.raises(ValueError, match="is not of the clips in .*train/; repeat"):
        opened(estimated, "media").feature_statistics(online(CLIP))


def test_a_batch_without_media_is_refused(cached: Path) -> None:
    with pytest.raises(ValueError, match="add `media` to data.init_args.fields"):
        online(CLIP).fill(opened(cached, "text").train_dataset.batch([0]))


def test_the_oracle_plan_takes_features_online_too(cached: Path) -> None:
    sources = GroundTruthPlan(CLIP), GroundTruthPlan(CLIP, online)
    plans = [
        source.truth(opened(cached, fields).train_dataset.batch(range(3)))
        for source, fields in zip(sources, ("features", "media"), strict=True)
    ]
    assert torch.equal(plans[0].video, plans[1].video) and torch.equal(plans[0].audio, plans[1].audio)
    assert not any(isinstance(module, (TinySiglip, TinyEncodec)) for module in sources[1].modules())


def test_what_a_clip_lacks_is_zeros_as_in_the_cache(clips: Path) -> None:
    batch = opened(clips, "media").train_dataset.batch(range(2))
    batch.waveform, batch.has_audio = None, torch.zeros(2, dtype=torch.bool)
    online(CLIP).fill(batch)
    assert batch.audio_features.shape == (2, CLIP.num_audio_planned, CLIP.audio_plan_width) and not batch.audio_features.any()


@pytest.mark.slow
def test_the_experiment_files_run(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    root = shutil.copytree(clips, tmp_path / "set")
    paths = [f"--data.init_args.root={root}", f"--run.root={tmp_path}/runs", "--data.init_args.batch_size=3"]
    assert main(["predict", "-c", "experiments/statistics.yaml", *paths]) == 0
    assert "statistics of features over 6 clips" in capsys.readouterr().out and not (root / CACHE).exists()
    words = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--model.init_args.scheduler.init_args.warmup_steps=1"]
    assert main(["fit", "-c", "experiments/stage1.yaml", "-c", "experiments/features_online.yaml", *paths, *words]) == 0
    weights = load_file(tmp_path / "runs/demo/stage1/weights.safetensors")
    assert weights["planner.video_norm.fitted"] and all(key.startswith("planner.") for key in weights)


def test_perceivers_are_nobody_s_parameters() -> None:
    module = stage(online)
    module.configure_model()
    assert module.online is not None and all(isinstance(network, nn.Module) for network in module.online.networks.values())
    assert not any("perceiver" in name or "online" in name for name, _ in module.named_parameters())
