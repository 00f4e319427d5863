"""What is float32 stays float32: networks of half precision, the flow around them, weights that are trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from torch import nn

from baton_lightning.__main__ import main
from baton_lightning.batch import Batch, Plan
from baton_lightning.cli import BatonCLI
from baton_lightning.clip import ClipSpec
from baton_lightning.config import expand
from baton_lightning.construction.deepspeed_cpu import CPUDeepSpeedStrategy
from baton_lightning.construction.sharding import KeepBatchPrecision, keep_batch_precision
from baton_lightning.flow import path
from baton_lightning.frozen.llm import PretrainedLLM, TinyLLM
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.feature_norm import FeatureNorm
from baton_lightning.models.planner import VAPlanner
from baton_lightning.models.towers import DualTowers
from baton_lightning.optim import build_optimizer
from baton_lightning.stages.flow_matching import noise
from baton_lightning.stages.joint import JointTraining
from baton_lightning.stages.plan_sources import GroundTruthPlan

ROOT = Path(__file__).parents[1]
CLIP = ClipSpec(seconds=1.0, height=16, width=16, video_channels=6, plan_grid=(2, 2), audio_plan_rate=10, text_tokens=8, text_width=12)
LOW = torch.bfloat16


def make_dit(clip: ClipSpec) -> DualBranchDiT:
    torch.manual_seed(0)
    dit = DualBranchDiT(clip, width=24, depth=2, num_heads=2, ffn_width=32, frequency_width=8)
    for parameter in dit.parameters():  # nothing may be silent
        parameter.data += 0.05 * torch.randn_like(parameter)
    return dit


def clips(count: int) -> Batch:
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "video_latents": (CLIP.video_channels, *CLIP.latent_grid),
        "audio_latents": (CLIP.num_audio_latents, CLIP.audio_channels),
        "video_features": (CLIP.num_video_planned, CLIP.video_plan_width),
        "audio_features": (CLIP.num_audio_planned, CLIP.audio_plan_width),
        "context": (CLIP.text_tokens, CLIP.text_width),
    }
    tensors = {name: torch.randn(count, *shape, generator=draw) for name, shape in shapes.items()}
    return Batch([f"k{i}" for i in range(count)], torch.arange(count), 3, ["a red circle"] * count, ["a thump"] * count, **tensors)


def joint(dtype: torch.dtype) -> JointTraining:
    """Stage 3 with a transformer held in a type, as ZeRO holds it: parameters alone are cast."""
    module = JointTraining(CLIP, make_dit, GroundTruthPlan, torch.optim.AdamW, seed=5)
    module.configure_model()
    for parameter in module.dit.parameters():
        parameter.data = parameter.data.to(dtype)
    module.log = module.log_dict = lambda *_, **__: None
    return module


# ---- networks
def test_a_transformer_in_bfloat16_takes_float32_and_answers_in_float32() -> None:
    batch, answers = clips(2), []
    for dtype in (torch.float32, LOW):
        module = joint(dtype)
        t = torch.tensor([0.1, 0.9])
        answers.append(module.dit(batch.video_latents, batch.audio_latents, t, batch.context, batch.context, module.plan.truth(batch)))
    for exact, low in zip(*answers, strict=True):
        assert low.dtype == torch.float32
        assert 0 < (low - exact).norm() / exact.norm() < 0.03
    ragged = joint(LOW).dit([x for x in batch.video_latents], None, t, list(batch.context))[0]
    assert {x.dtype for x in ragged} == {torch.float32}


def test_a_float64_transformer_stays_float64() -> None:
    module = joint(torch.float64)
    batch = clips(1)
    assert module.dit(batch.video_latents, None, torch.tensor([0.5]), batch.context)[0].dtype == torch.float64


@pytest.mark.parametrize(("language", "readout"), [(LOW, torch.float32), (torch.float32, LOW), (LOW, LOW)])
def test_a_planner_whose_parts_are_of_different_types_gives_a_float32_plan(language: torch.dtype, readout: torch.dtype) -> None:
    torch.manual_seed(0)
    planner = VAPlanner(CLIP, lambda: TinyLLM(width=16, depth=1, num_heads=2, num_kv_heads=1), DualTowers)
    exact = planner(["a red circle"], ["a thump"])
    planner.language.to(language)
    planner.readout.to(readout)
    plan = planner(["a red circle"], ["a thump"])
    assert plan.video.dtype == plan.audio.dtype == torch.float32
    assert 0 < (plan.video - exact.video).norm() / exact.video.norm() < 0.05


def test_features_are_standardised_in_float32_whatever_they_are_stored_in() -> None:
    norm = FeatureNorm(2)
    norm.fit(torch.tensor([100.0, 0.0]), torch.ones(2))
    stored = torch.tensor([[[100.5, 1.0]]], dtype=LOW)
    assert norm(stored).dtype == torch.float32 and norm(stored).flatten().tolist() == [0.5, 1.0]
    assert norm.inverse(torch.tensor([[[0.25, 1.0]]], dtype=LOW)).flatten().tolist() == [100.25, 1.0]


# ---- the flow
def test_the_flow_is_float32_and_its_time_is_the_one_the_network_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch, times_given, used = joint(LOW), clips(2), [], []
    t = torch.tensor([1 / 3, 0.999])
    forward, interpolate = module.dit.forward, path.interpolate
    monkeypatch.setattr(
        module.dit, "forward", lambda video, audio, t, *rest, **more: times_given.append(t) or forward(video, audio, t, *rest, **more)
    )
    monkeypatch.setattr(path, "interpolate", lambda clean, noise, t: used.append((clean, noise, t)) or interpolate(clean, noise, t))
    stored = replace(batch, video_latents=batch.video_latents.to(LOW), audio_latents=batch.audio_latents.to(LOW))
    errors = module.flow_loss(stored, module.plan.truth(batch), t, noise(stored, seed=5, epoch=0, purpose="x"))
    assert torch.equal(times_given[0], t) and all(torch.equal(time, t) for *_, time in used)
    assert {x.dtype for clean, noise, _ in used for x in (clean, noise)} == {torch.float32}
    losses = [errors.mean(name) for name in ("video", "audio")]
    assert {loss.dtype for loss in losses} == {torch.float32}
    assert any(loss.item() != loss.to(LOW).item() for loss in losses)


def test_deepspeed_is_kept_from_rounding_batches() -> None:
    trainer = SimpleNamespace(strategy=CPUDeepSpeedStrategy(stage=2), precision="bf16-mixed")
    trainer.strategy.precision_plugin = DeepSpeedPrecision("bf16-mixed")
    batch = clips(1)
    assert trainer.strategy.precision_plugin.convert_input(batch).video_latents.dtype == LOW
    keep_batch_precision(trainer)
    assert isinstance(trainer.strategy.precision_plugin, KeepBatchPrecision)
    assert trainer.strategy.precision_plugin.convert_input(batch).video_latents.dtype == torch.float32


def test_a_sharded_run_keeps_its_batches_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    files = ["-c", "experiments/stage3_adapt.yaml", "-c", "experiments/strategy/zero2_cpu.yaml", f"--run.root={tmp_path}"]
    cli = BatonCLI(expand([*files, "--trainer.precision=bf16-mixed", "--trainer.devices=1"]), run=False)
    batch = clips(1)
    assert cli.trainer.strategy.precision_plugin.convert_input(batch).video_latents is batch.video_latents


# ---- the shuffled control
def test_alone_in_its_batch_a_clip_gets_the_plan_of_the_batch_before_and_never_its_own() -> None:
    module, logged = joint(torch.float32), []
    seen: list[Plan | None] = []
    flow_loss = module.flow_loss
    module.flow_loss = lambda batch, plan, *rest, **more: seen.append(plan) or flow_loss(batch, plan, *rest, **more)
    module.log = lambda name, value, batch_size, **_: logged.append((name, batch_size))
    batch = clips(3)
    for row in range(2):
        filled = {k: v[row : row + 1] for k, v in vars(batch).items() if isinstance(v, (torch.Tensor, list))}
        module.validation_step(replace(batch, **filled), row)
    truth = module.plan.truth(batch)
    shuffled = seen[1::3]  # truth, shuffled, none
    assert torch.equal(shuffled[1].video, truth.video[:1]) and torch.equal(shuffled[1].audio, truth.audio[:1])
    assert [weight for name, weight in logged if name == "val/flow_loss/shuffled"] == [0, 1]
    module.validation_step(batch, 2)
    assert torch.equal(seen[7].video, truth.video.roll(1, 0))
    with pytest.raises(ValueError, match="at least two clips"):
        module.plan.truth(batch).rows(0, 1).roll()


# ---- what is trained
def test_weights_of_half_precision_are_trained_with_float32_masters_or_not_at_all() -> None:
    module = nn.ModuleDict({"read": nn.Linear(2, 2).to(LOW), "trained": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"float32 masters; 2 are not, the first is read.weight in torch.bfloat16.*dtype: float32"):
        build_optimizer(module, torch.optim.AdamW)
    module["read"].requires_grad_(False)
    assert build_optimizer(module, torch.optim.AdamW)
    module["read"].requires_grad_(True)
    for enabled in (True, False):
        strategy = CPUDeepSpeedStrategy(stage=2)
        strategy.config = {"zero_optimization": {"stage": 2}, "bf16": {"enabled": enabled}}
        module._trainer = SimpleNamespace(strategy=strategy)
        if enabled:
            assert build_optimizer(module, torch.optim.AdamW)
        else:
            with pytest.raises(ValueError, match="float32 masters"):
                build_optimizer(module, torch.optim.AdamW)


def test_adapters_of_a_bfloat16_model_are_float32(tmp_path: Path) -> None:
    tiny = TinyLLM(width=16, depth=1, num_heads=2, num_kv_heads=1)
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    adapted = PretrainedLLM(str(tmp_path), dtype="bfloat16", lora_rank=2)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in adapted.parameters() if not p.requires_grad} == {LOW}
    hidden = adapted(adapted.embed(torch.tensor([[1, 2, 3]])))
    hidden.float().square().mean().backward()
    assert hidden.dtype == LOW and all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_that_rounds_everything_is_refused(
    precision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["fit", "-c", "experiments/stage1.yaml", "--trainer.precision", precision]) == 1
    output = capsys.readouterr().err
    assert "bf16-mixed" in output and len(output.splitlines()) == 1
