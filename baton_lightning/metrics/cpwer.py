"""M-WER: word error rate of several speakers, as cpWER and as the attributed word error rate.

cpWER (Watanabe et al. 2020) concatenates each speaker's words, compares every reference speaker with every recognised speaker, and takes
the assignment with the fewest errors. Errors are counted per speaker: [the cat sat | on] against [the cat | sat on] is 0.5. cpWER does not
depend on speakers' names, so it does not detect right words spoken by the wrong person. The attributed rate does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from baton_lightning.metrics.clips import ClipExcluded
from baton_lightning.metrics.wer import WordErrors, reference_speech
from baton_lightning.metrics.words import edit_distance

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip

Speakers = Mapping[str, str]
"""Speaker -> the speaker's words, in order."""


class SpeakerErrors(WordErrors):
    """Sum of the errors of all speakers. See :class:`~baton_lightning.metrics.wer.WordErrors`."""

    def update(self, references: Sequence[Speakers], hypotheses: Sequence[Speakers], languages: Sequence[str] | None = None) -> None:
        """Adds clips.

        Args:
            references: The prompt's speech, one mapping per clip.
            hypotheses: Recognised speech, one mapping per clip, with any number of speakers (also none).
            languages: Language of the speech, ISO 639-1, one per clip; ``None`` = English.
        """
        for reference, hypothesis, language in zip(references, hypotheses, languages or ["en"] * len(references), strict=True):
            reference_words = {speaker: self.words_of(text, language) for speaker, text in reference.items()}
            hypothesis_words = {speaker: self.words_of(text, language) for speaker, text in hypothesis.items()}
            self.errors += self.count_errors(reference_words, hypothesis_words)
            self.words += sum(map(len, reference_words.values()))
            self.n += 1

    def count_errors(self, reference_words: Mapping[str, list[str]], hypothesis_words: Mapping[str, list[str]]) -> int:
        """Number of errors of one clip."""
        raise NotImplementedError

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        references, hypotheses = join_by_speaker(reference_speech(clip)), join_by_speaker(recognised_lines(measured))
        self.update([references], [hypotheses], [clip.prompt.language])


class CpWordErrorRate(SpeakerErrors):
    """cpWER: errors under the best assignment of recognised speakers to reference speakers."""

    name = "M-WER"
    counted = "cpWER: per speaker, best assignment"

    def count_errors(self, reference_words: Mapping[str, list[str]], hypothesis_words: Mapping[str, list[str]]) -> int:
        from scipy.optimize import linear_sum_assignment

        pairs = max(len(reference_words), len(hypothesis_words))
        rows = [*reference_words.values(), *([[]] * (pairs - len(reference_words)))]  # missing speakers have no words
        columns = [*hypothesis_words.values(), *([[]] * (pairs - len(hypothesis_words)))]
        costs = np.array([[edit_distance(row, column) for column in columns] for row in rows], dtype=np.int64).reshape(pairs, pairs)
        return int(costs[linear_sum_assignment(costs)].sum())


class AttributedWordErrorRate(SpeakerErrors):
    """Errors per named speaker: words spoken by the wrong speaker are deletions for one and insertions for the other."""

    name = "M-WER-attributed"
    counted = "per named speaker"

    def count_errors(self, reference_words: Mapping[str, list[str]], hypothesis_words: Mapping[str, list[str]]) -> int:
        speakers = {*reference_words, *hypothesis_words}
        return sum(edit_distance(reference_words.get(speaker, []), hypothesis_words.get(speaker, [])) for speaker in speakers)

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        if not measured.get("named", False):
            raise ClipExcluded("the recogniser's speakers are anonymous; they must have the prompt's names (`named: true`)")
        super().add(clip, measured)


def recognised_lines(measured: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines of a transcript with speakers, as (speaker, text).

    Raises:
        ClipExcluded: If the transcript has no speakers.
    """
    if any("speaker" not in segment for segment in measured["segments"]):
        raise ClipExcluded("the recogniser does not tell speakers apart")
    return [(segment["speaker"], segment["text"]) for segment in measured["segments"]]


def join_by_speaker(lines: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Each speaker's lines, joined to one text."""
    texts: dict[str, str] = {}
    for speaker, text in lines:
        texts[speaker] = f"{texts[speaker]} {text}" if speaker in texts else text
    return texts
