"""One run in a folder at a time."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import IO

NAME = "run.lock"


def hold_lock(folder: Path) -> IO[str]:
    """Holds a run folder for this process: as long as the file is open, and until the process ends, however it ends.

    Args:
        folder: Run folder; it is made if it is not there.

    Raises:
        ValueError: If another process holds it, on this machine or, where the file system has locks, on another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / NAME).open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise ValueError(
                f"{folder}/ is being trained by another process, whose checkpoints and ledger this one would cut; wait for it, stop it, or "
                "give another run.experiment"
            ) from error
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # file systems without locks protect nobody
            raise
    return file
