"""Validation of the JSON files of a data set, which may come from untrusted sources. Values of a wrong type are refused in one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baton_lightning.names import require_name
from baton_lightning.plain_files import parse_json, read_json

BUILD = "build.json"
"""File of a data set with the settings and the report of `shards build`."""
LARGEST = {"json": 4 * 2**20}
"""Suffix -> size of the largest member that is read, in bytes."""
LARGEST_OF_ALL = 2**30
"""The same size for all other suffixes."""
MOST_CLIPS = 2
"""Largest decoded size of a clip's mp4, as a multiple of what its geometry holds. A short file can decode to any number of pictures."""
MOST = 2**63
"""Bound of whole numbers. Larger ones are valid JSON, but neither sizes nor seconds, and cannot become floating-point numbers."""

Kind = Callable[[Any], bool]


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST


def is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < MOST if isinstance(value, int) else math.isfinite(value)


def is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def require_kinds(values: Any, where: str, needed: dict[str, Kind], may: dict[str, Kind] | None = None, *, others: bool = False) -> Any:
    """Returns a mapping after checking its entries.

    Args:
        values: The mapping that was read.
        where: File and place in it, for error messages.
        needed: Required entry -> test of its value.
        may: Optional entry -> test of its value.
        others: Whether entries that are in neither are allowed.

    Raises:
        ValueError: If an entry is missing, invalid or unknown; the message names it.
    """
    if not isinstance(values, dict):
        raise ValueError(f"data: {where} must be a mapping, got a {type(values).__name__}")
    if missing := sorted(needed.keys() - values.keys()):
        raise ValueError(f"data: {where} must have `{missing[0]}`, and has none; build the data again")
    for name, kind in (needed | (may or {})).items():
        if name in values and not kind(values[name]):
            raise ValueError(f"data: {where} has a `{name}` of the wrong kind: {values[name]!r:.60}; build the data again")
    if not others and (unknown := sorted(map(str, values.keys() - needed.keys() - (may or {}).keys()))):
        raise ValueError(f"data: {where} has an entry {unknown[0][:60]!r}, which this version does not know; build the data again")
    return values


INDEX: dict[str, Kind] = {"num_clips": is_count, "seconds": is_number, "clip": is_mapping, "shards": lambda value: isinstance(value, list)}
ENTRY: dict[str, Kind] = {"name": is_text, "num_clips": is_count, "num_bytes": is_count, "sha256": is_text}
SHARD: dict[str, Kind] = {"num_bytes": is_count, "sha256": is_text, "made_by": is_text, "members": is_mapping}
OF_A_CACHE: dict[str, Kind] = {"recipe": is_text, "clip": is_mapping, "splits": is_mapping, "damaged": is_mapping}


def index_of_split(values: Any, file: Path, kind: str) -> dict[str, Any]:
    """Validated index of a split.

    Args:
        values: Content of the file, without its version.
        file: The file, for error messages.
        kind: Prefix of the names of its shards.

    Raises:
        ValueError: If an entry is invalid, or the name of a shard leads to another folder.
    """
    require_kinds(values, str(file), INDEX)
    for number, entry in enumerate(values["shards"]):
        where = f"{file}: shard {number}"
        require_kinds(entry, where, ENTRY, {"bucket": is_text})
        name = require_name(entry["name"], f"data: {where}: `name`")
        if not (name.startswith(f"{kind}-") and name.endswith(".tar")):
            raise ValueError(f"data: {where} must be called {kind}-000000.tar or the like, got {name!r}; build the data again")
    return values


def require_record(values: Any) -> dict[str, Any]:
    """Validated record of a shard, the file beside its tar.

    Raises:
        ValueError: If an entry is invalid.
    """
    require_kinds(values, "the record", SHARD, {"notes": is_mapping, "checksums": is_mapping})
    for table in ("members", "checksums"):
        if not all(map(is_mapping, values.get(table, {}).values())):
            raise ValueError(f"the record has `{table}` that are no mappings of suffixes")
    return values


def index_of_set(file: Path) -> dict[str, Any]:
    """Validated index of a set.

    Raises:
        ValueError: If an entry is invalid, or the name of a split leads to another folder.
    """
    values = require_kinds(read_json(file), str(file), {"splits": is_mapping}, others=True)
    for name, entry in values["splits"].items():
        require_name(name, f"data: {file}: a split")
        require_kinds(entry, f"{file}: split {name}", {"sha256": is_text}, others=True)
    return values


def read_build(root: Path) -> dict[str, Any]:
    """Validated record of `shards build`; a set that was made in another way has none, and is a single set.

    Args:
        root: Folder of the data set.

    Returns:
        ``settings`` of the build, and its ``report``, which is ``None`` before the build has ended: ``clips``, geometry -> split -> bucket
            -> count (the name of a single geometry is empty), ``rejected``, reason -> count, and other counts.

    Raises:
        ValueError: If an entry is invalid, or the name of a geometry leads to another folder.
    """
    if not (file := root / BUILD).exists():
        return {"settings": {}, "report": {"clips": {"": {}}, "rejected": {}}}
    ended = {"report": lambda value: value is None or is_mapping(value)}
    values = require_kinds(read_json(file), str(file), {"settings": is_mapping}, ended, others=True)
    if (report := values.setdefault("report", None)) is None:
        return values
    require_kinds(report, f"{file}: report", {"clips": is_mapping, "rejected": is_mapping}, others=True)
    require_kinds(report["rejected"], f"{file}: rejected", dict.fromkeys(report["rejected"], is_count))
    for geometry, splits in report["clips"].items():
        if geometry:
            require_name(geometry, f"data: {file}: a geometry")
        counted = require_kinds(splits, f"{file}: clips", dict.fromkeys(splits, is_mapping) if is_mapping(splits) else {})
        for split, buckets in counted.items():
            require_kinds(buckets, f"{file}: split {split:.60}", dict.fromkeys(buckets, is_count))
    return values


def read_cache(file: Path) -> dict[str, Any]:
    """Validated record of cached tensors.

    Raises:
        ValueError: If an entry is invalid.
    """
    return require_kinds(read_json(file), str(file), OF_A_CACHE, others=True)


def metadata_of(content: bytes, where: str) -> dict[str, Any]:
    """Metadata of a clip, parsed from its JSON.

    Args:
        content: Content of the member.
        where: Clip and shard, for error messages.

    Raises:
        ValueError: If the content is not a JSON mapping.
    """
    values = parse_json(content, where)
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a mapping, got a {type(values).__name__}")
    return values
