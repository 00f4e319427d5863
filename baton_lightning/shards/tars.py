"""Byte offsets of the members of a tar, read from its headers."""

from __future__ import annotations

import tarfile
from pathlib import Path

Members = dict[str, dict[str, tuple[int, int]]]
"""key -> suffix -> (offset, size), in bytes."""
TWICE = (-1, -1)
"""Placeholder for the offset and size of a member that a tar holds more than once."""
LONGEST_HEADER = 2**20
"""Size of the largest extended header that is read (e.g. a long name), in bytes."""


def scan(tar: Path) -> Members:
    """Byte offsets from the headers of a tar. A damaged tar yields the members before the damage."""
    members: Members = {}
    try:
        with tarfile.open(tar, "r:", tarinfo=Header) as archive:
            for member in archive:
                if member.isfile() and not member.issparse():  # the bytes of a sparse member are not contiguous
                    folder, _, name = member.name.rpartition("/")
                    key, _, suffix = name.partition(".")
                    places = members.setdefault(f"{folder}/{key}" if folder else key, {})
                    places[suffix] = TWICE if suffix in places else (member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError):
        pass
    return members


class Header(tarfile.TarInfo):
    """Header of a tar's member. Extended headers beyond :data:`LONGEST_HEADER` are refused."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in tarfile.SUPPORTED_TYPES and not self.isreg() and self.size > LONGEST_HEADER:
            raise tarfile.ReadError("a header is too long")
        return super()._proc_member(archive)  # type: ignore[misc]  # tarfile reads extended headers here
