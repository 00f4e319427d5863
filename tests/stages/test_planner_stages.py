"""Stages 1 and 2: what they train, take over, report and refuse, run by Lightning's own trainer."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from baton_lightning.batch import Batch, Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.frozen.llm import TinyLLM
from baton_lightning.models.codes import DiscreteTowers
from baton_lightning.models.planner import VAPlanner
from baton_lightning.models.sem_mlp import SemHeads
from baton_lightning.models.towers import DualTowers
from baton_lightning.runs.manifest import NAME, WEIGHTS, file_digest
from baton_lightning.stages.alignment import TowerAlignment
from baton_lightning.stages.plan_regression import RSquared
from baton_lightning.stages.pretraining import PlannerPretraining
from baton_lightning.stages.step_means import StepMeans

CLIP = ClipSpec(seconds=1.0, keyframe_fps=2.0, plan_grid=(2, 2), audio_plan_rate=4, video_plan_width=6, audio_plan_width=5)
WORDS = ["a", "red", "blue", "green", "square", "circle", "jumps", "talks"]
LLM = partial(TinyLLM, width=16, depth=1, num_heads=2, num_kv_heads=1, vocabulary=WORDS)
STAGE1 = partial(VAPlanner, llm=LLM)
STAGE2 = partial(VAPlanner, llm=LLM, readout=partial(DualTowers, num_heads=2))
ADAMW = partial(torch.optim.AdamW, lr=1e-2)


class Clips(LightningDataModule):
    """Eight prompts, each with features of its own."""

    def __init__(self, *, shift: float = 0.0, features: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.video = 3 + shift + 2 * torch.randn(8, CLIP.num_video_planned, 6, generator=generator)
        self.audio = torch.randn(8, CLIP.num_audio_planned, 5, generator=generator)
        self.features = features

    def feature_statistics(self, online: object = None) -> dict[str, tuple[Tensor, Tensor]]:
        return {n: (x.mean((0, 1)), x.std((0, 1))) for n, x in (("video", self.video), ("audio", self.audio))}

    def batch(self, rows: list[int]) -> Batch:
        features = (self.video[rows], self.audio[rows]) if self.features else (None, None)
        return Batch(
            keys=[str(r) for r in rows],
            index=torch.tensor(rows),
            epoch=0,
            video_prompts=[f"a {WORDS[1 + r % 3]} {WORDS[4 + r % 2]}" for r in rows],
            audio_prompts=[WORDS[6 + r // 4] for r in rows],
            video_features=features[0],
            audio_features=features[1],
        )

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(8), batch_size=4, collate_fn=self.batch)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def trainer(path: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(**{"accelerator": "cpu", "default_root_dir": path, "max_epochs": 1, **quiet, **options})


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def parent(tmp_path: Path) -> tuple[str, dict[str, Tensor]]:
    """A finished stage 1: its run folder and its planner's weights."""
    stage = PlannerPretraining(CLIP, STAGE1)
    stage.configure_model()
    stage.planner.video_norm.fit(*Clips().feature_statistics()["video"])
    stage.planner.audio_norm.fit(*Clips().feature_statistics()["audio"])
    run = tmp_path / "stage1"
    run.mkdir()
    save_file(stage.state_dict(), run / WEIGHTS)
    manifest = {"clip": CLIP.to_dict(), "weights_sha256": file_digest(run / WEIGHTS)}
    (run / NAME).write_text(json.dumps(manifest))
    return str(run), weights(stage.planner)


