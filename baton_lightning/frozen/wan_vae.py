"""The Wan 2.2 video VAE as a codec: 48 channels, 4 frames and 16 x 16 pixels per latent (Ovi's video codec)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from baton_lightning.frozen.downloads import load_pretrained
from baton_lightning.frozen.freeze import Dtype, Frozen, seeded

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan


class WanVideoCodec(Frozen):
    """A frozen causal video VAE. Latents are the posterior mean, standardised as (z - mean) / std per channel.

    Args:
        vae: The VAE; its config has the strides and the latent statistics.
        tiling: Encode and decode in spatial tiles, to save memory.

    Attributes:
        stride: Frames and pixels per latent (time, space).
    """

    def __init__(self, vae: AutoencoderKLWan, tiling: bool = False) -> None:
        super().__init__()
        self.vae = vae
        if tiling:
            vae.enable_tiling()
        self.stride: tuple[int, int] = (vae.config.scale_factor_temporal, vae.config.scale_factor_spatial)
        shape = (1, -1, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(vae.config.latents_mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(vae.config.latents_std).view(shape), persistent=False)
        self.freeze()

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "B T Y X 3"]) -> Float[Tensor, "B C t y x"]:
        """Normalised latents, t = 1 + (T - 1) / 4.

        Args:
            frames: Pictures, 0..255.

        Raises:
            ValueError: If the number of frames is not 4k + 1, or a side is not a multiple of 16.
        """
        time, space = self.stride
        num, height, width = frames.shape[1:4]
        if num % time != 1:
            raise ValueError(
                f"the video VAE takes {time}k + 1 frames, got {num}; the nearest are {max(1, (num - 1) // time * time + 1)} and "
                f"{(num - 1) // time * time + 1 + time}"
            )
        if height % space or width % space:
            raise ValueError(f"the video VAE takes sides that are multiples of {space}, got {height} x {width}")
        pixels = frames.to(self.device).permute(0, 4, 1, 2, 3).to(self.dtype) / 127.5 - 1
        latents = self.vae.encode(pixels).latent_dist.mode().float()
        return (latents - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B C t y x"]) -> UInt8[Tensor, "B T Y X 3"]:
        """Pictures of normalised latents, T = 4 (t - 1) + 1."""
        latents = latents.to(self.device).float() * self.std + self.mean
        pixels = self.vae.decode(latents.to(self.dtype)).sample.float()
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)


class WanVAE(WanVideoCodec):
    """The released Wan 2.2 VAE.

    Args:
        name_or_path: Hub name or local directory with a folder ``vae``.
        dtype: Type of the weights; latents are float32.
        tiling: As in :class:`WanVideoCodec`.

    Raises:
        ValueError: If the weights cannot be read.
    """

    def __init__(self, name_or_path: str = "Wan-AI/Wan2.2-TI2V-5B-Diffusers", dtype: Dtype = "float32", tiling: bool = False) -> None:
        from diffusers import AutoencoderKLWan

        torch_dtype = getattr(torch, dtype)
        vae = load_pretrained(AutoencoderKLWan, name_or_path, folder="vae", dtype=torch_dtype, licence="Apache-2.0 (Wan 2.2)")
        super().__init__(vae, tiling)


class TinyWanVAE(WanVideoCodec):
    """A small, randomly initialised Wan 2.2 VAE with the released strides.

    Args:
        channels: Latent channels C.
        width: Channels of the convolutions.
        seed: Seed of the weights and the latent statistics; the global random state does not change.
    """

    def __init__(self, channels: int = 8, width: int = 8, seed: int = 0) -> None:
        from diffusers import AutoencoderKLWan

        with seeded(seed):
            mean, std = torch.randn(channels).tolist(), torch.empty(channels).uniform_(0.5, 2).tolist()
            vae = AutoencoderKLWan(
                base_dim=width,
                decoder_base_dim=width,
                z_dim=channels,
                dim_mult=[1, 1, 1, 1],
                num_res_blocks=1,
                temperal_downsample=[False, True, True],
                is_residual=True,
                in_channels=12,
                out_channels=12,
                patch_size=2,
                scale_factor_temporal=4,
                scale_factor_spatial=16,
                latents_mean=mean,
                latents_std=std,
            )
        super().__init__(vae)
