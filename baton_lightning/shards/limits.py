"""Reasons of rejections, and limits of the checks."""

from __future__ import annotations

from dataclasses import dataclass

REASONS = {
    "missing": "the file does not exist",
    "outside": "a link leads out of the folder",
    "unreadable": "the file cannot be opened",
    "too_large": "pictures or channels are beyond what is read",
    "colour": "its colours cannot be converted to standard dynamic range",
    "turned": "its display rotation is not a multiple of 90 degrees",
    "interlaced": "it is interlaced, and its fields cannot be joined",
    "empty": "the file, or one of its streams, has no content",
    "no_video": "the picture is missing",
    "no_audio": "the sound is missing",
    "corrupt": "packets are damaged or missing",
    "variable_frame_rate": "frames are not evenly spaced",
    "drift": "time stamps drift from the number of frames or samples",
    "start_offset": "picture and sound do not start together",
    "duration_mismatch": "picture and sound, or a stream and its declared duration, differ in length",
    "too_short": "picture or sound are shorter than the clip to be cut",
    "too_long": "the rest is beyond what is read",
    "untimed_text": "one text for several clips",
    "too_small": "fewer pixels or samples per second than required",
    "low_frame_rate": "fewer frames per second than required",
    "black_video": "the picture is black",
    "frozen_video": "the picture does not change",
    "silent_audio": "the sound is silent",
    "clipping": "the sound is cut off at full scale",
    "channel_layout": "channels are too many, dead, or cancel each other",
    "duplicate": "the same content occurred before",
}
"""All reasons for which a recording is rejected, the most important one first. If several hold, the first one is the main reason."""


@dataclass(frozen=True)
class Limits:
    """Limits of the checks. A recording with a measured value beyond a limit is rejected.

    Args:
        max_frame_jitter: Largest deviation of an interval between two frames from the median interval, in frames. A dropped frame gives
            1; time stamps in ms give up to 0.06 at 60 frames/s.
        max_drift: Largest difference between the time stamp of a frame or a piece of sound and the time that follows from counting, in s.
        max_rate_error: Largest relative difference between the frame rate in the coded pictures and that of the time stamps. 24 frames/s
            shown at 23.976 give 0.001.
        max_start_offset: Largest time between the starts of picture and sound, in s. Sound may also start earlier by one block of AAC,
            1024 samples, because some containers keep the encoder's initial padding.
        max_duration_mismatch: Largest difference between the durations of picture and sound, or between the duration of a stream and the
            one that the container declares, in s. A picture may end a frame after its sound.
        min_fps: Smallest frame rate, in frames/s. 0.5 % less is accepted, so that 23.976 passes for 24.
        min_height: Smallest number of rows of the picture on screen; 0 = smaller pictures are enlarged.
        min_width: Smallest number of columns, likewise.
        min_sample_rate: Smallest sample rate of the sound, in Hz; 0 = lower rates are upsampled.
        min_brightness: Smallest level of the brightest 1/4000 of a frame above black, of 255. A frame below it is black.
        max_black_share: Largest share of black frames.
        min_motion: Smallest change of the mean of a block of 4 x 4 pixels within a quarter of a second that counts as motion, as a share
            of the picture's contrast, see :func:`motion`.
        min_moving_share: Smallest share of time in which there is motion.
        min_loudness: Smallest RMS level of the loudest 50 ms, in dB of full scale.
        max_clipped_share: Largest share of clipped samples, see :func:`clipped_share`. A sine of amplitude 1 has none; a sine of
            amplitude 1.2 that was clipped to 1 has 0.5.
        max_channels: Largest number of channels of the sound.
        max_imbalance: Largest difference in level between the loudest and the faintest channel, in dB.
        max_cancellation: Largest loss of level when channels are averaged, in dB; uncorrelated channels lose 3.
        trust_times: Whether the time stamps of frames are correct even if they are uneven. If so, jitter, drift and rate of the frames are
            not checked.
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
