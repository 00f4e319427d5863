"""Reasons of rejections, and limits of the checks."""

from __future__ import annotations

from dataclasses import dataclass

REASONS = {
    "missing": "the file is not there",
    "outside": "a link leads out of the folder",
    "unreadable": "the file cannot be opened",
    "too_large": "pictures or channels are beyond what is read",
    "colour": "its colours cannot be converted to those of an ordinary screen",
    "turned": "it is to be shown turned by other than quarter turns",
    "interlaced": "it is interlaced, and its fields cannot be joined",
    "empty": "the file, or one of its streams, has no content",
    "no_video": "there is no picture where one is needed",
    "no_audio": "there is no sound where it is needed",
    "corrupt": "packets are damaged or missing",
    "variable_frame_rate": "frames are not evenly spaced",
    "drift": "a clock runs apart from what it counts",
    "start_offset": "picture and sound do not start together",
    "duration_mismatch": "picture and sound, or a stream and its promise, differ in length",
    "too_short": "picture or sound are shorter than the clip to be cut",
    "too_long": "the rest is beyond what is read",
    "untimed_text": "one text for several clips",
    "too_small": "fewer pixels or samples per second than are asked for",
    "low_frame_rate": "fewer frames per second than are needed",
    "black_video": "the picture is black",
    "frozen_video": "the picture stands still",
    "silent_audio": "nothing can be heard",
    "clipping": "the sound is cut off at full scale",
    "channel_layout": "channels are too many, dead, or cancel each other",
    "duplicate": "the same content was met before",
}
"""Every reason for which a recording is refused; the first that holds, in this order, is the main one."""


@dataclass(frozen=True)
class Limits:
    """Limits of the checks. A recording with a measured value beyond a limit is rejected.

    Args:
        max_frame_jitter: Deviation of any distance between two frames from their median, in frames. A dropped frame has 1; time
            stamps in ms have up to 0.06 at 60 frames/s.
        max_drift: Distance between where time stamps put a frame or a piece of sound and where counting puts it, in s.
        max_rate_error: Relative difference between the frame rate inside the coded pictures and that of the time stamps. 24 frames/s
            shown at 23.976 have 0.001.
        max_start_offset: Time between the starts of picture and sound, in s. Sound may start earlier by a block of AAC, 1024 samples:
            some containers keep what the encoder put in front.
        max_duration_mismatch: Difference between the durations of picture and sound, or of a stream and what the container
            promises, in s. A picture may end a frame after its sound.
        min_fps: Frames per second that are needed; 0.5 % less will do, so that 23.976 passes for 24.
        min_height: Rows of the picture on screen; 0 lets smaller ones be enlarged.
        min_width: Columns, likewise.
        min_sample_rate: Samples per second of the sound, likewise.
        min_brightness: What the brightest 1/4000 of a frame must reach above black, of 255, for the frame not to be black.
        max_black_share: Share of black frames.
        min_motion: Change of the mean of some 4 x 4 pixels within a quarter of a second that counts as motion, as a share of the
            picture's contrast, see :func:`motion`.
        min_moving_share: Share of time in which there is motion.
        min_loudness: Level of the loudest 50 ms, RMS, in dB below full scale.
        max_clipped_share: Share of samples in stretches that are cut off at full scale, see :func:`clipped_share`: a sine of amplitude 1
            has none, one of amplitude 1.2 that was cut to 1 has 0.5.
        max_channels: Channels of the sound.
        max_imbalance: Level of the loudest channel above the faintest, in dB.
        max_cancellation: Level that is lost when channels are averaged, in dB; unrelated channels lose 3.
        trust_times: Whether the time stamps of frames are right however uneven they are: jitter, drift and rate of frames are not judged.
    """

    max_frame_jitter: float = 0.2
    max_drift: float = 0.02
    max_rate_error: float = 0.002
    max_start_offset: float = 0.04
    max_duration_mismatch: float = 0.15
    min_fps: float = 10.0
    min_height: int = 0
    min_width: int = 0
    min_sample_rate: int = 0
    min_brightness: float = 8.0
    max_black_share: float = 0.9
    min_motion: float = 0.08
    min_moving_share: float = 0.02
    min_loudness: float = -60.0
    max_clipped_share: float = 0.003
    max_channels: int = 2
    max_imbalance: float = 40.0
    max_cancellation: float = 20.0
    trust_times: bool = False
