"""The data set of one geometry: its splits, caches and statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baton_lightning import hints
from baton_lightning.clip import ClipSpec
from baton_lightning.shards.format import BUCKETS, CACHE, PLAN_CACHE, PLANS, STATISTICS, SplitIndex, cache_record, read_root
from baton_lightning.shards.moments import read_provenance
from baton_lightning.shards.records import read_cache
from baton_lightning.shards.stored_clip import tensor_differences
from datamodules.feature_statistics import read_statistics
from datamodules.shard_dataset import KINDS, ShardDataset, cache_command

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Modality -> mean and standard deviation [C] of its features."""


class GeometrySet:
    """A data set whose clips have one geometry.

    Args:
        root: Folder of the data set.
        clip: Geometry of its clips.
        name: Name of the geometry, if it is one of several of a run; ``None`` if it is the only one.
    """

    def __init__(self, root: Path, clip: ClipSpec, name: str | None = None) -> None:
        self.root, self.clip, self.name = root, clip, name
        self.encode_datasets: dict[str, ShardDataset] = {}
        """Split -> clips to be cached."""

    @property
    def run_root(self) -> Path:
        """Root that commands name: the folder of all geometries."""
        return self.root if self.name is None else self.root.parent

    def require_splits(self) -> dict[str, Any]:
        """Splits of the data set, from its index.

        Raises:
            ValueError: If there is no finished data set.
        """
        if self.name is not None and not (self.root / "index.json").exists():
            there = sorted(path.parent.name for path in self.run_root.glob("*/index.json"))
            raise ValueError(
                f"data: {self.run_root}/ must hold a data set for each geometry of the clip section, it has none of {self.name} "
                f"({', '.join(there) or 'and no other'}); build it with `shards build --bucket`, or change clip.geometries"
            )
        return read_root(self.root)["splits"]

    def open(self, split: str, fields: Sequence[str], **options: Any) -> ShardDataset:
        """Clips of a split, see :class:`~datamodules.shard_dataset.ShardDataset`.

        Raises:
            ValueError: If data or caches are missing or stale, or have another geometry.
        """
        self.require_splits()
        if cached := [kind for kind in KINDS if kind in fields]:
            self.require_fresh_cache(cached)
        if PLANS in cached:
            options["planner"] = self.planned_by()["weights_sha256"]
        dataset = ShardDataset(self.root / split, self.clip, fields, geometry=self.name, **options)
        if cached:
            self._require_made_by_one(dataset)
        return dataset

    def require_fresh_cache(self, kinds: Sequence[str]) -> None:
        """Refuses caches that are incomplete, or computed from other clips or with another geometry.

        Raises:
            ValueError: If there is no complete cache of these clips.
        """
        splits = self.require_splits()
        for path in dict.fromkeys(self.root / cache_record(kind) for kind in kinds):
            own = [kind for kind in kinds if cache_record(kind) == path.name]
            command = cache_command(own[0], self.run_root)
            what, fix = f"the cache of {', '.join(own)} in {self.root}/", f"repeat {command}"
            if not path.exists():
                raise ValueError(f"data: {self.root}/ has no finished cache of {', '.join(own)}; run {command}")
            cache = read_cache(path)
            if differs := tensor_differences(self.clip, cache.get("clip", {})):
                raise ValueError(f"data: {what} is of another geometry (clip section != cache): {'; '.join(differs)}; {fix}")
            if stale := [split for split, entry in splits.items() if cache["splits"].get(split) != entry["sha256"]]:
                raise ValueError(f"data: {what} was made from clips other than those in the splits {', '.join(stale)}; {fix}")

    def _require_made_by_one(self, dataset: ShardDataset) -> None:
        for kind in dataset.caches:
            path = self.root / cache_record(kind)
            recipe = read_cache(path)["recipe"]
            if other := [shard.tar for shard in dataset.shards[kind] if shard.made_by not in ("", recipe)]:
                raise ValueError(
                    f"data: {other[0]} was not made by the networks that {path} names; repeat {cache_command(kind, self.run_root)}"
                )

    def planned_by(self) -> dict[str, Any]:
        """Record of the planner that computed the cached plans: ``weights_sha256`` of its run, types, settings.

        Raises:
            ValueError: If no plans of these clips are cached.
        """
        self.require_fresh_cache([PLANS])
        planner = read_cache(self.root / PLAN_CACHE).get("planner")
        if not isinstance(planner, dict) or not isinstance(planner.get("weights_sha256"), str):
            fix = f"repeat {cache_command(PLANS, self.run_root)}"
            raise ValueError(f"data: {self.root / PLAN_CACHE} must name the planner of its tokens; {fix}")
        return planner

    def feature_statistics(self, split: str, online: Any = None) -> Statistics:
        """Mean and standard deviation [C] of a split's features, by modality; 0 and 1 for a modality that no clip has.

        Args:
            split: The training split.
            online: Networks that compute features of each batch, which check the statistics' provenance; ``None`` if features are cached.

        Raises:
            ValueError: If there are no statistics, or they belong to other features or clips.
        """
        path, make = self.root / STATISTICS, hints.predict(hints.ENCODE if online is None else hints.STATISTICS, self.run_root)
        if not path.is_file():
            raise ValueError(f"data: {path} does not exist; {'cache the features' if online is None else 'make it'} with {make}")
        if online is not None:
            online.require_statistics(provenance := read_provenance(path), self.name)
            if provenance.get("clips") != SplitIndex.read(self.root / split).digest:
                raise ValueError(f"data: {path} is not of the clips in {self.root / split}/; repeat {make}")
        return read_statistics(path, {"video": self.clip.video_plan_width, "audio": self.clip.audio_plan_width}, make)

    def num_features(self, split: str) -> dict[str, int]:
        """Modality -> number of features of all clips of a split, i.e. of planned tokens."""
        counts = {"video": 0, "audio": 0}
        for entry in SplitIndex.read(self.root / split).shards:
            bucket = entry.get("bucket", BUCKETS[0])
            counts["video"] += self.clip.num_video_planned * entry["num_clips"] * (bucket != "audio")
            counts["audio"] += self.clip.num_audio_planned * entry["num_clips"] * (bucket != "video")
        return counts

    def content(self, fields: Sequence[str]) -> bytes:
        """Bytes that identify the data set and its caches."""
        names = ["index.json", *(name for name in (CACHE, PLAN_CACHE if PLANS in fields else "") if name and (self.root / name).exists())]
        return b"".join((self.root / name).read_bytes() for name in names)


