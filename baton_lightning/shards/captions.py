"""Captions of clips. Each clip of a recording gets the words that are spoken in it."""

from __future__ import annotations

import math
from typing import Any

from baton_lightning.shards.source import Source, Word

REPEATS = ("none", "caption", "all")
"""Which texts without times may be repeated for each of several clips of a recording."""


def words_of(values: Any, place: str) -> tuple[Word, ...]:
    """Words of a row, sorted by time.

    Args:
        values: Value of the column ``words``; ``None`` gives no words.
        place: File and line of the row, for error messages.

    Raises:
        ValueError: If they have another format; the message names the row.
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


def reason_untimed(source: Source, num_clips: int, repeat: str) -> str:
    """Reason why a recording's texts cannot be used for several clips; empty if they can."""
    if num_clips < 2 or repeat == "all":
        return ""
    texts = ["speech"] if source.speech else []
    if repeat == "none":
        texts.insert(0, "caption")
    if not texts:
        return ""
    fix = "give a row with start and end for each passage" + (", or `words` with times" if source.speech else "")
    allowed = "all" if source.speech else "caption"
    return f"its {' and '.join(texts)} would be repeated on each of {num_clips} clips; {fix}, or --cut first, or --repeat {allowed}"


def speech_of_clip(source: Source, start: float, seconds: float) -> tuple[str, list[str]]:
    """Speech and speakers of a clip. A word belongs to the clip that contains its middle.

    Args:
        source: Row of a recording, with words or with speech.
        start: Start of the clip, in s from the first picture.
        seconds: Its duration.
    """
    if not source.words:
        return source.speech, list(source.speakers)
    words = [word for word in source.words if start <= (word.start + word.end) / 2 < start + seconds]
    named = list(dict.fromkeys(word.speaker for word in words if word.speaker))
    return " ".join(word.text for word in words), named or (list(source.speakers) if words else [])
