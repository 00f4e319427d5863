"""Files that are whole or not there: written aside, in the same folder, and renamed, with the permissions of the user's umask."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FULL = (errno.ENOSPC, errno.EDQUOT)
"""A disk, or the share of it that the user may fill, is full."""


@contextmanager
def aside(path: Path, *, several: bool = False) -> Iterator[Path]:
    """Gives a name to write to, which becomes ``path`` when the block has ended, and is removed if the block failed.

    Args:
        path: Where the file goes; one that is there is replaced in one step.
        several: Whether other processes may write the same file at the same time; each then has a name of its own.

    Raises:
        OSError: If it cannot be written; it names the file.
    """
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part" if several else f".{path.name}.part")
    try:
        with naming(path):
            part.unlink(missing_ok=True)
            part.touch()
            mode = part.stat().st_mode & 0o777  # what the umask leaves; libraries choose their own, safetensors 0600
            yield part
            part.chmod(mode)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an error of the system that names no file names this one: a write to an open file does not say which."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_text(path: Path, text: str, *, several: bool = False) -> None:
    """Writes a file of text in UTF-8; see :func:`aside`."""
    with aside(path, several=several) as part:
        part.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None, *, several: bool = False) -> None:
    """Writes a safetensors file; see :func:`aside`.

    Raises:
        OSError: If it cannot be written; it names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with aside(path, several=several) as part:
        try:
            save_file(dict(tensors), part, metadata=metadata)
        except SafetensorError as error:  # of its own, and without the system's number
            number = next((n for n in FULL if os.strerror(n) in str(error)), errno.EIO)
            raise OSError(number, str(error), str(path)) from error
