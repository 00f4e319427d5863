"""A start that fails before its first batch leaves no run folder behind: nothing was trained in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def taken_back(folder: Path, unbegun: Callable[[], bool]) -> Iterator[None]:
    """Removes a folder that was made inside, and the empty ones above it that were made with it, if what is inside fails.

    Args:
        folder: Run folder. One that is there already stays as it is.
        unbegun: Whether this process made the folder for itself and has not begun its work.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if missing and folder.is_dir() and unbegun():
            shutil.rmtree(folder, ignore_errors=True)
            for path in missing[1:]:
                with suppress(OSError):  # another run is in it
                    path.rmdir()
        raise
