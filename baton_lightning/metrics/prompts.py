"""Prompts of clips: the video and audio prompts of `generate`, and the speech with its speakers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LETTERS = {"ja": r"[\u3040-\u30ff]", "ko": r"[\uac00-\ud7af\u1100-\u11ff]", "th": r"[\u0e00-\u0e7f]", "zh": r"[\u3400-\u4dbf\u4e00-\u9fff]"}
"""Languages that are recognised by their script. They are written without blanks between words."""


def language_of(text: str) -> str:
    """Language of a text by its script, ISO 639-1; ``en`` if it has no letters of :data:`LETTERS`."""
    return next((language for language, letters in LETTERS.items() if re.search(letters, text)), "en")


@dataclass(frozen=True)
class Line:
    """A line of speech in a prompt.

    Args:
        speaker: Name of the speaker; empty if the prompt names none.
        text: The words.
    """

    speaker: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """Prompt of a clip.

    Args:
        video_prompt: Description of the picture.
        audio_prompt: Description of the sound.
        speech: Lines of speech, in order; empty if nobody speaks.
        language: Language of the speech, ISO 639-1. Instead of ``en``, :meth:`from_dict` takes the language of the script.
        tier: Part of the benchmark to which the prompt belongs.
    """

    video_prompt: str
    audio_prompt: str
    speech: tuple[Line, ...] = ()
    language: str = "en"
    tier: str = "all"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Prompt:
        """A prompt from JSON values; other fields are ignored.

        Args:
            values: ``video_prompt``, ``audio_prompt``; ``speech`` is one text, or a list of ``{"speaker": ..., "text": ...}``.
            where: Source of the values, for error messages.

        Raises:
            ValueError: If a field is missing or has another type.
        """
        for name in ("video_prompt", "audio_prompt"):
            if not isinstance(values.get(name), str):
                raise ValueError(f"{where}: {name} must be a text, got {values.get(name)!r:.60}")
        speech = values.get("speech") or []
        if isinstance(speech, str):
            named = values.get("speakers") or [""]
            speech = [{"speaker": named[0] if len(named) == 1 else "", "text": speech}]
        try:
            lines = tuple(Line(str(line.get("speaker", "")), line["text"]) for line in speech)
            if not all(isinstance(line.text, str) for line in lines):
                raise TypeError("a line that is not a text")
        except (AttributeError, KeyError, TypeError) as error:
            expected = 'a text or a list of {"speaker": ..., "text": ...}'
            raise ValueError(f"{where}: speech must be {expected}, got {values['speech']!r:.200}") from error
        language = values.get("language", "en")
        if wrong := [name for name in ("language", "tier") if not isinstance(values.get(name, ""), str)]:
            raise ValueError(f"{where}: {wrong[0]} must be a text, got {values[wrong[0]]!r:.60}")
        if language == "en":
            language = language_of(" ".join(line.text for line in lines))
        return cls(values["video_prompt"], values["audio_prompt"], lines, language, values.get("tier", "all"))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the inverse of ``from_dict``; the default tier ``all`` is omitted."""
        values = {
            "video_prompt": self.video_prompt,
            "audio_prompt": self.audio_prompt,
            "speech": [{"speaker": line.speaker, "text": line.text} for line in self.speech],
            "language": self.language,
        }
        return values if self.tier == "all" else values | {"tier": self.tier}
