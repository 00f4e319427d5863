"""Atomic writing of files: a file is written under a temporary name in the same folder, then renamed. Permissions follow the umask."""

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
"""Errors of a full disk and of an exhausted quota."""


@contextmanager
def aside(path: Path, *, several: bool = False) -> Iterator[Path]:
    """Context with a temporary path. It is renamed to ``path`` at the end of the block, and removed if the block fails.

    Args:
        path: Final path. An existing file is replaced atomically.
        several: Whether other processes may write the same file at the same time. Each then uses its own temporary name.

    Raises:
        OSError: If the file cannot be written; the error names the file.
    """
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part" if several else f".{path.name}.part")
    try:
        with naming(path):
            part.unlink(missing_ok=True)
            part.touch()
            mode = part.stat().st_mode & 0o777  # as of the umask; some libraries choose other modes, e.g. safetensors 0600
            yield part
            part.chmod(mode)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context that adds this path to system errors without a file name, as those of writes to an open file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_text(path: Path, text: str, *, several: bool = False) -> None:
    """Writes a text file in UTF-8; see :func:`aside`."""
    with aside(path, several=several) as part:
        part.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None, *, several: bool = False) -> None:
    """Writes a safetensors file; see :func:`aside`.

    Raises:
        OSError: If the file cannot be written; the error names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with aside(path, several=several) as part:
        try:
            save_file(dict(tensors), part, metadata=metadata)
        except SafetensorError as error:  # an error class of its own, without errno
            number = next((n for n in FULL if os.strerror(n) in str(error)), errno.EIO)
            raise OSError(number, str(error), str(path)) from error
