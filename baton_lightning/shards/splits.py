"""Assignment of recordings to splits; all parts of a recording are in the same split."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from baton_lightning.shards.source import Source

TRAIN = "train"


def amount(text: str) -> float:
    """Parses a share, e.g. ``0.05``, or a number of recordings, e.g. ``2``. Whole numbers are numbers of recordings.

    Raises:
        ValueError: If it is neither.
    """
    if re.fullmatch(r"\d+", text):
        return int(text)
    if not re.fullmatch(r"0?\.\d+", text):
        raise ValueError(f"shards build: a held-out split is a share below 1 or a number of recordings, e.g. 0.05 or 2; got {text!r}")
    return float(text)


def assign_splits(sources: list[Source], base: Path, held_out: Mapping[str, float]) -> list[Source]:
    """Assigns a split to every source without one.

    All rows of a recording get the same split: the one that a row names, or else one that is drawn.

    Args:
        sources: Rows; those without a split have an empty one.
        base: Folder to which the hashed names are relative.
        held_out: Split -> share below 1, or number of recordings. A share is drawn by a hash of the file, so recordings that are added
            later do not change the split of others. A number selects the recordings with the smallest hashes.

    Raises:
        ValueError: If no recording is left for training.
    """
    named: dict[str, str] = {}
    for source in sources:
        if source.split:
            named.setdefault(recording_of(source, base), source.split)
    free = sorted({recording_of(source, base) for source in sources if not source.refused} - named.keys(), key=point_of)
    shares = {split: share for split, share in held_out.items() if not isinstance(share, int)}
    if not sum(shares.values()) < 1:
        raise ValueError(f"shards build: shares that are held out must leave some to train on, got {dict(held_out)}")
    for split, count in held_out.items():
        if isinstance(count, int):
            named |= dict.fromkeys(free[:count], split)
            free = free[count:]
    named |= {recording: split_of(recording, shares) for recording in free}
    made = [source if source.split else replace(source, split=named.get(recording_of(source, base), TRAIN)) for source in sources]
    if all(source.split in held_out for source in made if not source.refused) and not all(source.split for source in sources):
        raise ValueError(f"shards build: {dict(held_out)} of {len(named)} recordings leaves none to train on; hold out fewer")
    return made


def recording_of(source: Source, base: Path) -> str:
    """Name of a source's recording: the path of its file, with links resolved."""
    file = os.path.realpath(source.file)
    return os.path.relpath(file, os.path.realpath(base)).replace(os.sep, "/")


def point_of(recording: str) -> float:
    """Hash of a recording as a number in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(f"split/{recording}".encode(errors="surrogateescape"), digest_size=8).digest()) / 2**64


def split_of(recording: str, shares: Mapping[str, float]) -> str:
    """Split of a recording, drawn by shares."""
    point = point_of(recording)
    for split, share in shares.items():
        point -= share
        if point < 0:
            return split
    return TRAIN
