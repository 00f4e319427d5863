"""The clips to generate: held-out prompts of a run's data, or the user's prompts, in batches that are read lazily."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning.batch import Batch
from baton_lightning.names import require_name

if TYPE_CHECKING:
    from baton_lightning.generation.generator import Generator
    from baton_lightning.metrics.prompts import Prompt
    from baton_lightning.plan.clip_plan import ClipPlan


class Requests:
    """Batches of the clips to generate, each with the metadata of its clips.

    Args:
        parts: Indices of the clips of every batch.
        read: Returns the batch and the metadata of the clips with these indices.
    """

    def __init__(self, parts: list[list[int]], read: Callable[[list[int]], tuple[Batch, list[dict[str, Any]]]]) -> None:
        self.parts, self.read = parts, read

    @property
    def num_clips(self) -> int:
        return sum(map(len, self.parts))

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, place: int) -> tuple[Batch, list[dict[str, Any]]]:
        return self.read(self.parts[place])

    def __iter__(self) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
        return map(self.read, self.parts)


def split_into_batches(places: list[int], batch_size: int) -> list[list[int]]:
    """Indices divided into batches."""
    return [places[start : start + batch_size] for start in range(0, len(places), batch_size)]


def held_out(data: Any, num: int, batch_size: int) -> Requests:
    """The first ``num`` test clips of every tier, in batches of one tier."""
    data.setup("test")
    dataset = data.test_dataset
    tiers: dict[str, list[int]] = {}
    described = dataset.metadata()
    for position, meta in enumerate(described):
        chosen = tiers.setdefault(meta.get("tier", "all"), [])
        if len(chosen) < num:
            chosen.append(position)
    parts = [part for positions in tiers.values() for part in split_into_batches(positions, batch_size)]
    return Requests(parts, lambda part: (dataset.batch(part), [described[place] for place in part]))


def own_prompts(options: argparse.Namespace) -> dict[str, Prompt]:
    """The user's prompts, by the names of their clips; empty if there are none.

    Raises:
        ValueError: If a file cannot be read, is empty, or has a key that is not a file name.
    """
    from baton_lightning.metrics.prompt_files import read_prompts
    from baton_lightning.metrics.prompts import Prompt

    if options.video_prompt:
        return {"prompt": Prompt(options.video_prompt, options.audio_prompt)}
    if options.prompts is None:
        return {}
    prompts = read_prompts(options.prompts)
    if not prompts:
        raise ValueError(f"generate: {options.prompts} must hold at least one prompt")
    for key in prompts:
        require_name(key, f"generate: {options.prompts}: a key, which its clip is named after,")
    return prompts


def of_plan(plan: ClipPlan, file: Path) -> dict[str, Prompt]:
    """The prompts of a plan, under the name of its file."""
    from baton_lightning.metrics.prompts import Prompt

    return {file.stem: Prompt(plan.video_prompt, plan.audio_prompt)}


def of_prompts(generator: Generator, prompts: dict[str, Prompt], batch_size: int) -> Requests:
    """Batches of prompts. The text encoder embeds all of them first. The noise depends on the key of a prompt, so a prompt gives the same
    clip in any file."""
    import torch

    keys = list(prompts)
    contexts = generator.contexts([p.video_prompt for p in prompts.values()], [p.audio_prompt for p in prompts.values()], batch_size)

    def read(part: list[int]) -> tuple[Batch, list[dict[str, Any]]]:
        chosen = {keys[place]: prompts[keys[place]] for place in part}
        seen, heard = ([getattr(prompt, name) for prompt in chosen.values()] for name in ("video_prompt", "audio_prompt"))
        batch = Batch(list(chosen), torch.tensor([number_of(key) for key in chosen]), 0, seen, heard, context=contexts[part])
        return batch, [prompt.to_dict() for prompt in chosen.values()]

    return Requests(split_into_batches(list(range(len(keys))), batch_size), read)


def number_of(key: str) -> int:
    """Sample index derived from a prompt's key, from 0 to 2^62."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 2
