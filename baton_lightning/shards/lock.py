"""Lock of a folder against a second build. Two simultaneous builds would delete each other's unfinished files."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".build.lock"


@contextmanager
def hold_lock(out: Path, verb: str) -> Iterator[None]:
    """Holds an exclusive lock of a folder until the build ends, with or without an error. The lock file is deleted at the end.

    Args:
        out: Folder of the set; it is created if it does not exist.
        verb: Name of the command, for error messages.

    Raises:
        ValueError: If another build holds the lock, or the folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("a")
    except OSError as error:
        raise ValueError(f"{verb}: {out}/ must be a folder that can be written to, and is not ({error.strerror})") from error
    with lock:
        busy = f"{verb}: another build is at work in {out}/; wait for it, or build into another folder"
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (out / LOCK).exists() or os.fstat(lock.fileno()).st_ino != (out / LOCK).stat().st_ino:
                raise ValueError(busy)  # a build that has just ended deleted the file
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ValueError(busy) from error
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # without support for locks, the build runs unprotected
                raise
        try:
            yield
        finally:
            (out / LOCK).unlink(missing_ok=True)
