"""Closed-form codecs for clips of the world, which need no training and no download.

Both implement the interfaces of :mod:`baton_lightning.frozen.codecs`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from baton_lightning import atomic
from baton_lightning.world.vocabulary import CARRIERS


class PatchPCA(nn.Module):
    """Principal component analysis of patches of 4 frames x 8 x 8 pixels. The first frame, repeated 4 times, has its own patches.

        latents = (patches - mean) basis / scale,        scale ~ square root of each component's standard deviation

    The scaling is half-way between none and whitening: the first components, which hold the coarse picture, keep a larger variance than the
    details, so a denoiser learns them first. All components together have unit variance.

    With 96 of the 768 components, pictures of 32 pixels are reconstructed without a visible error; 48 are enough at 48 pixels.

    Args:
        weights: File written by :meth:`save`. ``None`` makes an empty codec, for :meth:`fit`.
        channels: Number of components of an empty codec.

    Raises:
        ValueError: If the file does not exist, or has other tensors.
    """

    frames_per_patch = 4
    pixels_per_patch = 8

    def __init__(self, weights: str | None = None, channels: int = 96) -> None:
        super().__init__()
        size = self.frames_per_patch * self.pixels_per_patch**2 * 3
        tensors = {"mean": torch.zeros(size), "basis": torch.zeros(size, channels), "scale": torch.zeros(channels)}
        if weights is not None:
            tensors = _read_basis(Path(weights), size)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @classmethod
    def fit(cls, frames: Iterable[UInt8[Tensor, "T Y X 3"]], channels: int = 96) -> PatchPCA:
        """The codec of these clips, from the eigenvectors of their patches' covariance.

        Args:
            frames: Clips, as arrays or tensors, uint8 [T, Y, X, 3] with T = 4k + 1. A few hundred are enough.
            channels: Number of components.
        """
        codec = cls(channels=channels)
        size = codec.mean.numel()
        count, total, products = 0, torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
        for clip in frames:
            patches = codec._patches(torch.as_tensor(clip)[None]).reshape(-1, size).double()
            count, total = count + len(patches), total + patches.sum(0)
            products += patches.T @ patches
        if count == 0:
            raise ValueError("PatchPCA.fit needs at least one clip, got none")
        mean = total / count
        variance, basis = torch.linalg.eigh(products / count - mean.outer(mean))
        variance, basis = variance.flip(0)[:channels], basis.flip(1)[:, :channels]
        basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()  # the sign of an eigenvector is arbitrary
        codec.mean, codec.basis, codec.scale = mean.float(), basis.float().contiguous(), half_whitened(variance).float()
        return codec

    def save(self, path: str | Path) -> None:
        """Writes mean, basis and scale as safetensors."""
        atomic.write_tensors(Path(path), {name: tensor.detach().cpu() for name, tensor in self.named_buffers()})

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "B T Y X 3"]) -> Float[Tensor, "B C t y x"]:
        """Latents. On the clips of :meth:`fit` they have zero mean and, over all channels together, unit variance."""
        self._require_fit()
        latents = (self._patches(frames) - self.mean) @ self.basis / self.scale
        return latents.permute(0, 4, 1, 2, 3).contiguous()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B C t y x"]) -> UInt8[Tensor, "B T Y X 3"]:
        """Pictures of latents: one of the first latent frame, four of each other one."""
        self._require_fit()
        patches = (latents.permute(0, 2, 3, 4, 1).float() * self.scale) @ self.basis.T + self.mean
        n, p = self.frames_per_patch, self.pixels_per_patch
        video = patches.unflatten(-1, (n, p, p, 3)).permute(0, 1, 4, 2, 5, 3, 6, 7)  # B t n y p x p 3
        video = video.flatten(5, 6).flatten(3, 4)
        video = torch.cat([video[:, 0].mean(1, keepdim=True), video[:, 1:].flatten(1, 2)], 1)
        return ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def _patches(self, frames: UInt8[Tensor, "B T Y X 3"]) -> Float[Tensor, "B t y x P"]:
        n, p = self.frames_per_patch, self.pixels_per_patch
        count, height, width = frames.shape[1:4]
        if count % n != 1 or height % p or width % p:
            raise ValueError(f"PatchPCA: frames must be [B, {n}k + 1, {p}y, {p}x, 3], got {tuple(frames.shape)}; a ClipSpec has such sizes")
        video = frames.float() / 127.5 - 1
        video = torch.cat([video[:, :1].expand(-1, n - 1, -1, -1, -1), video], 1)
        video = video.unflatten(3, (-1, p)).unflatten(2, (-1, p)).unflatten(1, (-1, n))  # B t n y p x p 3
        return video.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)

    def _require_fit(self) -> None:
        if not bool(self.scale.any()):
            raise ValueError("PatchPCA has no basis: set `weights`, or compute one with PatchPCA.fit(clips)")


def half_whitened(variance: Tensor) -> Tensor:
    """Scale of each component: the square root of its standard deviation, normalised so that all latents together have unit variance."""
    deviation = variance.clamp(min=1e-8).sqrt()
    return deviation.sqrt() * deviation.mean().sqrt()


class ToneBank(nn.Module):
    """Encodes the loudness of each of the world's 20 carriers at 31.25 Hz, and decodes it to sinusoids of fixed phase.

        latents = asinh(amplitude / knee) / unit - offset

    The amplitude is measured under a Hann window centred at time l / rate of latent l. Tones are rare, so amplitudes have large peaks; the
    logarithm limits the latents' peaks to 12 at a standard deviation of 1. The shape equals that of Ovi's audio latents: 20 channels, 157
    latents in 5 s.

    Args:
        sample_rate: Sample rate of the waveform, in Hz.
        rate: Latents per second.
    """

    window_seconds = 0.048
    knee = 0.02
    loudest = 0.6
    unit = 0.25
    offset = 0.12

    def __init__(self, sample_rate: int = 16000, rate: float = 31.25) -> None:
        super().__init__()
        self.sample_rate, self.rate = sample_rate, rate
        self.hop = round(sample_rate / rate)
        self.window = 2 * round(self.window_seconds * sample_rate / 2)
        self.register_buffer("carriers", torch.tensor(CARRIERS, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def encode(self, waveform: Float[Tensor, "B S"]) -> Float[Tensor, "B L C"]:
        """Latents of a waveform, L = ceil(S / hop)."""
        num_latents = math.ceil(waveform.shape[1] / self.hop)
        hann = torch.hann_window(self.window, periodic=False, dtype=torch.float64, device=waveform.device)
        cycles = self.carriers[:, None] * torch.arange(self.window, device=waveform.device) / self.sample_rate
        filters = torch.cat([(2 * math.pi * cycles).sin(), (2 * math.pi * cycles).cos()]) * (2 * hann / hann.sum())  # 2C W
        padded = pad(waveform.float(), (self.window // 2, self.window // 2 + self.hop))
        sine, cosine = conv1d(padded[:, None], filters.float()[:, None], stride=self.hop)[..., :num_latents].chunk(2, 1)
        loudness = torch.asinh(torch.hypot(sine, cosine).transpose(1, 2) / self.knee)
        return loudness / self.unit - self.offset

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B L C"], num_samples: int) -> Float[Tensor, "B S"]:
        """Waveform whose amplitudes are interpolated linearly between latents."""
        amplitude = torch.sinh((latents.float() + self.offset) * self.unit) * self.knee
        amplitude = torch.nan_to_num(amplitude).clamp(0, self.loudest).transpose(0, 1)  # L B C
        following = torch.cat([amplitude[1:], amplitude[-1:]])
        count = len(amplitude) * self.hop
        t = torch.arange(count, dtype=torch.float64, device=latents.device) / self.sample_rate
        tones = torch.sin(2 * math.pi * self.carriers[:, None] * t).float().unflatten(1, (-1, self.hop)).transpose(0, 1)  # L C hop
        ramp = torch.arange(self.hop, device=latents.device) / self.hop
        waveform = (amplitude @ (tones * (1 - ramp)) + following @ (tones * ramp)).transpose(0, 1).flatten(1)
        return pad(waveform[:, :num_samples], (0, max(0, num_samples - count))).clamp(-1, 1)


def _read_basis(path: Path, size: int) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"PatchPCA: weights {path} do not exist; write them with PatchPCA.fit(clips).save(path)")
    tensors = load_file(str(path))
    if set(tensors) != {"mean", "basis", "scale"} or tensors["basis"].shape[0] != size:
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ValueError(f"PatchPCA: {path} must hold mean, basis [{size}, C] and scale, got {found}")
    return tensors
