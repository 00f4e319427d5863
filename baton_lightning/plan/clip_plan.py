"""The plan of one clip: planned tokens of both modalities with their geometry and provenance, and their file format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from baton_lightning import atomic
from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.names import counted
from baton_lightning.plan import edits, picture, stored
from baton_lightning.plan.stored import FORMAT, MODALITIES


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """Planned tokens of one clip. Edits return a new plan and do not change this one.

    Args:
        video: Video tokens [N, h, w, C_v] (keyframes, rows, columns, channels), standardised.
        audio: Audio tokens [K_a, C_a], standardised.
        clip: Geometry of the clip.
        statistics: Modality -> mean and standard deviation [2, C] with which the tokens were standardised.
        video_prompt: Description of the picture.
        audio_prompt: Description of the sound.
        source: Origin of the tokens: ``planner``, or ``truth`` for the clip's own features.
        planner: SHA-256 of the planner's weights; ``None`` = unknown, or the source is ``truth``.
        run: Folder of the run that made the plan; empty = unknown.
        edits: Operations that were applied to the original tokens, see :mod:`baton_lightning.plan.edits`.

    Raises:
        ValueError: If the shape of the tokens does not match the geometry, or they are not finite.
    """

    video: Float[Tensor, "N h w C_v"]
    audio: Float[Tensor, "K_a C_a"]
    clip: ClipSpec
    statistics: dict[str, Tensor]
    video_prompt: str = ""
    audio_prompt: str = ""
    source: str = "planner"
    planner: str | None = None
    run: str = ""
    edits: tuple[dict[str, Any], ...] = field(default=())

    def __post_init__(self) -> None:
        wanted = stored.token_shapes(self.clip)
        for name in MODALITIES:
            tokens: Tensor = getattr(self, name)
            if tuple(tokens.shape) != wanted[name]:
                raise ValueError(f"plan: the {name} tokens of this clip must have the shape {wanted[name]}, got {tuple(tokens.shape)}")
            if not tokens.isfinite().all():
                raise ValueError(f"plan: {name} tokens must be finite, got NaN or infinity")

    # ---- conversion from and to the plan of a batch
    @classmethod
    def of(cls, plan: Plan, row: int, clip: ClipSpec, **more: Any) -> ClipPlan:
        """The plan of one clip of a batch.

        Args:
            plan: Plan of a batch.
            row: Index of the clip in the batch.
            clip: Geometry of the clip; of several geometries, the first one.
            more: Values of the other fields.
        """
        clip = clip.at()
        video = plan.video[row].detach().float().cpu().reshape(*clip.video_plan_grid, clip.video_plan_width)
        return cls(video.contiguous(), plan.audio[row].detach().float().cpu().contiguous(), clip, **more)

    @property
    def tokens(self) -> dict[str, Tensor]:
        """Modality -> tokens."""
        return {"video": self.video, "audio": self.audio}

    def batched(self, device: torch.device | str = "cpu") -> Plan:
        """These tokens as the plan of a batch of one clip, with the clip's grid and times."""
        times = [torch.tensor(seconds, device=device) for seconds in (self.clip.keyframe_times, self.clip.audio_plan_times)]
        return Plan(self.video.flatten(0, 2)[None].to(device), self.audio[None].to(device), self.clip.video_plan_grid, *times)

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens."""
        found = hashlib.sha256()
        for tokens in (self.video, self.audio):
            found.update(tokens.contiguous().numpy().tobytes())
        return found.hexdigest()

    def require_fits(self, clip: ClipSpec, statistics: dict[str, Tensor] | None = None, limit: float = 0.1) -> None:
        """Refuses a plan of another geometry or plan space.

        Args:
            clip: Geometry of the run; of several geometries, the first one.
            statistics: Modality -> mean and standard deviation [2, C] of the run's plan space; ``None`` = they are not compared.
            limit: Largest difference of the means, in standard deviations of the run's plan space, averaged over channels.

        Raises:
            ValueError: If the geometry or the plan space differs.
        """
        if different := clip.at().differences(self.clip.to_dict()):
            raise ValueError(f"plan: its geometry must be the run's; run and plan differ in {'; '.join(different)}")
        for name, here in (statistics or {}).items():
            there = self.statistics[name].to(here)
            distance = ((here[0] - there[0]).abs() / here[1]).mean().item()
            if distance > limit:
                raise ValueError(
                    f"plan: its {name} tokens were standardised with other statistics than the run's, {distance:.2f} standard deviations "
                    f"apart (at most {limit:g}); make the plan with this run: plan make --run RUN"
                )

    # ---- edits
    def edited(self, *operations: dict[str, Any], others: Sequence[ClipPlan] = ()) -> ClipPlan:
        """The plan after a sequence of operations.

        Args:
            operations: See :mod:`baton_lightning.plan.edits`.
            others: Second plans of the operations that need one, in the order of these operations.

        Raises:
            ValueError: If an operation is unknown or does not fit the plan.
        """
        plan, given = self, iter(others)
        for operation in operations:
            other = next(given, None) if operation.get("op") in edits.WITH_OTHER else None
            if other is not None:
                other.require_fits(plan.clip)
            tokens = edits.apply(plan.tokens, plan.clip, operation, None if other is None else other.tokens)
            recorded = operation if other is None else {**operation, "other_digest": other.digest}
            plan = replace(plan, **tokens, edits=(*plan.edits, recorded))
        return plan

    def shift(self, seconds: float, **region: Any) -> ClipPlan:
        """Moves a region of the plan in time; see :func:`baton_lightning.plan.edits.shift`."""
        return self.edited({"op": "shift", "seconds": seconds, **region})

    def swap(self, first: Sequence[int], second: Sequence[int], **region: Any) -> ClipPlan:
        """Exchanges two spans, of columns or of time; see :func:`baton_lightning.plan.edits.swap`."""
        return self.edited({"op": "swap", "first": list(first), "second": list(second), **region})

    def mask(self, **region: Any) -> ClipPlan:
        """Sets a region to the mean of the training set; see :func:`baton_lightning.plan.edits.scale`."""
        return self.edited({"op": "scale", "factor": 0.0, **region})

    def scale(self, factor: float, **region: Any) -> ClipPlan:
        """Multiplies the tokens of a region; see :func:`baton_lightning.plan.edits.scale`."""
        return self.edited({"op": "scale", "factor": factor, **region})

    def mix(self, other: ClipPlan, share: float, **region: Any) -> ClipPlan:
        """Mixes a region with the same region of another plan; see :func:`baton_lightning.plan.edits.mix`."""
        return self.edited({"op": "mix", "share": share, **region}, others=[other])

    def replace(self, other: ClipPlan, **region: Any) -> ClipPlan:
        """Replaces a region with the same region of another plan."""
        return self.mix(other, 1.0, **region)

    def replace_audio(self, other: ClipPlan) -> ClipPlan:
        """Replaces the audio tokens with those of another plan."""
        return self.replace(other, modality="audio")

    def replace_video(self, other: ClipPlan) -> ClipPlan:
        """Replaces the video tokens with those of another plan."""
        return self.replace(other, modality="video")

    # ---- files
    def save(self, path: str | Path) -> None:
        """Writes the plan as a safetensors file. All other fields are stored as metadata in its header."""
        from safetensors.torch import save

        tensors = {"video": self.video, "audio": self.audio} | {f"statistics.{k}": v for k, v in self.statistics.items()}
        described = {
            "format": FORMAT,
            "clip": self.clip.to_dict(),
            "video_prompt": self.video_prompt,
            "audio_prompt": self.audio_prompt,
            "source": self.source,
            "planner": self.planner,
            "run": self.run,
            "edits": list(self.edits),
        }
        header = {key: value if isinstance(value, str) else json.dumps(value) for key, value in described.items()}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic.aside(Path(path)) as part:
            part.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=header))

    @classmethod
    def load(cls, path: str | Path) -> ClipPlan:
        """Reads a file written by :meth:`save`.

        Raises:
            ValueError: If the file is not a plan, or is damaged.
        """
        return cls(**stored.read(Path(path)))

    def __repr__(self) -> str:
        frames, rows, columns = self.clip.video_plan_grid
        changed = f", {counted(len(self.edits), 'edit')}" if self.edits else ""
        return f"ClipPlan({self.clip.seconds:g} s, {frames} keyframes of {rows} x {columns}, {len(self.audio)} audio tokens{changed})"

    # ---- pictures
    @property
    def title(self) -> str:
        """The two prompts, one per line."""
        return "\n".join(text for text in (self.video_prompt, self.audio_prompt) if text)

    def png(self, truth: ClipPlan | None = None, pictures: UInt8[Tensor, "N Y X 3"] | None = None) -> bytes:
        """The plan as a PNG; see :func:`baton_lightning.plan.picture.draw`.

        Args:
            truth: Ground-truth plan of the clip, drawn for comparison.
            pictures: Decoded keyframes of this plan.

        Raises:
            ValueError: If ``truth`` has another geometry.
        """
        if truth is not None:
            truth.require_fits(self.clip)
        return picture.png(self.clip, self.tokens, self.title, None if truth is None else truth.tokens, pictures)

    def save_png(self, path: str | Path, truth: ClipPlan | None = None, pictures: UInt8[Tensor, "N Y X 3"] | None = None) -> None:
        """Writes the PNG of :meth:`png`, and creates its folder. A link at the path is replaced, not followed."""
        picture.write(self.png(truth, pictures), path)

    def _repr_png_(self) -> bytes:
        """PNG for notebooks."""
        return self.png()

    def show(self) -> None:
        """Shows the picture in a notebook, or in the system's viewer outside a notebook. ``pipe.show(plan)`` adds pictures and words."""
        picture.show(self.png())


def distance(a: ClipPlan, b: ClipPlan) -> dict[str, Tensor]:
    """RMS difference of two plans for each token: video [N, h, w], audio [K_a], in standard deviations of the training set.

    Raises:
        ValueError: If the geometries differ.
    """
    a.require_fits(b.clip)
    return {name: (tokens - b.tokens[name]).square().mean(-1).sqrt() for name, tokens in a.tokens.items()}
