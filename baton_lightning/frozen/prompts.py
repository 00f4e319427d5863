"""Two prompts as the one text that a generator was trained to read, with the tags of its make."""

from __future__ import annotations

import re

QUOTED = re.compile(r"[\"“]([^\"“”]+)[\"”]")


class PromptFormat:
    """How a clip's video prompt and audio prompt become one text. The default only joins them.

    Args:
        template: Text that holds ``{video}`` and ``{audio}``.
        speech: Text that holds ``{speech}`` and replaces quoted speech in both prompts; ``None`` leaves the quotes.

    Raises:
        ValueError: If a placeholder is missing.
    """

    def __init__(self, template: str = "{video} {audio}", speech: str | None = None) -> None:
        for name, text, wanted in (("template", template, ("{video}", "{audio}")), ("speech", speech, ("{speech}",))):
            if lacking := [mark for mark in wanted if text is not None and mark not in text]:
                raise ValueError(f"PromptFormat: {name} must hold {' and '.join(lacking)}, got {text!r}")
        self.template, self.speech = template, speech

    def __call__(self, video_prompt: str, audio_prompt: str) -> str:
        """The one text; without a sound to describe, the picture's prompt alone."""
        video, audio = (self._speech(text) for text in (video_prompt, audio_prompt))
        if not audio.strip():
            return video
        return re.sub(r"\{(video|audio)\}", lambda place: {"video": video, "audio": audio}[place[1]], self.template)

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
