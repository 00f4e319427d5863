"""Events of a scene: actions of objects, with the times that picture and sound share."""

from __future__ import annotations

from dataclasses import dataclass

from baton_lightning.world import vocabulary as v


@dataclass(frozen=True)
class Event:
    """An action of an object. Its anchors are times that picture and sound share.

    Args:
        kind: One of :data:`~baton_lightning.world.vocabulary.KINDS`.
        actor: Colour of the object that acts.
        start: Start, in s.
        target: Colour of the object that is hit.
        column: Final column of a slide.
        words: Words of an utterance.
    """

    kind: str
    actor: str
    start: float = 0.0
    target: str | None = None
    column: int | None = None
    words: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration, in s; an utterance ends with its last word, without a pause."""
        return {
            "says": v.word_start(len(self.words)) - v.PAUSE_SECONDS,
            "jumps": v.JUMP_SECONDS,
            "hits": v.DASH_SECONDS + v.RETURN_SECONDS,
            "flashes": v.FLASH_SECONDS,
            "slides": v.SLIDE_SECONDS,
        }[self.kind]

    @property
    def anchors(self) -> tuple[float, ...]:
        """Times, in s, that picture and sound share: centre of each word, landing, contact, centre of the flash, middle of the slide."""
        if self.kind == "says":
            return tuple(self.start + v.word_start(k) + v.WORD_SECONDS / 2 for k in range(len(self.words)))
        after = {"jumps": v.JUMP_SECONDS, "hits": v.DASH_SECONDS, "flashes": v.FLASH_SECONDS / 2, "slides": v.SLIDE_SECONDS / 2}
        return (self.start + after[self.kind],)

    @property
    def following(self) -> float:
        """Start of the next event, in s, without jitter: the schedule follows from the prompt."""
        pause = v.PAUSE_SECONDS if self.kind == "says" else 0.0
        return round(self.start + self.seconds + pause + v.BETWEEN_EVENTS, 6)
