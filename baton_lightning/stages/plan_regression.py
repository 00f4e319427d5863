"""Base of the stages that train a planner: regression on standardised features (Eq. 8), scored by R^2."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from baton_lightning.batch import Batch, Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.construction.handover import hand_over
from baton_lightning.construction.networks import Resumable, construct, parents_at_start, restored, resume_checkpoint
from baton_lightning.frozen import language_files
from baton_lightning.frozen.llm import PretrainedLLM
from baton_lightning.losses import plan_loss
from baton_lightning.models.planner import VAPlanner
from baton_lightning.optim import build_optimizer
from baton_lightning.runs import checkpoints
from baton_lightning.stages.features import OnlineFeatures, features_of
from baton_lightning.stages.plan_space import fit_or_compare
from baton_lightning.stages.step_means import StepMeans


class RSquared(Metric):
    """Explained share of the target's variance over all elements and ranks: 1 - SSE / SST.

    SST is computed about 0, the mean of standardised training features, so predicting the mean gives 0.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("error", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("spread", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor, present: Tensor | None = None) -> None:
        if present is not None:
            predicted, target = predicted[present], target[present]
        self.error += (predicted.double() - target.double()).square().sum()
        self.spread += target.double().square().sum()

    def compute(self) -> Tensor:
        return (1 - self.error / self.spread.clamp_min(1e-12)).float()


class PlanRegression(Resumable):
    """Regression of perceiver features by planned tokens; the base class of the planner's stages.

    Args:
        clip: Geometry of the clip.
        planner: Factory of the planner, called with ``clip``.
        optimizer: Factory of the optimiser over parameter groups.
        scheduler: Factory of the learning-rate schedule, stepped every optimiser step; ``None`` = constant rate.
        rates: Name of a part -> factor of the learning rate, e.g. ``{planner.language.llm: 0.1}``; the longest matching name is used.
        features: Factory of online features, computed from each batch's media; ``None`` = cached features.
        parents: Role -> parent run. ``planner`` initialises the planner from an earlier run.
        seed: Unused; part of every stage's interface.
    """

    fresh: ClassVar[tuple[str, ...]] = ()
    needs_parent: ClassVar[bool] = False

    planner: VAPlanner

    def __init__(
        self,
        clip: ClipSpec,
        planner: Callable[[ClipSpec], VAPlanner],
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        rates: dict[str, float] | None = None,
        features: Callable[[ClipSpec], OnlineFeatures] | None = None,
        parents: dict[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.clip, self.seed, self.parents, self.rates = clip, seed, parents or {}, rates or {}
        self.make_planner, self.make_optimizer, self.make_scheduler = planner, optimizer, scheduler
        self.online = None if features is None else features(clip)
        self.step_means = StepMeans()
        if unknown := sorted(self.parents.keys() - {"planner"}):
            raise ValueError(f"model.init_args.parents: unknown role {unknown}; this stage knows ['planner']")
        if self.needs_parent and not self.parents:
            raise ValueError("model.init_args.parents must name the run of the pretrained planner: {planner: runs/<experiment>/stage1}")
        self.scores = torch.nn.ModuleDict({f"r2_{name}": RSquared() for name in ("video", "audio")})

    # ---- network
    def configure_model(self) -> None:
        """Builds the planner at the first call, and loads the parent's weights."""
        if hasattr(self, "planner"):
            return
        checkpoint = resume_checkpoint(self)
        skip_pretrained = "planner" in self.parents or (checkpoint is not None and not checkpoints.lacks_frozen(checkpoint))
        construct(self, self.build, self.load_parents, skip_pretrained=skip_pretrained)

    def load_parents(self) -> None:
        """Loads the parent's weights, unless the checkpoint to resume from contains all of them."""
        if "planner" in self.parents and not restored(self, self.planner):
            run, digest = self.parents["planner"], parents_at_start(self, "planner")
            hand_over(self.planner, run, source="planner", clip=self.clip, fresh=self.fresh, digest=digest)

    def build(self) -> None:
        """Builds the planner with its initial weights."""
        checkpoint = resume_checkpoint(self)
        own = checkpoint and checkpoint.parent.parent
        with language_files.used_from(own if language_files.exist_in(own) else self.parents.get("planner")):
            self.planner = self.make_planner(self.clip)

    def save_language_files(self, run: Path) -> None:
        """Saves configuration and tokenizer of a released language model in the run folder, beside the planner's weights."""
        if isinstance(self.planner.language.llm, PretrainedLLM):
            language_files.save(self.planner.language.llm, run)

    def configure_optimizers(self) -> dict[str, Any]:
        return build_optimizer(self, self.make_optimizer, self.make_scheduler, self.rates)

    def on_fit_start(self) -> None:
        """Fits the feature statistics to the training set, or compares them with the parent's."""
        fit_or_compare(self.planner, self.trainer.datamodule, self.online)

    def require_feature_space(self) -> None:
        """Refuses to use a planner without loaded weights.

        Raises:
            ValueError: If the feature statistics were never fitted.
        """
        if not (self.planner.video_norm.fitted and self.planner.audio_norm.fitted):
            raise ValueError("this planner was never trained: give --ckpt_path, or model.init_args.parents: {planner: RUN}")

    on_validation_start = on_test_start = on_predict_start = require_feature_space

    # ---- steps
    def target(self, batch: Batch) -> Plan:
        """The standardised plan of the batch's features.

        Raises:
            ValueError: If the batch has no features.
        """
        return self.planner.standardise(*features_of(batch, self.online), self.clip.at(batch.geometry))

    def forward(self, batch: Batch) -> Plan:
        return self.planner(batch.video_prompts, batch.audio_prompts, self.clip.at(batch.geometry))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = plan_loss(self(batch), self.target(batch), batch.has_video, batch.has_audio)
        self.step_means.add("train/loss", loss.total, len(batch))
        for name, value in (("video", loss.video), ("audio", loss.audio)):
            if count := batch.num_with(name):
                self.step_means.add(f"train/loss_{name}", value, count)
        return loss.total

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if not self.trainer.fit_loop._should_accumulate():
            self.step_means.log(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Plan]:
        """Scores a batch and returns its ``plan`` and ``target`` for callbacks."""
        return self._score(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch, "test")

    def _score(self, batch: Batch, split: str) -> dict[str, Plan]:
        plan, target = self(batch), self.target(batch)
        loss = plan_loss(plan, target, batch.has_video, batch.has_audio)
        self.log(f"{split}/loss", loss.total, batch_size=len(batch), sync_dist=True)
        if batch.geometry is not None:
            self.log(f"{split}/loss/{batch.geometry}", loss.total, batch_size=len(batch), sync_dist=True)
        self.scores["r2_video"].update(plan.video, target.video, batch.has_video)
        self.scores["r2_audio"].update(plan.audio, target.audio, batch.has_audio)
        self.log_dict({f"{split}/{name}": score for name, score in self.scores.items()}, batch_size=len(batch))
        return {"plan": plan, "target": target}

    def predict_step(self, batch: Batch, batch_idx: int) -> Plan:
        """The standardised plans of a batch."""
        return self(batch)
