"""Two branches of any patches, whose blocks exchange their tokens and read the plan; Ovi, if there is no plan."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from baton_lightning.batch import Plan
from baton_lightning.models.attention import KeyValueSource
from baton_lightning.models.branch import Branch, fused_block, unpatchify
from baton_lightning.models.conditions import (
    BlockConditions,
    Grid,
    Kept,
    Latents,
    cast,
    for_each_grid,
    known_tokens,
    modality_plan,
    patchify,
    plan_rotary_phases,
    windows_of_grids,
)
from baton_lightning.models.layers import mlp
from baton_lightning.models.patches import token_positions
from baton_lightning.models.plan_attention import PlanAttention, PlanOptions
from baton_lightning.models.precision import parameter_dtype
from baton_lightning.models.rope import rotary_phases


class FusedBranches(nn.Module):
    """A video and an audio branch with cross-attention to each other and to the plan in every block.

    Args:
        video_model: Video branch.
        audio_model: Audio branch, of the same depth, width and head count.
        plan_widths: Channels of planned video and audio tokens.
        plan_attention: How the plan is read; ``None`` is plain Ovi.
        text: Whether the text is used. If not, every clip gets pad rows only; the parameters stay the same.
        recompute: Recompute blocks in the backward pass instead of keeping their activations: ``true`` = every one, n = every n-th.
        compile_backend: Backend with which torch.compile compiles a fused block, e.g. ``inductor``; ``None`` = none. All blocks share the
            graphs, one for each shape of their inputs; outputs are those of the block but for rounding.

    Raises:
        ValueError: If depth, width or head width of the branches differ, the plan cannot be read so, ``recompute`` is negative, or there is
            no such backend.
    """

    def __init__(
        self,
        video_model: Branch,
        audio_model: Branch,
        *,
        plan_widths: tuple[int, int] = (0, 0),
        plan_attention: PlanOptions | None = None,
        text: bool = True,
        recompute: bool | int = False,
        compile_backend: str | None = None,
    ) -> None:
        super().__init__()
        if recompute < 0:
            raise ValueError(f"recompute must be true, false, or n >= 1 for every n-th block, got {recompute}")
        sizes = [(len(b.blocks), b.head.head.in_features, b.head_dim) for b in (video_model, audio_model)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"both branches need the same depth, width and head_dim, got video {sizes[0]} and audio {sizes[1]}")
        self.plan_attention, self.text, self.recompute = plan_attention, text, recompute
        self.fused_block = fused_block if compile_backend is None else compiled(fused_block, compile_backend)
        self.video_model, self.audio_model = video_model, audio_model
        width = sizes[0][1]
        if plan_attention is not None:
            plan_attention.require_valid()
            video_plan, audio_plan = plan_widths
            self.latent_mlp = nn.ModuleDict({"video": mlp(video_plan, width, width), "audio": mlp(audio_plan, width, width)})
        self.initialise_weights()
        epsilons = {"video_eps": video_model.eps, "audio_eps": audio_model.eps}
        self.beyond_shapes: dict[str, int | float] = {"num_heads": video_model.num_heads, **epsilons}
        """Settings that tensor shapes do not determine. Weights of a model with other values would load, but compute something else."""

    def initialise_weights(self) -> None:
        """Wan's initialisation of linear layers, with a small instead of a zero head. Plan attention's output projections start at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for branch in (self.video_model, self.audio_model):
            small_modules = (branch.text_embedding, branch.time_embedding, branch.head.head)
            for module in (m for part in small_modules for m in part.modules() if isinstance(m, nn.Linear)):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, PlanAttention):
                nn.init.zeros_(module.o.weight)

    def forward(
        self,
        video_latents: Latents | None,
        audio_latents: Latents | None,
        t: Float[Tensor, "B"],
        video_context: Latents | None = None,
        audio_context: Latents | None = None,
        plan: Plan | None = None,
        *,
        has_plan: Bool[Tensor, "B"] | None = None,
        known_video: Latents | None = None,
        known_audio: Latents | None = None,
        skip_blocks: Collection[int] = (),
        sources: dict[Any, Any] | None = None,
        plan_updates: dict[Any, Any] | None = None,
        on_block: Callable[[int, Tensor | None, Tensor | None], None] | None = None,
    ) -> tuple[Any, Any]:
        """Velocities (noise - clean) of both modalities.

        Latents, contexts and plan are cast to the type of the parameters at the input; the flow time is never cast.

        Args:
            video_latents: [B, C, T, Y, X]; a list of [C, T, Y, X] if clips differ in size; ``None`` runs the audio branch only.
            audio_latents: [B, L, C]; a list of [L, C]; or ``None``.
            t: Flow time in [0, 1], 0 = clean, 1 = noise.
            video_context: Text for the video branch [B, N, C], or a list of [N, C]; shorter texts are zero-padded.
            audio_context: Text for the audio branch, likewise.
            plan: Planned tokens. A model without plan attention ignores them.
            has_plan: Which clips use their plan [B], bool; for the others plan attention adds zero. ``None`` = all.
            known_video: Which video latents are known and clean [B, T, Y, X], bool, or a list of [T, Y, X]. The time of their tokens is 0.
                The first latent frame alone is image-to-video. ``None`` = none.
            known_audio: Which audio latents are known and clean [B, L], bool, or a list of [L]; likewise.
            skip_blocks: Fused blocks to skip (skip-layer guidance).
            sources: Keeps texts and plans with their keys and values for further evaluations of the same clips; empty at the first. Outputs
                are the same to the bit as long as texts and plan are the same tensors.
            plan_updates: Keeps the outputs of plan attention likewise. Later evaluations take them as they are, at other noisy latents,
                until it is emptied. Needs plan attention with layers of its own (not ``concat``).
            on_block: Called with the block's number and both branches' tokens after every block.

        Returns:
            Video and audio velocities in float32, shaped as the latents; ``None`` for an absent modality.

        Raises:
            ValueError: If both modalities are absent, a text is missing or has wrong sizes, or plan updates cannot be kept.
        """
        if plan_updates is not None and (self.plan_attention is None or not self.plan_attention.own_layers):
            raise ValueError(
                "only plan attention with layers of its own (placement cascade or parallel) has updates to keep; set plan_every to 1"
            )
        kept = Kept(sources, plan_updates)
        if video_latents is None and audio_latents is None:
            raise ValueError("the transformer needs video latents, audio latents or both; got neither")
        embedded = [
            None if latents is None else self._embed(name, latents, t, context, plan, has_plan, known, kept)
            for name, latents, context, known in (
                ("video", video_latents, video_context, known_video),
                ("audio", audio_latents, audio_context, known_audio),
            )
        ]
        (video, video_conditions, video_grids), (audio, audio_conditions, audio_grids) = (e or (None, None, None) for e in embedded)
        for number, blocks in enumerate(zip(self.video_model.blocks, self.audio_model.blocks, strict=True)):
            if number in skip_blocks:
                continue
            inputs = (*blocks, video, audio, video_conditions, audio_conditions)
            if self.recompute and number % self.recompute == 0 and torch.is_grad_enabled():
                video, audio = checkpoint(self.fused_block, *inputs, use_reentrant=False)
            else:
                video, audio = self.fused_block(*inputs)
            if on_block is not None:
                on_block(number, video, audio)
        if video is not None and video_conditions is not None and video_grids is not None:
            video = unpatchify(self.video_model, video, video_conditions, video_grids, dense=isinstance(video_latents, Tensor))
        if audio is not None and audio_conditions is not None and audio_grids is not None:
            audio = unpatchify(self.audio_model, audio, audio_conditions, audio_grids, dense=isinstance(audio_latents, Tensor))
        return video, audio

    def _embed(
        self,
        name: str,
        latents: Latents,
        t: Tensor,
        context: Latents | None,
        plan: Plan | None,
        has_plan: Tensor | None,
        known: Latents | None,
        kept: Kept,
    ) -> tuple[Tensor, BlockConditions, list[Grid]]:
        """Tokens of a branch, its blocks' other inputs, and the token grid of every clip (one entry if all grids are equal)."""
        branch: Branch = getattr(self, f"{name}_model")
        patches, dtype = branch.patch_embedding, parameter_dtype(branch)
        tokens, grids, mask = patchify(patches, cast(latents, dtype))
        if len(t) != len(tokens):
            raise ValueError(f"t must hold one flow time per clip, got {len(t)} for {len(tokens)} clips of {name}")
        if context is None:
            raise ValueError(f"{name} latents need {name}_context; got None")
        times = t[:, None] if known is None else torch.stack((t, torch.zeros_like(t)), 1)
        time, modulation = branch.embed_time(times)
        text = kept.source(f"{name} text", context, lambda: KeyValueSource(self._embed_text(branch, context), projections=kept.projections))
        positions = for_each_grid(grids, lambda grid: token_positions(patches, grid, tokens.device))
        plan_source, plan_phase = None, None
        if plan is not None and self.plan_attention is not None:
            embed_plan = partial(self._embed_plan, name, plan, self.plan_attention, grids, positions, kept)
            plan_source, plan_phase = kept.source(f"{name} plan", plan, embed_plan)
            plan_mask = None if has_plan is None else has_plan[:, None].expand(plan_source.tokens.shape[:2])
            plan_source = replace(plan_source, mask=plan_mask)
        phase = rotary_phases(positions, branch.head_dim, dtype=tokens.dtype)
        clean = None if known is None else known_tokens(patches, known)
        conditions = BlockConditions(time, modulation, text, phase, mask, clean, plan_source, plan_phase, kept.plan_updates)
        return tokens, conditions, grids

    def _embed_text(self, branch: Branch, context: Latents) -> Tensor:
        """Embedded text; pad rows only if the text is not used."""
        padded = context if isinstance(context, Tensor) else pad_sequence(list(context), batch_first=True)
        padded = padded.to(parameter_dtype(branch))
        return branch.embed_text(padded if self.text else torch.zeros_like(padded))

    def _embed_plan(
        self, name: str, plan: Plan, options: PlanOptions, grids: list[Grid], positions: Tensor, kept: Kept
    ) -> tuple[KeyValueSource, Tensor | None]:
        """Planned tokens of a modality, and the rotary phases of the branch's tokens for attention to them."""
        branch: Branch = getattr(self, f"{name}_model")
        patches, dtype = branch.patch_embedding, parameter_dtype(branch)
        features, planned, times = modality_plan(plan, name)
        phase, key_phase = plan_rotary_phases(planned, times, options, patches, grids, positions, branch.head_dim, dtype)
        windows = windows_of_grids(planned, times, plan.video_grid[0], options, patches, grids)
        tokens = self.latent_mlp[name](features.to(dtype))
        return KeyValueSource(tokens, key_phase, windows=windows, projections=kept.projections), phase


def compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """A function that is compiled when it is called, anew for every shape, so that a shape always has the same graph.

    Raises:
        ValueError: If torch has no such backend.
    """
    if backend not in (known := torch.compiler.list_backends(exclude_tags=())):
        raise ValueError(f"compile_backend must be a backend of torch.compile, got {backend!r}; torch has {', '.join(known)}")
    return torch.compile(function, backend=backend, dynamic=False)
