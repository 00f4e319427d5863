"""Names that only what came before resolves: the other one, the one that was hit, the same words as the first speaker.

The sampler draws events that can be named so, prompts name them so, and the parser finds out who was meant; all three ask here.
"""

from __future__ import annotations

from collections.abc import Sequence

from baton_lightning.world.events import Event

OTHER, WAS_HIT = "the other one", "the one that was hit"
SAME_WORDS = "the same words as the first speaker"


def referable(colours: Sequence[str], before: Sequence[Event]) -> dict[str, str]:
    """Objects that the next event can name without colour and shape.

    Args:
        colours: Colours of the scene's objects.
        before: Events so far.

    Returns:
        Colour by reference: ``the one that was hit``, if only one ever was; ``the other one`` of two, not the last to act.
    """
    hit = {e.target for e in before if e.target is not None}
    meant = {WAS_HIT: hit.pop()} if len(hit) == 1 else {}
    if before and len(colours) == 2:
        meant[OTHER] = next(c for c in colours if c != before[-1].actor)
    return meant


def reference(colours: Sequence[str], before: Sequence[Event], actor: str) -> str | None:
    """How the next event may name its actor, if there is a way."""
    return next((name for name, colour in referable(colours, before).items() if colour == actor), None)


def echoed_words(before: Sequence[Event], actor: str) -> tuple[str, ...] | None:
    """The words that ``the same words as the first speaker`` would be, said next by this actor: someone else's first ones."""
    first = next((e for e in before if e.kind == "says"), None)
    return first.words if first is not None and first.actor != actor else None
