"""Stage 3: draws that know their clip, plans that can be mixed and dropped, a planner that stays where it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.flow import draws
from baton_lightning.frozen.llm import TinyLLM
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.planner import VAPlanner
from baton_lightning.muon import MuonAdamW
from baton_lightning.stages.flow_matching import noise
from baton_lightning.stages.joint import JointTraining
from baton_lightning.stages.plan_sources import GroundTruthPlan, PlannedTokens
from baton_lightning.stages.plan_space import drift, fit_or_compare, norms

CLIP = ClipSpec(seconds=1.0, height=16, width=16, video_channels=6, plan_grid=(2, 2), audio_plan_rate=10, text_tokens=8, text_width=12)


def make_dit(clip: ClipSpec) -> DualBranchDiT:
    return DualBranchDiT(clip, width=24, depth=2, num_heads=2, ffn_width=32, frequency_width=8)


def make_planner(clip: ClipSpec) -> VAPlanner:
    return VAPlanner(clip, lambda: TinyLLM(width=16, depth=1, num_heads=2, num_kv_heads=1))


def part(batch: Batch, rows: list[int]) -> Batch:
    filled = {k: v for k, v in vars(batch).items() if isinstance(v, (torch.Tensor, list))}
    return replace(batch, **{k: v[rows] if isinstance(v, torch.Tensor) else [v[r] for r in rows] for k, v in filled.items()})


@pytest.fixture
def module() -> JointTraining:
    torch.manual_seed(0)
    made = JointTraining(CLIP, make_dit, GroundTruthPlan, MuonAdamW, plan_dropout=0.0, seed=5)
    made.configure_model()
    for norm, width in ((made.plan.video_norm, 64), (made.plan.audio_norm, 64)):
        norm.fit(torch.zeros(width), torch.ones(width))
    for parameter in made.dit.parameters():  # nothing may be silent
        parameter.data += 0.05 * torch.randn_like(parameter)
    made.log = made.log_dict = lambda *_, **__: None
    return made


def test_a_clip_sees_the_same_noise_and_time_in_any_batch(clips, module):
    batch = clips(4)
    whole = module.training_step(batch, 0)
    parts = [module.training_step(part(batch, rows), 0) for rows in ([0, 2], [1, 3])]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_another_epoch_draws_anew(clips, module):
    batch = clips(2)
    assert not torch.equal(module.training_step(batch, 0), module.training_step(replace(batch, epoch=4), 0))


def test_the_global_generator_is_left_alone(clips, module):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    module.training_step(clips(2), 0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_plan_dropped_from_every_clip_is_no_plan(clips, module):
    batch = clips(3)
    plan, t = module.plan.truth(batch), torch.full((3,), 0.5)
    none = module.flow_loss(batch, None, t, noise(batch, seed=5, epoch=0, purpose="x"))
    dropped = module.flow_loss(batch, plan, t, noise(batch, seed=5, epoch=0, purpose="x"), has_plan=torch.zeros(3, dtype=torch.bool))
    planned = module.flow_loss(batch, plan, t, noise(batch, seed=5, epoch=0, purpose="x"))
    torch.testing.assert_close(none.mean("video"), dropped.mean("video"))
    assert not torch.allclose(none.mean("video"), planned.mean("video"))


def test_the_curves_of_a_validation_share_one_draw_of_noise(clips, module, monkeypatch):
    drawn, draw = [], draws.draw_normal
    monkeypatch.setattr(draws, "draw_normal", lambda *a, **k: drawn.append(k["purpose"]) or draw(*a, **k))
    module.validation_step(clips(2), 0)
    assert drawn == ["probe.video", "probe.audio"]


def test_an_absent_modality_costs_nothing(clips, module):
    batch = replace(clips(2), has_audio=torch.tensor([True, False]))
    louder = replace(batch, audio_latents=batch.audio_latents * torch.tensor([1.0, 100.0])[:, None, None])
    t = torch.full((2,), 0.5)
    losses = [module.flow_loss(b, None, t, noise(b, seed=5, epoch=0, purpose="x")).mean("audio") for b in (batch, replace(louder))]
    torch.testing.assert_close(*losses)


def test_nothing_of_an_absent_modality_reaches_the_other(clips, module):
    batch = replace(clips(2), has_video=torch.tensor([True, False]))
    louder = replace(batch, video_latents=batch.video_latents * torch.tensor([1.0, 100.0])[:, None, None, None, None])
    t = torch.full((2,), 0.5)
    losses = [module.flow_loss(b, None, t, noise(b, seed=5, epoch=0, purpose="x")).total for b in (batch, louder)]
    torch.testing.assert_close(*losses)


def test_an_absent_modality_s_plan_is_the_mean_of_the_training_set(clips, module):
    plan = module.plan.truth(replace(clips(2), has_video=torch.tensor([True, False])))
    assert plan.video[0].any() and not plan.video[1].any() and plan.audio[1].any()


def test_captions_are_dropped_by_counter(clips, module):
    module.caption_dropout = 0.5
    batch, seen, losses = clips(64), [], SimpleNamespace(total=torch.zeros(()), num={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "flow_loss", lambda batch, *_, **__: seen.append(batch.context) or losses)
        module.training_step(batch, 0)
        module.training_step(part(batch, [5, 40]), 0)
    kept = seen[0].flatten(1).any(1)
    assert 16 < int(kept.sum()) < 48 and torch.equal(seen[0][kept], batch.context[kept])
    assert torch.equal(seen[1], seen[0][[5, 40]])


def test_losses_by_time_are_logged_once_a_step_whatever_it_accumulates(module):
    logged = []
    accumulates = iter([True, True, False] * 4)  # steps 1 to 4, and what Lightning counts while a step goes on
    module.log_by_time = lambda split: logged.append(module.global_step)
    module._trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(_should_accumulate=lambda: next(accumulates)), log_every_n_steps=2, global_step=0
    )
    for batch in range(12):
        module._trainer.global_step = (batch + 1) // 3
        module.on_train_batch_end(None, None, batch)
    assert logged == [2, 4]


def test_truth_share_chooses_whole_clips(clips):
    source = PlannedTokens(CLIP, make_planner, truth_share=0.5)
    for norm in (source.planner.video_norm, source.planner.audio_norm):
        norm.fit(torch.zeros(64), torch.ones(64))
    batch = clips(32)
    mixed, truth, planned = source(batch, seed=0), source.truth(batch), source.planned(batch)
    chosen = [(mixed.video[i] == truth.video[i]).all() and (mixed.audio[i] == truth.audio[i]).all() for i in range(32)]
    assert 8 < sum(map(bool, chosen)) < 24
    assert all(torch.allclose(mixed.video[i], planned.video[i], atol=1e-5) for i in range(32) if not chosen[i])


def test_the_planner_is_frozen_and_stays_in_evaluation_mode():
    source = PlannedTokens(CLIP, make_planner).train()
    assert not source.planner.training and not any(p.requires_grad for p in source.parameters())


def test_unknown_roles_are_refused():
    with pytest.raises(ValueError, match=r"unknown role \['plan'\]"):
        JointTraining(CLIP, make_dit, GroundTruthPlan, MuonAdamW, parents={"plan": "runs/x"}).configure_model()


PLAN_ALONE = {"frozen": ["dit"], "trained": ["dit.latent_mlp", "dit.*.plan_attn"]}


def test_what_reads_the_plan_can_be_trained_alone_and_at_rates_of_its_own():
    made = JointTraining(CLIP, make_dit, GroundTruthPlan, torch.optim.AdamW, **PLAN_ALONE, rates={"dit.latent_mlp.video": 10.0})
    made.configure_model()
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in made.named_parameters() if ".plan_attn." in name or ".latent_mlp." in name} != set()
    groups = made.configure_optimizers()["optimizer"].param_groups
    faster = {id(p) for group in groups if group["lr"] == pytest.approx(0.01) for p in group["params"]}
    assert faster == {id(p) for p in made.dit.latent_mlp["video"].parameters()}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frozen": ["dit.video_modl"]}, r"model.init_args.frozen: 'dit.video_modl' .* the nearest names are dit.video_model"),
        ({"trained": ["dit.latent_mlp"]}, r"exceptions of model.init_args.frozen, which must not be empty, .* e.g. to \[dit\]"),
        ({"frozen": ["plan"]}, r"model.init_args.frozen: 'plan' .* the nearest names are dit"),
        ({"frozen": ["dit.audio_model"], "trained": ["dit.latent_mlp"]}, r"model.init_args.trained, .* 'dit.latent_mlp' matches no part"),
    ],
)
def test_parts_that_do_not_exist_are_refused_with_the_nearest(wrong, message):
    with pytest.raises(ValueError, match=message):
        JointTraining(CLIP, make_dit, GroundTruthPlan, MuonAdamW, **wrong).configure_model()


def finished(folder: Path, weights: dict[str, torch.Tensor], **more: object) -> Path:
    """A run's folder."""
    folder.mkdir()
    save_file(weights, folder / "weights.safetensors")
    (folder / "manifest.json").write_text(json.dumps({"weights_sha256": "", **more}))
    return folder


