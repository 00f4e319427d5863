"""Names that file names are made of: the key of a clip, a split, a shard, a part of a network. They may come from anybody."""

from __future__ import annotations

LONGEST = 128
"""Bytes of a name in UTF-8; a prefix and suffixes fit beside it into the 255 of a file name."""
PLAN_SUFFIX = ".plan.safetensors"
"""Ending of the file beside ``k.mp4`` that holds the plan of the clip."""


def wrong_with(name: object) -> str:
    """Why something cannot be a name; empty if it can."""
    if not isinstance(name, str):
        return f"it is a {type(name).__name__}"
    if name in ("", ".", ".."):
        return "it names no file"
    if "/" in name or "\\" in name:
        return "it holds a separator of folders"
    if not name.isprintable():
        return "it holds characters that cannot be printed"
    if len(name.encode()) > LONGEST:
        return f"it is longer than {LONGEST} bytes"
    return ""


def quoted(name: object) -> str:
    """A name as an error shows it: in ASCII, on one line, cut short."""
    text = ascii(name)
    return text if len(text) <= 80 else text[:76] + "...'"


def printable(text: object) -> str:
    """Text of unknown origin as a terminal may get it: what cannot be printed, such as an escape sequence, is shown as its code. Line
    breaks are kept."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in str(text))


def counted(count: int, noun: str) -> str:
    """A number and its noun, in the plural unless there is one, e.g. ``1 clip`` and ``1,024 clips``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def require_name(name: object, what: str) -> str:
    """A name that may be part of a file name.

    Args:
        name: What was read.
        what: What it names and where it stands, for the error.

    Raises:
        ValueError: If a file of this name would lie in another folder, or could not be made.
    """
    if reason := wrong_with(name):
        raise ValueError(f"{what} must be a name without folders, of printable characters and at most {LONGEST} bytes, got {quoted(name)}: "
                         f"{reason}")  # fmt: skip
    assert isinstance(name, str)
    return name
