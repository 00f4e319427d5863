"""Geometries as plain values, as files hold them: read, checked, and compared."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from baton_lightning.clip import ClipSpec, Geometry
from baton_lightning.names import quoted
from baton_lightning.shards import records

MEDIA_FIELDS = ("seconds", "fps", "height", "width", "sample_rate", "video_stride")
"""Fields of a clip's geometry that affect the content of the mp4."""
MODEL_FIELDS = ("video_patch", "audio_position_scale")
"""Fields that affect neither media nor cached tensors."""


def media_differences(clip: ClipSpec, other: dict[str, Any]) -> list[str]:
    """Differences of two geometries (see :meth:`ClipSpec.to_dict`) that affect mp4 files."""
    return [line for line in clip.differences(other) if line.partition(":")[0] in MEDIA_FIELDS]


def tensor_differences(clip: ClipSpec, other: dict[str, Any]) -> list[str]:
    """Differences of two geometries that affect cached tensors."""
    return [line for line in clip.differences(other) if line.partition(":")[0] not in MODEL_FIELDS]


def clip_of(values: dict[str, Any]) -> ClipSpec:
    """Geometry from the values of :meth:`ClipSpec.to_dict`, which may have passed through JSON.

    Raises:
        ValueError: If fields are missing, unknown or invalid.
    """
    if not isinstance(values, dict):
        raise ValueError(f"a geometry must be a mapping, got a {type(values).__name__}")
    known = {field.name: str(field.type) for field in fields(ClipSpec)}
    values = dict(values)
    sizes = values.pop("geometries", [])
    geometries = tuple(geometry_of(size) for size in (sizes if isinstance(sizes, list | tuple) else [sizes]))
    for name, value in values.items():
        if name in known and not is_of(known[name], value):
            raise ValueError(f"a geometry must hold positive numbers, {quoted(name)} of the type {known[name]}, got {value!r:.60}")
    try:
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return ClipSpec(**given, geometries=geometries)
    except (TypeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"a geometry must have the fields of the `clip:` section ({error!s:.200})") from error


def geometry_of(values: Any) -> Geometry:
    """A further geometry from plain values.

    Raises:
        ValueError: If it is not a mapping of height, width and seconds.
    """
    size = values if isinstance(values, dict) else {}
    known = {field.name: str(field.type) for field in fields(Geometry)}
    needed = known.keys() - {"audio_latents"}
    if not needed <= size.keys() <= known.keys() or not all(is_of(known[name], value) for name, value in size.items()):
        raise ValueError(f"clip.geometries must list mappings of height, width (pixels) and seconds, all positive, got {values!r:.80}")
    return Geometry(**size)


def is_of(annotation: str, value: Any) -> bool:
    """Whether a value is one of a field of the geometry: one positive number, or as many as the annotation says, whole if it says so."""
    if value is None:
        return "None" in annotation
    several = annotation.startswith("tuple")
    if isinstance(value, list | tuple) != several:
        return False
    parts = value if several else [value]
    if not all(records.is_number(part) and part > 0 and ("float" in annotation or isinstance(part, int)) for part in parts):
        return False
    return not several or len(parts) == annotation.count("int")
