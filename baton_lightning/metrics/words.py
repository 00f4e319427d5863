"""Words as recognisers are scored by: normalised first, then compared by the fewest edits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Normaliser = Callable[[str], str]


def english(spellings: str | None = None) -> Normaliser:
    """Whisper's normaliser of English: case, punctuation, contractions, numbers, fillers and, given a list, British spellings.

    Args:
        spellings: The ``normalizer.json`` that comes with a Whisper checkpoint; ``None`` leaves spellings alone.

    Raises:
        ValueError: If the list is not there.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    if spellings is None:
        return EnglishTextNormalizer({})
    if not Path(spellings).is_file():
        raise ValueError(f"spellings must be the normalizer.json of a Whisper checkpoint, got {spellings}, which is not a file")
    return EnglishTextNormalizer(json.loads(Path(spellings).read_text()))


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Fewest substitutions, deletions and insertions of words that turn one text into the other (Levenshtein)."""
    ids = {word: i for i, word in enumerate({*reference, *hypothesis})}
    said = np.array([ids[word] for word in hypothesis], dtype=np.int64)
    steps = np.arange(len(said) + 1)
    row = steps.copy()
    for deleted, word in enumerate(reference, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (said != ids[word]))
        row = np.minimum.accumulate(np.concatenate([[deleted], best]) - steps) + steps  # insertions run along the row
    return int(row[-1])
