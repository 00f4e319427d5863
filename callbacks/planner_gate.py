"""Gate of a planner: whether its validation plans depend on the prompt, change over time, and have the size of features."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import pad

from baton_lightning.batch import Batch

MODALITIES = ("video", "audio")
FEWEST_CLIPS = 50
"""With fewer validation clips there is no verdict."""
THRESHOLDS = {
    "wins_shuffled": (0.7, math.inf),
    "wins_still": (0.5, math.inf),
    "norm_ratio": (0.3, 1.5),
    "variance_ratio": (0.05, 2.0),
}
"""Smallest and largest accepted value of each score, for each modality."""


class PlannerGate(Callback):
    """Scores the plans of every validation; the last one is printed and recorded in the manifest as ``planner_gate``.

    For each modality:

    ``wins_shuffled``: share of clips whose own plan is nearer to their features than the plan of another prompt.
    ``wins_still``: share of clips whose plan is nearer to their features than its first keyframe, or first audio token, held for the clip.
    ``norm_ratio``: RMS of the plans / RMS of the features.
    ``variance_ratio``: variance of the plans over the clips of a batch / that of the features.
    ``r2_by_keyframe`` (video) and ``r2_by_second``: explained share of the features' variance.

    A planner passes if every score lies within :data:`THRESHOLDS`. Stage 3 refuses a planner that fails. It needs the outputs of
    ``validation_step``: plan and target. Another session that only continues after the last validation records nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.described: dict[str, Any] = {}
        self.sums: dict[str, Tensor] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sums = {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if len(batch) < 2 or not isinstance(outputs, dict):
            return
        plan, target, clips = outputs["plan"], outputs["target"], pl_module.clip
        clip, longest = clips.at(batch.geometry), clips.longest  # type: ignore[operator, union-attr]
        steps = {"video": (clip.num_keyframes, longest.num_keyframes), "audio": (clip.num_audio_planned, longest.num_audio_planned)}
        for name, (parts, most) in steps.items():
            present = getattr(batch, f"has_{name}")
            for key, value in sums_of(getattr(plan, name), getattr(target, name), parts, present).items():
                padded = pad(value, (0, most - parts)) if value.ndim else value  # a shorter clip has no later steps
                self.sums[f"{name}.{key}"] = self.sums.get(f"{name}.{key}", 0) + padded

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = {key: trainer.strategy.reduce(value.float(), reduce_op="sum").cpu().double() for key, value in sorted(self.sums.items())}
        if trainer.sanity_checking or not total:
            return
        clip = pl_module.clip
        rates = {"video": clip.keyframe_fps, "audio": clip.audio_plan_rate}
        gate: dict[str, Any] = {
            name: scores({k.partition(".")[2]: v for k, v in total.items() if k.startswith(name)}, rates[name])
            for name in MODALITIES
            if total.get(f"{name}.clips", torch.zeros(())) > 0
        }
        gate["failed"] = failures(gate)
        gate["passed"] = not gate["failed"] if min(gate[n]["clips"] for n in MODALITIES if n in gate) >= FEWEST_CLIPS else None
        self.described = {"planner_gate": gate}
        values = {f"gate/{n}_{k}": v for n in MODALITIES if n in gate for k, v in gate[n].items() if k in THRESHOLDS}
        lists = {(n, k): gate[n][k] for n in MODALITIES if n in gate for k in ("r2_by_keyframe", "r2_by_second") if k in gate[n]}
        values |= {f"gate/{n}_{k}_{step:02d}": r2 for (n, k), found in lists.items() for step, r2 in enumerate(found)}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.described:
            print("\n".join(lines(self.described["planner_gate"])))


@torch.no_grad()
def sums_of(plan: Tensor, target: Tensor, parts: int, present: Tensor | None) -> dict[str, Tensor]:
    """Sums over the clips of a batch, from which the scores of one modality are computed.

    Args:
        plan: Tokens of the plans [B, K, C], K = ``parts`` x tokens per step, in order of time.
        target: Standardised features [B, K, C].
        parts: Number of keyframes or audio tokens.
        present: Which clips have the modality [B]; ``None`` = all.
    """
    plan, target = (tokens.double().unflatten(1, (parts, -1)).flatten(2) for tokens in (plan, target))  # B parts (tokens C)
    other = plan.roll(1, 0)
    if present is not None:
        plan, target, other = plan[present], target[present], other[present]
    still = plan[:, :1].expand_as(plan)
    own, shuffled, held = ((tokens - target).square().sum((1, 2)) for tokens in (plan, other, still))
    return {
        "clips": torch.tensor(float(len(plan)), device=plan.device),
        "won_shuffled": (own < shuffled).double().sum(),
        "won_still": (own < held).double().sum(),
        "plan_squares": plan.square().sum(),
        "target_squares": target.square().sum((0, 2)),
        "errors": (plan - target).square().sum((0, 2)),
        "plan_spread": (plan - plan.mean(0)).square().sum() if len(plan) else plan.sum(),
        "target_spread": (target - target.mean(0)).square().sum() if len(plan) else plan.sum(),
    }


def scores(total: dict[str, Tensor], rate: float) -> dict[str, Any]:
    """Scores of one modality.

    Args:
        total: Sums over all clips, see :func:`sums_of`.
        rate: Keyframes or audio tokens per second.
    """
    clips, squares, errors = float(total["clips"]), total["target_squares"], total["errors"]
    second = torch.arange(len(squares)) // max(1, round(rate))
    scores: dict[str, Any] = {
        "clips": int(clips),
        "wins_shuffled": float(total["won_shuffled"]) / clips,
        "wins_still": float(total["won_still"]) / clips,
        "norm_ratio": ratio(total["plan_squares"], squares.sum()) ** 0.5,
        "variance_ratio": ratio(total["plan_spread"], total["target_spread"]),
        "r2_by_second": [1 - ratio(errors[second == s].sum(), squares[second == s].sum()) for s in range(int(second[-1]) + 1)],
    }
    if rate < 30:  # keyframes; audio tokens are too many to list
        scores["r2_by_keyframe"] = [1 - ratio(error, square) for error, square in zip(errors, squares, strict=True)]
    return {key: [round(v, 4) for v in value] if isinstance(value, list) else round(value, 4) for key, value in scores.items()}


def ratio(over: Tensor, under: Tensor) -> float:
    """A ratio of sums; 0 if the lower one vanishes."""
    return float(over / under) if under > 0 else 0.0


def failures(gate: dict[str, Any]) -> list[str]:
    """Each score outside its thresholds, as a text."""
    found = []
    for name in MODALITIES:
        for key, (low, high) in THRESHOLDS.items():
            if name in gate and not low <= gate[name][key] <= high:
                limits = f"at least {low:g}" if high == math.inf else f"within {low:g} and {high:g}"
                found.append(f"{name} {key} must be {limits}, got {gate[name][key]:.2f}")
    return found


def lines(gate: dict[str, Any]) -> list[str]:
    """The gate as lines for the terminal."""
    lines = []
    for name in MODALITIES:
        if name in gate:
            values = ", ".join(f"{key.replace('_', ' ')} {gate[name][key]:.2f}" for key in THRESHOLDS)
            r2 = " ".join(f"{value:.2f}" for value in gate[name]["r2_by_second"])
            lines.append(f"planner gate: {name}: {values}, R2 by second {r2}")
    clips = min(gate[name]["clips"] for name in MODALITIES if name in gate)
    undecided = f"no verdict, {clips} validation clips are fewer than {FEWEST_CLIPS}"
    verdict = {True: "passed", False: f"FAILED: {'; '.join(gate['failed'])}; stage 3 will refuse this planner", None: undecided}
    return [*lines, f"planner gate: {verdict[gate['passed']]}"]
