"""Cutting: an event stays where it is in time, whatever the source's rates, and in the picture keeps its shape."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from baton_lightning.clip import ClipSpec
from baton_lightning.shards.cut import SLACK, Extent, clip_starts, cut_picture, cut_sound, extent_of, suits_best

RATES = [Fraction(12), Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60)]
CLIP = ClipSpec(height=16, width=16)


@given(
    st.sampled_from(RATES), st.sampled_from([8000, 16000, 22050, 44100, 48000, 96000]), st.sampled_from([8.0, 12.0, 24.0]),
    st.floats(0.1, 1.8), st.floats(-0.05, 0.05), st.floats(0, 3),
)  # fmt: skip
@example(Fraction(24000, 1001), 44100, 24.0, 1.0, 0.0, 2.0)
def test_flash_and_click_stay_where_they_are(fps: Fraction, rate: int, clip_fps: float, event: float, offset: float, start: float) -> None:
    clip = ClipSpec(fps=clip_fps, height=16, width=16)
    times = np.arange(int(6 * fps)) / float(fps)
    flash = int(np.searchsorted(times, start + event))  # the first bright frame
    frames = np.zeros((len(times), 16, 16, 3), np.uint8)
    frames[flash:] = 255
    sample = round((times[flash] - offset) * rate)
    waveform = np.zeros((6 * rate, 2), np.float32)
    waveform[sample] = 1.0
    picture, sound = cut_picture(frames, times, start, clip), cut_sound(waveform, rate, offset, start, clip)
    assert picture.shape == (clip.num_frames, 16, 16, 3) and sound.shape == (clip.num_samples,)
    seen = int(picture[:, 8, 8, 0].argmax()) / clip.fps
    heard = int(np.abs(sound).argmax()) / clip.sample_rate
    assert abs(seen - (times[flash] - start)) <= 0.5 / clip.fps + 1e-9
    assert abs(heard - (offset + sample / rate - start)) <= 0.001
    assert abs(seen - heard) <= 0.5 / clip.fps + 0.001


def test_uneven_time_stamps_do_not_shift_the_picture() -> None:
    times = np.cumsum(np.random.default_rng(0).choice([0.01, 0.03, 0.15], 80))
    frames = np.arange(80, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    shown = cut_picture(frames, times, 0.5, CLIP)[:, 0, 0, 0]
    for i, source in enumerate(shown):
        middle = 0.5 + (i + 0.5) / CLIP.fps
        assert times[source] <= middle < times[source + 1]


def test_frames_at_the_clips_own_rate_and_size_come_through_untouched_despite_rounded_stamps() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
    stamps = np.round(np.arange(30) / 12, 2)  # as containers with a coarse clock write them
    assert np.array_equal(cut_picture(frames, stamps, 0.0, CLIP), frames[:25])
    assert np.array_equal(cut_picture(frames[:24], stamps[:24], 0.0, CLIP)[-1], frames[23])


def test_pictures_keep_their_shape_and_lose_their_edges() -> None:
    frames = np.zeros((1, 90, 160, 3), np.uint8)
    frames[:, :, :34] = 255  # left of the centred square
    frames[:, 30:60, 65:95, 0] = 200
    made = cut_picture(frames, np.zeros(1), 0.0, CLIP)[0]
    assert made[:, 0].max() < 40 and made[8, 8, 0] > 190
    red = made[..., 0] > 100
    assert abs(int(red.any(0).sum()) - int(red.any(1).sum())) <= 1


def test_small_pictures_are_averages_and_not_picked_pixels() -> None:
    checks = np.indices((160, 160)).sum(0) % 2 * 255
    frames = np.repeat(checks[None, :, :, None], 3, 3).astype(np.uint8)
    assert np.ptp(cut_picture(frames, np.zeros(1), 0.0, CLIP).astype(int)) <= 6


def test_resampled_tones_keep_their_pitch_and_those_beyond_the_new_rate_vanish() -> None:
    t = np.arange(3 * 48000) / 48000
    low, high = (np.sin(2 * np.pi * pitch * t).astype(np.float32)[:, None] for pitch in (1000, 11000))
    wanted = np.sin(2 * np.pi * 1000 * (0.5 + np.arange(32000) / 16000))
    assert np.abs(cut_sound(low, 48000, 0.0, 0.5, CLIP) - wanted).max() < 0.01
    assert np.abs(cut_sound(high, 48000, 0.0, 0.5, CLIP)).max() < 0.01


def test_channels_are_averaged_and_what_is_missing_is_silent() -> None:
    waveform = np.stack([np.full(8000, 0.5), np.full(8000, 0.1)], 1).astype(np.float32)
    sound = cut_sound(waveform, 16000, 0.25, 0.0, CLIP)
    assert np.allclose(sound[4000:12000], 0.3) and not sound[:4000].any() and not sound[12000:].any()


@pytest.mark.parametrize("fps", RATES)
def test_a_recording_of_whole_clips_gives_them_all(fps: Fraction) -> None:
    times = np.arange(int(6 * fps)) / float(fps)
    extent = extent_of(times, 6 * 44100 - 900, 44100, 0.01, 0.0, None)
    assert clip_starts(extent, CLIP) == pytest.approx([0, 2, 4]) and clip_starts(extent, CLIP, "first") == [0.0]


def test_only_the_part_with_picture_and_sound_is_cut() -> None:
    times = 1.0 + np.arange(60) / 12
    assert extent_of(times, 16000 * 9, 16000, 0.0, 0.0, None) == Extent(1.0, pytest.approx(6.0))
    late = extent_of(times, 16000 * 2, 16000, 3.0, 0.0, None)
    assert (late.begin, late.end) == pytest.approx((3.0 - SLACK, 5.0 + SLACK))
    assert extent_of(times, 16000 * 9, 16000, 0.0, 2.5, 4.0) == Extent(2.5, 4.0)
    assert clip_starts(extent_of(None, 16000, 16000, 0.0, 0.0, None), CLIP) == []
    assert clip_starts(extent_of(None, 32000, 16000, 0.5, 0.0, None), CLIP) == [0.5]


def test_the_geometry_that_suits_best() -> None:
    square, wide, small, long = (ClipSpec(height=h, width=w, seconds=s) for h, w, s in ((64, 64, 2), (32, 64, 2), (32, 32, 2), (32, 64, 4)))
    clips = [square, wide, small, long]
    choose = lambda seconds, size: suits_best(clips, Extent(0.0, seconds), size)  # noqa: E731
    assert choose(3.0, (100, 200)) == 1 and choose(5.0, (100, 200)) == 3
    assert choose(5.0, (100, 110)) == 0 and choose(5.0, (40, 44)) == 2
    assert choose(1.0, (100, 200)) is None
    assert choose(5.0, None) == 3 and choose(3.0, None) == 0
