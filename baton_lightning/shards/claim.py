"""One build in a folder at a time: two would take each other's unfinished files away."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".build.lock"


@contextmanager
def claim(out: Path, verb: str) -> Iterator[None]:
    """Holds a folder against other builds, until this one ends, however it ends; the file that says so is taken away.

    Args:
        out: Folder of the set; it is made if it is not there.
        verb: Named in errors.

    Raises:
        ValueError: If another build holds it, or it cannot be written to.
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
                raise ValueError(busy)  # it was taken away by a build that has just ended
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ValueError(busy) from error
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # file systems without locks protect nobody
                raise
        try:
            yield
        finally:
            (out / LOCK).unlink(missing_ok=True)
