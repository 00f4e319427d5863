"""Format of data sets on disk.

    ROOT/index.json                   the set: geometry, splits, digests
    ROOT/<split>/index.json           the split: its shards in order, with counts, sizes and digests
    ROOT/<split>/clips-000000.tar     an ordinary webdataset tar: k.mp4, k.json
    ROOT/<split>/clips-000000.json    its byte offsets
    ROOT/<split>/latents-000000.tar   cached tensors of the same clips: k.latents.safetensors; likewise features and text
    ROOT/<split>/features-000000.moments.safetensors   sums over its clips, from which statistics are computed
    ROOT/cache.json                   record of the cached tensors; written last
    ROOT/<split>/plans-000000.tar     planned tokens of the same clips: k.plans.safetensors; their record is ROOT/plans.json
    ROOT/features.stats.safetensors   mean and standard deviation of every feature channel over the training split

The name of a member is its key, which ends at the first dot, and its suffix. The tars are complete: webdataset reads them, and the byte
offsets can be rebuilt from their headers. With the offsets, any clip can be read with one seek.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from baton_lightning import atomic, hints
from baton_lightning.names import quoted, wrong_with
from baton_lightning.plain_files import read_json
from baton_lightning.shards import records
from baton_lightning.shards.tars import TWICE, Members, scan

VERSION = 1
CLIPS = "clips"
BUCKETS = ("av", "video", "audio")
"""Which clips a shard holds: clips with picture and sound, with only picture, or with only sound. A shard without a bucket is ``av``."""
CACHES = ("latents", "features", "text")
CACHE, STATISTICS = "cache.json", "features.stats.safetensors"
PLANS, PLAN_CACHE = "plans", "plans.json"
"""Planned tokens have a cache of their own, because another network computes them at a later time."""


class DamagedMember(ValueError):
    """A clip whose content is damaged; the message is the reason."""


def shard_name(kind: str, number: int) -> str:
    """File name of a shard, e.g. ``latents-000003.tar``."""
    return f"{kind}-{number:06d}.tar"


def cache_suffix(kind: str) -> str:
    """Suffix of a cached member, e.g. ``latents.safetensors``."""
    return f"{kind}.safetensors"


def cache_record(kind: str) -> str:
    """Name of the file with the record of a kind of cached tensors."""
    return PLAN_CACHE if kind == PLANS else CACHE


@dataclass(frozen=True)
class Shard:
    """A tar with the byte offsets of its members.

    Args:
        tar: The file.
        num_bytes: Its size when it was written.
        sha256: Digest of its content; empty if its record was lost.
        made_by: Digest of the recipe or the networks that determine its content.
        members: Byte offset and size of every member.
        notes: Additional values that its writer stored.
        checksums: CRC-32 of every member, key -> suffix -> number; empty if its record was lost.
    """

    tar: Path
    num_bytes: int
    sha256: str
    made_by: str
    members: Members
    notes: dict[str, Any] = field(default_factory=dict)
    checksums: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def open(cls, tar: Path) -> Shard:
        """Reads the record beside a tar. If there is no record or it is damaged, the headers of the tar are read instead.

        Raises:
            ValueError: If the tar does not exist.
        """
        record = record_of(tar)
        if record.exists():
            try:
                return cls(tar, **records.require_record(read_json(record)))
            except ValueError as error:
                warnings.warn(f"data: {record} is damaged ({error}); the headers of {tar.name} are read instead", stacklevel=2)
        if not tar.is_file():
            raise ValueError(f"data: the shard {tar} does not exist")
        return cls(tar, tar.stat().st_size, "", "", scan(tar))

    @classmethod
    def finished(cls, tar: Path, made_by: str) -> Shard | None:
        """The shard, if it is complete and has the same recipe; otherwise ``None``."""
        if not (tar.exists() and record_of(tar).exists()):
            return None
        shard = cls.open(tar)
        return shard if shard.made_by == made_by and tar.stat().st_size == shard.num_bytes else None

    def save_record(self) -> None:
        """Writes the record, which marks the tar as complete."""
        content = {k: v for k, v in asdict(self).items() if k != "tar"}
        write_json(record_of(self.tar), content, indent=None)

    @cached_property
    def bytes_left(self) -> int:
        """Current size of the tar."""
        return self.tar.stat().st_size

    def lacks(self, key: str, suffix: str) -> str:
        """Reason why a member cannot be read, as far as the index shows; empty if it can. A clip with an invalid key is never read."""
        if wrong := wrong_with(key):
            return f"{self.tar.name} holds a clip with the key {quoted(key)}, which must be a name: {wrong}"
        place = self.members.get(key, {}).get(suffix)
        if place is None:
            return f"{self.tar.name} has no member {key}.{suffix}"
        if isinstance(place, tuple | list) and tuple(place) == TWICE:
            return f"{self.tar.name} has two members {key}.{suffix}"
        if not (isinstance(place, tuple | list) and len(place) == 2 and all(map(records.is_count, place))):
            return f"the record of {self.tar.name} has no position of {key}.{suffix}"
        if place[1] > (most := records.LARGEST.get(suffix, records.LARGEST_OF_ALL)):
            return f"{key}.{suffix} of {self.tar.name} has {place[1]:,} bytes, at most {most:,} are read"
        missing = place[0] + place[1] - self.bytes_left
        return f"{self.tar.name} ends {missing} bytes before the end of {key}.{suffix}" if missing > 0 else ""

    def read(self, key: str, suffix: str) -> bytes:
        """Content of a member.

        Raises:
            DamagedMember: If the shard has no such member, ends before the end of the member, or holds other bytes than were written.
        """
        if reason := self.lacks(key, suffix):
            raise DamagedMember(reason)
        offset, size = self.members[key][suffix]
        try:
            with open(self.tar, "rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise DamagedMember(f"{self.tar.name} cannot be read ({error.strerror})") from error
        if len(content) < size:
            raise DamagedMember(f"{self.tar.name} ended while {key}.{suffix} was read")
        written = self.checksums.get(key, {}).get(suffix)
        if written is not None and zlib.crc32(content) != written:
            raise DamagedMember(f"{self.tar.name} holds other bytes of {key}.{suffix} than were written (CRC-32)")
        return content


def record_of(tar: Path) -> Path:
    """File that holds a tar's byte offsets."""
    return tar.with_suffix(".json")


