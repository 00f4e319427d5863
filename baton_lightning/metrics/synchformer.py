"""Synchformer through an installed `av_bench`: how late the sound is, in 21 classes from -2 s to 2 s.

Pictures at 25 frames/s and sound at 16 kHz are cut into segments of 0.64 s that overlap by half; the network compares 14
segments (4.8 s) and is asked about the first and the last 14 of a clip. Shorter clips are left out.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from baton_lightning.metrics.backend import Measured, best_device, required
from baton_lightning.metrics.clips import LeftOut
from baton_lightning.metrics.pictures import chosen, resized

if TYPE_CHECKING:
    from baton_lightning.media import Media
    from baton_lightning.metrics.clips import Clip

FPS, RATE = 25, 16000
SEGMENTS = 14
FRAMES, SAMPLES = 16, 10240
"""Of a segment; the next begins half of it later."""

MEAN, STD = -4.2677393, 4.5689974
"""Of its log-mel spectrogram."""

GRID = torch.linspace(-2, 2, 21)


class Synchformer:
    """Offsets by Synchformer.

    Args:
        weights: ``synchformer_state_dict.pth``.
        device: Where it runs; ``None`` = the GPU, if there is one.
    """

    def __init__(self, weights: str = "synchformer_state_dict.pth", device: str | None = None) -> None:
        self.weights, self.device = weights, device

    @property
    def protocol(self) -> str:
        return f"Synchformer of av_bench ({Path(self.weights).name}), first and last {SEGMENTS} segments, 21 classes of 0.2 s"

    @cached_property
    def network(self) -> tuple[Any, Any]:
        """Model and mel spectrogram."""
        install = "pip install git+https://github.com/hkchengrex/av-benchmark, with the torchaudio that was built for this torch"
        package = required("av_bench.synchformer.synchformer", install)
        transforms = required("torchaudio.transforms", install)
        if not Path(self.weights).is_file():
            raise ValueError(f"needs Synchformer's weights, got {self.weights}, which is not a file: see the README of av-benchmark")
        device = self.device or best_device()
        model = package.Synchformer().eval()
        model.load_state_dict(torch.load(self.weights, map_location="cpu", weights_only=True))
        mel = transforms.MelSpectrogram(sample_rate=RATE, win_length=400, hop_length=160, n_fft=1024, n_mels=128)
        return model.to(device), mel.to(device)

    @torch.inference_mode()
    def measure(self, clip: Clip) -> Measured:
        """``{"offsets": [first, last]}``, in s."""
        media, sounds = clip.frames(), segments(clip.sound(RATE), SAMPLES)
        num = min((int(len(media.frames) / media.fps * FPS) - FRAMES) // (FRAMES // 2) + 1, len(sounds))
        if num < SEGMENTS:
            raise LeftOut(f"shorter than the {(SEGMENTS + 1) * FRAMES / 2 / FPS:.1f} s that Synchformer compares")
        model, mel = self.network
        device = next(model.parameters()).device
        pictures = segments(at_rate(media), FRAMES)
        offsets = []
        for start in (0, num - SEGMENTS):
            part = slice(start, start + SEGMENTS)
            seen = model.extract_vfeats(pictures[part].to(device)[:, None]).transpose(0, 1).contiguous()  # [1, segments, t, C]
            spectra = (mel(sounds[part].to(device)) + 1e-6).log()
            spectra = (F.pad(spectra, (0, max(0, 66 - spectra.shape[-1])))[..., :66] - MEAN) / (2 * STD)
            heard = model.extract_afeats(spectra[None, :, None])
            offsets.append(GRID[model.compare_v_a(seen, heard).argmax(-1).item()].item())
        return {"offsets": offsets}


def at_rate(media: Media) -> Tensor:
    """Pictures [T, 3, 224, 224] in [-1, 1] at 25 frames/s, the nearest in time, short side resized and the middle cut out."""
    nearest = (torch.arange(int(len(media.frames) / media.fps * FPS)) / FPS * media.fps).round().long().clamp(max=len(media.frames) - 1)
    pictures = chosen(media)
    height, width = pictures.shape[-2:]
    scale = 224 / min(height, width)
    pictures = resized(pictures, round(height * scale), round(width * scale))
    top, left = ((side - 224) // 2 for side in pictures.shape[-2:])
    return pictures[nearest, :, top : top + 224, left : left + 224] * 2 - 1


def segments(stream: Tensor, length: int) -> Tensor:
    """Pieces of a length along the first axis, each begun half of it after the last."""
    starts = range(0, len(stream) - length + 1, length // 2)
    return torch.stack([stream[start : start + length] for start in starts]) if len(starts) else stream[:0]
