"""Caches digests of large files in the user's cache folder, so that weights of 56 GB are not read again at each start of a run.

A cached digest is valid if path, inode, size, modification time and change time of the inode are the same. Each file has its own entry,
which is written atomically, so that nodes that share a file system do not interfere with each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from baton_lightning import atomic
from baton_lightning.shards.format import file_digest

SMALLEST = 2**26
"""Size in bytes below which a file is always digested, because this is faster than a look-up."""
SETTLED = 2.0
"""Age in s above which every change alters a file's times. Digests of files that changed more recently are not cached."""


def cache() -> Path:
    """Folder of the cache: ``$XDG_CACHE_HOME/baton_lightning/digests``, by default below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "baton_lightning" / "digests"


def digest_of(file: Path, smallest: int = SMALLEST) -> str:
    """SHA-256 of a file, from the cache if the file is unchanged.

    Args:
        file: The file.
        smallest: Size in bytes from which digests are cached.
    """
    began, before = time.time(), identity(file)
    if before["bytes"] < smallest:
        return file_digest(file)
    entry = cache() / (hashlib.sha256(str(file.resolve()).encode()).hexdigest() + ".json")
    with suppress(OSError, ValueError, AttributeError):
        known = json.loads(entry.read_bytes())
        if {key: known.get(key) for key in before} == before and isinstance(known.get("sha256"), str):
            return known["sha256"]
    digest = file_digest(file)
    if identity(file) == before and began - before["changed_ns"] / 1e9 > SETTLED and began - before["inode_changed_ns"] / 1e9 > SETTLED:
        with suppress(OSError):  # the cache is not writable: the next start digests the file again
            entry.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(entry, json.dumps(before | {"sha256": digest}), several=True)
    return digest


def identity(file: Path) -> dict[str, Any]:
    """Path, inode, size and times of a file. If these are equal, the content is taken to be equal."""
    stats = file.stat()
    return {
        "path": str(file.resolve()),
        "inode": stats.st_ino,
        "bytes": stats.st_size,
        "changed_ns": stats.st_mtime_ns,
        "inode_changed_ns": stats.st_ctime_ns,
    }
