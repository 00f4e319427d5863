"""Generation of clips with the networks of stage 3, in five steps that can be run separately: plan, noise, denoise, decode, write.

generator = Generator(model)
plan = generator.plan(batch)                                  # planned tokens of both modalities
noise = generator.noise(batch.index, device)                  # initial noise of both modalities
latents = generator.denoise(noise, batch.context, plan)       # clean latents of both modalities
frames, waveforms = generator.decode(*latents)                # uint8 frames and sound
generator.write(Path("clip.mp4"), frames[0], waveforms[0])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from baton_lightning.batch import Batch, Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.flow import draws
from baton_lightning.flow.condition import Condition
from baton_lightning.flow.given import NOTHING, Given
from baton_lightning.frozen.freeze import own_precision
from baton_lightning.generation.components import FrozenComponents
from baton_lightning.media import write_mp4
from baton_lightning.placement import Placement, cast_parameters
from baton_lightning.stages.joint import JointTraining
from baton_lightning.stages.plan_sources import PlannedTokens


class Generator:
    """Generates clips with a model's transformer, plan source and frozen components.

    Sampler, guidance, negative prompts and seed are read from the model at every step.

    Args:
        model: A stage 3 with its networks and weights.
        placement: Placement of planner and transformer on a device; ``None`` = they are not moved. Frozen components are moved to the
            device of their inputs.
    """

    def __init__(self, model: JointTraining, placement: Placement | None = None) -> None:
        self.model = model
        self.placement = placement or Placement(torch.device("cpu"), offload=False)
        self.components = FrozenComponents(model.component_factories)
        self.negative_rows: dict[str, Tensor] = {}

    def place_networks(self, dtype: torch.dtype, *, follows: bool = True, denoises: bool = True) -> None:
        """Casts planner and transformer, and moves the networks that are needed to the device.

        Args:
            dtype: Type of their parameters.
            follows: Whether clips have plans.
            denoises: Whether latents are denoised.
        """
        for network in (self.planner, self.model.dit):
            cast_parameters(network, dtype)
        self.placement.move(*([self.planner] if follows and denoises else []), *([self.model.dit] if denoises else []))

    @torch.no_grad()
    def contexts(self, video_prompts: Sequence[str], audio_prompts: Sequence[str], batch_size: int = 16) -> Tensor:
        """Text embeddings of prompts [B, ``clip.text_tokens``, C], zero-padded, on the CPU.

        Args:
            video_prompts: Descriptions of the pictures, one text per clip.
            audio_prompts: Descriptions of the sounds, one text per clip.
            batch_size: Clips per call of the text encoder.

        Raises:
            ValueError: If the configuration has no text encoder.
        """
        rows: list[Tensor] = []
        with self.components.on("text_encoder", self.placement.device) as encoder:
            for start in range(0, len(video_prompts), batch_size):
                part = slice(start, start + batch_size)
                found = encoder.context(list(video_prompts[part]), list(audio_prompts[part]))
                rows += [row.cpu() for row in found]
        return pad(rows, self.model.clip)

    # ---- plan
    @property
    def planner(self) -> nn.Module:
        """The plan source, with the planner that cached plans use for prompts without a cache, as one component."""
        return nn.ModuleList([self.model.plan, *getattr(self.model.plan, "built", [])])

    @torch.no_grad()
    def plan(self, batch: Batch) -> Plan:
        """The run's plan: the planner's tokens for the batch's prompts, or the clips' features if the run has no planner.

        Returns:
            Video tokens [B, K_v, C_v] and audio tokens [B, K_a, C_a], standardised.
        """
        source: Any = self.model.plan
        with self.placement.in_use(self.planner, "planner"):
            return source.planned(batch) if isinstance(source, PlannedTokens) else source.truth(batch)

    @torch.no_grad()
    def true_plan(self, batch: Batch) -> Plan:
        """The ground-truth plan from the batch's features, with the shapes of :meth:`plan`.

        Raises:
            ValueError: If the batch has no features.
        """
        with self.placement.in_use(self.planner, "planner"):
            source: Any = self.model.plan
            return source.truth(batch)

    # ---- noise
    def noise(self, index: Tensor, device: torch.device, *, seed: int | None = None, geometry: str | None = None) -> tuple[Tensor, Tensor]:
        """Counter-based initial noise, float32; a clip's noise is the same in any batch and on any device.

        Args:
            index: Sample index of each clip [B].
            device: Device of the result.
            seed: Seed; ``None`` = the model's.
            geometry: Name of the clips' geometry; ``None`` = the model's first one.

        Returns:
            Video noise [B, C, T, Y, X] and audio noise [B, L, C].
        """
        clip, seed = self.model.clip.at(geometry), self.model.seed if seed is None else seed
        shapes = {"video": (clip.video_channels, *clip.latent_grid), "audio": (clip.num_audio_latents, clip.audio_channels)}
        drawn = draws.draw_noise(shapes, seed=seed, epoch=0, index=index, purpose="sample", device=device)
        return drawn["video"], drawn["audio"]

    # ---- denoise
    @torch.no_grad()
    def denoise(self, noise: tuple[Tensor, Tensor], context: Tensor, plan: Plan | None, given: Given = NOTHING) -> tuple[Tensor, Tensor]:
        """Denoises the latents of both modalities with the model's sampler and guidance.

        Args:
            noise: See :meth:`noise`.
            context: Text embeddings [B, N, C], zero-padded, on the device of the noise.
            plan: Plan of the clips, or ``None``.
            given: Latents that are held fixed, e.g. a first frame.

        Returns:
            Video latents [B, C, T, Y, X] and audio latents [B, L, C]; held latents have their given values.

        Raises:
            ValueError: If a negative prompt is needed and the configuration has no text encoder.
        """
        model = self.model
        positive = Condition(context, context, plan)
        negative = Condition(*(self.negative(text, context) for text in model.negatives)) if model.guidance.guides_text else None
        with self.placement.in_use(model.dit, "transformer"):
            velocity = model.guidance(model.dit, positive, negative, given, model.sampler.savings)
            return given.over(*model.sampler(velocity, *noise))

    def negative(self, text: str, context: Tensor) -> Tensor:
        """Context of a negative prompt, the same for every clip, shaped as ``context``. An empty prompt is zeros."""
        if not text:
            return torch.zeros_like(context)
        self.embed_negatives(context.device)
        return self.negative_rows[text].to(context).expand_as(context)

    def embed_negatives(self, device: torch.device) -> None:
        """Embeds the negative prompts at the first call; a text encoder that was built only for them is released."""
        texts = [text for text in self.model.negatives if text and text not in self.negative_rows]
        if not texts:
            return
        only_for_negatives = "text_encoder" not in self.components.made
        with self.components.on("text_encoder", device) as encoder, own_precision():
            for text in texts:
                self.negative_rows[text] = pad(encoder([text]), self.model.clip).cpu()
        if only_for_negatives:
            self.components.release("text_encoder")

    def sample(self, batch: Batch, plan: Plan | None, given: Given = NOTHING) -> tuple[Tensor, Tensor]:
        """Latents of a batch, denoised from the noise of its indices; arguments and shapes as of :meth:`denoise`."""
        assert batch.context is not None
        return self.denoise(self.noise(batch.index, batch.context.device, geometry=batch.geometry), batch.context, plan, given)

    def sample_own(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Latents of a batch with the run's plan."""
        return self.sample(batch, self.plan(batch))

    # ---- decode
    @torch.no_grad()
    def decode(self, video: Tensor, audio: Tensor, geometry: str | None = None) -> tuple[Tensor, Tensor]:
        """Decodes latents to media.

        Args:
            video: Video latents [B, C, T, Y, X].
            audio: Audio latents [B, L, C].
            geometry: Name of the clips' geometry; ``None`` = the model's first one.

        Returns:
            Frames [B, T, Y, X, 3], uint8, and waveforms [B, S], in [-1, 1].

        Raises:
            ValueError: If the configuration has no codec.
        """
        with self.components.on("video_codec", video.device) as codec:
            frames = codec.decode(video)
        with self.components.on("audio_codec", audio.device) as codec:
            return frames, codec.decode(audio, self.model.clip.at(geometry).num_samples)

    # ---- write
    def write(self, file: Path, frames: Tensor, waveform: Tensor) -> None:
        """Writes one clip as an mp4 with sound.

        Args:
            file: Name of the mp4.
            frames: Pictures [T, Y, X, 3], uint8.
            waveform: Sound [S], in [-1, 1].
        """
        clip = self.model.clip
        write_mp4(file, frames.cpu().numpy(), clip.fps, waveform.float().cpu().numpy(), clip.sample_rate)


def pad(rows: Sequence[Tensor], clip: ClipSpec) -> Tensor:
    """Embeddings of texts, each [N, C], as a context [B, ``clip.text_tokens``, C], zero-padded."""
    return torch.stack([functional.pad(text, (0, 0, 0, clip.text_tokens - len(text))) for text in rows])
