"""Scenes: objects, events with their times, and the sampler.

A scene is a pure function of (seed, index, tier, split) and the clip's duration. The split of a scene follows from its content, not from
its index, so training and test scenes differ for any seeds.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from baton_lightning.clip import ClipSpec
from baton_lightning.world import vocabulary as v
from baton_lightning.world.events import Event
from baton_lightning.world.references import echoed_words, referable

TIERS = ("single", "multi", "talk")
SPLITS = ("train", "val", "test", "ood")
HELD_OUT_LOOKS = frozenset({("green", "triangle"), ("magenta", "square"), ("yellow", "circle")})
HELD_OUT_BIGRAMS = frozenset({("jumps", "flashes"), ("hits", "says")})
"""Scenes with one of these objects, or with one of these pairs of consecutive events, are out of distribution."""
SHORT_SECONDS = 4.0
"""In shorter clips, the tiers with several events have exactly two."""
REFERRING = 0.75
"""With references: probability that a later event is drawn among those that a reference can name."""


@dataclass(frozen=True)
class Object:
    """A coloured shape with its initial column (0 left, 1 middle, 2 right)."""

    colour: str
    shape: str
    column: int


@dataclass(frozen=True)
class Scene:
    """Objects from left to right, events in order of time, and the duration in s."""

    tier: str
    seconds: float
    objects: tuple[Object, ...]
    events: tuple[Event, ...]

    @property
    def content(self) -> str:
        """Canonical text of objects and events, without times."""
        happens = [[e.kind, e.actor, e.target, e.column, list(e.words)] for e in self.events]
        return json.dumps([[[o.colour, o.shape, o.column] for o in self.objects], happens])

    @property
    def split(self) -> str:
        """Split of the scene: `ood` by its objects and events, else 80 % train, 10 % val, 10 % test by the hash of its content."""
        kinds = [e.kind for e in self.events]
        if any((o.colour, o.shape) in HELD_OUT_LOOKS for o in self.objects) or HELD_OUT_BIGRAMS & set(itertools.pairwise(kinds)):
            return "ood"
        bucket = int.from_bytes(blake2b(self.content.encode(), digest_size=8).digest(), "big") % 10
        return {0: "test", 1: "val"}.get(bucket, "train")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    def is_valid_part(self, part: Object | Event) -> bool:
        """Whether an object or event is valid: it has a target, a column or words exactly if its kind requires them."""

        def place(column: int | None) -> bool:
            return isinstance(column, int) and column in range(len(v.COLUMNS))

        if isinstance(part, Object):
            return part.colour in v.COLOURS and part.shape in v.SHAPES and place(part.column)
        colours = {o.colour for o in self.objects}
        return (
            part.kind in v.KINDS
            and part.actor in colours
            and isinstance(part.start, float | int)
            and (part.target in colours - {part.actor} if part.kind == "hits" else part.target is None)
            and (place(part.column) if part.kind == "slides" else part.column is None)
            and bool(part.words) == (part.kind == "says")
            and set(part.words) <= set(v.WORDS)
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scene:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: If fields are missing or unknown, or have invalid values.
        """
        try:
            objects = tuple(Object(**o) for o in values["objects"])
            events = tuple(Event(**{**e, "words": tuple(e.get("words", ()))}) for e in values["events"])
            scene = cls(str(values["tier"]), float(values["seconds"]), objects, events)
            parts: list[Object | Event] = [*objects, *events]
            wrong = [part for part in parts if not scene.is_valid_part(part)]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"scene: must have tier, seconds, objects and events as written by Scene.to_dict, got {error}") from error
        if wrong:
            raise ValueError(f"scene: every object and event must have valid values, and only the fields of its kind, got {wrong[0]}")
        if not events or not objects or len({o.colour for o in objects}) < len(objects):
            raise ValueError(f"scene: must have an event, and objects of different colours, got {len(events)} events, {list(objects)}")
        return scene


