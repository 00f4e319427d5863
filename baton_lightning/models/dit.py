"""The dual-branch diffusion transformer: Ovi, and in every block a look at the plan (Baton, section 3.4).

    video latents -> tokens -+-> [ self-attention -> text + audio -> plan -> FFN ] x depth -> head -> video velocity
    audio latents -> tokens -+-> [ self-attention -> text + video -> plan -> FFN ] x depth -> head -> audio velocity

Without a plan it is Ovi, to the last digit and to the last parameter name, so Ovi's released weights load strictly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.models.attention import Located
from baton_lightning.models.branch import Block, Branch
from baton_lightning.models.conditions import Conditions, Grid, Latents, alike, clean_first_frame, plan_of, plan_phases, tokenise
from baton_lightning.models.layers import mlp
from baton_lightning.models.patches import AudioPatches, VideoPatches, positions
from baton_lightning.models.plan_attention import PlanAttention, PlanOptions
from baton_lightning.models.precision import parameter_dtype, widen
from baton_lightning.models.rope import phases


class FusedBranches(nn.Module):
    """A video and an audio branch that read each other and the plan in every block.

    Args:
        video_model: Video branch.
        audio_model: Audio branch, of the same depth, width and head count.
        plan_widths: Channels of planned video and audio tokens.
        plan_attention: How the plan is read; ``None`` is plain Ovi.
        text: Whether the text is read. If not, every clip gets an empty one, all pad rows, and no parameter changes its place.
        recompute: Recompute each block in the backward pass instead of keeping its activations.

    Raises:
        ValueError: If the branches do not fit together.
    """

    def __init__(
        self,
        video_model: Branch,
        audio_model: Branch,
        *,
        plan_widths: tuple[int, int] = (0, 0),
        plan_attention: PlanOptions | None = None,
        text: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        sizes = [(len(b.blocks), b.head.head.in_features, b.head_dim) for b in (video_model, audio_model)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"both branches need the same depth, width and head_dim, got video {sizes[0]} and audio {sizes[1]}")
        self.plan_attention, self.text, self.recompute = plan_attention, text, recompute
        self.video_model, self.audio_model = video_model, audio_model
        width = sizes[0][1]
        if plan_attention is not None:
            video_plan, audio_plan = plan_widths
            self.latent_mlp = nn.ModuleDict({"video": mlp(video_plan, width, width), "audio": mlp(audio_plan, width, width)})
        self.initialise()

    def initialise(self) -> None:
        """Wan's initialisation of linear layers, with a head that is small instead of zero. The plan's outputs are silent at first."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for branch in (self.video_model, self.audio_model):
            small = (branch.text_embedding, branch.time_embedding, branch.head.head)
            for module in (m for part in small for m in part.modules() if isinstance(m, nn.Linear)):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, PlanAttention):
                nn.init.zeros_(module.o.weight)

    @property
    def beyond_shapes(self) -> dict[str, int | float]:
        """Settings that no tensor's shape shows, so that weights of another model would load and mean something else."""
        return {"num_heads": self.video_model.num_heads, "video_eps": self.video_model.eps, "audio_eps": self.audio_model.eps}

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
        first_frame_clean: bool = False,
        skip_blocks: Collection[int] = (),
        on_block: Callable[[int, Tensor | None, Tensor | None], None] | None = None,
    ) -> tuple[Any, Any]:
        """Velocities (noise - clean) of both modalities.

        Latents, contexts and plan are cast to the type of the parameters where they enter; the flow time never is.

        Args:
            video_latents: [B, C, T, Y, X]; a list of [C, T, Y, X] where clips differ in size; ``None`` leaves the audio branch alone.
            audio_latents: [B, L, C]; a list of [L, C]; or ``None``.
            t: Flow time in [0, 1], 0 = clean, 1 = noise.
            video_context: Text for the video branch [B, N, C], or a list of [N, C]; shorter texts are zero-padded.
            audio_context: Text for the audio branch, likewise.
            plan: Planned tokens. A model without plan attention does not look at them.
            has_plan: Clips that see their plan; for the others plan attention adds zero. ``None`` says all.
            first_frame_clean: The first latent frame is given and clean: its tokens are at t = 0 (image to video).
            skip_blocks: Fused blocks left out (skip-layer guidance).
            on_block: Called with the block's number and both branches' tokens after every block.

        Returns:
            Video and audio velocities in float32, in the form of the latents; ``None`` for an absent modality.

        Raises:
            ValueError: If both modalities are absent, or a text is missing or does not fit.
        """
        if video_latents is None and audio_latents is None:
            raise ValueError("the transformer needs video latents, audio latents or both; got neither")
        ends = [
            None if latents is None else self._enter(name, latents, t, context, plan, has_plan, first_frame_clean and name == "video")
            for name, latents, context in (("video", video_latents, video_context), ("audio", audio_latents, audio_context))
        ]
        (video, video_given, video_grids), (audio, audio_given, audio_grids) = (end or (None, None, None) for end in ends)
        for number, blocks in enumerate(zip(self.video_model.blocks, self.audio_model.blocks, strict=True)):
            if number in skip_blocks:
                continue
            if self.recompute and torch.is_grad_enabled():
                video, audio = checkpoint(fuse, *blocks, video, audio, video_given, audio_given, use_reentrant=False)
            else:
                video, audio = fuse(*blocks, video, audio, video_given, audio_given)
            if on_block is not None:
                on_block(number, video, audio)
        return (
            None if video is None else leave(self.video_model, video, video_given, video_grids, dense=isinstance(video_latents, Tensor)),
            None if audio is None else leave(self.audio_model, audio, audio_given, audio_grids, dense=isinstance(audio_latents, Tensor)),
        )

    def _enter(
        self,
        name: str,
        latents: Latents,
        t: Tensor,
        context: Latents | None,
        plan: Plan | None,
        has_plan: Tensor | None,
        first_frame_clean: bool,
    ) -> tuple[Tensor, Conditions, list[Grid]]:
        """Tokens of a branch, what its blocks read besides, and the token grid of every clip (one, if all are alike)."""
        branch: Branch = getattr(self, f"{name}_model")
        patches, dtype = branch.patch_embedding, parameter_dtype(branch)
        tokens, grids, mask = tokenise(patches, cast(latents, dtype))
        if len(t) != len(tokens):
            raise ValueError(f"t must hold one flow time per clip, got {len(t)} for {len(tokens)} clips of {name}")
        if context is None:
            raise ValueError(f"{name} latents need {name}_context; got None")
        if not isinstance(context, Tensor):
            context = pad_sequence(list(context), batch_first=True)
        context = context.to(dtype)
        times = clean_first_frame(t[:, None], tokens, grids) if first_frame_clean else t[:, None]
        time, modulation = branch.embed_time(times)
        text = branch.embed_text(context if self.text else torch.zeros_like(context))
        place = alike(grids, lambda grid: positions(patches, grid, tokens.device))
        located, plan_phase = None, None
        if plan is not None and self.plan_attention is not None:
            features, planned, plan_times = plan_of(plan, name)
            plan_phase, key_phase = plan_phases(
                planned, plan_times, self.plan_attention, patches, grids, place, branch.head_dim, tokens.dtype
            )
            seen = None if has_plan is None else has_plan[:, None].expand(features.shape[:2])
            located = Located(self.latent_mlp[name](features.to(dtype)), key_phase, seen)
        phase = phases(place, branch.head_dim, dtype=tokens.dtype)
        return tokens, Conditions(time, modulation, text, phase, mask, located, plan_phase), grids