def space(owner: str, shift: float) -> dict[str, torch.Tensor]:
    """Feature statistics in the weights of a run."""
    means = {"video": torch.full((64,), shift), "audio": torch.zeros(64)}
    return {f"{owner}.{n}_norm.{k}": v for n, mean in means.items() for k, v in {"mean": mean, "std": torch.ones(64)}.items()}


@pytest.mark.parametrize("parent", ["adapted", "joint"])
def test_a_transformer_does_not_go_on_along_plans_of_another_space(module, tmp_path, parent):
    def run(name: str, shift: float) -> Path:
        if parent == "adapted":
            return finished(tmp_path / name, space("plan", shift))
        planner = finished(tmp_path / f"{name}-planner", space("planner", shift))
        return finished(tmp_path / name, {"dit.x": torch.zeros(1)}, parents={"planner": {"run": str(planner), "weights_sha256": ""}})

    assert drift(module.plan, run("near", 0.05)) == pytest.approx({"video": 0.05, "audio": 0.0})
    with pytest.raises(ValueError, match=r"far/ must have .* differ by video 0.30 and audio 0.00 standard deviations, more than 0.1"):
        drift(module.plan, run("far", 0.3))
    assert drift(module.plan, finished(tmp_path / "ovi", {"dit.x": torch.zeros(1)})) == {}
    lost = finished(tmp_path / "lost", {"dit.x": torch.zeros(1)}, parents={"planner": {"run": "gone", "weights_sha256": ""}})
    with pytest.warns(UserWarning, match="lost/ was trained on plans of gone/, which does not exist"):
        assert drift(module.plan, lost) == {}