@dataclass(frozen=True)
class SplitIndex:
    """Index of a split.

    Args:
        folder: ``ROOT/<split>``.
        num_clips: Number of clips in all shards.
        seconds: Total duration, in s.
        clip: Geometry of every clip, as :meth:`ClipSpec.to_dict` gives it.
        shards: ``name``, ``num_clips``, ``num_bytes`` and ``sha256`` of each shard, and its ``bucket`` unless that is ``av``.
    """

    folder: Path
    num_clips: int
    seconds: float
    clip: dict[str, Any]
    shards: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> SplitIndex:
        """Reads ``index.json``.

        Raises:
            ValueError: If the folder or its index is missing, has another version, or has no clips.
        """
        file = folder / "index.json"
        if not folder.is_dir():
            siblings = sorted(p.name for p in folder.parent.iterdir() if (p / "index.json").exists()) if folder.parent.is_dir() else []
            known = f"{folder.parent}/ holds the splits {siblings}" if siblings else f"{folder.parent}/ holds no data set"
            fix = f"Build one with {hints.command('shards', 'world', folder.parent)}"
            if siblings:
                there = "train" if "train" in siblings else siblings[0]
                fix = hints.another_split(folder.name, there)
            raise ValueError(f"data: the folder {folder}/ does not exist; {known}. {fix}")
        if not file.exists():
            raise ValueError(f"data: {file} is missing, so the build of {folder}/ did not finish; run the same `shards` command again")
        content = read_json(file)
        if not isinstance(content, dict) or content.pop("version", None) != VERSION:
            raise ValueError(f"data: {file} is not an index of version {VERSION}; build the set again")
        if not content.get("num_clips") or content.get("shards") == []:
            raise ValueError(f"data: {folder}/ holds no clips; build it again with at least one")
        records.index_of_split(content, file, CLIPS)
        return cls(folder, **content)

    def write(self) -> None:
        content = {k: v for k, v in asdict(self).items() if k != "folder"}
        write_json(self.folder / "index.json", {"version": VERSION} | content)

    def tar(self, number: int, kind: str = CLIPS) -> Path:
        """Path of shard ``number``, or of the shard with the cached tensors of its clips."""
        return self.folder / self.shards[number]["name"].replace(CLIPS, kind, 1)

    @property
    def digest(self) -> str:
        """Digest of all shards, in order."""
        return hashlib.sha256("".join(entry["sha256"] for entry in self.shards).encode()).hexdigest()


def read_root(root: Path) -> dict[str, Any]:
    """``index.json`` of the set.

    Raises:
        ValueError: If there is no finished data set.
    """
    file = root / "index.json"
    if not file.exists():
        if inner := sorted(path.parent.name for path in root.glob("*/index.json") if "splits" in read_json(path)):
            raise ValueError(
                f"data: {root}/ holds a data set for each of the geometries {', '.join(inner)}; name one as the root, e.g. "
                f"{root / inner[0]}, or, to train on several, list their sizes in clip.geometries"
            )
        state = "is not finished" if root.is_dir() else "does not exist"
        raise ValueError(f"data: the data set {root}/ {state}; make it with {hints.command('shards', 'world', root)} or `shards build`")
    return records.index_of_set(file)


def write_json(file: Path, content: Any, indent: int | None = 1) -> None:
    """Writes JSON atomically."""
    atomic.write_text(file, json.dumps(content, indent=indent), several=True)


def file_digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
