"""Digests of large files, remembered in the user's cache folder: weights of 56 GB are not read again for each start of a run.

A file is taken for the one that was digested if path, inode, size, time of change and time of the inode's change are the same. Each
file has an entry of its own, which is written in one step, so that nodes that share a file system do not disturb each other.
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
"""Bytes below which a file is digested sooner than it is looked up."""
SETTLED = 2.0
"""Age in s from which a change would show in a file's times; what is younger is not remembered."""


def cache() -> Path:
    """Where digests are remembered: ``$XDG_CACHE_HOME/baton_lightning/digests``, by default below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "baton_lightning" / "digests"


def digest_of(file: Path, smallest: int = SMALLEST) -> str:
    """SHA-256 of a file, from memory if it was not changed since.

    Args:
        file: The file.
        smallest: Bytes from which it is remembered.
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
        with suppress(OSError):  # a home that cannot be written: the next start digests again
            entry.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(entry, json.dumps(before | {"sha256": digest}), several=True)
    return digest


def identity(file: Path) -> dict[str, Any]:
    """What tells a file from one of another content."""
    said = file.stat()
    return {
        "path": str(file.resolve()),
        "inode": said.st_ino,
        "bytes": said.st_size,
        "changed_ns": said.st_mtime_ns,
        "inode_changed_ns": said.st_ctime_ns,
    }
