"""Files that somebody else may have made: JSON is read within bounds, and nothing is written through a link."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

MOST_BYTES = 256 * 2**20
"""Largest JSON file that is read."""


def parse_json(content: bytes | str, where: str, *, finite: bool = True) -> Any:
    """JSON as plain values.

    Args:
        content: The text, in UTF-8.
        where: What is read, for the error.
        finite: Whether NaN and infinity, which JSON does not have, are refused.

    Raises:
        ValueError: If it is something else, nested too deeply, or holds NaN or infinity.
    """
    try:
        text = content if isinstance(content, str) else content.decode()
        return json.loads(text, parse_constant=_no_number, parse_float=_finite) if finite else json.loads(text)
    except RecursionError:
        raise ValueError(f"{where} must be JSON, but is nested too deeply to be read") from None
    except ValueError as error:  # also a wrong encoding
        raise ValueError(f"{where} must be JSON in UTF-8 ({error})") from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    """A decimal number. JSON does not bound the exponent, so 1e999 would be infinite.

    Raises:
        ValueError: If it is too large.
    """
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def read_json(file: Path, *, most_bytes: int = MOST_BYTES, finite: bool = True) -> Any:
    """A JSON file as plain values; its size is looked at before it is read.

    Raises:
        ValueError: As :func:`parse_json`, or if it is no file or too large.
        OSError: If it cannot be read.
    """
    return parse_json(read_bytes(file, most_bytes), str(file), finite=finite)


def read_bytes(file: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Content of a small file; its size is looked at before it is read.

    Raises:
        ValueError: If it is no regular file or too large.
        OSError: If it cannot be read.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{file} must be a regular file")
    if found.st_size > most_bytes:
        raise ValueError(f"{file} must have at most {most_bytes:,} bytes, it has {found.st_size:,}")
    return file.read_bytes()


def resolved(path: Path) -> Path:
    """The absolute path without links.

    Raises:
        ValueError: If a link leads back to itself.
    """
    try:
        return path.resolve()
    except RuntimeError as error:  # of Python below 3.13
        raise ValueError(f"{path} must be a file, and is a link that leads back to itself; delete it") from error


def require_no_link(*paths: Path) -> None:
    """Refuses to write to a path that is a link; the folder that it lies in may be one.

    Raises:
        ValueError: Naming the link.
    """
    for path in paths:
        if path.is_symlink():
            raise ValueError(f"{path} will be written and must not be a link, got a link to {os.readlink(path)}; delete the link")


def require_own_files(folder: Path) -> None:
    """Refuses a folder whose files lie elsewhere: what is written into it would be written there. The folder itself may be a link.

    A link in ``checkpoints/`` to another checkpoint of it, as ``last.ckpt`` is, is one of the run's own.

    Args:
        folder: A folder that is written into, with all folders in it; it need not exist.

    Raises:
        ValueError: Naming the first link, or the first entry that is neither file nor folder.
    """
    if not folder.is_dir():
        return
    folders = [folder]
    while folders:
        with os.scandir(here := folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    target = os.readlink(entry.path)
                    if os.path.basename(here) == "checkpoints" and target not in (".", "..") and "/" not in target:
                        continue
                    raise ValueError(
                        f"{folder}/ must hold only its own files, because it is written to, but {entry.path} is a link to {target}; "
                        f"delete the "
                        "link, or make the whole folder a link if it lies on another disk"
                    )
                if entry.is_dir():
                    folders.append(Path(entry.path))
                elif not entry.is_file():
                    raise ValueError(
                        f"{folder}/ must hold only files and folders, because it is written to, but {entry.path} is neither; delete it"
                    )