class DualBranchDiT(FusedBranches):
    """The dual-branch diffusion transformer of Baton for one clip geometry; the numbers of a released Ovi are in brackets.

    Args:
        clip: Geometry: latent channels, patch, text and plan widths, rates.
        width: Channels C of both branches (3072).
        depth: Fused blocks (30).
        num_heads: Heads (24).
        ffn_width: Hidden channels of the feed-forward networks (14336).
        frequency_width: Width of the time sinusoid (256).
        plan_attention: How the plan is read; ``None`` is plain Ovi.
        text: Whether the text is read; if not, every clip gets an empty one.
        recompute: Recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        clip: ClipSpec,
        width: int = 3072,
        depth: int = 30,
        num_heads: int = 24,
        ffn_width: int = 14336,
        frequency_width: int = 256,
        plan_attention: PlanOptions | None = PlanOptions(),  # noqa: B008
        text: bool = True,
        recompute: bool = False,
    ) -> None:
        rate = clip.video_latent_rate / clip.video_patch[0]
        unit = clip.audio_scale / clip.video_patch[0]
        sizes = {"width": width, "depth": depth, "num_heads": num_heads, "ffn_width": ffn_width, "frequency_width": frequency_width}
        sizes |= {"text_tokens": clip.text_tokens, "text_width": clip.text_width}
        super().__init__(
            Branch(VideoPatches(clip.video_channels, width, clip.video_patch, rate), **sizes, plan=plan_attention),
            Branch(AudioPatches(clip.audio_channels, width, unit, unit * clip.audio_latent_rate), **sizes, plan=plan_attention),
            plan_widths=(clip.video_plan_width, clip.audio_plan_width),
            plan_attention=plan_attention,
            text=text,
            recompute=recompute,
        )


def cast(latents: Latents, dtype: torch.dtype) -> Latents:
    """Latents in another type, as one tensor or clip by clip as they came."""
    return latents.to(dtype) if isinstance(latents, Tensor) else [x.to(dtype) for x in latents]


def fuse(
    video_block: Block,
    audio_block: Block,
    video: Tensor | None,
    audio: Tensor | None,
    video_given: Conditions | None,
    audio_given: Conditions | None,
) -> tuple[Tensor | None, Tensor | None]:
    """One fused block. Both branches first look inward, then each reads the other as it is at that moment (Ovi)."""
    if video is not None:
        video = video_block.look_inward(video, video_given)
    if audio is not None:
        audio = audio_block.look_inward(audio, audio_given)
    seen_video = None if video is None else Located(video, video_given.phase, video_given.mask)
    seen_audio = None if audio is None else Located(audio, audio_given.phase, audio_given.mask)
    return (
        None if video is None else video_block.look_outward(video, video_given, seen_audio),
        None if audio is None else audio_block.look_outward(audio, audio_given, seen_video),
    )


def leave(branch: Branch, tokens: Tensor, given: Conditions, grids: list[Grid], *, dense: bool) -> Latents:
    """Velocities in the form in which the latents came."""
    values, patches = widen(branch.head(tokens, given.time)), branch.patch_embedding
    if dense:
        return patches.restore(values, grids[0])
    each = grids if len(grids) > 1 else grids * len(values)
    return [patches.restore(v[None, : math.prod(grid)], grid)[0] for v, grid in zip(values, each, strict=True)]
