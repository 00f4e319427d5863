"""Batches of a split, read from tar shards by byte offset. Damaged clips are reported and replaced, up to a limit."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from baton_lightning import hints
from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.media import AAC_FRAME, read_mp4
from baton_lightning.names import quoted, wrong_with
from baton_lightning.shards.format import BUCKETS, CACHES, CLIPS, PLANS, DamagedMember, Shard, SplitIndex, cache_suffix
from baton_lightning.shards.records import MOST_CLIPS, metadata_of
from baton_lightning.shards.stored_clip import media_differences
from datamodules.order import Buckets, Slot
from datamodules.samples import checked_tensor, collate

MEDIA = "media"
KINDS = (*CACHES, PLANS)
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OSError, RuntimeError, MemoryError, SafetensorError)
"""Errors that reading a damaged clip raises; DamagedMember and MediaError are ValueErrors."""


class Damage(NamedTuple):
    """A damaged clip, its shard, and the reason."""

    key: str
    shard: str
    reason: str


class ShardDataset(Dataset):
    """Clips of a split.

    A damaged clip is replaced with the next intact clip of its bucket, on every rank and in every run. The replacement is seen twice in
    that epoch; the order of all other clips does not change.

    For a clip without picture or without sound, cached tensors of the missing modality are zeros, and the presence masks of the batch mark
    it. Media that no clip of a batch has are ``None``.

    Args:
        folder: ``ROOT/<split>``.
        clip: Geometry that the clips must have.
        fields: Fields of a sample: ``media`` (frames and waveform), and from the cache ``latents``, ``features``, ``text``, ``plans``.
        max_damaged: Largest number of damaged clips.
        replace: Whether damaged clips are replaced. Otherwise they are blank and marked as without picture and sound.
        planner: Digest of the planner that computed ``plans``.
        geometry: Name of the geometry that batches carry; ``None`` if the run has one geometry.

    Raises:
        ValueError: If the split or a requested cache is missing, a shard is empty, or the geometry differs.
    """

    def __init__(
        self,
        folder: Path,
        clip: ClipSpec,
        fields: Sequence[str],
        *,
        max_damaged: int = 10,
        replace: bool = True,
        planner: str | None = None,
        geometry: str | None = None,
    ) -> None:
        if unknown := set(fields) - {MEDIA, *KINDS}:
            raise ValueError(f"data.init_args.fields must be among {MEDIA}, {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
        self.index, self.clip, self.max_damaged, self.replace = SplitIndex.read(folder), clip, max_damaged, replace
        self.planner, self.geometry = planner, geometry
        self.media = MEDIA in fields
        self.caches = [kind for kind in KINDS if kind in fields]
        if differs := media_differences(clip, self.index.clip):
            raise ValueError(
                f"data: {folder}/ holds clips of another geometry (clip section != data): {'; '.join(differs)}; "
                "change the clip section, or build the data for it"
            )
        numbers = range(len(self.index.shards))
        self.shards = {kind: [self._open(number, kind) for number in numbers] for kind in (CLIPS, *self.caches)}
        self.places = [(number, key) for number, shard in enumerate(self.shards[CLIPS]) for key in shard.members]
        ends = list(accumulate(len(shard.members) for shard in self.shards[CLIPS]))
        self.ranges = [range(start, end) for start, end in pairwise([0, *ends])]
        """Positions of each shard's clips."""
        if duplicates := [key for key, count in Counter(key for _, key in self.places).items() if count > 1]:
            tars = [self.shards[CLIPS][number].tar.name for number, key in self.places if key == duplicates[0]]
            raise ValueError(
                f"data: a key must name one clip of {folder}/, {duplicates[0]} is in {' and in '.join(tars)}; build the data again"
            )
        kinds = [entry.get("bucket", BUCKETS[0]) for entry in self.index.shards]
        if unknown := sorted(set(kinds) - set(BUCKETS)):
            raise ValueError(
                f"data: {folder}/index.json names the bucket {unknown[0]}, known are {', '.join(BUCKETS)}; build the data again"
            )
        self.kinds = kinds
        members = {bucket: [p for p, (number, _) in enumerate(self.places) if kinds[number] == bucket] for bucket in BUCKETS}
        self.buckets: Buckets = {bucket: positions for bucket, positions in members.items() if positions}
        self.bucket_clips = dict.fromkeys(self.buckets, clip)
        """Geometry of each bucket."""
        self.damaged: dict[str, Damage] = {}
        self.report([damage for number, key in self.places if (damage := self._incomplete(number, key))])

    def _open(self, number: int, kind: str) -> Shard:
        tar = self.index.tar(number, kind)
        if not tar.is_file():
            fix = "build the data again" if kind == CLIPS else f"cache it with {cache_command(kind, self.index.folder.parent)}"
            raise ValueError(f"data: the shard {tar} does not exist; {fix}")
        shard, num_clips = Shard.open(tar), self.index.shards[number]["num_clips"]
        got = len(shard.members) if tar.stat().st_size else 0
        if not got or (kind == CLIPS and got != num_clips):
            raise ValueError(f"data: the shard {tar} must hold {num_clips} clips, got {got}; delete it and repeat what made it")
        return shard

    def _required_members(self) -> list[tuple[str, str]]:
        """Kind and suffix of every tar member of a sample."""
        return [(CLIPS, "json")] + [(CLIPS, "mp4")] * self.media + [(kind, cache_suffix(kind)) for kind in self.caches]

    def _incomplete(self, number: int, key: str) -> Damage | None:
        """Damage that is visible without reading: a member is missing, or its tar is truncated."""
        for kind, suffix in self._required_members():
            if reason := self.shards[kind][number].lacks(key, suffix):
                return Damage(key, self.shards[kind][number].tar.name, reason)
        return None

    def __len__(self) -> int:
        return len(self.places)

    def metadata(self) -> list[dict[str, Any]]:
        """Content of ``k.json`` with the key, for every clip; for a damaged clip only the key."""
        return [self._metadata(number, key) for number, key in self.places]

    def _metadata(self, number: int, key: str) -> dict[str, Any]:
        """Content of a clip's ``k.json``, with its key. A file that cannot be read is reported as damage."""
        if key not in self.damaged:
            try:
                return {"key": key, **self._described(number, key)}
            except UNREADABLE as error:
                self.report([Damage(key, self.shards[CLIPS][number].tar.name, f"{type(error).__name__}: {error}")])
        return {"key": key}

    def _described(self, number: int, key: str) -> dict[str, Any]:
        """Content of a clip's ``k.json``.

        Raises:
            ValueError: If it is not the JSON of a clip.
        """
        metadata = metadata_of(self.shards[CLIPS][number].read(key, "json"), f"{key}.json")
        for name in ("video_prompt", "audio_prompt", "tier"):
            if not isinstance(metadata.get(name, ""), str):
                raise DamagedMember(f"{key}.json must hold a text as {name}, got a {type(metadata[name]).__name__}")
        return metadata

    # ---- for caching
    def is_cached(self, number: int, recipe: str, kinds: Sequence[str] = CACHES) -> bool:
        """Whether the caches of a shard are complete and were computed by these networks (``recipe``) from these clips."""
        source = self.index.shards[number]["sha256"]
        made = [Shard.finished(self.index.tar(number, kind), recipe) for kind in kinds]
        return all(shard is not None and shard.notes.get("source") == source for shard in made)

    def batches_of_shard(self, number: int, batch_size: int) -> list[list[Slot]]:
        """Batches with the clips of one shard."""
        slots = [(0, position, position) for position in self.ranges[number]]
        return [slots[i : i + batch_size] for i in range(0, len(slots), batch_size)]

    # ---- samples
    def batch(self, positions: Sequence[int]) -> Batch:
        """A batch of the clips at these positions of the split."""
        batch, found = self.__getitems__([(0, position, position) for position in positions])
        self.report(found)
        return batch

    def __getitems__(self, slots: Sequence[Slot]) -> tuple[Batch, list[Damage]]:
        """A batch, and the damage found. It is called in a worker; the training process passes the damage to :meth:`report`."""
        found: list[Damage] = []
        samples = [self._sample(slot, found) for slot in slots]
        return collate(samples, self.planner, self.geometry), found

    def report(self, found: Sequence[Damage]) -> None:
        """Counts damaged clips, and warns once for each.

        Raises:
            ValueError: If more than ``max_damaged`` clips are damaged.
        """
        for damage in found:
            if damage.key in self.damaged:
                continue
            self.damaged[damage.key] = damage
            count = f"{len(self.damaged)} of at most {self.max_damaged}"
            warnings.warn(f"skipped the clip {shown(damage.key)} of {damage.shard} ({count}): {damage.reason}", stacklevel=2)
        if len(self.damaged) > self.max_damaged:
            listed = "; ".join(f"{shown(d.key)} of {d.shard}: {d.reason}" for d in list(self.damaged.values())[:3])
            raise ValueError(
                f"data: at most {self.max_damaged} clips of {self.index.folder}/ may be damaged, got {len(self.damaged)}, "
                f"the first are {listed}; look at all with {hints.command('shards', 'check', self.index.folder.parent)}, "
                "or raise data.init_args.max_damaged"
            )

    def _sample(self, slot: Slot, found: list[Damage]) -> dict[str, Any]:
        epoch, place, position = slot
        bucket = self.kinds[self.places[position][0]]
        bucket_clips = self.buckets[bucket]
        first = bisect_left(bucket_clips, position)
        for step in range(min(self.max_damaged + 1, len(bucket_clips))):
            number, key = self.places[bucket_clips[(first + step) % len(bucket_clips)]]
            if key not in self.damaged:
                try:
                    return {"key": key, "place": place, "epoch": epoch, **self._read(number, key, bucket)}
                except UNREADABLE as error:
                    found.append(Damage(key, self.shards[CLIPS][number].tar.name, f"{type(error).__name__}: {error}"))
            if not self.replace:
                return {"key": key, "place": place, "epoch": epoch, **self._blank_sample(bucket)}
        self.report(found)
        tried = min(self.max_damaged + 1, len(bucket_clips))
        raise ValueError(
            f"data: {self.index.folder}/ has no intact clip of the bucket {bucket} within {tried} of position {position}; build it again"
        )

    def _read(self, number: int, key: str, bucket: str) -> dict[str, Any]:
        """Texts and tensors of one clip, after checks."""
        has = {"video": bucket != "audio", "audio": bucket != "video"}
        metadata = self._described(number, key)
        sample: dict[str, Any] = {name: metadata[name] for name in ("video_prompt", "audio_prompt")}
        sample |= {f"has_{name}": present for name, present in has.items()}
        if self.media:
            sample |= self._read_media(self.shards[CLIPS][number].read(key, "mp4"), has)
        clip = self.clip
        for kind in self.caches:
            tensors = load_tensors(self.shards[kind][number].read(key, cache_suffix(kind)))
            if kind == "text":
                rows = min(len(tensors["context"]), clip.text_tokens)
                context = checked_tensor("context", tensors["context"], (rows, clip.text_width))
                sample["context"] = pad(context, (0, 0, 0, clip.text_tokens - rows))
                continue
            planned = (clip.num_video_planned, clip.video_plan_width), (clip.num_audio_planned, clip.audio_plan_width)
            if kind == PLANS:  # a plan has both modalities, even if the clip has only one
                sample |= {f"{name}_plan": checked_tensor(f"{name} plan", tensors[name], s) for name, s in zip(has, planned, strict=True)}
                continue
            grids = (clip.video_channels, *clip.latent_grid), (clip.num_audio_latents, clip.audio_channels)
            for name, shape in zip(has, grids if kind == "latents" else planned, strict=True):
                sample[f"{name}_{kind}"] = checked_tensor(f"{name} {kind}", tensors[name], shape) if has[name] else torch.zeros(shape)
        return sample

    def _read_media(self, content: bytes, has: dict[str, bool]) -> dict[str, Tensor]:
        clip = self.clip
        media = read_mp4(content, has_video=has["video"], has_audio=has["audio"], most_bytes=MOST_CLIPS * clip.media_bytes)
        made: dict[str, Tensor] = {}
        if has["video"]:
            frames = torch.from_numpy(media.frames)
            if len(frames) < clip.num_frames or frames.shape[1:3] != (clip.height, clip.width) or abs(media.fps - clip.fps) > 1e-3:
                count, height, width = frames.shape[:3]
                expected = f"the clip {clip.num_frames} of {clip.height} x {clip.width} at {clip.fps:g}"
                raise DamagedMember(f"the picture has {count} frames of {height} x {width} at {media.fps:g} fps, {expected}")
            made["frames"] = frames[: clip.num_frames]
        if has["audio"]:
            waveform = torch.from_numpy(media.waveform)
            if media.sample_rate != clip.sample_rate or len(waveform) < clip.num_samples - AAC_FRAME:
                expected = f"the clip {clip.num_samples} at {clip.sample_rate}"
                raise DamagedMember(f"the sound has {len(waveform)} samples at {media.sample_rate} Hz, {expected}")
            made["waveform"] = pad(waveform, (0, max(0, clip.num_samples - len(waveform))))[: clip.num_samples]
        return made

    def _blank_sample(self, bucket: str) -> dict[str, Any]:
        """The sample of a damaged clip that is not replaced."""
        clip = self.clip
        blank: dict[str, Any] = {"video_prompt": "", "audio_prompt": "", "has_video": False, "has_audio": False}
        if self.media and bucket != "audio":
            blank["frames"] = torch.zeros(clip.num_frames, clip.height, clip.width, 3, dtype=torch.uint8)
        if self.media and bucket != "video":
            blank["waveform"] = torch.zeros(clip.num_samples)
        return blank


def cache_command(kind: str, root: Path) -> str:
    """The command that computes a kind of cached tensors for a data set."""
    return hints.predict(hints.PLANS if kind == PLANS else hints.ENCODE, root)


def shown(key: str) -> str:
    """A key for messages; quoted if it contains unsafe characters."""
    return quoted(key) if wrong_with(key) else key
