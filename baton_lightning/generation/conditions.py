"""Conditions from files: a first frame, a video without sound, a sound without video, a clip to extend or to inpaint.

Files are read in the same way as recordings of a data set, and encoded with the run's codecs. Their latents are held fixed while the
others are generated. A task of :mod:`baton_lightning.flow.tasks` does the same with the latents of held-out clips.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.flow.given import Given
from baton_lightning.flow.tasks import CONDITIONS, STATES, Known, Task, TaskMix, given_of
from baton_lightning.generation.generator import Generator
from baton_lightning.media import Media
from baton_lightning.recordings.clips import read_clip
from baton_lightning.shards.cut import cut_picture, cut_sound
from baton_lightning.stages import flow_matching


def task_of(text: str) -> Task:
    """Parses a task such as ``video=given`` or ``first_frame=1,mask=0.5``.

    Raises:
        ValueError: If a name or value is unknown or out of range.
    """
    known = [field.name for field in fields(Task) if field.name != "share"]
    values: dict[str, Any] = {}
    for word in text.split(","):
        name, _, value = word.strip().partition("=")
        if name not in known or not value:
            raise ValueError(
                f"--task must be words such as video=given or first_frame=1, of {', '.join(known)}; got {word.strip()!r}. States are "
                f"{', '.join(STATES)}; {', '.join(CONDITIONS)} are probabilities"
            )
        try:
            values[name] = value if name in ("video", "audio") else float(value)
        except ValueError as error:
            raise ValueError(f"--task: {name} must be a probability in [0, 1], got {value!r}") from error
    return Task(**values)


@dataclass(frozen=True)
class Conditions:
    """Known latents of one clip, which are the condition of every clip of a batch.

    Args:
        clean: Modality -> latents [1, ...]; values that are not known are ignored.
        known: Which latents are known.
        frames: Frames [T, Y, X, 3] of a given video. They replace the decoded frames of the generated clip.
        waveform: Waveform [S] of a given sound. It replaces the decoded waveform.
        before: Media of an extended clip before the start of the generated clip; ``None`` = nothing is extended.
    """

    clean: dict[str, Tensor]
    known: Known
    frames: NDArray[np.uint8] | None = None
    waveform: NDArray[np.float32] | None = None
    before: Media | None = None

    def held(self, batch: Batch) -> Given:
        """Latents that are held fixed in a batch."""
        clean = {name: x.to(batch.index.device).expand(len(batch), *x.shape[1:]) for name, x in self.clean.items()}
        return given_of([self.known] * len(batch), clean, clean)

    def complete(self, frames: Tensor, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [T, Y, X, 3] and waveform [S] of a generated clip, with the given media in place of decoded ones, after ``before``."""
        if self.frames is not None:
            frames = torch.from_numpy(self.frames)
        if self.waveform is not None:
            waveform = torch.from_numpy(self.waveform)
        if self.before is None:
            return frames, waveform
        earlier = torch.from_numpy(self.before.frames), torch.from_numpy(self.before.waveform)
        return torch.cat([earlier[0], frames.cpu()]), torch.cat([earlier[1], waveform.float().cpu()])


def held_by_task(task: Task, generator: Generator, batch: Batch) -> Given:
    """Latents of held-out clips that a task holds fixed. The task is drawn by counter, as in training."""
    known = TaskMix([task], generator.model.clip, generator.model.seed).draw(batch.index, 0, batch.geometry)
    video, audio = generator.noise(batch.index, batch.index.device, geometry=batch.geometry)
    return flow_matching.held_in(batch, {"video": video, "audio": audio}, known)


def read(generator: Generator, options: argparse.Namespace, form: str) -> Conditions:
    """Reads a condition from its file.

    Args:
        generator: Provides the codecs and the geometry.
        options: Options of the command line.
        form: ``image``, ``video``, ``audio``, ``extend`` or ``inpaint``.

    Raises:
        ValueError: If the file cannot be read or is too short, or the box or the duration is invalid.
    """
    clip, file = generator.model.clip, getattr(options, form)
    known = Known.nothing(clip)
    if form == "image":
        picture = read_image(file, clip)
        known.video[: clip.video_patch[0]] = True
        return encoded(generator, known, np.repeat(picture[None], clip.num_frames, 0), None)
    if form == "audio":
        known.audio[:] = True
        waveform = sound_of(file, clip, read_clip(file, has_video=False))
        return replace(encoded(generator, known, None, waveform), waveform=waveform)
    if form == "video":
        known.video[:] = True
        picture = picture_of(file, clip, read_clip(file, has_audio=False))
        return replace(encoded(generator, known, picture, None), frames=picture)
    media = read_clip(file)
    if form == "inpaint":
        box = box_of(options.box, clip)
        known.video[:], known.audio[:] = True, True
        frames, sound = known.span(clip, *box.span)
        known.video[(frames, *box.places)] = False
        known.audio[sound] = False
        return encoded(generator, known, picture_of(file, clip, media), sound_of(file, clip, media))
    shown = min(len(media.frames) / media.fps, media.seconds)
    if not 0 < options.seconds < clip.seconds:
        raise ValueError(f"generate: --seconds must lie between 0 and the run's {clip.seconds:g} s, got {options.seconds:g}")
    kept = clip.seconds - options.seconds
    if shown < kept - 0.5 / clip.fps:
        raise ValueError(f"generate: --extend {file} must last {kept:g} s or more, which the extension starts from; got {shown:.3f} s")
    frames, sound = known.span(clip, 0.0, kept)
    if frames.stop == frames.start:
        raise ValueError(f"generate: --seconds {options.seconds:g} leaves no latent frame to start from; give fewer seconds")
    known.video[frames], known.audio[sound] = True, True
    begins = max(shown - kept, 0.0)
    picture, waveform = picture_of(file, clip, media, begins, enough=False), sound_of(file, clip, media, begins, enough=False)
    return replace(encoded(generator, known, picture, waveform), before=before(media, begins, clip))


