"""Which words belong to a clip: of a recording that becomes several clips, each gets what is said in it and not the whole."""

from __future__ import annotations

import math
from typing import Any

from baton_lightning.shards.source import Source, Word

REPEATS = ("none", "caption", "all")
"""Texts without times that may stand on each of several clips of a recording."""


def words_of(values: Any, place: str) -> tuple[Word, ...]:
    """Words of a row, in the order of time.

    Raises:
        ValueError: With the row's place, if they are something else.
    """
    wanted = f'{place}: words must be a list of {{"text": ..., "start": s, "end": s}}, each perhaps with its "speaker"'
    if values is None:
        return ()
    if not isinstance(values, list):
        raise ValueError(f"{wanted}; got {values!r}")
    made = []
    for value in values:
        try:
            word = Word(value["text"].strip(), float(value["start"]), float(value["end"]), value.get("speaker") or "")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{wanted}; got {value!r}") from error
        if not 0 <= word.start <= word.end < math.inf or not isinstance(word.speaker, str):
            raise ValueError(f"{wanted}, 0 <= start <= end; got {value!r}")
        made.append(word)
    return tuple(sorted(made, key=lambda word: (word.start, word.end)))


def untimed(source: Source, num_clips: int, repeat: str) -> str:
    """Why a recording's texts cannot be given to so many clips; empty if they can."""
    if num_clips < 2 or repeat == "all":
        return ""
    texts = ["speech"] if source.speech else []
    if repeat == "none":
        texts.insert(0, "caption")
    if not texts:
        return ""
    fix = "give a row with start and end for each passage" + (", or `words` with times" if source.speech else "")
    allowed = "all" if source.speech else "caption"
    return f"its {' and '.join(texts)} would stand on each of {num_clips} clips; {fix}, or --cut first, or --repeat {allowed}"


def said_in(source: Source, start: float, seconds: float) -> tuple[str, list[str]]:
    """What is said in a clip, and by whom. A word belongs to the clip that its middle lies in.

    Args:
        source: With words, or with speech that stands for the clip.
        start: Where the clip begins, in s from the first picture.
        seconds: Its duration.
    """
    if not source.words:
        return source.speech, list(source.speakers)
    words = [word for word in source.words if start <= (word.start + word.end) / 2 < start + seconds]
    named = list(dict.fromkeys(word.speaker for word in words if word.speaker))
    return " ".join(word.text for word in words), named or (list(source.speakers) if words else [])
