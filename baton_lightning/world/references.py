"""References to earlier events: the other one, the one that was hit, the same words as the first speaker.

The sampler, the prompts and the parser share these functions.
"""

from __future__ import annotations

from collections.abc import Sequence

from baton_lightning.world.events import Event

OTHER, WAS_HIT = "the other one", "the one that was hit"
SAME_WORDS = "the same words as the first speaker"


def referable(colours: Sequence[str], before: Sequence[Event]) -> dict[str, str]:
    """Objects that the next event can name by a reference.

    Args:
        colours: Colours of the scene's objects.
        before: Earlier events.

    Returns:
        Colour by reference: ``the one that was hit``, if exactly one object was hit; ``the other one``, of two objects the one that did not
        act last.
    """
    hit = {e.target for e in before if e.target is not None}
    referents = {WAS_HIT: hit.pop()} if len(hit) == 1 else {}
    if before and len(colours) == 2:
        referents[OTHER] = next(c for c in colours if c != before[-1].actor)
    return referents


def reference(colours: Sequence[str], before: Sequence[Event], actor: str) -> str | None:
    """Reference by which the next event can name its actor; ``None`` = none."""
    return next((name for name, colour in referable(colours, before).items() if colour == actor), None)


def echoed_words(before: Sequence[Event], actor: str) -> tuple[str, ...] | None:
    """Words of the first utterance, the referent of ``the same words as the first speaker``; ``None`` if this actor is that speaker."""
    first = next((e for e in before if e.kind == "says"), None)
    return first.words if first is not None and first.actor != actor else None
