"""Memory of sampling during training on a GPU: the frozen networks, and a forward pass of each without gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from baton_lightning.estimate.footprint import forward_peak, joint_step
from baton_lightning.frozen.mmaudio_vae import MMAudioCodec, bigvgan_16k, mmaudio_vae_16k
from baton_lightning.frozen.wan_vae import WanVideoCodec

LOGGER = "callbacks.sample_logger.SampleLogger"
COMPONENTS = ("video_codec", "audio_codec", "text_encoder")


@dataclass(frozen=True)
class Sampling:
    """Bytes on a GPU in sampling. Each network is on the GPU only while it is used.

    Args:
        clips: Clips per batch.
        text: The text encoder, for negative prompts.
        denoising: Activations of the transformer's forward pass.
        decoding: The larger codec, and activations of the video's decoder.
        unknown: Class names of networks that are not counted, because their sizes are not known here.
    """

    clips: int
    text: int
    denoising: int
    decoding: int
    unknown: tuple[str, ...]

    @property
    def most(self) -> int:
        return max(self.text, self.denoising, self.decoding)


def sampling(model: Any, settings: Any, clips: int, prompt_tokens: int) -> Sampling | None:
    """Memory of the experiment's samples; ``None`` if it samples no clips.

    Args:
        model: The stage, with networks on the meta device.
        settings: Settings of the experiment.
        clips: Clips of a rank's batch.
        prompt_tokens: Tokens of both prompts, for a planner.
    """
    clips = min(clips, samples(settings.trainer.callbacks or []))
    if not clips or not hasattr(model, "dit"):
        return None
    asked = {name: choice for name in COMPONENTS if (choice := getattr(settings.model.init_args, name, None)) is not None}
    named = {name: choice.class_path.rpartition(".")[2] for name, choice in asked.items()}
    made = {name: released(choice) for name, choice in asked.items() if named[name] in RELEASED}
    size = {name: sum(t.numel() * t.element_size() for t in (*made[name].parameters(), *made[name].buffers())) for name in made}
    denoising = forward_peak(model, joint_step(model, clips, torch.bfloat16, "meta", prompt_tokens))
    video = size["video_codec"] + decoded(made["video_codec"], model.clip, clips) if "video_codec" in made else 0
    return Sampling(
        clips,
        text=size.get("text_encoder", 0) if any(model.negatives) else 0,
        denoising=denoising,
        decoding=max(video, size.get("audio_codec", 0)),
        unknown=tuple(named[name] for name in asked if name not in made),
    )


def samples(callbacks: list[Any]) -> int:
    """Number of clips that the experiment samples at once; 0 = none."""
    found = [callback for callback in callbacks if callback.class_path == LOGGER]
    return max([int(dict(callback.get("init_args") or {}).get("num_samples", 2)) for callback in found], default=0)


def released(choice: Any) -> nn.Module:
    """A released network on the meta device, with its published sizes and the experiment's type."""
    held = getattr(torch, str(dict(choice.get("init_args") or {}).get("dtype", "float32")))
    with torch.device("meta"):
        return RELEASED[choice.class_path.rpartition(".")[2]]().to(held)


def wan() -> nn.Module:
    """Wan 2.2's video VAE, 0.70 B parameters."""
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan(
        base_dim=160,
        decoder_base_dim=256,
        z_dim=48,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
    )
    return WanVideoCodec(vae)


def umt5() -> nn.Module:
    """umT5-xxl's encoder, 5.68 B parameters."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64))


def mmaudio() -> nn.Module:
    """MMAudio's 16 kHz VAE and vocoder, 0.28 B parameters."""
    return MMAudioCodec(mmaudio_vae_16k(), bigvgan_16k())


RELEASED = {"WanVAE": wan, "UMT5": umt5, "MMAudio16k": mmaudio}


def decoded(codec: Any, clip: Any, clips: int) -> int:
    """Peak bytes of decoding pictures, extrapolated linearly from the first frames to all frames."""
    frames, *sides = clip.latent_grid

    def peak(number: int) -> int:
        return forward_peak(codec, lambda: codec.decode(torch.zeros(clips, clip.video_channels, number, *sides, device="meta")))

    short, long = peak(3), peak(4)
    return long + max(0, frames - 4) * (long - short)
