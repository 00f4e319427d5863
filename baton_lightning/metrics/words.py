"""Text normalisation and edit distance for word error rates."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Normaliser = Callable[[str], str]
UNSPACED = ("ja", "th", "zh")
"""Languages that are written without blanks between words, ISO 639-1. Their errors are counted in characters."""


def english_normaliser(spellings: str | None = None) -> Normaliser:
    """Whisper's normaliser of English: case, punctuation, contractions, numbers, fillers and, with a list, British spellings.

    Args:
        spellings: Path of the ``normalizer.json`` of a Whisper checkpoint; ``None`` does not normalise spellings.

    Raises:
        ValueError: If the file does not exist.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    if spellings is None:
        return EnglishTextNormalizer({})
    if not Path(spellings).is_file():
        raise ValueError(f"spellings must be the normalizer.json of a Whisper checkpoint, but {spellings} is not a file")
    return EnglishTextNormalizer(json.loads(Path(spellings).read_text()))


def normaliser_of(language: str) -> Normaliser:
    """Whisper's normaliser of a language: case and punctuation, in English also words; words of :data:`UNSPACED` are characters.

    Args:
        language: ISO 639-1.
    """
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return english_normaliser() if language == "en" else BasicTextNormalizer(split_letters=language in UNSPACED)


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance in words: the smallest number of substitutions, deletions and insertions."""
    ids = {word: i for i, word in enumerate({*reference, *hypothesis})}
    hypothesis_ids = np.array([ids[word] for word in hypothesis], dtype=np.int64)
    steps = np.arange(len(hypothesis_ids) + 1)
    row = steps.copy()
    for deleted, word in enumerate(reference, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (hypothesis_ids != ids[word]))
        row = np.minimum.accumulate(np.concatenate([[deleted], best]) - steps) + steps  # insertions run along the row
    return int(row[-1])
