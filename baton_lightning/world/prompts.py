"""The two prompts of a scene: descriptions of its picture and of its sound.

    a blue square on the left and a cyan triangle in the middle. first the blue square talks. then the cyan triangle flashes.
    first [blue] says 'ku'. then a ding.

Prompts are lower case. :data:`TOKEN` splits them into words and punctuation marks, all of which are in :data:`VOCABULARY`.
"""

from __future__ import annotations

import re

from baton_lightning.world import vocabulary as v
from baton_lightning.world.events import Event
from baton_lightning.world.references import SAME_WORDS, echoed_words, reference
from baton_lightning.world.scene import Scene

TOKEN = re.compile(r"\w+|[^\w\s]")
PLACES = ("on the left", "in the middle", "on the right")
VOCABULARY: tuple[str, ...] = (
    *(".", ",", "[", "]", "'", "a", "and", "the", "on", "in", "to", "first", "then"),
    *(*v.COLOURS, *v.SHAPES, *v.COLUMNS, *v.WORDS),
    *("talks", "jumps", "hits", "flashes", "slides", "says", "thump", "ding", "clack", "silence"),
    *("other", "one", "that", "was", "hit", "same", "words", "as", "speaker"),
)
"""All tokens of prompts."""


def tokenize(text: str) -> list[str]:
    """Words and punctuation marks of a text, in order."""
    return TOKEN.findall(text.lower())


def prompts(scene: Scene, *, references: bool = False) -> tuple[str, str]:
    """The video prompt and the audio prompt of a scene.

    Args:
        scene: The scene.
        references: Whether to use unambiguous references, which a model must resolve: "the other one", "the one that was hit", "the same
            words as the first speaker".
    """
    named = {o.colour: f"the {o.colour} {o.shape}" for o in scene.objects}
    picture = [" and ".join(f"a {o.colour} {o.shape} {PLACES[o.column]}" for o in scene.objects)]
    sound: list[str] = []
    for k, event in enumerate(scene.events):
        link = "then" if k else "first"
        actor, words = named[event.actor], f"'{' '.join(event.words)}'"
        if references:
            before = scene.events[:k]
            actor = reference(list(named), before, event.actor) or actor
            words = SAME_WORDS if event.words and echoed_words(before, event.actor) == event.words else words
        picture.append(f"{link} {actor} {_seen(event, named)}")
        heard = f"[{event.actor}] says {words}" if event.kind == "says" else f"a {v.EFFECTS.get(event.kind)}"
        sound.append(f"{link} {'silence' if event.kind == 'slides' else heard}")
    return ". ".join(picture) + ".", ". ".join(sound) + "."


def _seen(event: Event, named: dict[str, str]) -> str:
    if event.kind == "says":
        return "talks"
    if event.kind == "hits" and event.target is not None:
        return f"hits {named[event.target]}"
    if event.kind == "slides" and event.column is not None:
        return f"slides to the {v.COLUMNS[event.column]}"
    return event.kind
