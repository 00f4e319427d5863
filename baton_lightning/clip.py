"""Geometry of a clip: duration, rates and sizes, and every grid and token count that follows from them.

No other code multiplies seconds by a rate. Models, data sets and tools get these numbers from a :class:`ClipSpec`.

    frames    T_f = stride_t * floor(seconds * fps / stride_t) + 1        (the first frame is a latent frame of its own)
    latents   (T, Y, X) = ((T_f - 1) / stride_t + 1, height / stride_s, width / stride_s)
    tokens    (T, Y, X) / video_patch
    plan      (N, h, w) = (seconds * keyframe_fps, *plan_grid) and L_a = seconds * audio_plan_rate

A run may have clips of several sizes and durations. Their rates, strides and widths are common, see :attr:`ClipSpec.geometries`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property


@dataclass(frozen=True)
class Geometry:
    """Size and duration of clips.

    Args:
        height: Picture height, in pixels.
        width: Picture width, in pixels.
        seconds: Nominal duration, in s.
        audio_latents: Number of audio latents, see :class:`ClipSpec`; ``None`` = that of the first geometry if its duration is equal.
    """

    height: int
    width: int
    seconds: float
    audio_latents: int | None = None

    @property
    def name(self) -> str:
        """Its name in folders, options and messages, e.g. ``960x544x5s``."""
        return f"{self.width}x{self.height}x{self.seconds:g}s"


@dataclass(frozen=True)
class ClipSpec:
    """Geometry of a clip. The defaults are `nano`, the smallest geometry of the benchmark world.

    Args:
        seconds: Nominal duration, in s.
        fps: Frame rate of the picture, in frames/s.
        height: Picture height, in pixels.
        width: Picture width, in pixels.
        sample_rate: Audio sample rate of the generated sound, in Hz.
        video_stride: Video codec strides (time, space), in frames and pixels.
        video_channels: Channels of a video latent.
        video_patch: Patch of the DiT over video latents (T, Y, X).
        audio_latent_rate: Audio latents per second.
        audio_channels: Channels of an audio latent.
        audio_latents: Number of audio latents; ``None`` derives ``ceil(seconds * audio_latent_rate)``. Ovi pads to 157 (5 s)
            and 314 (10 s).
        keyframe_fps: Planned keyframes per second (Baton: 6).
        plan_grid: Rows and columns of planned tokens in a keyframe, after pooling (Baton: 27 x 27).
        audio_plan_rate: Planned audio tokens per second (Baton: 40).
        video_plan_width: Channels of the video perceiver's features.
        audio_plan_width: Channels of the audio perceiver's features.
        text_tokens: Rows of the text context the DiT attends to; shorter texts are zero-padded.
        text_width: Channels of the text context.
        audio_position_scale: Audio RoPE positions per audio latent, in video latent frames; ``None`` derives the ratio of the
            two latent rates. Ovi's released weights use 0.19676.
        geometries: Further sizes and durations of a run's clips, each with ``height``, ``width``, ``seconds`` and perhaps
            ``audio_latents``. All other fields are common. The fields above are the first geometry.

    Raises:
        ValueError: If a size is not a multiple of its stride, a count is not a whole number, or a geometry is given twice.
    """

    seconds: float = 2.0
    fps: float = 12.0
    height: int = 32
    width: int = 32
    sample_rate: int = 16000
    video_stride: tuple[int, int] = (4, 8)
    video_channels: int = 96
    video_patch: tuple[int, int, int] = (1, 1, 1)
    audio_latent_rate: float = 31.25
    audio_channels: int = 20
    audio_latents: int | None = None
    keyframe_fps: float = 6.0
    plan_grid: tuple[int, int] = (3, 3)
    audio_plan_rate: int = 40
    video_plan_width: int = 64
    audio_plan_width: int = 64
    text_tokens: int = 64
    text_width: int = 64
    audio_position_scale: float | None = None
    geometries: tuple[Geometry, ...] = ()

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.fps <= 0:
            raise ValueError(f"clip: seconds and fps must be positive, got seconds={self.seconds}, fps={self.fps}")
        for name, pixels, patch in (("height", self.height, self.video_patch[1]), ("width", self.width, self.video_patch[2])):
            unit = self.video_stride[1] * patch
            if pixels % unit:
                raise ValueError(
                    f"clip.{name} must be a multiple of {unit} (stride {self.video_stride[1]} x patch {patch}), got {pixels}; "
                    f"the nearest are {pixels // unit * unit} and {-(-pixels // unit) * unit}"
                )
        if self.latent_grid[0] % self.video_patch[0]:
            raise ValueError(f"clip: {self.latent_grid[0]} latent frames must be a multiple of the temporal patch {self.video_patch[0]}")
        for name, rate in (("keyframe_fps", self.keyframe_fps), ("audio_plan_rate", self.audio_plan_rate)):
            if abs(self.seconds * rate - round(self.seconds * rate)) > 1e-6:
                raise ValueError(f"clip: seconds * {name} must be a whole number, got {self.seconds} * {rate} = {self.seconds * rate}")
        if self.geometries and len(self.each) <= len(self.geometries):
            names = ", ".join(geometry.name for geometry in self.geometries)
            raise ValueError(f"clip.geometries must name other geometries than {self.name}, each one once, got {names}")

    # ---- geometries of a run
    @property
    def name(self) -> str:
        """Name of the (first) geometry, e.g. ``960x544x5s``."""
        return Geometry(self.height, self.width, self.seconds).name

    @cached_property
    def each(self) -> dict[str, ClipSpec]:
        """Name -> clip of every geometry of a run, the first one first. These have no further geometries.

        Raises:
            ValueError: If a size or duration is invalid.
        """
        if not self.geometries:
            return {self.name: self}
        clips = {self.name: replace(self, geometries=())}
        for geometry in self.geometries:
            padded = self.audio_latents if geometry.seconds == self.seconds else None  # a padded count is valid for one duration only
            latents = geometry.audio_latents or padded
            try:
                clips[geometry.name] = replace(self, **asdict(geometry) | {"audio_latents": latents}, geometries=())
            except ValueError as error:
                raise ValueError(f"clip.geometries: {geometry.name}: {error}") from error
        return clips

    def at(self, name: str | None = None) -> ClipSpec:
        """The clip of one geometry of a run.

        Args:
            name: Its name; ``None`` = the first one.

        Raises:
            ValueError: If the run has no such geometry.
        """
        if (name or self.name) not in self.each:
            raise ValueError(f"the run has clips of {', '.join(self.each)}, got the geometry {name!r}; name one of these")
        return self.each[name or self.name]

    def starting_with(self, name: str) -> ClipSpec:
        """The same geometries, with another one as the first.

        Raises:
            ValueError: If the run has no such geometry.
        """
        first = self.at(name)
        others = [clip for clip in self.each.values() if clip is not first]
        sizes = [Geometry(clip.height, clip.width, clip.seconds, clip.audio_latents) for clip in others]
        return replace(first, geometries=tuple(sizes))

    @property
    def longest(self) -> ClipSpec:
        """The clip of the longest geometry, whose planned tokens start with those of all shorter ones."""
        return max(self.each.values(), key=lambda clip: clip.seconds)

    # ---- picture
    @property
    def num_frames(self) -> int:
        """Frames T_f, of the form stride * k + 1."""
        return math.floor(self.seconds * self.fps / self.video_stride[0] + 1e-9) * self.video_stride[0] + 1

    @property
    def latent_grid(self) -> tuple[int, int, int]:
        """Video latent frames, rows, columns (T, Y, X)."""
        stride_t, stride_s = self.video_stride
        return (self.num_frames - 1) // stride_t + 1, self.height // stride_s, self.width // stride_s

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """Video tokens of the DiT (T, Y, X)."""
        (t, y, x), (pt, py, px) = self.latent_grid, self.video_patch
        return t // pt, y // py, x // px

    @property
    def num_video_tokens(self) -> int:
        return math.prod(self.token_grid)

    @property
    def num_tokens(self) -> int:
        """Tokens of both branches of the DiT."""
        return self.num_video_tokens + self.num_audio_latents

    def num_clips_in(self, tokens: int, multiple_of: int = 1) -> int:
        """Clips of a batch with at most a number of tokens, at least ``multiple_of``.

        Args:
            tokens: Tokens of both branches of the DiT.
            multiple_of: Number of which the clips are a multiple.
        """
        return max(1, tokens // self.num_tokens // multiple_of) * multiple_of

    @property
    def video_latent_rate(self) -> float:
        """Video latent frames per second."""
        return self.fps / self.video_stride[0]

    # ---- sound
    @property
    def num_samples(self) -> int:
        """Audio samples S of the clip, ``seconds * sample_rate``."""
        return round(self.seconds * self.sample_rate)

    @property
    def media_bytes(self) -> int:
        """Size of the decoded frames and samples, uint8 and float32, in bytes."""
        return self.num_frames * self.height * self.width * 3 + self.num_samples * 4

    @property
    def num_audio_latents(self) -> int:
        if self.audio_latents is not None:
            return self.audio_latents
        return math.ceil(self.seconds * self.audio_latent_rate - 1e-9)

    @property
    def audio_scale(self) -> float:
        """Video latent frames per audio latent: the scale of audio RoPE positions."""
        if self.audio_position_scale is not None:
            return self.audio_position_scale
        return self.video_latent_rate / self.audio_latent_rate

    # ---- plan
    @property
    def num_keyframes(self) -> int:
        return round(self.seconds * self.keyframe_fps)

    @property
    def keyframe_times(self) -> tuple[float, ...]:
        """Time of each keyframe, in s: tau_v(k) = k / keyframe_fps (Baton, Eq. 3)."""
        return tuple(k / self.keyframe_fps for k in range(self.num_keyframes))

    @property
    def video_plan_grid(self) -> tuple[int, int, int]:
        """Planned video tokens (N, h, w)."""
        return self.num_keyframes, *self.plan_grid

    @property
    def num_video_planned(self) -> int:
        """L_v = N * n_v."""
        return math.prod(self.video_plan_grid)

    @property
    def num_audio_planned(self) -> int:
        """L_a = M * n_a."""
        return round(self.seconds * self.audio_plan_rate)

    @property
    def audio_plan_times(self) -> tuple[float, ...]:
        """Time of each planned audio token, in s: tau_a(m, j) = m + j / n_a."""
        return tuple(i / self.audio_plan_rate for i in range(self.num_audio_planned))

    # ---- identity
    def to_dict(self) -> dict[str, object]:
        """Plain values, tuples as lists, for manifests and indices; ``geometries`` only if there are some."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in plain.items() if k != "geometries" or v}

    def differences(self, other: dict[str, object]) -> list[str]:
        """Names of the fields in which ``other`` (a :meth:`to_dict`) differs, each as ``field: ours != theirs``."""
        ours = self.to_dict()
        names = sorted(ours.keys() | other.keys())
        return [f"{k:.60}: {ours.get(k)} != {other.get(k)!s:.60}" for k in names if ours.get(k) != other.get(k)]
