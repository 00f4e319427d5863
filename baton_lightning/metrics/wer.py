"""Word error rate: how much of what should be said is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baton_lightning.metrics.clips import LeftOut
from baton_lightning.metrics.result import ClipMetric
from baton_lightning.metrics.words import Normaliser, edits, english

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip


class WordErrors(ClipMetric):
    """Errors summed over words summed, of texts that were normalised first: what WER and cpWER share.

    Args:
        measured_by: Protocol of the recogniser.
        normaliser: Applied to both sides; ``None`` = Whisper's for English.
    """

    better = "down"
    counted: str
    """Which errors, for the record."""

    def __init__(self, measured_by: str = "", normaliser: Normaliser | None = None) -> None:
        super().__init__(measured_by)
        self.normaliser = normaliser or english()
        self.normalised = "Whisper's English normaliser, spellings left alone" if normaliser is None else "a normaliser of the caller's"
        for state in ("errors", "words"):
            self.add_state(state, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def protocol(self) -> str:  # type: ignore[override]
        return f"{self.counted}, errors summed / words summed, {self.normalised}"

    @classmethod
    def require(cls, clip: Clip) -> None:
        spoken(clip)

    def words_of(self, text: str) -> list[str]:
        """Normalised words."""
        return self.normaliser(text).split()

    def compute(self) -> dict[str, Tensor]:
        rate = self.errors.double() / self.words  # nan: no words to be said
        return {self.name: rate, "n": self.n, "errors": self.errors, "words": self.words}


class WordErrorRate(WordErrors):
    """WER, whoever speaks. See :class:`WordErrors`."""

    name = "WER"
    counted = "all speakers in one text"

    def update(self, references: Sequence[str], hypotheses: Sequence[str]) -> None:
        """Counts clips.

        Args:
            references: What should be said, one text a clip.
            hypotheses: What was recognised.
        """
        for reference, hypothesis in zip(references, hypotheses, strict=True):
            words = self.words_of(reference)
            self.errors += edits(words, self.words_of(hypothesis))
            self.words += len(words)
            self.n += 1

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        self.update([" ".join(text for _, text in spoken(clip))], [text_of(measured)])


def spoken(clip: Clip) -> list[tuple[str, str]]:
    """What should be said, as (speaker, text).

    Raises:
        LeftOut: If nothing should be said, or not in English.
    """
    if not clip.prompt.speech:
        raise LeftOut("no speech is asked for")
    if clip.prompt.language != "en":
        raise LeftOut(f"speech is asked for in {clip.prompt.language}, the normaliser is for en")
    return [(line.speaker, line.text) for line in clip.prompt.speech]


def text_of(measured: Mapping[str, Any]) -> str:
    """What a recogniser heard, all speakers together in order."""
    return " ".join(segment["text"] for segment in measured["segments"])
