"""Clips of a split as tensors, read from tar shards by byte offset. Damage is counted, named and stepped over, up to a limit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor
from torch.nn.functional import pad

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.media import MediaError, read_mp4
from baton_lightning.shards.format import CACHES, DamagedMember, Shard, SplitIndex, cache_suffix

Item = tuple[int, int, int]


class ShardDataset(torch.utils.data.Dataset):
    """A split.

    Args:
        folder: ``ROOT/<split>``.
        clip: Geometry that the clips must have.
        fields: What a sample holds: ``media`` and of the cache ``latents``, ``features``, ``text``.
        max_damaged: Clips that may be damaged before reading stops.

    Raises:
        ValueError: If the split is missing, of another geometry, or a cache that is asked for is missing.
    """

    def __init__(self, folder: Path, clip: ClipSpec, fields: Sequence[str], max_damaged: int = 10) -> None:
        if unknown := set(fields) - {"media", *CACHES}:
            raise ValueError(f"data.init_args.fields: unknown {sorted(unknown)}; there are media, {', '.join(CACHES)}")
        self.index, self.clip, self.fields, self.max_damaged = SplitIndex.read(folder), clip, tuple(fields), max_damaged
        if differs := clip.differences(self.index.clip):
            raise ValueError(f"data: {folder}/ holds clips of another geometry (configured != data): {'; '.join(differs)}; build the data again, or use its clip section")
        self.damaged: dict[str, str] = {}
        self.places: list[tuple[int, str]] = []
        for number, entry in enumerate(self.index.shards):
            shard = self.shard(number, "clips")
            if not shard.members:
                raise ValueError(f"data: the shard {shard.tar} is empty or unreadable, its index promises {entry['num_clips']} clips; build the data again")
            self.places += [(number, key) for key in shard.members]
            for kind in set(fields) - {"media"}:
                self.shard(number, kind)

    @cached_property
    def _shards(self) -> dict[tuple[int, str], Shard]:
        return {}

    def shard(self, number: int, kind: str) -> Shard:
        """A shard of clips or of cached tensors.

        Raises:
            ValueError: If the file does not exist.
        """
        if (number, kind) not in self._shards:
            tar = self.index.tar(number, kind)
            if not tar.exists():
                fix = "build the data again" if kind == "clips" else "cache it with `python -m baton_lightning predict -c experiments/encode.yaml`"
                raise ValueError(f"data: {tar} does not exist; {fix}")
            self._shards[number, kind] = Shard.open(tar)
        return self._shards[number, kind]

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def metadata(self) -> list[dict[str, Any]]:
        """What ``k.json`` says of every clip, and its key."""
        return [{"key": key, **json.loads(self.shard(number, "clips").read(key, "json"))} for number, key in self.places]

    # ---- samples
    def __getitems__(self, items: list[Item]) -> list[dict[str, Any]]:
        return [self[item] for item in items]

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """The clip of (epoch, place, position). If it is damaged, the next whole one stands in, on every rank alike.

        Raises:
            ValueError: If more than ``max_damaged`` clips are damaged.
        """
        epoch, place, position = item
        for step in range(len(self)):
            number, key = self.places[(position + step) % len(self)]
            try:
                return {"key": key, "place": place, "epoch": epoch, **self._read(number, key)}
            except (DamagedMember, MediaError, SafetensorError, json.JSONDecodeError, KeyError) as error:
                self._note(number, key, error)
        raise ValueError(f"data: no clip of {self.index.folder}/ can be read; build the data again")

    def _note(self, number: int, key: str, error: Exception) -> None:
        shard = self.index.tar(number).name
        if key not in self.damaged:
            self.damaged[key] = str(error)
            print(f"data: skipped {key} of {shard} ({len(self.damaged)} of at most {self.max_damaged}): {error}", flush=True)
        if len(self.damaged) > self.max_damaged:
            names = ", ".join(list(self.damaged)[:3])
            raise ValueError(f"data: at most {self.max_damaged} clips may be damaged, got {len(self.damaged)} ({names} ...), the last in {shard}; check the data with `python -m baton_lightning shards check {self.index.folder.parent}`")

    def _read(self, number: int, key: str) -> dict[str, Any]:
        """Tensors of one clip."""
        meta = json.loads(self.shard(number, "clips").read(key, "json"))
        sample: dict[str, Any] = {"video_prompt": meta["video_prompt"], "audio_prompt": meta["audio_prompt"]}
        for kind in self.fields:
            if kind == "media":
                media = read_mp4(self.shard(number, "clips").read(key, "mp4"))
                sample["frames"] = torch.from_numpy(media.frames)
                sample["waveform"] = fit_length(torch.from_numpy(media.waveform), self.clip.num_samples)
                continue
            tensors = load_tensors(self.shard(number, kind).read(key, cache_suffix(kind)))
            for name, tensor in tensors.items():
                if not torch.isfinite(tensor).all():
                    raise DamagedMember(f"{kind} of {name} are not finite")
            if kind == "text":
                sample["context"] = pad(tensors["context"], (0, 0, 0, self.clip.text_tokens - tensors["context"].shape[0]))
            else:
                sample |= {f"{name}_{kind}": tensors[name] for name in ("video", "audio")}
        return sample

    def batch(self, positions: Sequence[int]) -> Batch:
        """Clips at positions of the split's own order."""
        return collate([self[0, position, position] for position in positions])


def fit_length(waveform: Tensor, length: int) -> Tensor:
    """Cut or zero-padded to ``length`` samples."""
    return pad(waveform, (0, max(0, length - len(waveform))))[:length]


TENSORS = ("video_latents", "audio_latents", "video_features", "audio_features", "context", "frames", "waveform")


def collate(samples: list[dict[str, Any]]) -> Batch:
    """Samples of one epoch as a batch."""
    stacked = {name: torch.stack([s[name] for s in samples]) for name in TENSORS if name in samples[0]}
    return Batch(
        keys=[s["key"] for s in samples],
        index=torch.tensor([s["place"] for s in samples]),
        epoch=samples[0]["epoch"],
        video_prompts=[s["video_prompt"] for s in samples],
        audio_prompts=[s["audio_prompt"] for s in samples],
        **stacked,
    )
