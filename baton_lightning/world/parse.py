"""Prompts back to the scene they describe: for clips of any model that was given texts in the world's language.

What happens, who does it and when all follow from the two texts: the schedule is the one the world itself keeps to.
"""

from __future__ import annotations

import re

from baton_lightning.world import vocabulary as v
from baton_lightning.world.events import Event
from baton_lightning.world.references import OTHER, SAME_WORDS, echoed_words, referable
from baton_lightning.world.scene import Object, Scene

_COLOUR, _SHAPE, _COLUMN = "|".join(v.COLOURS), "|".join(v.SHAPES), "|".join(v.COLUMNS)
OBJECT = re.compile(rf"an? ({_COLOUR}) ({_SHAPE}) (?:on|in|at) the ({_COLUMN})")
SEEN = re.compile(rf"(?:first|then) (the .+?) (?:(talks|jumps|flashes)|hits (the .+)|slides to the ({_COLUMN}))")
HEARD = re.compile(rf"(?:first|then) (?:an? ({'|'.join(v.EFFECTS.values())})|(silence)|\[({_COLOUR})\] says (?:'([\w ]+)'|({SAME_WORDS})))")
EXAMPLE = "`a red circle on the left. first the red circle talks.` with `first [red] says 'ba ku'.`"


def parse_prompts(video_prompt: str, audio_prompt: str, seconds: float, tier: str | None = None) -> Scene:
    """The scene that two texts describe, with the schedule that follows from them.

    Args:
        video_prompt: What is seen, as :func:`~baton_lightning.world.prompts.prompts` words it; references are resolved.
        audio_prompt: What is heard: one sentence for each event of the video prompt.
        seconds: Duration of the clip.
        tier: The scene's tier; ``None`` infers it: one event is ``single``, two speakers who only talk are ``talk``, else ``multi``.

    Raises:
        ValueError: If a text is not in the world's language, or the two do not fit together.
    """
    (stage, *seen), heard = _sentences(video_prompt) or [""], _sentences(audio_prompt)
    objects = tuple(Object(c, s, v.COLUMNS.index(k)) for c, s, k in OBJECT.findall(stage))
    colours = [o.colour for o in objects]
    distinct = len(set(colours)) == len({o.column for o in objects}) == len(objects) > 0
    if not distinct or OBJECT.sub("", stage).replace(" and ", "").strip(" ,"):
        raise ValueError(
            f"prompt: its first sentence must name objects of different colours in different places, as {EXAMPLE} do, got {stage!r}"
        )
    if not seen or len(seen) != len(heard):
        raise ValueError(
            f"prompt: the sentences of both texts must tell of the same events, at least one, got {len(seen)} seen ({video_prompt!r}) "
            f"and {len(heard)} heard ({audio_prompt!r}); write `silence` for a slide"
        )
    events: list[Event] = []
    for picture, sound in zip(seen, heard, strict=True):
        start = events[-1].following if events else v.FIRST_EVENT
        events.append(_event(picture, sound, objects, events, start))
    if tier is None:
        talk = all(e.kind == "says" for e in events) and len({e.actor for e in events}) > 1
        tier = "single" if len(events) == 1 else "talk" if talk else "multi"
    return Scene(tier, seconds, tuple(sorted(objects, key=lambda o: o.column)), tuple(events))


def _sentences(text: str) -> list[str]:
    """Sentences of a text: lower case, plain quotes, single blanks, no commas."""
    text = re.sub(r"[‘’`\"“”]", "'", text.lower()).replace(",", " ")
    return [" ".join(part.split()) for part in re.split(r"[.;\n]", text) if part.strip()]


def _event(picture: str, sound: str, objects: tuple[Object, ...], before: list[Event], start: float) -> Event:
    """The event that one sentence of each text tells of."""
    picture_match, sound_match = SEEN.fullmatch(picture), HEARD.fullmatch(sound)
    if picture_match is None or sound_match is None:
        wrong = picture if picture_match is None else sound
        raise ValueError(f"prompt: the sentence {wrong!r} is not of the world's language; write as in {EXAMPLE}")
    name, plain, target, column = picture_match.groups()
    effect, silence, voice, words, _ = sound_match.groups()
    actor = _resolve_name(name, objects, before)
    if plain == "talks" and voice == actor:
        words = tuple(words.split()) if words else echoed_words(before, actor)
        if words is None or not set(words) <= set(v.WORDS):
            raise ValueError(f"prompt: {sound!r} must quote words of {', '.join(v.WORDS)}, or repeat what another speaker said first")
        return Event("says", actor, start, words=words)
    kind = plain or ("hits" if target else "slides")
    if v.EFFECTS.get(kind) != effect or voice or bool(silence) != (kind == "slides"):
        raise ValueError(f"prompt: {picture!r} and {sound!r} are not picture and sound of one event")
    if target:
        others = [o.colour for o in objects if o.colour != actor]
        hit = others[0] if target == OTHER and len(others) == 1 else _resolve_name(target, objects, before)
        if hit == actor:
            raise ValueError(f"prompt: {picture!r} must name another object than the one that hits")
        return Event(kind, actor, start, target=hit)
    return Event(kind, actor, start, column=v.COLUMNS.index(column) if column else None)


def _resolve_name(name: str, objects: tuple[Object, ...], before: list[Event]) -> str:
    """Colour of the object that is meant."""
    named = {f"the {o.colour} {o.shape}": o.colour for o in objects} | referable([o.colour for o in objects], before)
    if name not in named:
        raise ValueError(f"prompt: {name!r} names none of {', '.join(named)}")
    return named[name]
