"""Word error rate of recognised speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baton_lightning.metrics.clips import ClipExcluded
from baton_lightning.metrics.result import ClipMetric
from baton_lightning.metrics.words import UNSPACED, Normaliser, edit_distance, normaliser_of

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip


class WordErrors(ClipMetric):
    """Base class of WER and cpWER: sum of errors divided by sum of words, of normalised texts.

    Args:
        measured_by: Protocol of the recogniser.
        normaliser: Applied to reference and hypothesis; ``None`` = Whisper's for the language of the prompt's speech.
    """

    better = "down"
    counted: str
    """Which errors are counted; part of the protocol."""

    def __init__(self, measured_by: str = "", normaliser: Normaliser | None = None) -> None:
        super().__init__(measured_by)
        self.own = normaliser
        self.normalisers: dict[str, Normaliser] = {}
        whisper = f"Whisper's normalisers, English spellings left alone, {', '.join(UNSPACED)} by characters"
        self.normalised = whisper if normaliser is None else "a normaliser of the caller's"
        for state in ("errors", "words"):
            self.add_state(state, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def protocol(self) -> str:  # type: ignore[override]
        return f"{self.counted}, errors summed / words summed, {self.normalised}"

    @classmethod
    def check_clip(cls, clip: Clip) -> None:
        reference_speech(clip)

    def words_of(self, text: str, language: str) -> list[str]:
        """Normalised words; characters in a language without blanks."""
        if self.own is None and language not in self.normalisers:
            self.normalisers[language] = normaliser_of(language)
        return (self.own or self.normalisers[language])(text).split()

    def compute(self) -> dict[str, Tensor]:
        rate = self.errors.double() / self.words  # nan if there are no words
        return {self.name: rate, "n": self.n, "errors": self.errors, "words": self.words}


class WordErrorRate(WordErrors):
    """WER of all speakers together. See :class:`WordErrors`."""

    name = "WER"
    counted = "all speakers in one text"

    def update(self, references: Sequence[str], hypotheses: Sequence[str], languages: Sequence[str] | None = None) -> None:
        """Adds clips.

        Args:
            references: The prompt's speech, one text per clip.
            hypotheses: Recognised speech, one text per clip.
            languages: Language of the speech, ISO 639-1, one per clip; ``None`` = English.
        """
        for reference, hypothesis, language in zip(references, hypotheses, languages or ["en"] * len(references), strict=True):
            words = self.words_of(reference, language)
            self.errors += edit_distance(words, self.words_of(hypothesis, language))
            self.words += len(words)
            self.n += 1

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        reference = " ".join(text for _, text in reference_speech(clip))
        self.update([reference], [transcript_text(measured)], [clip.prompt.language])


def reference_speech(clip: Clip) -> list[tuple[str, str]]:
    """The prompt's speech, as (speaker, text).

    Raises:
        ClipExcluded: If the prompt has no speech.
    """
    if not clip.prompt.speech:
        raise ClipExcluded("the prompt has no speech")
    return [(line.speaker, line.text) for line in clip.prompt.speech]


def transcript_text(measured: Mapping[str, Any]) -> str:
    """Text of a transcript, all speakers in order."""
    return " ".join(segment["text"] for segment in measured["segments"])