def sample_scene(
    seed: int, index: int, tier: str, clip: ClipSpec, split: str = "train", *, jitter: float = 0.0, references: bool = False
) -> Scene:
    """Samples the scene with this index.

    Scenes are drawn until one fits the clip and belongs to the split. Without jitter the schedule follows from the prompt: the first
    event starts at 0.3 s, and there are 0.2 s between events.

    Args:
        seed: Seed of the set.
        index: Index of the scene in the set.
        tier: ``single`` (1-2 objects, one event), ``multi`` (2-3 objects, 3-5 events) or ``talk`` (2-3 objects, 3-4 turns of at least
            two speakers). Clips shorter than 4 s have two events, or turns.
        clip: Geometry of the clip, of which the duration is used.
        split: ``train``, ``val``, ``test`` or ``ood``.
        jitter: Largest random delay before each event, in s. It is not part of the prompt, so a planner cannot predict it.
        references: Whether most later events can be named by a reference (see :mod:`~baton_lightning.world.references`). The scenes differ
            from those without references, but their splits are the same.

    Raises:
        ValueError: If tier or split are unknown, or no scene of this tier fits into the duration.
    """
    for name, value, legal in (("tier", tier, TIERS), ("split", split, SPLITS)):
        if value not in legal:
            raise ValueError(f"world: {name} must be one of {', '.join(legal)}, got {value!r}")
    stream = np.random.SeedSequence([seed, index, TIERS.index(tier), SPLITS.index(split), *[1] * references])
    rng = np.random.Generator(np.random.Philox(stream))
    for _ in range(20_000):
        scene = _draw(rng, tier, clip.seconds, jitter, references)
        if scene.events[-1].start + scene.events[-1].seconds + v.AFTER_LAST_EVENT > clip.seconds + 1e-9:
            continue
        if scene.split == split:
            return scene
    raise ValueError(f"world: no scene of tier {tier!r} and split {split!r} fits {clip.seconds} s; `multi` and `talk` need 2 s")


def _draw(rng: np.random.Generator, tier: str, seconds: float, jitter: float, references: bool) -> Scene:
    """One candidate, which may be too long for the clip."""
    low, high = {"single": (1, 1), "multi": (3, 5), "talk": (3, 4)}[tier]
    if seconds < SHORT_SECONDS:
        low, high = min(low, 2), min(high, 2)
    num_objects = int(rng.integers(1, 3) if tier == "single" else rng.integers(2, 4))
    num_events = int(rng.integers(low, high + 1))
    colours = list(v.COLOURS)
    picked = [colours[k] for k in rng.permutation(len(colours))[:num_objects]]
    columns = sorted(int(k) for k in rng.permutation(3)[:num_objects])
    objects = tuple(Object(c, v.SHAPES[int(rng.integers(3))], k) for c, k in zip(picked, columns, strict=True))
    where = {o.colour: o.column for o in objects}
    events: list[Event] = []
    start = v.FIRST_EVENT
    for _ in range(num_events):
        start += jitter * float(rng.random())
        event = _draw_event(rng, tier, where, events, start, references)
        if event.column is not None:
            where[event.actor] = event.column
        start = event.following
        events.append(event)
    return Scene(tier, seconds, objects, tuple(events))


def _draw_event(rng: np.random.Generator, tier: str, where: dict[str, int], before: list[Event], start: float, references: bool) -> Event:
    """Draws one of the possible events: first its kind (speech is twice as likely), then its actor. In a talk the speaker changes."""
    options: list[dict[str, Any]] = []
    for actor, column in where.items():
        if tier != "talk" or not before or actor != before[-1].actor:
            options.append({"kind": "says", "actor": actor})
        if tier == "talk":
            continue
        options += [{"kind": kind, "actor": actor} for kind in ("jumps", "flashes")]
        near = [k for k in (column - 1, column + 1) if 0 <= k < 3]
        taken = {k: colour for colour, k in where.items()}
        options += [{"kind": "hits", "actor": actor, "target": taken[k]} for k in near if k in taken]
        options += [{"kind": "slides", "actor": actor, "column": k} for k in near if k not in taken]
    if references and before:
        named = referable(list(where), before).values()
        referable_options = [o for o in options if o["actor"] in named]
        referable_options += [o | {"words": echo} for o in options if o["kind"] == "says" and (echo := echoed_words(before, o["actor"]))]
        if referable_options and rng.random() < REFERRING:
            options = referable_options
    kinds = [kind for kind in v.KINDS if any(o["kind"] == kind for o in options)]
    kinds += ["says"] * ("says" in kinds)
    kind = kinds[int(rng.integers(len(kinds)))]
    options = [o for o in options if o["kind"] == kind]
    option = options[int(rng.integers(len(options)))]
    if option["kind"] == "says" and "words" not in option:
        most = 2 if tier == "talk" else 3
        words = list(v.WORDS)
        option = option | {"words": tuple(words[int(k)] for k in rng.integers(0, len(words), int(rng.integers(1, most + 1))))}
    return Event(start=start, **option)
