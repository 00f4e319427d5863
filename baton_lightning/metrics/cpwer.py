"""M-WER: word error rate of several speakers, as cpWER and as the attributed variant.

cpWER (Watanabe et al. 2020) concatenates each speaker's words, scores every reference speaker against every recognised one,
and takes the assignment with the fewest errors. Edits never cross speakers: [the cat sat | on] against [the cat | sat on] is
0.5. It forgives any consistent renaming, so it is blind to the right words from the wrong body; the attributed rate is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from baton_lightning.metrics.clips import LeftOut
from baton_lightning.metrics.wer import WordErrors, spoken
from baton_lightning.metrics.words import edits

if TYPE_CHECKING:
    from baton_lightning.metrics.clips import Clip

Speakers = Mapping[str, str]
"""Speaker -> everything that speaker says, in order."""


class SpeakerErrors(WordErrors):
    """Errors a speaker, summed. See :class:`~baton_lightning.metrics.wer.WordErrors`."""

    def update(self, references: Sequence[Speakers], hypotheses: Sequence[Speakers]) -> None:
        """Counts clips.

        Args:
            references: Who should say what, one mapping a clip.
            hypotheses: Who was recognised to say what; any number of speakers, none included.
        """
        for reference, hypothesis in zip(references, hypotheses, strict=True):
            asked = {speaker: self.words_of(text) for speaker, text in reference.items()}
            heard = {speaker: self.words_of(text) for speaker, text in hypothesis.items()}
            self.errors += self.fewest(asked, heard)
            self.words += sum(map(len, asked.values()))
            self.n += 1

    def fewest(self, asked: Mapping[str, list[str]], heard: Mapping[str, list[str]]) -> int:
        """Errors of one clip under the rule of the metric."""
        raise NotImplementedError

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        self.update([together(spoken(clip))], [together(heard_lines(measured))])


class CpWordErrorRate(SpeakerErrors):
    """cpWER: errors under the best assignment of recognised speakers to reference speakers."""

    name = "M-WER"
    counted = "cpWER: per speaker, best assignment"

    def fewest(self, asked: Mapping[str, list[str]], heard: Mapping[str, list[str]]) -> int:
        from scipy.optimize import linear_sum_assignment

        pairs = max(len(asked), len(heard))
        rows = [*asked.values(), *([[]] * (pairs - len(asked)))]  # a speaker too few or too many is one who says nothing
        columns = [*heard.values(), *([[]] * (pairs - len(heard)))]
        costs = np.array([[edits(row, column) for column in columns] for row in rows], dtype=np.int64).reshape(pairs, pairs)
        return int(costs[linear_sum_assignment(costs)].sum())


class AttributedWordErrorRate(SpeakerErrors):
    """Errors where the speaker counts: right words from the wrong body are deletions there and insertions here."""

    name = "M-WER-attributed"
    counted = "per named speaker"

    def fewest(self, asked: Mapping[str, list[str]], heard: Mapping[str, list[str]]) -> int:
        return sum(edits(asked.get(speaker, []), heard.get(speaker, [])) for speaker in {*asked, *heard})

    def add(self, clip: Clip, measured: Mapping[str, Any]) -> None:
        if not measured.get("named", False):
            raise LeftOut("the recogniser's speakers are anonymous; it must name them as the prompt does (`named: true`)")
        super().add(clip, measured)


def heard_lines(measured: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a diarising recogniser heard, as (speaker, text).

    Raises:
        LeftOut: If it does not tell speakers apart.
    """
    if any("speaker" not in segment for segment in measured["segments"]):
        raise LeftOut("the recogniser does not tell speakers apart")
    return [(segment["speaker"], segment["text"]) for segment in measured["segments"]]


def together(lines: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Each speaker's words in order, as one text."""
    said: dict[str, str] = {}
    for speaker, text in lines:
        said[speaker] = f"{said[speaker]} {text}" if speaker in said else text
    return said
