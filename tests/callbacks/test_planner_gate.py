"""The gate lets a planner pass that follows its prompts, and names what is wrong with one that does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from baton_lightning.clip import ClipSpec, Geometry
from baton_lightning.stages import planner_gate
from callbacks.planner_gate import FEWEST_CLIPS, PlannerGate, lines

CLIP = ClipSpec(seconds=1.0, plan_grid=(2, 2), audio_plan_rate=10, video_plan_width=8, audio_plan_width=8)


class Strategy:
    def reduce(self, tensor: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "sum"
        return tensor


def gate_of(
    change: Any, clips: int = 64, has_audio: Tensor | None = None, clip: ClipSpec = CLIP
) -> tuple[dict[str, Any], dict[str, float]]:
    """The gate of a planner whose plans are a function of the targets; and the values that a logger got. Geometries take turns."""
    logged: dict[str, float] = {}
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.update(values))
    trainer = SimpleNamespace(strategy=Strategy(), sanity_checking=False, loggers=[logger], global_step=3)
    module, gate, draw = SimpleNamespace(clip=clip), PlannerGate(), torch.Generator().manual_seed(0)
    gate.on_validation_epoch_start(trainer, module)  # type: ignore[arg-type]
    for start in range(0, clips, 16):
        geometry = list(clip.each)[start // 16 % len(clip.each)]
        one = clip.at(geometry)
        sizes = {"video": one.num_video_planned, "audio": one.num_audio_planned}
        target = SimpleNamespace(**{name: torch.randn(16, size, 8, generator=draw) for name, size in sizes.items()})
        plan = SimpleNamespace(video=change(target.video, one.num_keyframes), audio=change(target.audio, one.num_audio_planned))
        made = {"has_video": None, "has_audio": has_audio, "geometry": geometry}
        batch: Any = type("Clips", (SimpleNamespace,), {"__len__": lambda self: 16})(**made)
        gate.on_validation_batch_end(trainer, module, {"plan": plan, "target": target}, batch, start)  # type: ignore[arg-type]
    gate.on_validation_epoch_end(trainer, module)  # type: ignore[arg-type]
    return gate.described["planner_gate"], logged


def test_a_planner_that_is_nearly_right_passes_with_its_scores() -> None:
    gate, logged = gate_of(lambda target, parts: 0.9 * target)
    assert gate["passed"] is True and gate["failed"] == []
    assert gate["video"]["wins_shuffled"] == gate["video"]["wins_still"] == 1.0
    assert gate["video"]["norm_ratio"] == pytest.approx(0.9) and gate["video"]["variance_ratio"] == pytest.approx(0.81)
    assert gate["video"]["r2_by_keyframe"] == [pytest.approx(0.99)] * 6 and gate["audio"]["r2_by_second"] == [pytest.approx(0.99)]
    assert logged["gate/video_norm_ratio"] == pytest.approx(0.9) and logged["gate/video_r2_by_keyframe_05"] == pytest.approx(0.99)


def test_clips_of_two_durations_are_scored_together_and_late_steps_by_the_longer_ones() -> None:
    gate, _ = gate_of(
        lambda target, parts: (0.9 if parts in (6, 10) else 0.8) * target, clip=replace(CLIP, geometries=(Geometry(32, 32, 2.0),))
    )
    r2 = gate["video"]["r2_by_keyframe"]
    assert gate["passed"] is True and gate["video"]["clips"] == 64 and len(r2) == 12
    assert r2[:6] == [pytest.approx(0.975, abs=3e-3)] * 6 and r2[6:] == [pytest.approx(0.96)] * 6


def test_what_is_wrong_is_named() -> None:
    def still(target: Tensor, parts: int) -> Tensor:
        return target.unflatten(1, (parts, -1))[:, :1].expand(-1, parts, -1, -1).flatten(1, 2)

    said = {
        "wins_shuffled": lambda target, parts: target.roll(3, 0),  # plans of other prompts
        "wins_still": still,
        "norm_ratio": lambda target, parts: 0.1 * target,
        "variance_ratio": lambda target, parts: target.mean(0, keepdim=True).expand_as(target) * 4,
    }
    for name, change in said.items():
        gate, _ = gate_of(change)
        assert gate["passed"] is False and any(f"video {name} must be" in text for text in gate["failed"]), name
        assert "FAILED" in lines(gate)[-1]


def test_a_few_clips_give_no_verdict_and_absent_sound_does_not_count() -> None:
    gate, _ = gate_of(lambda target, parts: -target, clips=16)
    assert gate["passed"] is None and f"fewer than {FEWEST_CLIPS}" in lines(gate)[-1]
    gate, _ = gate_of(lambda target, parts: target, has_audio=torch.zeros(16, dtype=torch.bool))
    assert "audio" not in gate and gate["passed"] is True


def test_a_planner_that_failed_is_refused_unless_it_is_accepted(tmp_path: Path) -> None:
    def module(gate: dict[str, Any] | None, accept: bool = False, fn: str = "fit") -> Any:
        (tmp_path / "manifest.json").write_text(json.dumps({"weights_sha256": "0"} | ({"planner_gate": gate} if gate else {})))
        trainer = SimpleNamespace(state=SimpleNamespace(fn=fn), ckpt_path=None)
        return SimpleNamespace(parents={"planner": str(tmp_path)}, accept_failed_planner=accept, _trainer=trainer, trainer=trainer)

    failed = {"passed": False, "failed": ["video wins_still must be at least 0.5, got 0.20"]}
    with pytest.raises(ValueError, match="wins_still must be at least 0.5, got 0.20; [^\n]*accept_failed_planner: true$"):
        planner_gate.require_passed(module(failed))
    with pytest.warns(UserWarning, match="failed its gate and is used nevertheless"):
        planner_gate.require_passed(module(failed, accept=True))
    for gate, fn in (
        ({"passed": True, "failed": []}, "fit"),
        ({"passed": None, "failed": ["x"]}, "fit"),
        (None, "fit"),
        (failed, "validate"),
    ):
        planner_gate.require_passed(module(gate, fn=fn))
