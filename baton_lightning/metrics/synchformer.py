"""Synchformer of the package `av_bench`: offset of sound and picture, in 21 classes from -2 s to 2 s.

Pictures at 25 frames/s and sound at 16 kHz are cut into segments of 0.64 s that overlap by half. The network compares 14 segments (4.8 s);
it is applied to the first and to the last 14 segments of a clip. Shorter clips are excluded.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from baton_lightning.metrics.backend import Measured, default_device, import_optional
from baton_lightning.metrics.clips import ClipExcluded
from baton_lightning.metrics.pictures import resize, sample_frames

if TYPE_CHECKING:
    from baton_lightning.media import Media
    from baton_lightning.metrics.clips import Clip

FPS, RATE = 25, 16000
SEGMENTS = 14
FRAMES, SAMPLES = 16, 10240
"""Frames and samples of a segment; segments overlap by half."""

MEAN, STD = -4.2677393, 4.5689974
"""Mean and standard deviation of the log-mel spectrogram."""

GRID = torch.linspace(-2, 2, 21)


class Synchformer:
    """Offsets of sound and picture by Synchformer.

    Args:
        weights: Path of ``synchformer_state_dict.pth``.
        device: Device of the network; ``None`` = the GPU, if there is one.
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
        package = import_optional("av_bench.synchformer.synchformer", install)
        transforms = import_optional("torchaudio.transforms", install)
        if not Path(self.weights).is_file():
            raise ValueError(f"needs Synchformer's weights, but {self.weights} is not a file: see the README of av-benchmark")
        device = self.device or default_device()
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
            raise ClipExcluded(f"shorter than the {(SEGMENTS + 1) * FRAMES / 2 / FPS:.1f} s that Synchformer compares")
        model, mel = self.network
        device = next(model.parameters()).device
        pictures = segments(synchformer_pictures(media), FRAMES)
        offsets = []
        for start in (0, num - SEGMENTS):
            part = slice(start, start + SEGMENTS)
            video_features = model.extract_vfeats(pictures[part].to(device)[:, None]).transpose(0, 1).contiguous()  # [1, segments, t, C]
            spectra = (mel(sounds[part].to(device)) + 1e-6).log()
            spectra = (F.pad(spectra, (0, max(0, 66 - spectra.shape[-1])))[..., :66] - MEAN) / (2 * STD)
            audio_features = model.extract_afeats(spectra[None, :, None])
            offsets.append(GRID[model.compare_v_a(video_features, audio_features).argmax(-1).item()].item())
        return {"offsets": offsets}


def synchformer_pictures(media: Media) -> Tensor:
    """Pictures [T, 3, 224, 224] in [-1, 1] at 25 frames/s, the nearest in time: the short side is resized, then the centre is cropped."""
    nearest = (torch.arange(int(len(media.frames) / media.fps * FPS)) / FPS * media.fps).round().long().clamp(max=len(media.frames) - 1)
    pictures = sample_frames(media)
    height, width = pictures.shape[-2:]
    scale = 224 / min(height, width)
    pictures = resize(pictures, round(height * scale), round(width * scale))
    top, left = ((side - 224) // 2 for side in pictures.shape[-2:])
    return pictures[nearest, :, top : top + 224, left : left + 224] * 2 - 1


def segments(stream: Tensor, length: int) -> Tensor:
    """Segments of ``length`` along the first axis that overlap by half."""
    starts = range(0, len(stream) - length + 1, length // 2)
    return torch.stack([stream[start : start + length] for start in starts]) if len(starts) else stream[:0]