def test_pretraining_learns_reports_and_hands_on_a_fitted_feature_space(tmp_path: Path) -> None:
    stage, data = PlannerPretraining(CLIP, STAGE1, ADAMW), Clips()
    run = trainer(tmp_path, max_epochs=40, check_val_every_n_epoch=40, num_sanity_val_steps=1)
    run.fit(stage, data)
    metrics = {name: value.item() for name, value in run.callback_metrics.items()}
    assert {"train/loss", "train/loss_video", "train/loss_audio", "val/loss", "val/r2_video", "val/r2_audio"} <= metrics.keys()
    assert metrics["val/r2_video"] > 0.3
    assert metrics["val/r2_audio"] > 0.3
    # eight clips of one spread each: 1 - loss is R^2 up to the n - 1 in the standard deviation
    assert metrics["val/loss"] == pytest.approx(2 - metrics["val/r2_video"] - metrics["val/r2_audio"], abs=0.05)
    torch.testing.assert_close(stage.planner.video_norm.mean, data.feature_statistics()["video"][0])


def test_predicting_gives_standardised_plans_batch_by_batch(tmp_path: Path) -> None:
    stage, data = PlannerPretraining(CLIP, STAGE1, ADAMW), Clips()
    run = trainer(tmp_path)
    run.fit(stage, data)
    plans = run.predict(stage, data)
    assert [type(p) for p in plans] == [Plan, Plan]
    assert plans[0].video.shape == (4, CLIP.num_video_planned, 6)
    run.test(stage, data, verbose=False)
    assert {"test/loss", "test/r2_video", "test/r2_audio"} <= run.callback_metrics.keys()


def test_an_untrained_planner_is_not_scored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never trained: give --ckpt_path"):
        trainer(tmp_path).test(PlannerPretraining(CLIP, STAGE1), Clips(), verbose=False)


def test_a_batch_without_features_says_what_to_cache(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="add `features` to data.init_args.fields"):
        trainer(tmp_path).fit(PlannerPretraining(CLIP, STAGE1), Clips(features=False))


def test_configuring_twice_builds_once() -> None:
    stage = PlannerPretraining(CLIP, STAGE1)
    assert not list(stage.parameters())
    stage.configure_model()
    first = stage.planner
    stage.configure_model()
    assert stage.planner is first


def test_alignment_takes_over_all_but_the_towers_and_starts_where_pretraining_stopped(parent: tuple[str, dict[str, Tensor]]) -> None:
    run, pretrained = parent
    stage = TowerAlignment(CLIP, STAGE2, parents={"planner": run})
    stage.configure_model()
    ours = stage.planner.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in pretrained.items())
    assert all("_tower." in k for k in ours.keys() - pretrained.keys())
    parent_planner = VAPlanner(CLIP, LLM)
    parent_planner.load_state_dict(pretrained)
    batch = Clips().batch([0, 5])
    before, after = parent_planner(batch.video_prompts, batch.audio_prompts), stage(batch)
    assert (before.video - after.video).square().mean() < 0.01 * before.video.square().mean()


@pytest.mark.parametrize(("frozen", "still"), [((), ()), (("language",), ("language.",)), (("language.llm",), ("language.llm.",))])
def test_alignment_trains_exactly_what_is_not_frozen(
    parent: tuple[str, dict[str, Tensor]], tmp_path: Path, frozen: tuple[str, ...], still: tuple[str, ...]
) -> None:
    stage = TowerAlignment(CLIP, partial(STAGE2, frozen=frozen), ADAMW, parents={"planner": parent[0]})
    stage.configure_model()
    before = weights(stage.planner)
    trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(stage, Clips())
    after = stage.planner.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    trained = {n for n, _ in stage.planner.named_parameters() if not n.startswith(still or ("\0",))}
    assert moved == trained


def test_the_language_model_moves_at_its_own_rate(parent: tuple[str, dict[str, Tensor]]) -> None:
    stage = TowerAlignment(
        CLIP, STAGE2, partial(torch.optim.AdamW, lr=1.0), rates={"planner.language.llm": 0.1}, parents={"planner": parent[0]}
    )
    stage.configure_model()
    optimizer = stage.configure_optimizers()["optimizer"]
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in stage.named_parameters():
        assert rate[id(parameter)] == pytest.approx(0.1 if name.startswith("planner.language.llm.") else 1.0), name


