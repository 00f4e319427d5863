"""What a data set is built from, once its row is read: a recording, or a part of one, with its captions and words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Word(NamedTuple):
    """Something said, with its time.

    Args:
        text: One word, or more.
        start: When it begins, in s from the first picture of the recording.
        end: When it ends.
        speaker: Who says it; empty if nobody is named.
    """

    text: str
    start: float
    end: float
    speaker: str = ""


@dataclass(frozen=True)
class Source:
    """A recording, or a part of one, with its captions.

    Args:
        key: Name, unique in the set; letters, digits, ``-`` and ``_``.
        file: Media file.
        video_prompt: What is seen; empty if nobody said.
        audio_prompt: What is heard; empty if nobody said.
        speakers: Who speaks.
        speech: What is said; empty if nobody said.
        split: Part of the set.
        start: Where the part begins, in s from the first picture.
        end: Where it ends, likewise; ``None`` = with the recording.
        words: What is said, each word with its time; empty if nobody said.
        refused: Why it is not read; empty if it is.
    """

    key: str
    file: Path
    video_prompt: str
    audio_prompt: str
    speakers: tuple[str, ...]
    speech: str
    split: str
    start: float = 0.0
    end: float | None = None
    words: tuple[Word, ...] = ()
    refused: str = ""