def geometry_sets(root: Path, clip: ClipSpec) -> list[GeometrySet]:
    """The data sets of a run: ``root`` itself, or with several geometries a folder for each of them."""
    if not clip.geometries:
        return [GeometrySet(root, clip)]
    return [GeometrySet(root / name, geometry, name) for name, geometry in clip.each.items()]


def pooled(statistics: Sequence[Statistics], counts: Sequence[Mapping[str, int]]) -> Statistics:
    """Statistics of several sets of features together; those of a single set are returned unchanged.

    Args:
        statistics: Mean and standard deviation of each set.
        counts: Modality -> number of features of each set.
    """
    if len(statistics) == 1:
        return statistics[0]
    together: Statistics = {}
    for name, own in statistics[0].items():
        weights = torch.tensor([count[name] for count in counts], dtype=torch.float64)
        if not weights.any():
            together[name] = own
            continue
        means, stds = (torch.stack([each[name][i].double() for each in statistics]) for i in (0, 1))
        share = (weights / weights.sum())[:, None]
        mean = (share * means).sum(0)
        variance = (share * (stds.square() + (means - mean).square())).sum(0)
        together[name] = mean.float(), variance.sqrt().float()
    return together


def content_digest(sets: Sequence[GeometrySet], fields: Sequence[str]) -> str:
    """Digest of data sets and their caches, for a run's manifest."""
    return hashlib.sha256(b"".join(data_set.content(fields) for data_set in sets)).hexdigest()
