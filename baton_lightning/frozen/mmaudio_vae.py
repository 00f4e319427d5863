"""MMAudio's 16 kHz audio VAE and its vocoder as a codec: 20 channels, 31.25 latents/s (Ovi's sound side)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from baton_lightning.frozen.bigvgan import bigvgan_16k, rename_bigvgan
from baton_lightning.frozen.downloads import checkpoint, hub_file, load
from baton_lightning.frozen.freeze import Frozen, seeded

if TYPE_CHECKING:
    from diffusers import MMAudioVAE
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

REPOSITORY = "hkchengrex/MMAudio"
LICENCE = "CC BY-NC 4.0 (MMAudio's weights: no commercial use)"


class MMAudioCodec(Frozen):
    """Waveforms to the posterior mean of a mel VAE, and back through a vocoder.

    The library's mels are natural logarithms, the 16 kHz weights know decimal ones: mel10 = mel / ln 10.

    Args:
        vae: The mel VAE, with its own mel front end.
        vocoder: Mels to waveform.
        num_latents: Latents L of a clip, which the sound is zero-padded to; ``None`` takes the fewest that hold it. Ovi: 157 for
            5 s, 314 for 10 s.

    Attributes:
        sample_rate: In Hz.
        samples_per_latent: 512 at 16 kHz, so 31.25 latents/s.
    """

    def __init__(self, vae: MMAudioVAE, vocoder: LTX2Vocoder, num_latents: int | None = None) -> None:
        super().__init__()
        self.vae = vae
        self.vocoder = vocoder
        self.num_latents = num_latents
        self.sample_rate: int = vae.config.sample_rate
        self.samples_per_latent: int = vae.latent_hop_length
        self.freeze()

    @torch.no_grad()
    def encode(self, waveform: Float[Tensor, "B S"]) -> Float[Tensor, "B L C"]:
        """Latents, neither scaled nor shifted.

        Args:
            waveform: Mono sound in [-1, 1] at ``sample_rate``.

        Raises:
            ValueError: If the sound is longer than ``num_latents`` by a latent or more.
        """
        num_samples = waveform.shape[-1]
        length = self.num_latents or math.ceil(num_samples / self.samples_per_latent)
        surplus = num_samples - length * self.samples_per_latent
        if surplus >= self.samples_per_latent:
            raise ValueError(
                f"{length} audio latents hold {length * self.samples_per_latent} samples, got {num_samples} "
                f"({num_samples / self.sample_rate:.3f} s): cut the clip or set num_latents to {num_samples // self.samples_per_latent}"
            )
        mels = self.vae.mel_converter(F.pad(waveform.to(self.device).float(), (0, -surplus))) / math.log(10)
        mean, _ = self.vae.vae.encode(mels.to(self.dtype)).chunk(2, dim=1)
        return mean.transpose(1, 2).float()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B L C"], num_samples: int) -> Float[Tensor, "B S"]:
        """Waveform in [-1, 1], cut or zero-padded to ``num_samples``."""
        mels = self.vae.vae.decode(latents.to(self.device, self.dtype).transpose(1, 2))
        waveform = self.vocoder(mels[:, None], time_last=True)[:, 0].float()
        return F.pad(waveform, (0, num_samples - waveform.shape[-1]))


def fold_magnitudes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A raw MMAudio VAE under the library's keys, its magnitude-preserving weights as they are used: w <- normalize(w) / sqrt(fan-in).

    References:
        Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models, Eq. 66.
    """
    from diffusers.models.autoencoders.autoencoder_mmaudio import normalize

    folded = {}
    for key, tensor in weights.items():
        convolution = key.endswith(".weight") and tensor.ndim == 3
        folded[f"vae.{key}"] = normalize(tensor.float()) / tensor[0].numel() ** 0.5 if convolution else tensor
    return folded


def mmaudio_vae_16k(hidden_channels: int = 384, channel_multipliers: tuple[int, ...] = (1, 2, 4), layers_per_block: int = 2) -> MMAudioVAE:
    """The 16 kHz mel VAE, weights not yet loaded."""
    from diffusers import MMAudioVAE

    return MMAudioVAE(
        mel_bins=80,
        latent_channels=20,
        hidden_channels=hidden_channels,
        channel_multipliers=tuple(channel_multipliers),
        layers_per_block=layers_per_block,
        sample_rate=16000,
        n_fft=1024,
        hop_length=256,
        scaling_factor=1.0,
    )


def load_vae(vae: MMAudioVAE, raw: Mapping[str, Tensor]) -> None:
    """Loads a raw VAE checkpoint strictly; the mel front end has no weights in it and keeps its own."""
    weights = fold_magnitudes({key: tensor for key, tensor in raw.items() if isinstance(tensor, Tensor)})
    front = {key: tensor for key, tensor in vae.state_dict().items() if key.startswith("mel_converter.")}
    load(vae, weights | front, "MMAudio's 16 kHz VAE")


def load_vocoder(vocoder: LTX2Vocoder, raw: Mapping[str, object]) -> None:
    """Loads a raw BigVGAN checkpoint strictly, with or without the outer key ``generator``."""
    held = raw.get("generator", raw)
    load(vocoder, rename_bigvgan(held) if isinstance(held, Mapping) else {}, "the BigVGAN vocoder")


class MMAudio16k(MMAudioCodec):
    """The released 16 kHz VAE and vocoder. The weights are CC BY-NC 4.0: not for commercial use.

    Args:
        vae: Path of ``v1-16.pth``; ``None`` takes it from the hub.
        vocoder: Path of ``best_netG.pt``; ``None`` takes it from the hub.
        num_latents: As in :class:`MMAudioCodec`.

    Raises:
        ValueError: If the weights cannot be read or do not fit.
    """

    def __init__(self, vae: str | None = None, vocoder: str | None = None, num_latents: int | None = None) -> None:
        vae_file = hub_file(REPOSITORY, "ext_weights/v1-16.pth", licence=LICENCE, path=vae)
        vocoder_file = hub_file(REPOSITORY, "ext_weights/best_netG.pt", licence=LICENCE, path=vocoder)
        with seeded(0):
            super().__init__(mmaudio_vae_16k(), bigvgan_16k(), num_latents)
        load_vae(self.vae, checkpoint(vae_file, licence=LICENCE))
        load_vocoder(self.vocoder, checkpoint(vocoder_file, licence=LICENCE))


class TinyMMAudio(MMAudioCodec):
    """A random 16 kHz codec with the real mel front end, rates and channels.

    Args:
        num_latents: As in :class:`MMAudioCodec`.
        seed: Decides the weights; the global random state is left alone.
    """

    def __init__(self, num_latents: int | None = None, seed: int = 0) -> None:
        with seeded(seed):
            super().__init__(mmaudio_vae_16k(8, (1, 1, 1), 1), bigvgan_16k(64, (3,), ((1,),)), num_latents)
