"""A folder of generated clips (anybody's model) as metrics see it: ``k.mp4``, what was asked for, what it is held against."""

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
from baton_lightning.recordings.clips import VIDEO_SUFFIXES, clip_files, read_clip

if TYPE_CHECKING:
    import torch

PICTURES = (".png", ".jpg", ".jpeg")


class LeftOut(Exception):
    """This clip says nothing about the metric; the text is the reason, the same for all such clips."""


@dataclass(frozen=True)
class Clip:
    """One clip of a folder.

    Args:
        file: ``k.mp4``.
        prompt: What was asked for.
        reference: The true clip of the same name in another folder, ``k.mp4`` or of another kind, if there is one.
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
        """SHA-256 of all that a measurement may depend on: the clip, the files beside it, its prompt, its reference."""
        made = hashlib.sha256(json.dumps(self.prompt.to_dict(), sort_keys=True).encode())
        beside = sorted(self.file.parent.glob(f"{glob.escape(self.key)}.*"))
        for file in [*beside, *([self.reference] if self.reference else [])]:
            made.update(f"\n{file.name}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
        return made.hexdigest()

    def frames(self) -> Media:
        """The picture, decoded.

        Raises:
            LeftOut: If the file has none that can be read.
        """
        return decoded(self.file, has_audio=False)

    def sound(self, sample_rate: int) -> torch.Tensor:
        """The sound [S] at a rate, mono.

        Raises:
            LeftOut: If the file has none that can be read.
        """
        return sound_of(self.file, sample_rate)

    def true_sound(self, sample_rate: int) -> torch.Tensor:
        """The sound [S] of the true clip.

        Raises:
            LeftOut: If there is no true clip, or it has no sound.
        """
        if self.reference is None:
            raise LeftOut("no true clip: give --references FOLDER with a k.mp4 of the same name")
        return sound_of(self.reference, sample_rate)

    @property
    def picture(self) -> Path:
        """The reference image.

        Raises:
            LeftOut: If there is none.
        """
        for suffix in PICTURES:
            if (file := self.file.with_suffix(suffix)).exists():
                return file
        raise LeftOut("no reference image: k.png or k.jpg is not beside k.mp4")


def decoded(file: Path, *, has_video: bool = True, has_audio: bool = True) -> Media:
    """Reads a clip; what cannot be read is left out by name, not skipped."""
    try:
        return read_clip(file, has_video=has_video, has_audio=has_audio)
    except MediaError as error:
        raise LeftOut(f"unreadable ({error.reason})") from error


def sound_of(file: Path, sample_rate: int) -> torch.Tensor:
    """Mono sound of a file at a rate."""
    import torch

    from baton_lightning.frozen.resample import resample

    media = decoded(file, has_video=False)
    return resample(torch.from_numpy(media.waveform)[None], media.sample_rate, sample_rate)[0]


def read_folder(folder: Path, prompts: dict[str, Prompt] | None = None, references: Path | None = None) -> list[Clip]:
    """All clips of a folder, by name.

    Args:
        folder: Holds ``k.mp4``, and ``k.json`` with its prompts where ``prompts`` has none for it.
        prompts: Prompts by key.
        references: Folder with the true clips under the same names.

    Raises:
        ValueError: If there are no clips, or a clip has no prompt.
    """
    clips = []
    for file in clip_files(folder, "metrics"):
        prompt = (prompts or {}).get(file.stem)
        if prompt is None:
            side = file.with_suffix(".json")
            if not side.exists():
                raise ValueError(f"metrics: {file} must have its prompts in {side.name} beside it or in --prompts FILE under {file.stem!r}")
            prompt = Prompt.from_dict(json.loads(side.read_text(encoding="utf-8")), str(side))
        clips.append(Clip(file, prompt, reference_of(file.stem, references) if references else None))
    return clips


def reference_of(key: str, references: Path) -> Path | None:
    """The true clip of a key: a recording of any kind.

    Raises:
        ValueError: If there are two.
    """
    found = sorted(file for file in references.glob(f"{glob.escape(key)}.*") if file.suffix.lower() in VIDEO_SUFFIXES)
    if found[1:]:
        raise ValueError(f"metrics: {references}/ must hold one true clip of {key!r}, got {', '.join(file.name for file in found)}")
    return found[0] if found else None
