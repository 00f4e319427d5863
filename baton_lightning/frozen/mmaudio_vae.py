"""MMAudio's 16 kHz audio VAE and its vocoder as a codec: 20 channels, 31.25 latents/s (Ovi's audio codec)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from baton_lightning.frozen.bigvgan import bigvgan_16k, rename_bigvgan
from baton_lightning.frozen.downloads import hub_file, load_checkpoint, load_strict
from baton_lightning.frozen.freeze import Frozen, seeded

if TYPE_CHECKING:
    from diffusers import MMAudioVAE
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

REPOSITORY = "hkchengrex/MMAudio"
LICENCE = "CC BY-NC 4.0 (MMAudio's weights: no commercial use)"


class MMAudioCodec(Frozen):
    """Encodes waveforms to the posterior mean of a mel VAE, and decodes them with the VAE and a vocoder.

    The mels of diffusers are natural logarithms, but the 16 kHz weights expect decimal ones: mel10 = mel / ln 10.

    Args:
        vae: The mel VAE, with its mel front end.
        vocoder: Converts mels to a waveform.
        num_latents: Latents L of a clip, to which the sound is zero-padded; ``None`` = as few as the sound needs. Ovi: 157 for 5 s, 314
            for 10 s.

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
        """Latents, without scale or shift.

        Args:
            waveform: Mono sound in [-1, 1] at ``sample_rate``.

        Raises:
            ValueError: If the sound exceeds ``num_latents`` by one latent or more.
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
    """MMAudio's VAE weights under diffusers' keys, with the magnitude-preserving scaling applied: w <- normalize(w) / sqrt(fan-in).

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
    """The 16 kHz mel VAE, without its weights."""
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
    """Loads MMAudio's VAE checkpoint strictly. It has no weights of the mel front end, whose buffers are kept."""
    weights = fold_magnitudes({key: tensor for key, tensor in raw.items() if isinstance(tensor, Tensor)})
    front = {key: tensor for key, tensor in vae.state_dict().items() if key.startswith("mel_converter.")}
    load_strict(vae, weights | front, "MMAudio's 16 kHz VAE")


def load_vocoder(vocoder: LTX2Vocoder, raw: Mapping[str, object]) -> None:
    """Loads a BigVGAN checkpoint strictly, with or without the outer key ``generator``."""
    state_dict = raw.get("generator", raw)
    load_strict(vocoder, rename_bigvgan(state_dict) if isinstance(state_dict, Mapping) else {}, "the BigVGAN vocoder")


class MMAudio16k(MMAudioCodec):
    """The released 16 kHz VAE and vocoder. The weights are CC BY-NC 4.0: not for commercial use.

    Args:
        vae: Path of ``v1-16.pth``; ``None`` takes it from the hub.
        vocoder: Path of ``best_netG.pt``; ``None`` takes it from the hub.
        num_latents: As in :class:`MMAudioCodec`.

    Raises:
        ValueError: If the weights cannot be read or are not those of this codec.
    """

    def __init__(self, vae: str | None = None, vocoder: str | None = None, num_latents: int | None = None) -> None:
        vae_file = hub_file(REPOSITORY, "ext_weights/v1-16.pth", licence=LICENCE, path=vae)
        vocoder_file = hub_file(REPOSITORY, "ext_weights/best_netG.pt", licence=LICENCE, path=vocoder)
        with seeded(0):
            super().__init__(mmaudio_vae_16k(), bigvgan_16k(), num_latents)
        load_vae(self.vae, load_checkpoint(vae_file, licence=LICENCE))
        load_vocoder(self.vocoder, load_checkpoint(vocoder_file, licence=LICENCE))


class TinyMMAudio(MMAudioCodec):
    """A small, randomly initialised 16 kHz codec with MMAudio's mel front end, rates and channels.

    Args:
        num_latents: As in :class:`MMAudioCodec`.
        seed: Seed of the weights; the global random state does not change.
    """

    def __init__(self, num_latents: int | None = None, seed: int = 0) -> None:
        with seeded(seed):
            super().__init__(mmaudio_vae_16k(8, (1, 1, 1), 1), bigvgan_16k(64, (3,), ((1,),)), num_latents)
