"""A folder of generated clips of any model: ``k.mp4`` with its prompt and its reference clip."""

from __future__ import annotations

import glob
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from baton_lightning.media import Media, MediaError
from baton_lightning.metrics.prompts import Prompt
from baton_lightning.plain_files import read_json
from baton_lightning.recordings.clips import VIDEO_SUFFIXES, clip_files, read_clip

if TYPE_CHECKING:
    import torch

PICTURES = (".png", ".jpg", ".jpeg")


class ClipExcluded(Exception):
    """The clip is excluded from a metric. The message is the reason; clips with the same reason are counted together."""


@dataclass(frozen=True)
class Clip:
    """One clip of a folder.

    Args:
        file: ``k.mp4``.
        prompt: Prompt of the clip.
        reference: Reference clip of the same name in another folder, of any file type; ``None`` = none.
    """

    file: Path
    prompt: Prompt
    reference: Path | None = None

    @property
    def key(self) -> str:
        """Name without suffix."""
        return self.file.stem

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that a measurement depends on: the clip, its prompt, its reference, other files of the same name."""
        made = hashlib.sha256(json.dumps(self.prompt.to_dict(), sort_keys=True).encode())
        beside = sorted(self.file.parent.glob(f"{glob.escape(self.key)}.*"))
        for file in [*beside, *([self.reference] if self.reference else [])]:
            made.update(f"\n{file.name}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
        return made.hexdigest()

    def frames(self) -> Media:
        """The decoded picture.

        Raises:
            ClipExcluded: If the file has no readable picture.
        """
        return decode_clip(self.file, has_audio=False)

    def sound(self, sample_rate: int) -> torch.Tensor:
        """The sound [S] at a sample rate, mono.

        Raises:
            ClipExcluded: If the file has no readable sound.
        """
        return read_sound(self.file, sample_rate)

    def reference_sound(self, sample_rate: int) -> torch.Tensor:
        """The sound [S] of the reference clip at a sample rate, mono.

        Raises:
            ClipExcluded: If there is no reference clip, or it has no sound.
        """
        if self.reference is None:
            raise ClipExcluded("no true clip: give --references FOLDER with a k.mp4 of the same name")
        return read_sound(self.reference, sample_rate)

    @property
    def picture(self) -> Path:
        """The reference image.

        Raises:
            ClipExcluded: If there is none.
        """
        for suffix in PICTURES:
            if (file := self.file.with_suffix(suffix)).exists():
                return file
        raise ClipExcluded("no reference image: k.png or k.jpg is not beside k.mp4")


def decode_clip(file: Path, *, has_video: bool = True, has_audio: bool = True) -> Media:
    """Reads a clip; an unreadable one is excluded with its reason."""
    try:
        return read_clip(file, has_video=has_video, has_audio=has_audio)
    except MediaError as error:
        raise ClipExcluded(f"unreadable ({error.reason})") from error


def read_sound(file: Path, sample_rate: int) -> torch.Tensor:
    """Mono sound of a file at a sample rate."""
    import torch

    from baton_lightning.frozen.resample import resample

    media = decode_clip(file, has_video=False)
    return resample(torch.from_numpy(media.waveform)[None], media.sample_rate, sample_rate)[0]


def read_folder(folder: Path, prompts: dict[str, Prompt] | None = None, references: Path | None = None) -> list[Clip]:
    """All clips of a folder, sorted by name.

    Args:
        folder: Folder with ``k.mp4``, and with ``k.json`` for every clip without an entry in ``prompts``.
        prompts: Prompts by key.
        references: Folder with the reference clips under the same names.

    Raises:
        ValueError: If there are no clips, or a clip has no prompt.
    """
    clips = []
    for file in clip_files(folder, "metrics"):
        prompt = (prompts or {}).get(file.stem)
        if prompt is None:
            side = file.with_suffix(".json")
            if not side.exists():
                raise ValueError(
                    f"metrics: {file} has no prompt; put it in {side.name} beside it, or in --prompts FILE under {file.stem!r}"
                )
            prompt = Prompt.from_dict(read_json(side, finite=False), str(side))
        clips.append(Clip(file, prompt, reference_of(file.stem, references) if references else None))
    return clips


def reference_of(key: str, references: Path) -> Path | None:
    """The reference clip of a key, of any file type.

    Raises:
        ValueError: If there are several.
    """
    found = sorted(file for file in references.glob(f"{glob.escape(key)}.*") if file.suffix.lower() in VIDEO_SUFFIXES)
    if found[1:]:
        raise ValueError(f"metrics: {references}/ must hold one clip named {key!r}, got {', '.join(file.name for file in found)}")
    return found[0] if found else None
