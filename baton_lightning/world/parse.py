"""Parser of prompts: the scene that two texts in the world's language describe.

The texts determine objects, events and actors; times follow from the world's schedule. So clips of any model can be scored.
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
    """The scene that two texts describe, with its schedule.

    Args:
        video_prompt: Description of the picture, in the form of :func:`~baton_lightning.world.prompts.prompts`; references are resolved.
        audio_prompt: Description of the sound: one sentence for each event of the video prompt.
        seconds: Duration of the clip.
        tier: The scene's tier; ``None`` infers it: ``single`` for one event, ``talk`` for speech of several speakers only, else ``multi``.

    Raises:
        ValueError: If a text is not in the world's language, or the texts describe different events.
    """
    (stage, *seen), heard = _sentences(video_prompt) or [""], _sentences(audio_prompt)
    objects = tuple(Object(c, s, v.COLUMNS.index(k)) for c, s, k in OBJECT.findall(stage))
    colours = [o.colour for o in objects]
    distinct = len(set(colours)) == len({o.column for o in objects}) == len(objects) > 0
    if not distinct or OBJECT.sub("", stage).replace(" and ", "").strip(" ,"):
        raise ValueError(
            f"prompt: the first sentence must name objects of different colours in different places, as in {EXAMPLE}, got {stage!r}"
        )
    if not seen or len(seen) != len(heard):
        raise ValueError(
            f"prompt: both texts must have one sentence for each event, and at least one event, got {len(seen)} in the video prompt "
            f"({video_prompt!r}) and {len(heard)} in the audio prompt ({audio_prompt!r}); write `silence` for a slide"
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
    """Sentences of a text, normalised: lower case, plain quotes, single blanks, no commas."""
    text = re.sub(r"[‘’`\"“”]", "'", text.lower()).replace(",", " ")
    return [" ".join(part.split()) for part in re.split(r"[.;\n]", text) if part.strip()]


def _event(picture: str, sound: str, objects: tuple[Object, ...], before: list[Event], start: float) -> Event:
    """The event that one sentence of each text describes."""
    picture_match, sound_match = SEEN.fullmatch(picture), HEARD.fullmatch(sound)
    if picture_match is None or sound_match is None:
        wrong = picture if picture_match is None else sound
        raise ValueError(f"prompt: the sentence {wrong!r} is not in the world's language; write it as in {EXAMPLE}")
    name, plain, target, column = picture_match.groups()
    effect, silence, voice, words, _ = sound_match.groups()
    actor = _resolve_name(name, objects, before)
    if plain == "talks" and voice == actor:
        spoken = tuple(words.split()) if words else echoed_words(before, actor)
        if spoken is None or not set(spoken) <= set(v.WORDS):
            raise ValueError(f"prompt: {sound!r} must quote words of {', '.join(v.WORDS)}, or repeat the first words of another speaker")
        return Event("says", actor, start, words=spoken)
    kind = plain or ("hits" if target else "slides")
    if v.EFFECTS.get(kind) != effect or voice or bool(silence) != (kind == "slides"):
        raise ValueError(f"prompt: {picture!r} and {sound!r} must be picture and sound of the same event")
    if target:
        others = [o.colour for o in objects if o.colour != actor]
        hit = others[0] if target == OTHER and len(others) == 1 else _resolve_name(target, objects, before)
        if hit == actor:
            raise ValueError(f"prompt: {picture!r} must name two different objects")
        return Event(kind, actor, start, target=hit)
    return Event(kind, actor, start, column=v.COLUMNS.index(column) if column else None)


def _resolve_name(name: str, objects: tuple[Object, ...], before: list[Event]) -> str:
    """Colour of the object with this name."""
    named = {f"the {o.colour} {o.shape}": o.colour for o in objects} | referable([o.colour for o in objects], before)
    if name not in named:
        raise ValueError(f"prompt: {name!r} must be one of {', '.join(named)}")
    return named[name]
