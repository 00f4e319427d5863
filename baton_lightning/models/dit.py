"""The dual-branch diffusion transformer: Ovi with cross-attention to the plan in every block (Baton, section 3.4).

    video latents -> tokens -+-> [ self-attention -> text + audio -> plan -> FFN ] x depth -> head -> video velocity
    audio latents -> tokens -+-> [ self-attention -> text + video -> plan -> FFN ] x depth -> head -> audio velocity

Without plan attention it equals Ovi, in its outputs and in its parameter names, so Ovi's released weights load strictly.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from baton_lightning.clip import ClipSpec
from baton_lightning.int8 import quantise_frozen
from baton_lightning.lora import LoraOptions, add_adapters
from baton_lightning.models.branch import Branch
from baton_lightning.models.conditions import Latents
from baton_lightning.models.fused_branches import FusedBranches
from baton_lightning.models.patches import AudioPatches, VideoPatches
from baton_lightning.models.plan_attention import PLAN_LAYERS, PlanOptions
from baton_lightning.models.preconditioning import Preconditioning


class DualBranchDiT(FusedBranches):
    """The dual-branch diffusion transformer of Baton for one clip geometry. Ovi's values are in brackets.

    Args:
        clip: Geometry: latent channels, patch, text and plan widths, rates.
        width: Channels C of both branches (3072).
        depth: Fused blocks (30).
        num_heads: Heads (24).
        ffn_width: Hidden channels of the feed-forward networks (14336).
        frequency_width: Width of the time sinusoid (256).
        plan_attention: How the plan is read; ``None`` is plain Ovi.
        text: Whether the text is used; if not, every clip gets an empty one.
        recompute: Recompute blocks in the backward pass instead of keeping their activations: ``true`` = every one, n = every n-th.
        precondition: Let the network correct the best linear estimate of the velocity (:mod:`~baton_lightning.models.preconditioning`)
            instead of predicting the velocity. Ovi does not.
        lora: Low-rank adapters, trained instead of the weights that Ovi has; layers for the plan are trained whole. ``None`` = no adapters.
        compile_backend: Backend with which torch.compile compiles the fused blocks, e.g. ``inductor``; ``None`` = none.
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
        recompute: bool | int = False,
        precondition: bool = False,
        lora: LoraOptions | None = None,
        compile_backend: str | None = None,
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
            compile_backend=compile_backend,
        )
        scales = {"video": Preconditioning(clip.video_channels, axis=1), "audio": Preconditioning(clip.audio_channels, axis=-1)}
        self.preconditioning = nn.ModuleDict(scales if precondition else {})
        if lora is not None:
            add_adapters(self, lora, whole=PLAN_LAYERS)
            if lora.base == "int8":
                quantise_frozen(self.video_model.blocks)
                quantise_frozen(self.audio_model.blocks)
            self.beyond_shapes["lora_alpha"] = lora.scale

    def forward(
        self,
        video_latents: Latents | None,
        audio_latents: Latents | None,
        t: Float[Tensor, "B"],
        *conditions: Any,
        known_video: Latents | None = None,
        known_audio: Latents | None = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """See :meth:`FusedBranches.forward`."""
        known, noisy = {"video": known_video, "audio": known_audio}, {"video": video_latents, "audio": audio_latents}
        scales: dict[str, Any] = {n: scale for n, scale in self.preconditioning.items() if noisy[n] is not None}
        inputs = noisy | {n: scale.network_input(noisy[n], t, known[n]) for n, scale in scales.items()}
        velocities: Any = super().forward(
            inputs["video"], inputs["audio"], t, *conditions, known_video=known_video, known_audio=known_audio, **options
        )
        outputs = dict(zip(noisy, velocities, strict=True))
        outputs |= {n: scale.velocity(noisy[n], t, known[n], outputs[n]) for n, scale in scales.items()}
        return outputs["video"], outputs["audio"]
