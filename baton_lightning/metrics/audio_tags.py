"""An audio tagger for FD and KL: features and logits of a generated clip and of its reference clip."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baton_lightning.frozen.downloads import explain_weight_errors
from baton_lightning.metrics.backend import Measured, default_device

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip


class AudioTags:
    """The Audio Spectrogram Transformer on AudioSet's 527 classes: pooled state and logits, averaged over windows of its input length.

    Args:
        name_or_path: Hub name or a local directory.
        device: Device of the network; ``None`` = the GPU, if there is one.
    """

    def __init__(self, name_or_path: str = "MIT/ast-finetuned-audioset-10-10-0.4593", device: str | None = None) -> None:
        self.name, self.device = name_or_path, device

    @property
    def protocol(self) -> str:
        return f"AST {self.name}, windows of its own length averaged"

    @cached_property
    def network(self) -> tuple[Any, Any]:
        """Model and feature extractor."""
        from transformers import ASTFeatureExtractor, ASTForAudioClassification

        with explain_weight_errors(self.name, licence="BSD-3-Clause (MIT)"):
            model = ASTForAudioClassification.from_pretrained(self.name).eval().to(self.device or default_device())
            return model, ASTFeatureExtractor.from_pretrained(self.name)

    def measure(self, clip: Clip) -> Measured:
        """``{"true": {"features": [...], "logits": [...]}, "made": ...}``."""
        _, extractor = self.network
        true, made = clip.reference_sound(extractor.sampling_rate), clip.sound(extractor.sampling_rate)
        return {"true": self.tag(true), "made": self.tag(made)}

    @torch.inference_mode()
    def tag(self, sound: Tensor) -> dict[str, list[float]]:
        """Features and logits of a sound [S]."""
        model, extractor = self.network
        hop = extractor.sampling_rate // 100  # frames of 10 ms
        pooled: list[Tensor] = []
        logits: list[Tensor] = []
        for window in sound.split(extractor.max_length * hop):
            if len(window) < extractor.sampling_rate // 10 and pooled:
                continue  # a remainder shorter than 0.1 s has too few frames
            values = extractor(window.numpy(), sampling_rate=extractor.sampling_rate, return_tensors="pt").input_values
            state = model.audio_spectrogram_transformer(values.to(model.device, model.dtype)).pooler_output
            pooled.append(state[0])
            logits.append(model.classifier(state)[0])
        return {"features": torch.stack(pooled).mean(0).tolist(), "logits": torch.stack(logits).mean(0).tolist()}