def test_alignment_without_a_parent_is_refused() -> None:
    with pytest.raises(ValueError, match="must name the run of the pretrained planner"):
        TowerAlignment(CLIP, STAGE2)


def test_alignment_of_another_geometry_or_another_llm_is_refused(parent: tuple[str, dict[str, Tensor]]) -> None:
    longer = TowerAlignment(replace(CLIP, seconds=2.0), STAGE2, parents={"planner": parent[0]})
    with pytest.raises(ValueError, match="seconds: 2.0 != 1.0"):
        longer.configure_model()
    wider = TowerAlignment(CLIP, partial(STAGE2, llm=partial(LLM, width=20)), parents={"planner": parent[0]})
    with pytest.raises(ValueError, match="shapes differ"):
        wider.configure_model()


@pytest.mark.parametrize(
    "readout", [SemHeads, partial(DiscreteTowers, num_heads=2, num_codes=4), partial(DualTowers, num_heads=2, learned_queries=False)]
)
def test_every_ablation_of_the_readout_starts_from_the_same_parent(
    parent: tuple[str, dict[str, Tensor]], tmp_path: Path, readout: Any
) -> None:
    stage = TowerAlignment(CLIP, partial(STAGE2, readout=readout), ADAMW, parents={"planner": parent[0]})
    run = trainer(tmp_path)
    run.fit(stage, Clips())
    assert run.callback_metrics["val/loss"].isfinite()


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown role \['dit'\]"):
        PlannerPretraining(CLIP, STAGE1, parents={"dit": "x"})


def test_another_datas_statistics_are_warned_of_and_not_taken(parent: tuple[str, dict[str, Tensor]], tmp_path: Path) -> None:
    stage = TowerAlignment(CLIP, STAGE2, ADAMW, parents={"planner": parent[0]})
    with pytest.warns(UserWarning, match="the video features of this data differ by 1.* standard deviations"):
        trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(stage, Clips(shift=2.0))
    torch.testing.assert_close(stage.planner.video_norm.mean, Clips().feature_statistics()["video"][0])


def test_resuming_restores_the_weights_and_not_the_parents(parent: tuple[str, dict[str, Tensor]], tmp_path: Path) -> None:
    def stage() -> LightningModule:
        return TowerAlignment(CLIP, STAGE2, ADAMW, parents={"planner": parent[0]})

    first = stage()
    run = trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    run.fit(first, Clips())
    run.save_checkpoint(tmp_path / "last.ckpt")
    again = stage()
    trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(again, Clips(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)


def test_r_squared_pools_over_batches_and_is_zero_for_the_mean() -> None:
    score = RSquared()
    target = torch.randn(6, 4, 3)
    predicted = target + 0.5 * torch.randn(6, 4, 3)
    score.update(predicted[:1], target[:1])
    score.update(predicted[1:], target[1:])
    assert score.compute() == pytest.approx(1 - ((predicted - target) ** 2).sum().item() / (target**2).sum().item(), abs=1e-6)
    mean = RSquared()
    mean.update(torch.zeros(6, 4, 3), target)
    assert mean.compute() == 0


def test_r_squared_leaves_out_clips_without_the_modality() -> None:
    target, predicted = torch.ones(2, 3, 1), torch.stack([torch.ones(3, 1), torch.zeros(3, 1)])
    score = RSquared()
    score.update(predicted, target, torch.tensor([True, False]))
    assert score.compute() == 1


def test_a_logged_loss_is_the_mean_over_the_clips_of_all_batches_of_a_step() -> None:
    logged, means = [], StepMeans()
    module = SimpleNamespace(log=lambda name, value, **_: logged.append((name, value.item())))
    for value, clips in ((1.0, 3), (2.0, 1)):
        means.add("train/loss", torch.tensor(value), clips)
    means.add("train/loss_audio", torch.tensor(5.0), 2)  # the second batch has no sound
    means.log(module)
    means.log(module)
    assert logged == [("train/loss", 1.25), ("train/loss_audio", 5.0)]
