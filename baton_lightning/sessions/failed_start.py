"""Removes the run folder of a start that failed before its first batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def remove_on_failure(folder: Path, before_first_batch: Callable[[], bool]) -> Iterator[None]:
    """Context that removes the run folder if an exception is raised inside it. Empty parent folders created inside are removed too.

    Args:
        folder: Run folder. A folder that existed before is kept.
        before_first_batch: Whether this process created the folder and has not started its work.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        if missing and folder.is_dir() and before_first_batch():
            shutil.rmtree(folder, ignore_errors=True)
            for path in missing[1:]:
                with suppress(OSError):  # it holds another run
                    path.rmdir()
        raise
