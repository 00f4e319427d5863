"""The two texts of a scene: what the picture shows, and what is heard.

    a blue square on the left and a cyan triangle in the middle. first the blue square talks. then the cyan triangle flashes.
    first [blue] says 'ku'. then a ding.

Texts are lower case; :data:`TOKEN` splits them into words and single marks, all of which are in :data:`VOCABULARY`.
"""

from __future__ import annotations

import re

from baton_lightning.world import vocabulary as v
from baton_lightning.world.scene import Event, Scene

TOKEN = re.compile(r"\w+|[^\w\s]")
PLACES = ("on the left", "in the middle", "on the right")
VOCABULARY: tuple[str, ...] = (
    *(".", ",", "[", "]", "'", "a", "and", "the", "on", "in", "to", "first", "then"),
    *(*v.COLOURS, *v.SHAPES, *v.COLUMNS, *v.WORDS),
    *("talks", "jumps", "hits", "flashes", "slides", "says", "thump", "ding", "clack", "silence"),
    *("other", "one", "that", "was", "hit", "same", "words", "as", "speaker"),
)
"""Every token a prompt can hold."""


def tokenise(text: str) -> list[str]:
    """Words and marks of a text, in order."""
    return TOKEN.findall(text.lower())


def prompts(scene: Scene, *, compound: bool = False) -> tuple[str, str]:
    """The video prompt and the audio prompt of a scene.

    Args:
        scene: What happens.
        compound: Whether to replace names by references, where one is unambiguous: "the other one", "the one that was hit", "the
            same words as the first speaker". A model must then resolve them.
    """
    named = {o.colour: f"the {o.colour} {o.shape}" for o in scene.objects}
    picture = [" and ".join(f"a {o.colour} {o.shape} {PLACES[o.column]}" for o in scene.objects)]
    sound: list[str] = []
    for k, event in enumerate(scene.events):
        link = "then" if k else "first"
        actor, words = named[event.actor], f"'{' '.join(event.words)}'"
        if compound:
            actor = _refer(scene, k) or actor
            words = "the same words as the first speaker" if _repeats(scene, k) else words
        picture.append(f"{link} {actor} {_seen(event, named)}")
        heard = f"[{event.actor}] says {words}" if event.kind == "says" else f"a {v.EFFECTS.get(event.kind)}"
        sound.append(f"{link} {'silence' if event.kind == 'slides' else heard}")
    return ". ".join(picture) + ".", ". ".join(sound) + "."


def _seen(event: Event, named: dict[str, str]) -> str:
    if event.kind == "says":
        return "talks"
    if event.kind == "hits":
        return f"hits {named[event.target]}"
    if event.kind == "slides":
        return f"slides to the {v.COLUMNS[event.column]}"
    return event.kind


def _refer(scene: Scene, k: int) -> str | None:
    """A name for the actor of event k that needs what came before."""
    if k == 0:
        return None
    before, actor = scene.events[:k], scene.events[k].actor
    if {e.target for e in before if e.kind == "hits"} == {actor}:
        return "the one that was hit"
    if len(scene.objects) == 2 and actor != before[-1].actor:
        return "the other one"
    return None


def _repeats(scene: Scene, k: int) -> bool:
    """Whether event k says what the first speaker, someone else, said first."""
    spoken = [e for e in scene.events[:k] if e.kind == "says"]
    event = scene.events[k]
    return event.kind == "says" and bool(spoken) and spoken[0].words == event.words and spoken[0].actor != event.actor
