"""Speech recognisers: Whisper, without speakers, and MOSS-Transcribe-Diarize, with speakers.

Transcripts of other recognisers or of people are read by :class:`~baton_lightning.metrics.backend.Recorded`.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from baton_lightning.frozen.downloads import explain_weight_errors
from baton_lightning.metrics.backend import Measured, default_device
from baton_lightning.metrics.clips import ClipExcluded

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip

RATE = 16000
LONGEST = 30
"""Whisper's longest input, in s."""


class Whisper:
    """Whisper with greedy decoding, in the language of the prompt's speech.

    Args:
        name_or_path: Hub name or a local directory.
        device: Device of the network; ``None`` = the GPU, if there is one.
    """

    def __init__(self, name_or_path: str = "openai/whisper-large-v3", device: str | None = None) -> None:
        self.name, self.device = name_or_path, device

    @property
    def protocol(self) -> str:
        return f"Whisper {self.name}, greedy, in the prompt's language"

    @cached_property
    def network(self) -> tuple[Any, Any, Any]:
        """Model, feature extractor, tokenizer."""
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

        with explain_weight_errors(self.name, licence="Apache-2.0 (OpenAI's Whisper)"):
            model = WhisperForConditionalGeneration.from_pretrained(self.name).eval().to(self.device or default_device())
            return model, WhisperFeatureExtractor.from_pretrained(self.name), WhisperTokenizerFast.from_pretrained(self.name)

    @torch.inference_mode()
    def measure(self, clip: Clip) -> Measured:
        """``{"segments": [{"text": ...}]}``.

        Raises:
            ClipExcluded: If the clip is too long, or its speech in a language that the checkpoint does not know.
        """
        sound = clip.sound(RATE)
        if len(sound) > LONGEST * RATE:
            raise ClipExcluded(f"longer than the {LONGEST} s of Whisper's input")
        model, extractor, tokenizer = self.network
        language, multilingual = clip.prompt.language, getattr(model.generation_config, "is_multilingual", False)
        if f"<|{language}|>" not in (model.generation_config.lang_to_id if multilingual else {"<|en|>"}):
            raise ClipExcluded(f"the prompt's speech is in {language}, which {self.name} does not know")
        features = extractor(sound.numpy(), sampling_rate=RATE, return_tensors="pt").input_features
        language_options = {"language": language, "task": "transcribe"} if multilingual else {}
        ids = model.generate(features.to(model.device, model.dtype), num_beams=1, do_sample=False, **language_options)
        return {"segments": [{"text": tokenizer.decode(ids[0], skip_special_tokens=True).strip()}]}


class MossDiariser:
    """MOSS-Transcribe-Diarize with greedy decoding. Its speakers are anonymous, so the attributed error rate needs another recogniser.

    Args:
        name_or_path: Hub name or a local directory.
        max_new_tokens: Longest transcript, in tokens.
        device: Device of the network; ``None`` = the GPU, if there is one.
    """

    def __init__(
        self, name_or_path: str = "hf-audio/MOSS-Transcribe-Diarize-HF", max_new_tokens: int = 1024, device: str | None = None
    ) -> None:
        self.name, self.max_new_tokens, self.device = name_or_path, max_new_tokens, device

    @property
    def protocol(self) -> str:
        return f"MOSS-Transcribe-Diarize {self.name}, greedy"

    @cached_property
    def network(self) -> tuple[Any, Any]:
        """Model and processor."""
        from transformers import MossTranscribeDiarizeForConditionalGeneration, MossTranscribeDiarizeProcessor

        with explain_weight_errors(self.name, licence="Apache-2.0 (OpenMOSS)"):
            model = MossTranscribeDiarizeForConditionalGeneration.from_pretrained(self.name)
            return model.eval().to(self.device or default_device()), MossTranscribeDiarizeProcessor.from_pretrained(self.name)

    @torch.inference_mode()
    def measure(self, clip: Clip) -> Measured:
        """``{"segments": [{"speaker": "S01", "text": ...}, ...], "named": false}``."""
        sound = clip.sound(RATE)
        model, processor = self.network
        inputs = processor.apply_transcription_request(audio=sound.numpy()).to(model.device)
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=self.max_new_tokens)[0, inputs["input_ids"].shape[1] :]
        return {"segments": segments(processor.decode(ids, return_format="parsed")), "named": False}


def segments(parsed: list[dict[str, Any]] | str) -> list[dict[str, str]]:
    """Speaker and text of every segment. A transcript without speaker marks is one segment; an empty one has none."""
    if isinstance(parsed, str):
        return [{"speaker": "unmarked", "text": parsed.strip()}] if parsed.strip() else []
    return [{"speaker": f"S{part['Speaker']:02d}", "text": part["Content"]} for part in parsed]
