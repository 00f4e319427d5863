"""What a clip was asked to be: the prompts that `generate` takes, and who should say what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LETTERS = {"ja": r"[\u3040-\u30ff]", "ko": r"[\uac00-\ud7af\u1100-\u11ff]", "th": r"[\u0e00-\u0e7f]", "zh": r"[\u3400-\u4dbf\u4e00-\u9fff]"}
"""Languages whose letters show that a text is not English, and that are not written in words between blanks."""


def language_of(text: str) -> str:
    """Language that the letters of a text show, ISO 639-1; ``en`` if none of :data:`LETTERS` are there."""
    return next((language for language, letters in LETTERS.items() if re.search(letters, text)), "en")


@dataclass(frozen=True)
class Line:
    """Something that should be said.

    Args:
        speaker: Who says it; empty if nobody is named.
        text: The words.
    """

    speaker: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """What a clip was asked to be.

    Args:
        video_prompt: What is seen.
        audio_prompt: What is heard.
        speech: What is said, in order; empty if nobody speaks.
        language: Of the speech, ISO 639-1; what its letters show where nobody says, or where they say otherwise.
        tier: Which part of a benchmark it is from.
    """

    video_prompt: str
    audio_prompt: str
    speech: tuple[Line, ...] = ()
    language: str = "en"
    tier: str = "all"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Prompt:
        """From JSON values; what else they hold is left alone.

        Args:
            values: ``video_prompt``, ``audio_prompt``; ``speech`` is one text, or a list of ``{"speaker": ..., "text": ...}``.
            where: Named in errors.

        Raises:
            ValueError: If something is missing or of another type.
        """
        for name in ("video_prompt", "audio_prompt"):
            if not isinstance(values.get(name), str):
                raise ValueError(f"{where}: {name} must be a text, got {values.get(name)!r}")
        speech = values.get("speech") or []
        if isinstance(speech, str):
            named = values.get("speakers") or [""]
            speech = [{"speaker": named[0] if len(named) == 1 else "", "text": speech}]
        try:
            lines = tuple(Line(str(line.get("speaker", "")), line["text"]) for line in speech)
        except (AttributeError, KeyError, TypeError) as error:
            wanted = 'a text or a list of {"speaker": ..., "text": ...}'
            raise ValueError(f"{where}: speech must be {wanted}, got {values['speech']!r}") from error
        language = values.get("language", "en")
        if language == "en":
            language = language_of(" ".join(line.text for line in lines))
        return cls(values["video_prompt"], values["audio_prompt"], lines, language, values.get("tier", "all"))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without a tier where there is but one; ``from_dict`` gives the prompt back."""
        values = {
            "video_prompt": self.video_prompt,
            "audio_prompt": self.audio_prompt,
            "speech": [{"speaker": line.speaker, "text": line.text} for line in self.speech],
            "language": self.language,
        }
        return values if self.tier == "all" else values | {"tier": self.tier}
