"""One thing an object does, with the moments that picture and sound share."""

from __future__ import annotations

from dataclasses import dataclass

from baton_lightning.world import vocabulary as v


@dataclass(frozen=True)
class Event:
    """One thing an object does. Picture and sound share its anchors.

    Args:
        kind: One of :data:`~baton_lightning.world.vocabulary.KINDS`.
        actor: Colour of the object that acts.
        start: When it begins, in s.
        target: Colour of the object that is hit.
        column: Column that a slide ends in.
        words: Words that are said.
    """

    kind: str
    actor: str
    start: float = 0.0
    target: str | None = None
    column: int | None = None
    words: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration; an utterance ends with its last word, without a pause."""
        return {
            "says": v.word_start(len(self.words)) - v.PAUSE_SECONDS,
            "jumps": v.JUMP_SECONDS,
            "hits": v.DASH_SECONDS + v.RETURN_SECONDS,
            "flashes": v.FLASH_SECONDS,
            "slides": v.SLIDE_SECONDS,
        }[self.kind]

    @property
    def anchors(self) -> tuple[float, ...]:
        """Moments, in s, that picture and sound share: the centre of each word, landing, contact, centre of the flash, half way."""
        if self.kind == "says":
            return tuple(self.start + v.word_start(k) + v.WORD_SECONDS / 2 for k in range(len(self.words)))
        after = {"jumps": v.JUMP_SECONDS, "hits": v.DASH_SECONDS, "flashes": v.FLASH_SECONDS / 2, "slides": v.SLIDE_SECONDS / 2}
        return (self.start + after[self.kind],)

    @property
    def following(self) -> float:
        """When the next event starts, in s, unless it is delayed: the schedule follows from the prompt."""
        pause = v.PAUSE_SECONDS if self.kind == "says" else 0.0
        return round(self.start + self.seconds + pause + v.BETWEEN_EVENTS, 6)
