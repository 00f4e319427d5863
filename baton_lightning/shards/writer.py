"""Atomic and deterministic writing of shards: the same clips give the same bytes."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from baton_lightning import atomic
from baton_lightning.names import require_name
from baton_lightning.shards.format import Shard, file_digest
from baton_lightning.shards.tars import scan


def write_shard(
    tar: Path, clips: Iterable[tuple[str, Mapping[str, bytes]]], *, made_by: str = "", notes: dict[str, Any] | None = None
) -> Shard:
    """Writes a tar and the record of its byte offsets. If writing is interrupted, no shard is left behind.

    Args:
        tar: Output file; an existing shard is replaced.
        clips: Key and members (suffix -> content) of each clip, in order.
        made_by: Digest of the recipe or networks that determine the content, see :meth:`Shard.finished`.
        notes: Notes that are stored with the shard.

    Returns:
        The shard.

    Raises:
        ValueError: If a key is not a file name, contains a dot or occurs twice.
    """
    checksums: dict[str, dict[str, int]] = {}
    with atomic.aside(tar, several=True) as part:
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as archive:
            for key, members in clips:
                if key in checksums or "." in require_name(key, f"{tar.name}: a key"):
                    raise ValueError(f"{tar.name}: a key must be unique in its shard and hold no dot, got {key!r}")
                checksums[key] = {suffix: zlib.crc32(content) for suffix, content in members.items()}
                for suffix, content in members.items():
                    entry = tarfile.TarInfo(f"{key}.{suffix}")  # time, owner and mode keep tarfile's constant defaults
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        shard = Shard(tar, part.stat().st_size, file_digest(part), made_by, scan(part), notes or {}, checksums)
    shard.save_record()
    return shard
