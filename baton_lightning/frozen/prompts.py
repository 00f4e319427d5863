"""Formats that join a video prompt and an audio prompt to the text on which a generator was trained."""

from __future__ import annotations

import re

QUOTED = re.compile(r"[\"“]([^\"“”]+)[\"”]")


class PromptFormat:
    """Joins a clip's video prompt and audio prompt to one text; by default with a blank.

    Args:
        template: Text with the placeholders ``{video}`` and ``{audio}``.
        speech: Text with the placeholder ``{speech}`` that replaces quoted speech in both prompts; ``None`` keeps the quotes.

    Raises:
        ValueError: If a placeholder is missing.
    """

    def __init__(self, template: str = "{video} {audio}", speech: str | None = None) -> None:
        for name, text, required in (("template", template, ("{video}", "{audio}")), ("speech", speech, ("{speech}",))):
            if missing := [placeholder for placeholder in required if text is not None and placeholder not in text]:
                raise ValueError(f"PromptFormat: {name} must hold {' and '.join(missing)}, got {text!r}")
        self.template, self.speech = template, speech

    def __call__(self, video_prompt: str, audio_prompt: str) -> str:
        """The joined text; the video prompt alone if the audio prompt is empty."""
        video, audio = (self._speech(text) for text in (video_prompt, audio_prompt))
        if not audio.strip():
            return video
        return re.sub(r"\{(video|audio)\}", lambda found: {"video": video, "audio": audio}[found[1]], self.template)

    def _speech(self, text: str) -> str:
        if self.speech is None:
            return text
        return QUOTED.sub(lambda found: str(self.speech).replace("{speech}", found[1]), text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.template!r}, {self.speech!r})"


class Ovi720(PromptFormat):
    """Tags of Ovi 1.0 (720 x 720): ``... <S>speech<E> ... <AUDCAP>sounds<ENDAUDCAP>``."""

    def __init__(self) -> None:
        super().__init__("{video} <AUDCAP>{audio}<ENDAUDCAP>", "<S>{speech}<E>")


class Ovi960(PromptFormat):
    """Tags of Ovi 1.1 (960 x 960): ``... <S>speech<E> ... Audio: sounds``."""

    def __init__(self) -> None:
        super().__init__("{video} Audio: {audio}", "<S>{speech}<E>")
