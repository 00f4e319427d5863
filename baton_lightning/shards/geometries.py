"""Geometries of a build: the `clip:` section of an experiment, changed fields, and names like `960x544x5s`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from baton_lightning.clip import ClipSpec, Geometry
from baton_lightning.config import chain
from baton_lightning.shards.stored_clip import clip_of


def clip_of_experiment(file: Path | None, changes: Mapping[str, Any]) -> ClipSpec:
    """The geometry of an experiment.

    Args:
        file: YAML file with a ``clip:`` section, or built on a file that has one; ``None`` = defaults.
        changes: New values of fields; ``None`` keeps the value of a field.

    Raises:
        ValueError: If the file, the section or a field does not exist.
    """
    import yaml

    section: dict[str, Any] = {}
    for part in chain(file) if file is not None else ():
        content = yaml.safe_load(part.read_text())
        section |= (content.get("clip") or {}) if isinstance(content, dict) else {}
    if file is not None and not section:
        raise ValueError(f"shards build: {file} has no `clip:` section, nor has a file it builds on; name an experiment file")
    if unknown := section.keys() - {field.name for field in dataclasses.fields(ClipSpec)}:
        raise ValueError(f"shards build: the clip section of {file} has the unknown fields {', '.join(sorted(unknown))}")
    return clip_of(section | {name: value for name, value in changes.items() if value is not None})


def geometries(base: ClipSpec, names: Iterable[str]) -> dict[str, ClipSpec]:
    """The geometries of a build, by output folder.

    Args:
        base: Geometry for all fields except width, height and seconds.
        names: ``WIDTHxHEIGHTxSECONDSs``, e.g. ``960x544x5s``; without names, the geometries are those of the base. A single geometry has
            the empty name.

    Raises:
        ValueError: If a name has another format or occurs twice, or sizes are not multiples of the strides.
    """
    made: dict[str, ClipSpec] = {}
    for name in names or base.each:
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+(?:\.\d+)?)s", name)
        size = found and Geometry(width=int(found[1]), height=int(found[2]), seconds=float(found[3]))
        if size is None or size.name in made:
            state = "must be WIDTHxHEIGHTxSECONDSs, e.g. 960x544x5s" if size is None else "was given twice"
            raise ValueError(f"shards build: the bucket {name!r} {state}")
        clips = base if size.name in base.each else dataclasses.replace(base, geometries=(size,))
        made[size.name] = clips.at(size.name)
    return made if len(made) > 1 else {"": next(iter(made.values()))}


def limits_with(limits: Any, words: Iterable[str]) -> Any:
    """Limits with changes such as ``min_loudness=-40``.

    Args:
        limits: A dataclass of numbers.
        words: ``NAME=VALUE``.

    Raises:
        ValueError: If the limit does not exist, or its value is not a number.
    """
    import difflib

    known = [field.name for field in dataclasses.fields(limits) if field.type != "bool"]
    changes: dict[str, float] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in known or not equals:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"shards build: a limit is given as NAME=VALUE, got {word!r}; {hint}")
        try:
            changes[name] = type(getattr(limits, name))(float(value))
        except ValueError as error:
            raise ValueError(f"shards build: the limit {name} must be a number, got {value!r}") from error
    return dataclasses.replace(limits, **changes)
