"""Run lock: only one process at a time trains in a run folder."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import IO

NAME = "run.lock"


def hold_lock(folder: Path) -> IO[str]:
    """Locks a run folder for this process. The lock is held while the returned file is open, at most until the process ends.

    Args:
        folder: Run folder; it is created if it does not exist.

    Raises:
        ValueError: If another process holds the lock, on this machine or, if the file system supports locks, on another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / NAME).open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise ValueError(
                f"{folder}/ is locked by another process, which trains this run; wait for it, stop it, or give another run.experiment"
            ) from error
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # without support for locks, the folder is not protected
            raise
    return file
