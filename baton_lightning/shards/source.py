"""One source of a data set, read from its row in the list: a recording, or a part of one, with its captions and words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Word(NamedTuple):
    """A spoken word with its time.

    Args:
        text: One word, or several.
        start: Its start, in s from the first picture of the recording.
        end: Its end, likewise.
        speaker: Name of the speaker; empty if unknown.
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
        video_prompt: Description of the picture; empty if unknown.
        audio_prompt: Description of the sound; empty if unknown.
        speakers: Names of the speakers.
        speech: Spoken text; empty if unknown.
        split: Split of the set to which it belongs.
        start: Start of the part, in s from the first picture.
        end: End of the part, likewise; ``None`` = the end of the recording.
        words: Spoken words with their times; empty if unknown.
        refused: Reason why it cannot be read; empty if it can.
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
