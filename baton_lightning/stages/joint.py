"""Stage 3: training of the dual-branch DiT and its Latent-MLPs to denoise both modalities with a plan (Baton, section 3.4).

Both runs of the stage use this module; only ``plan`` differs: the clip's own features (adaptation), then the frozen planner's tokens (joint
fine-tuning). The loss is rectified-flow matching on both branches (time convention: flow/path.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from baton_lightning.batch import Batch, Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.construction.handover import hand_over
from baton_lightning.construction.networks import Resumable, construct, frozen_names, parents_at_start, restored, resume_checkpoint
from baton_lightning.flow import draws
from baton_lightning.flow.guidance import Guidance
from baton_lightning.flow.matching import Errors
from baton_lightning.flow.sampler import EulerSampler, Sampler
from baton_lightning.flow.tasks import Known, Task, TaskMix
from baton_lightning.flow.timesteps import UniformTimesteps
from baton_lightning.frozen import language_files
from baton_lightning.int8 import quantised_on_reading
from baton_lightning.lora import is_adapter, under_base_names
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.parts import freeze
from baton_lightning.optim import build_optimizer
from baton_lightning.runs import weights as stored
from baton_lightning.stages import cached_networks, flow_matching, plan_space, planner_gate
from baton_lightning.stages.cached_plan import CachedPlan
from baton_lightning.stages.latent_statistics import latent_statistics
from baton_lightning.stages.loss_by_time import LossByTime
from baton_lightning.stages.plan_sources import GroundTruthPlan, NoPlan, PlannedTokens, apply_presence_mask
from baton_lightning.stages.shuffled_plans import ShuffledPlans, validation_plans
from baton_lightning.stages.step_means import StepMeans


class JointTraining(Resumable):
    """Joint training of the dual-branch DiT (training stages 2 and 3 of the paper's table).

    Args:
        clip: Geometry of the clips; with several geometries, each batch has one of them.
        dit: Factory of the transformer.
        plan: Factory of the plan source.
        optimizer: Factory of the optimiser over the trainable parameters.
        scheduler: Factory of the learning-rate schedule, stepped every optimiser step; ``None`` = constant rate.
        timesteps: Distribution of the flow time t.
        sampler: ODE solver for generation.
        guidance: Guidance for generation.
        video_negative: Negative prompt of the video branch; an empty text is all pad rows.
        audio_negative: Negative prompt of the audio branch.
        video_codec: Factory of the video codec; only needed for generation.
        audio_codec: Factory of the audio codec; only needed for generation.
        text_encoder: Factory of the text encoder; only needed for prompts outside the data set. Training reads cached text.
        tasks: What training clips are asked for, see :mod:`baton_lightning.flow.tasks`; ``None`` generates both modalities of every clip.
        plan_dropout: Share of training clips, in [0, 1], without a plan, so that the model also works without one.
        caption_dropout: Share of training clips, in [0, 1], with an empty text, for guidance with an empty negative prompt.
        frozen: Names of untrained parts of the transformer, e.g. ``dit.*.self_attn``, where ``*`` stands for any characters.
        trained: Names of parts within the frozen ones that are trained; ``[dit.latent_mlp, dit.*.plan_attn]`` read the plan.
        rates: Name of a part -> factor of the learning rate, e.g. ``{dit.latent_mlp: 10}``; the longest matching name is used.
        accept_failed_planner: Whether a planner whose run failed its gate (``callbacks.planner_gate``) is used nevertheless.
        parents: Role -> parent run. ``dit`` initialises the transformer from an earlier stage 3, ``planner`` loads the planner.
        seed: Seed of every draw, together with epoch and sample index.
    """

    def __init__(
        self,
        clip: ClipSpec,
        dit: Callable[[ClipSpec], DualBranchDiT],
        plan: Callable[[ClipSpec], GroundTruthPlan | PlannedTokens | NoPlan],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
        timesteps: UniformTimesteps | None = None,
        sampler: Sampler | None = None,
        guidance: Guidance | None = None,
        video_negative: str = "",
        audio_negative: str = "",
        video_codec: Callable[[], nn.Module] | None = None,
        audio_codec: Callable[[], nn.Module] | None = None,
        text_encoder: Callable[[], nn.Module] | None = None,
        tasks: list[Task] | None = None,
        plan_dropout: float = 0.1,
        caption_dropout: float = 0.0,
        frozen: Sequence[str] = (),
        trained: Sequence[str] = (),
        rates: dict[str, float] | None = None,
        accept_failed_planner: bool = False,
        parents: dict[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, share in (("plan_dropout", plan_dropout), ("caption_dropout", caption_dropout)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {share}")
        self.clip, self.seed, self.parents = clip, seed, parents or {}
        self.described: dict[str, Any] = {}
        """Additional entries of the manifest."""
        self.parts = {"frozen": tuple(frozen), "trained": tuple(trained)}
        self.rates, self.accept_failed_planner = rates or {}, accept_failed_planner
        self.make_dit, self.make_plan = dit, plan
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.timesteps, self.sampler = timesteps or UniformTimesteps(), sampler or EulerSampler()
        self.guidance, self.negatives = guidance or Guidance(), (video_negative, audio_negative)
        self.component_factories = {"video_codec": video_codec, "audio_codec": audio_codec, "text_encoder": text_encoder}
        self.tasks = TaskMix(tasks or [], clip, seed)
        self.plan_dropout, self.caption_dropout = plan_dropout, caption_dropout
        self.shuffled = ShuffledPlans()
        self.by_time = nn.ModuleDict({f"{split}_losses": LossByTime() for split in ("train", "val")})
        self.step_means = StepMeans()

    def configure_model(self) -> None:
        """Builds the networks at the first call, and loads the parents' weights."""
        if hasattr(self, "dit"):
            return
        construct(self, self.build, self.load_parents, skip_pretrained=True)

    def load_parents(self) -> None:
        """Loads the parents' weights, except those that the checkpoint to resume from contains.

        Raises:
            ValueError: If a role is unknown, the planner's is missing, or the planner failed its gate.
        """
        roles = {"dit", self.plan.parent_role} - {None}
        if unknown := set(self.parents) - roles:
            raise ValueError(f"model.init_args.parents: unknown role {sorted(unknown)}; this run knows {sorted(map(str, roles))}")
        if self.plan.parent_role is not None and self.plan.parent_role not in self.parents:
            raise ValueError("model.init_args.parents must name the run of the trained planner: {planner: runs/<experiment>/stage2}")
        planner_gate.require_passed(self)
        if "dit" in self.parents and not restored(self, self.dit):
            hand_over(self.dit, self.parents["dit"], source="dit", clip=self.clip, digest=parents_at_start(self, "dit"))
        if isinstance(self.plan, PlannedTokens) and self.plan.parent_role in self.parents and not restored(self, self.plan):
            self.plan.load_from_run(self.parents["planner"], digest=parents_at_start(self, "planner"))

    def build(self) -> None:
        """Builds the networks with their initial weights."""
        self.dit = self.make_dit(self.clip)
        freeze(self.dit, **self.parts, prefix="dit", setting="model.init_args")
        self.described["beyond_shapes"] = {"dit": self.dit.beyond_shapes}
        with language_files.used_from(self.parents.get("planner")):
            self.plan = self.make_plan(self.clip)
        if isinstance(self.plan, CachedPlan) and "planner" in self.parents:
            self.plan.run = Path(self.parents["planner"])

    @property
    def not_exported(self) -> tuple[str, ...]:
        """Prefixes of weights that are not part of this run's weights: those of the frozen planner."""
        return ("plan.planner.",) if isinstance(getattr(self, "plan", None), PlannedTokens) else ()

    def configure_optimizers(self) -> dict[str, Any]:
        return build_optimizer(self, self.make_optimizer, self.make_scheduler, self.rates)

    def on_fit_start(self) -> None:
        self.described["networks"] = cached_networks.of_training(self.trainer.datamodule, self.parents.get("dit"))
        if isinstance(self.plan, GroundTruthPlan):
            plan_space.fit_or_compare(self.plan, self.trainer.datamodule, self.plan.online)
        elif isinstance(self.plan, PlannedTokens) and self.plan.truth_share > 0:
            plan_space.fit_or_compare(self.plan, self.trainer.datamodule, mixes=True)
        unfitted = {name: scale for name, scale in self.dit.preconditioning.items() if not scale.fitted}
        if unfitted:
            latents = latent_statistics(self.trainer.datamodule.train_dataset)
            for name in unfitted.keys() & latents.keys():
                unfitted[name].fit(*latents[name])
        if resume_checkpoint(self) is None:
            self.require_plans()

    def on_train_start(self) -> None:
        if resume_checkpoint(self) is not None:
            self.require_plans()

    def require_plans(self) -> None:
        """Refuses plans of another feature space or planner. On resume it is called after the checkpoint is loaded."""
        if "dit" in self.parents and self.dit.plan_attention is not None:
            self.described["plan_space_drift"] = plan_space.drift(self.plan, Path(self.parents["dit"]))
        if isinstance(self.plan, CachedPlan):
            self.plan.require_made_by(self.trainer.datamodule.planned_by())

    @property
    def drops_frozen(self) -> bool:
        """Whether checkpoints lack frozen weights: the base under adapters is in the parent, many times larger than what is trained."""
        return "dit" in self.parents and any(map(is_adapter, self.dit.state_dict()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Removes the frozen planner, and the frozen base under adapters, whose weights are in their own runs."""
        frozen = frozen_names(self) if self.drops_frozen else set()
        for key in [k for k in checkpoint.get("state_dict", {}) if k in frozen or k.startswith(self.not_exported or ("\0",))]:
            del checkpoint["state_dict"][key]

    def untrained(self) -> dict[str, Tensor]:
        """Frozen weights of the transformer, read from its parent in full precision; DeepSpeed holds them in half precision."""
        frozen = {name.removeprefix("dit.") for name in frozen_names(self) if name.startswith("dit.")}
        if not frozen or "dit" not in self.parents:
            return {}
        parent_weights = under_base_names(frozen, stored.stored(Path(self.parents["dit"]), "dit"))
        parent_weights = quantised_on_reading(self.dit.state_dict(), parent_weights)
        return {f"dit.{name}": one.read() for name, one in parent_weights.items() if name in frozen}

    # ---- loss
    def flow_loss(
        self,
        batch: Batch,
        plan: Plan | None,
        t: Tensor,
        noise: dict[str, Tensor],
        *,
        known: list[Known] | None = None,
        has_plan: Tensor | None = None,
        split: str | None = None,
    ) -> Errors:
        """Flow-matching errors of both branches, see :mod:`~baton_lightning.stages.flow_matching`.

        Args:
            batch: Clips with latents and context. An absent modality is pure noise and has no weight in the loss.
            plan: Plan, or ``None``.
            t: Flow time [B], 0 = clean, 1 = noise.
            noise: Noise of each modality, see :func:`~baton_lightning.stages.flow_matching.noise`.
            known: What the task of each clip makes known; ``None`` generates everything.
            has_plan: Which clips use the plan [B], bool.
            split: Split whose losses by flow time are updated; ``None`` = none.
        """
        errors = flow_matching.errors(self.dit, batch, plan, t, noise, known=known, has_plan=has_plan)
        if split is not None:
            self.by_time[f"{split}_losses"].update(t, errors.clips, errors.counted)
        return errors

    def log_by_time(self, split: str) -> None:
        """Logs the losses by flow time since the last call. All ranks must call it."""
        by_time: Any = self.by_time[f"{split}_losses"]
        losses = by_time.compute()
        by_time.reset()
        if self.logger is not None and not self.trainer.sanity_checking:
            self.logger.log_metrics({f"{split}/{name}": value.item() for name, value in losses.items()}, self.global_step)

    def plan_mask(self, batch: Batch) -> Tensor:
        """Which clips of a training batch use their plan [B], bool, after plan dropout."""
        return self.dropout_mask(batch, "plan.dropout", self.plan_dropout)

    def dropout_mask(self, batch: Batch, purpose: str, dropout: float) -> Tensor:
        """Which clips are kept by a dropout [B], bool; counter-based, so equal on any rank and after a resume."""
        draw = draws.draw_uniform((), seed=self.seed, epoch=batch.epoch, index=batch.index, purpose=purpose)
        return (draw >= dropout).to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.context is not None
        if self.caption_dropout:
            batch = replace(
                batch, context=apply_presence_mask(batch.context, self.dropout_mask(batch, "caption.dropout", self.caption_dropout))
            )
        t = self.timesteps.draw(seed=self.seed, epoch=batch.epoch, index=batch.index).to(self.device)
        plan, has_plan = self.plan(batch, seed=self.seed), self.plan_mask(batch)
        noise = flow_matching.noise(batch, seed=self.seed, epoch=batch.epoch, purpose="noise")
        known = None if self.tasks.plain else self.tasks.draw(batch.index, batch.epoch, batch.geometry)
        errors = self.flow_loss(batch, plan, t, noise, known=known, has_plan=has_plan, split="train")
        self.step_means.add("train/loss", errors.total, len(batch))
        for name, count in errors.num.items():
            if count:
                self.step_means.add(f"train/loss_{name}", errors.mean(name), count)
        return errors.total

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.trainer.fit_loop._should_accumulate():
            return
        self.step_means.log(self)
        if self.global_step % self.trainer.log_every_n_steps == 0:
            self.log_by_time("train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss at fixed times and noise, with the ground-truth plan, the planner's plan, another clip's plan and no plan."""
        plans, own_name, has_other = validation_plans(self.plan, batch, self.shuffled)
        t, noise = flow_matching.probe(batch, seed=self.seed)
        for name, plan in plans.items():
            own = name == own_name
            errors = self.flow_loss(batch, plan, t, noise, split="val" if own else None)
            weight = len(batch) if has_other or name != "shuffled" else 0
            self.log(f"val/flow_loss/{name}", errors.total, batch_size=weight, sync_dist=True)
            if own:
                self.log("val/loss", errors.total, batch_size=len(batch), sync_dist=True)
                if batch.geometry is not None:
                    self.log(f"val/loss/{batch.geometry}", errors.total, batch_size=len(batch), sync_dist=True)
                for branch, count in errors.num.items():
                    if count:
                        self.log(f"val/loss_{branch}", errors.mean(branch), batch_size=count, sync_dist=True)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self.shuffled.forget()
        self.log_by_time("val")

    on_test_epoch_end = on_validation_epoch_end

    # ---- for generation
    def call_inside(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function of this module's networks. Strategies can wrap this method, e.g. to gather partitioned parameters."""
        return function(*args)
