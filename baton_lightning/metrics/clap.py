"""CLAP: cosine similarity of the sound and the audio prompt in the embedding space of a contrastive model."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from baton_lightning.frozen.downloads import explain_weight_errors
from baton_lightning.metrics.backend import Measured, default_device
from baton_lightning.metrics.clips import ClipExcluded

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip


class Clap:
    """A CLAP model. Scores of different checkpoints are not comparable, so the protocol names the checkpoint.

    Clips longer than the model's input (10 s) are cut into windows of that length, and the similarities are averaged. The model's feature
    extractor would take a random window instead.

    Args:
        name_or_path: Hub name or a local directory.
        device: Device of the network; ``None`` = the GPU, if there is one.
    """

    def __init__(self, name_or_path: str = "laion/larger_clap_music_and_speech", device: str | None = None) -> None:
        self.name, self.device = name_or_path, device

    @property
    def protocol(self) -> str:
        return f"CLAP {self.name}, audio prompt against the sound, windows of its own length averaged"

    @cached_property
    def network(self) -> tuple[Any, Any, Any]:
        """Model, feature extractor, tokenizer."""
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        with explain_weight_errors(self.name, licence="Apache-2.0 (LAION)"):
            model = ClapModel.from_pretrained(self.name).eval().to(self.device or default_device())
            return model, ClapFeatureExtractor.from_pretrained(self.name), AutoTokenizer.from_pretrained(self.name)

    @torch.inference_mode()
    def measure(self, clip: Clip) -> Measured:
        """``{"similarity": ...}``, in [-1, 1]."""
        if not clip.prompt.audio_prompt.strip():
            raise ClipExcluded("no audio prompt")
        model, extractor, tokenizer = self.network
        rate, longest = extractor.sampling_rate, extractor.nb_max_samples
        text = tokenizer([clip.prompt.audio_prompt], return_tensors="pt", truncation=True, max_length=max_text_tokens(model))
        inputs = {name: text[name].to(model.device) for name in ("input_ids", "attention_mask")}
        text_embedding = model.get_text_features(**inputs).pooler_output
        cosines = []
        for window in clip.sound(rate).split(longest):
            features = extractor(window.numpy(), sampling_rate=rate, return_tensors="pt")
            sound_embedding = model.get_audio_features(
                input_features=features["input_features"].to(model.device, model.dtype), is_longer=features["is_longer"].to(model.device)
            ).pooler_output
            cosines.append(torch.cosine_similarity(text_embedding, sound_embedding).item())
        return {"similarity": sum(cosines) / len(cosines)}


def max_text_tokens(model: Any) -> int:
    """Longest text, in tokens; RoBERTa does not use its first two positions."""
    return model.config.text_config.max_position_embeddings - 2