def test_a_run_compares_its_plans_with_its_parent_s_before_it_trains(module, tmp_path):
    own = {name: (norm.mean, norm.std) for name, norm in norms(module.plan).items()}
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(feature_statistics=lambda online: own))
    module.parents = {"dit": str(finished(tmp_path / "near", space("plan", 0.05)))}
    module.on_fit_start()
    assert module.described["plan_space_drift"] == pytest.approx({"video": 0.05, "audio": 0.0})
    module.parents = {"dit": str(finished(tmp_path / "far", space("plan", 0.3)))}
    with pytest.raises(ValueError, match="far/ must have been trained on plans with this run's feature statistics"):
        module.on_fit_start()
    module.resume_checkpoint = tmp_path / "step-2.ckpt"
    module.on_fit_start()  # its statistics are not loaded yet
    with pytest.raises(ValueError, match="far/ must have been trained on"):
        module.on_train_start()


def test_features_of_another_perceiver_are_not_mixed_with_planned_tokens(module):
    def data(shift: float) -> SimpleNamespace:
        own = {name: (norm.mean + shift * norm.std, norm.std) for name, norm in norms(module.plan).items()}
        return SimpleNamespace(feature_statistics=lambda online: own)

    for norm in norms(module.plan).values():
        norm.fitted.fill_(True)
    fit_or_compare(module.plan, data(0.05), mixes=True)
    with pytest.warns(UserWarning, match="the video features of this data differ by 0.50 standard deviations"):
        fit_or_compare(module.plan, data(0.5), mixes=True)
    with pytest.raises(ValueError, match="video features of this data differ by 3.00 .* encode the data with the planner's perceiver"):
        fit_or_compare(module.plan, data(3.0), mixes=True)
