"""Cached plans: stage 3 reads the frozen planner's tokens from the cache of `PlanEncoding`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baton_lightning import hints
from baton_lightning.batch import Batch, Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.construction.handover import hand_over, require_match, require_same
from baton_lightning.frozen import language_files
from baton_lightning.models.feature_norm import FeatureNorm
from baton_lightning.models.planner import VAPlanner, timed_plan
from baton_lightning.runs import manifest, weights
from baton_lightning.stages.plan_sources import PlannedTokens, plan_one_by_one


class CachedPlan(PlannedTokens):
    """Cached tokens of the frozen VA-Planner, equal to those of :class:`~baton_lightning.stages.plan_sources.PlannedTokens`.

    The planner is not built for training. Its feature statistics and the digest of its weights are read from the parent run with the role
    ``planner`` and saved with this run's weights. Prompts without a cache, e.g. those of `generate`, need the planner, which is then built
    from the same run.
    """

    run: Path | None = None
    """Run of the planner."""

    def set_planner(self, planner: Callable[[ClipSpec], VAPlanner]) -> None:
        self.make_planner = planner
        self.built: list[VAPlanner] = []  # a list, so that the planner is no submodule
        self.video_norm = FeatureNorm(self.clip.video_plan_width)
        self.audio_norm = FeatureNorm(self.clip.audio_plan_width)
        self.register_buffer("made_by", torch.zeros(32, dtype=torch.uint8))

    @property
    def digest(self) -> str:
        """SHA-256 of the planner's weights."""
        return bytes(self.made_by.tolist()).hex()

    def load_from_run(self, run: str | Path, digest: str | None = None) -> None:
        """Loads feature statistics and digest from a planner's run; its other weights are not read.

        Raises:
            ValueError: If the run is not finished, has other weights, or has no feature statistics of these widths.
        """
        known = manifest.read(Path(run))
        require_same(Path(run), known, digest)
        for name in ("video_norm", "audio_norm"):
            norm, stored_norm = getattr(self, name), weights.read(Path(run), f"planner.{name}")
            if stored_norm.keys() != norm.state_dict().keys() or any(
                stored_norm[key].shape != own.shape for key, own in norm.state_dict().items()
            ):
                raise ValueError(
                    f"cached plans: the run {run}/ must hold planner.{name} of {norm.mean.numel()} channels; name the planner's run"
                )
            norm.load_state_dict(stored_norm)
        self.made_by.copy_(torch.tensor(list(bytes.fromhex(known["weights_sha256"])), dtype=torch.uint8))

    def require_made_by(self, known: dict[str, Any]) -> None:
        """Refuses cached tokens of another planner, before training.

        Args:
            known: The planner's record in the cache.

        Raises:
            ValueError: If weights, types or settings of the planner differ from this run's planner, or the parent's weights do not match
                these settings.
        """
        self._require_digest(known["weights_sha256"])
        with torch.device("meta"), language_files.used_from(self.run):
            planner = self.make_planner(self.clip)
        own, was = planner_settings(planner), known["outline"]
        if differs := [f"{k}: {own.get(k)} here, {was.get(k)} there" for k in sorted(own.keys() | was.keys()) if own.get(k) != was.get(k)]:
            text = "; ".join(differs[:3]) + (" ..." if len(differs) > 3 else "")
            raise ValueError(
                f"cached plans must come from the planner that model.init_args.plan.init_args.planner describes, but {text}; give it the "
                "settings that they were made with, or cache them again"
            )
        if self.run is not None and weights.files(self.run):  # the planner's run may have been deleted before a resume
            require_match(planner.state_dict(), self.run, "planner", weights.stored(self.run, "planner"))

    def _require_digest(self, digest: str | None) -> None:
        if digest != self.digest:
            raise ValueError(
                f"cached plans must come from the planner in {self.run}/ (weights {self.digest[:12]}), got tokens of another one "
                f"({str(digest)[:12]}); cache them with "
                f"{hints.command('predict', '-c', hints.experiment_file(hints.PLANS), f'--model.init_args.parents.planner={self.run}')}"
            )

    def standardise(self, video_features: Tensor, audio_features: Tensor, clip: ClipSpec) -> Plan:
        return timed_plan(clip, self.video_norm(video_features), self.audio_norm(audio_features))

    def planned(self, batch: Batch) -> Plan:
        """The cached tokens; for prompts outside a data set, the planner computes them.

        Raises:
            ValueError: If the tokens are from another planner, or clips of a data set have none.
        """
        if batch.video_plan is not None and batch.audio_plan is not None:
            self._require_digest(batch.planner)
            return timed_plan(self.clip.at(batch.geometry), batch.video_plan, batch.audio_plan)
        if batch.video_latents is not None:
            raise ValueError("a cached plan needs cached plans, the batch has none; add `plans` to data.init_args.fields")
        return plan_one_by_one(self.built_planner(batch.index.device), batch)

    def built_planner(self, device: torch.device) -> VAPlanner:
        """The planner, built and loaded at the first call."""
        if not self.built:
            assert self.run is not None
            self.built.append(planner_of(self.run, self.make_planner, self.clip))
        return self.built[0].to(device)


def planner_of(run: str | Path, make: Callable[[ClipSpec], VAPlanner], clip: ClipSpec) -> VAPlanner:
    """A run's planner with its weights, frozen.

    Args:
        run: Run of a planner.
        make: Factory of a planner with the same architecture.
        clip: Geometry of the clip.

    Raises:
        ValueError: As :func:`~baton_lightning.construction.handover.hand_over`.
    """
    with language_files.used_from(run):
        planner = make(clip)
    hand_over(planner, run, source="planner", clip=clip)
    return planner.requires_grad_(False).eval()


def planner_settings(planner: nn.Module) -> dict[str, str]:
    """Settings of a planner that affect its tokens, besides weights: parameter types and attributes of the library's modules."""
    settings = {"dtypes": ", ".join(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in planner.parameters()}))}
    for path, module in planner.named_modules():
        if type(module).__module__.startswith("baton_lightning."):
            own = {
                k: v
                for k, v in vars(module).items()
                if not k.startswith("_") and k != "training" and isinstance(v, (bool, int, float, str))
            }
            settings |= {f"{path}.{name}".lstrip("."): repr(value) for name, value in own.items()}
    return settings