def encoded(generator: Generator, known: Known, frames: NDArray[np.uint8] | None, waveform: NDArray[np.float32] | None) -> Conditions:
    """Encodes media with the run's codecs; the latents of a missing modality are zeros."""
    clip, device = generator.model.clip, generator.placement.device
    video = torch.zeros(1, clip.video_channels, *clip.latent_grid)
    audio = torch.zeros(1, clip.num_audio_latents, clip.audio_channels)
    with torch.no_grad():
        if frames is not None:
            with generator.components.on("video_codec", device) as codec:
                video = codec.encode(torch.from_numpy(frames)[None].to(device)).float().cpu()
        if waveform is not None:
            with generator.components.on("audio_codec", device) as codec:
                found = codec.encode(torch.from_numpy(waveform)[None].to(device)).float().cpu()
                audio[:, : found.shape[1]] = found[:, : audio.shape[1]]
    return Conditions({"video": video, "audio": audio}, known)


def read_image(file: Path, clip: ClipSpec) -> NDArray[np.uint8]:
    """A picture [Y, X, 3], rotated as its EXIF orientation says, resized and centre-cropped to the clip's size.

    Raises:
        ValueError: If the file cannot be read as a picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(ImageOps.fit(upright, (clip.width, clip.height), Image.Resampling.LANCZOS))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(f"generate: --image must be a readable picture such as PNG or JPEG, got {file}: {error}") from error


def picture_of(file: Path, clip: ClipSpec, media: Media, start: float = 0.0, *, enough: bool = True) -> NDArray[np.uint8]:
    """Frames of a recording at the clip's frame rate and size [T, Y, X, 3].

    Args:
        file: The file, for the message.
        clip: Geometry of the clip.
        media: The recording.
        start: Start of the clip within the recording, in s.
        enough: Whether the recording must be as long as the clip.

    Raises:
        ValueError: If ``enough`` is set and the video is more than 1.5 frames shorter than the clip.
    """
    seconds = len(media.frames) / media.fps
    if enough and seconds < clip.seconds - 1.5 / clip.fps:
        raise ValueError(f"generate: {file} must last the run's {clip.seconds:g} s or more, its picture lasts {seconds:.3f} s")
    return cut_picture(media.frames, np.arange(len(media.frames)) / media.fps, start, clip)


def sound_of(file: Path, clip: ClipSpec, media: Media, start: float = 0.0, *, enough: bool = True) -> NDArray[np.float32]:
    """Sound of a recording at the clip's sample rate [S]. Arguments as for :func:`picture_of`.

    Raises:
        ValueError: If ``enough`` is set and the sound is more than 0.1 s shorter than the clip.
    """
    if enough and media.seconds < clip.seconds - 0.1:
        raise ValueError(f"generate: {file} must last the run's {clip.seconds:g} s or more, its sound lasts {media.seconds:.3f} s")
    return cut_sound(media.waveform[:, None], media.sample_rate, 0.0, start, clip)


def before(media: Media, end: float, clip: ClipSpec) -> Media:
    """The first ``end`` seconds of a recording, at the clip's rates and size."""
    count = round(end * clip.fps)
    if not count:
        return Media(np.zeros((0, clip.height, clip.width, 3), np.uint8), clip.fps, np.zeros(0, np.float32), clip.sample_rate)
    whole = replace(clip, seconds=-(-count // clip.video_stride[0]) * clip.video_stride[0] / clip.fps, audio_latents=None)
    times = np.arange(len(media.frames)) / media.fps
    sound = cut_sound(media.waveform[:, None], media.sample_rate, 0.0, 0.0, whole)
    return Media(cut_picture(media.frames, times, 0.0, whole)[:count], clip.fps, sound[: round(end * clip.sample_rate)], clip.sample_rate)


@dataclass(frozen=True)
class Box:
    """The inpainted region.

    Args:
        places: Rows and columns of video latents.
        span: Start and stop, in s.
    """

    places: tuple[slice, slice]
    span: tuple[float, float]


def box_of(numbers: Sequence[float], clip: ClipSpec) -> Box:
    """The box of ``--box LEFT TOP RIGHT BOTTOM [START STOP]``, rounded outwards to whole patches.

    Args:
        numbers: Edges as fractions of the picture in [0, 1], and optionally start and stop in s.
        clip: Geometry of the clip.

    Raises:
        ValueError: If the numbers are not a box within the clip.
    """
    whole = [*numbers, 0.0, clip.seconds] if len(numbers) == 4 else list(numbers)
    left, top, right, bottom, start, stop = whole if len(whole) == 6 else [math.nan] * 6
    inside = 0 <= left < right <= 1 and 0 <= top < bottom <= 1 and 0 <= start < stop <= clip.seconds
    if not inside:
        got = " ".join(f"{number:g}" for number in numbers)
        raise ValueError(
            f"generate: --box must be LEFT TOP RIGHT BOTTOM in [0, 1], then START STOP in [0, {clip.seconds:g}] s to limit the box in "
            f"time; got {got}"
        )
    (_, height, width), (_, q, r) = clip.token_grid, clip.video_patch
    rows = slice(int(top * height) * q, -int(-bottom * height // 1) * q)
    columns = slice(int(left * width) * r, -int(-right * width // 1) * r)
    return Box((rows, columns), (start, stop))
