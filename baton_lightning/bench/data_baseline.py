"""Plain webdataset over the shards of a data set, the baseline of `bench data`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baton_lightning.batch import Batch
    from baton_lightning.clip import ClipSpec

KINDS = {"media": ("media",), "cached": ("latents", "features", "text")}
"""Kind of measurement -> fields of a batch."""


def loader(shards: list[Path], clip: ClipSpec, kind: str, batch_size: int, num_workers: int) -> Any:
    """Loader of batches in the order of the shards. Each worker reads its own shards.

    Args:
        shards: Tars of clips; the tars of cached tensors are in the same folder.
        clip: Geometry of the clips.
        kind: ``media`` or ``cached``.
        batch_size: Clips per batch.
        num_workers: Number of worker processes.
    """
    import torch
    import webdataset as wds

    fields = () if kind == "media" else KINDS[kind]
    clips = wds.WebDataset(names(shards), shardshuffle=False, select_files=None if kind == "media" else is_text)
    streams = [clips, *(wds.WebDataset(names(shards, field), shardshuffle=False) for field in fields)]

    def merged() -> Iterator[dict[str, Any]]:
        for parts in zip(*streams, strict=True):
            if len({part["__key__"] for part in parts}) != 1:
                raise ValueError(
                    f"bench data: shards of clips and of their cache must hold the same keys, got {[p['__key__'] for p in parts]}"
                )
            yield {name: value for part in parts for name, value in part.items()}

    pipeline = wds.DataPipeline(
        clips if kind == "media" else merged,
        wds.map(lambda raw: decode(raw, clip, kind)),
        wds.batched(batch_size, collation_fn=collate, partial=False),
    )
    return wds.WebLoader(pipeline, batch_size=None, num_workers=num_workers, pin_memory=torch.cuda.is_available())


def names(shards: list[Path], field: str | None = None) -> list[str]:
    """Paths of the tars of clips, or of one kind of cached tensors."""
    from baton_lightning.shards.format import CLIPS

    return [str(tar if field is None else tar.with_name(tar.name.replace(CLIPS, field, 1))) for tar in shards]


def is_text(name: str) -> bool:
    return name.endswith(".json")


def decode(raw: dict[str, Any], clip: ClipSpec, kind: str) -> dict[str, Any]:
    """Decodes the members of a clip to a sample."""
    import torch
    from safetensors.torch import load
    from torch.nn.functional import pad

    from baton_lightning.media import read_mp4

    metadata = json.loads(raw["json"])
    sample: dict[str, Any] = {"key": raw["__key__"], **{name: metadata[name] for name in ("video_prompt", "audio_prompt")}}
    if kind == "media":
        media = read_mp4(raw["mp4"])
        waveform = torch.from_numpy(media.waveform)
        sample["frames"] = torch.from_numpy(media.frames)[: clip.num_frames]
        sample["waveform"] = pad(waveform, (0, max(0, clip.num_samples - len(waveform))))[: clip.num_samples]
        return sample
    for field in ("latents", "features"):
        for name, tensor in load(raw[f"{field}.safetensors"]).items():
            sample[f"{name}_{field}"] = tensor.float()
    context = load(raw["text.safetensors"])["context"].float()
    sample["context"] = pad(context, (0, 0, 0, clip.text_tokens - len(context)))
    return sample


def collate(samples: list[dict[str, Any]]) -> Batch:
    """Collates samples to a batch."""
    import torch

    from baton_lightning.batch import Batch

    tensors = {name: torch.stack([s[name] for s in samples]) for name, value in samples[0].items() if isinstance(value, torch.Tensor)}
    return Batch(
        keys=[s["key"] for s in samples],
        index=torch.arange(len(samples)),
        epoch=0,
        video_prompts=[s["video_prompt"] for s in samples],
        audio_prompts=[s["audio_prompt"] for s in samples],
        **tensors,
    )
