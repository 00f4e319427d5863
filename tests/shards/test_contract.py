"""Every defect is found and named, and nothing clean is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baton_lightning.media import MediaError, read_mp4, write_mp4
from baton_lightning.recordings.recording import Recording, read_recording
from baton_lightning.shards.contract import (
    REASONS,
    Limits,
    Rejection,
    brightness,
    clipped_share,
    content_digest,
    decibel,
    inspect,
    loudness,
    motion,
    require,
)
from tests.shards.defects import clean, damage, encode, murmur, packets_of, remux, wander

FPS, RATE, SECONDS = 24, 44100, 2.0
FRAMES, SOUND = wander(48), murmur(SECONDS, RATE, 2)
LEFT = SOUND[:, :1]


def made(file: Path, frames: np.ndarray | None = FRAMES, sound: np.ndarray | None = SOUND, **settings: object) -> Path:
    return encode(file, frames, FPS, sound, RATE, **settings)  # type: ignore[arg-type]


def reasons(recording: Recording, **needs: object) -> list[str]:
    return [reason for reason, _ in inspect(recording, Limits(), **needs)]  # type: ignore[arg-type]


DEFECTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "a frame now and then late": ("variable_frame_rate", lambda f: made(f, video_clock=lambda t: t + 0.3 / 24 * (1 + np.sin(20 * t)))),
    "a dropped frame": ("variable_frame_rate", lambda f: made(f, video_clock=lambda t: t if t < 1 else t + 1 / 24)),
    "another rate in the second half": ("variable_frame_rate", lambda f: made(f, video_clock=lambda t: t if t < 1 else 2 * t - 1)),
    "sound late": ("start_offset", lambda f: made(f, audio_clock=lambda t: t + 0.2)),
    "sound early": ("start_offset", lambda f: made(f, video_clock=lambda t: t + 0.2)),
    "sound ends early": ("duration_mismatch", lambda f: made(f, sound=SOUND[: round(1.7 * RATE)])),
    "picture ends early": ("duration_mismatch", lambda f: made(f, frames=FRAMES[:40])),
    "picture slowed by 2 %": ("drift", lambda f: made(f, video_clock=lambda t: 1.02 * t)),
    "picture slowed to the length of the sound": ("drift", lambda f: made(f, frames=FRAMES[:44], video_clock=lambda t: t * 48 / 44)),
    "sound slowed to the length of the picture": ("drift", lambda f: made(f, sound=SOUND[:80000], audio_clock=lambda t: t * 1.1025)),
    "picture that speeds up": ("drift", lambda f: made(f, video_clock=lambda t: t + 0.04 * t * (2 - t))),
    "a gap in the sound": ("drift", lambda f: made(f, audio_clock=lambda t: t if t < 1 else t + 0.05)),
    "no sound": ("no_audio", lambda f: made(f, sound=None)),
    "no picture": ("no_video", lambda f: made(f, frames=None)),
    "digital silence": ("silent_audio", lambda f: made(f, sound=0 * SOUND)),
    "next to silence": ("silent_audio", lambda f: made(f, sound=SOUND * 10 ** (-70 / 20))),
    "speech cut off at full scale": ("clipping", lambda f: made(f, sound=np.clip(4 * SOUND, -1, 1))),
    "noise cut off at full scale": (
        "clipping",
        lambda f: made(f, sound=np.clip(np.random.default_rng(0).normal(0, 0.8, SOUND.shape), -1, 1)),
    ),
    "a dead channel": ("channel_layout", lambda f: made(f, sound=SOUND * [1, 0])),
    "a channel turned over": ("channel_layout", lambda f: made(f, sound=np.concatenate([LEFT, -LEFT], 1))),
    "six channels": ("channel_layout", lambda f: made(f, sound=np.repeat(LEFT, 6, 1))),
    "noise in a picture": ("corrupt", lambda f: damage(made(f), "video", 20, "noise")),
    "zeros in a picture": ("corrupt", lambda f: damage(made(f), "video", 9, "zeros")),
    "noise in the sound": ("corrupt", lambda f: damage(made(f), "audio", 30, "noise")),
    "zeros in the sound": ("corrupt", lambda f: damage(made(f), "audio", 30, "zeros")),
    "a picture lost": ("variable_frame_rate", lambda f: remux(made(f.with_suffix(".mov")), f, lambda kind, n: kind == "video" and n == 10)),
    "black": ("black_video", lambda f: made(f, frames=0 * FRAMES)),
    "black of limited range": ("black_video", lambda f: made(f, frames=0 * FRAMES + 16)),
    "black with grain": (
        "black_video",
        lambda f: made(f, frames=np.random.default_rng(0).normal(1, 2, FRAMES.shape).clip(0, 255).astype(np.uint8)),
    ),
    "one picture again and again": ("frozen_video", lambda f: made(f, frames=np.repeat(FRAMES[:1], 48, 0))),
    "one picture, coded coarsely": (
        "frozen_video",
        lambda f: made(f, frames=np.repeat(FRAMES[:1], 48, 0), options={"crf": "28", "g": "12"}),
    ),
    "two pictures": ("frozen_video", lambda f: encode(f, np.repeat(FRAMES[:1], 480, 0), 240, SOUND, RATE)),
    "half a clip": ("too_short", lambda f: made(f, frames=FRAMES[:24], sound=SOUND[:RATE])),
    "eight frames a second": ("low_frame_rate", lambda f: encode(f, FRAMES[:16], 8, SOUND, RATE)),
    "no frame": ("unreadable", lambda f: _bytes(f, b"no movie" * 99)),
    "no bytes": ("empty", lambda f: _bytes(f, b"")),
    "half a file": ("unreadable", lambda f: damage(made(f), "video", 30, "cut")),
    "a sound of no samples": ("empty", lambda f: remux(made(f.with_suffix(".mov")), f, lambda kind, n: kind == "audio" and n > 0)),
    "a picture of no frames": ("no_video", lambda f: remux(made(f.with_suffix(".mov")), f, lambda kind, n: kind == "video")),
}


def _bytes(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_is_found_and_named(defect: str, tmp_path: Path) -> None:
    reason, make = DEFECTS[defect]
    file = make(tmp_path / "clip.mp4")
    with pytest.raises(MediaError) as error:
        require(read_recording(file), Limits(), min_seconds=1.9 if reason == "too_short" else 0.0)
    assert error.value.reason == reason in REASONS and error.value.detail


@pytest.mark.parametrize("index", range(0, 120, 9))
def test_nothing_clean_is_refused(index: int, tmp_path: Path) -> None:
    assert inspect(read_recording(clean(tmp_path / "clip.mp4", index)), Limits(), min_seconds=1.4) == []


@pytest.mark.slow
def test_of_two_hundred_clean_recordings_none_is_refused(tmp_path: Path) -> None:
    refused = {index: inspect(read_recording(clean(tmp_path / "clip.mp4", index)), Limits(), min_seconds=1.4) for index in range(200)}
    assert {index: found for index, found in refused.items() if found} == {}


@pytest.mark.parametrize("kind", ["video", "audio"])
@pytest.mark.parametrize("how", ["noise", "zeros"])
def test_damage_is_found_wherever_it_is(kind: str, how: str, tmp_path: Path) -> None:
    file = made(tmp_path / "clip.mp4", frames=FRAMES[:24], sound=SOUND[:RATE])
    whole, missed = file.read_bytes(), []
    for number in range(1, len(packets_of(file, kind)) - 1):
        file.write_bytes(whole)
        if "corrupt" not in reasons(read_recording(damage(file, kind, number, how, number))):
            missed.append(number)
    assert len(missed) <= (1 if (kind, how) == ("video", "noise") else 0)  # of 23: nineteen bytes that happen to be valid


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_file_with_its_index_in_front_that_was_cut_is_corrupt(share: float, tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", FRAMES, FPS, SOUND.mean(1), RATE)
    content = (tmp_path / "clip.mp4").read_bytes()
    assert reasons(read_recording(_bytes(tmp_path / "clip.mp4", content[: round(share * len(content))])))[0] == "corrupt"


# ---- just inside and just outside of each limit
@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    recording = read_recording(made(tmp_path_factory.mktemp("good") / "clip.mp4"))
    assert inspect(recording, Limits(), min_seconds=2.0) == []
    return recording


def tone(amplitude: float, channels: int = 1) -> np.ndarray:
    t = np.arange(2 * RATE) / RATE
    return np.repeat(amplitude * np.sin(2 * np.pi * 200 * t)[:, None], channels, 1).astype(np.float32)


def blink(level: int, share: float = 1.0) -> np.ndarray:
    """A small square that comes and goes, in a share of the frames from the middle on."""
    frames = np.full((400, 48, 64, 3), 40, np.uint8)
    for i in range(200, 200 + round(400 * share), 2):
        frames[i, 8:12, 8:12] += np.uint8(level)
    return frames


NEAR: dict[str, tuple[str, float, float, Callable[[Recording, float], Recording]]] = {
    "jitter": ("variable_frame_rate", 0.19, 0.21, lambda r, x: replace(r, frame_times=r.frame_times + x / FPS * (np.arange(48) >= 24))),
    "bend": ("drift", 0.018, 0.022, lambda r, x: replace(r, frame_times=r.frame_times + x * np.sin(np.arange(48) / 47 * np.pi))),
    "rate": ("drift", 1.0018, 1.0022, lambda r, x: replace(r, coded_fps=FPS * x)),
    "skew": ("drift", 0.019, 0.021, lambda r, x: replace(r, audio_skew=x)),
    "late": ("start_offset", 0.039, 0.041, lambda r, x: replace(r, audio_start=x, audio_end=x + SECONDS)),
    "early": ("start_offset", -0.039, -0.041, lambda r, x: replace(r, audio_start=x, audio_end=x + SECONDS)),
    "longer": ("duration_mismatch", 0.149, 0.151, lambda r, x: replace(r, audio_end=SECONDS + x, declared_audio_seconds=None)),
    "promise": ("duration_mismatch", 2.149, 2.151, lambda r, x: replace(r, declared_video_seconds=x)),
    "black": ("black_video", 8, 7, lambda r, x: replace(r, frames=_lights(x))),
    "black share": (
        "black_video",
        5,
        4,
        lambda r, x: replace(r, frames=FRAMES * (np.arange(48) < x)[:, None, None, None].astype(np.uint8)),
    ),
    "motion": ("frozen_video", 4, 3, lambda r, x: replace(r, frames=blink(int(x), 0.5), **_clock(400))),
    "moving share": ("frozen_video", 0.02, 0.005, lambda r, x: replace(r, frames=blink(99, x), **_clock(400))),
    "silence": ("silent_audio", -59.9, -60.1, lambda r, x: replace(r, waveform=tone(np.sqrt(2) * 10 ** (x / 20), 2))),
    "clipping": ("clipping", 1.05, 1.2, lambda r, x: replace(r, waveform=np.clip(tone(x, 2), -1, 1))),
    "imbalance": ("channel_layout", 39.9, 40.1, lambda r, x: replace(r, waveform=tone(0.5, 2) * np.float32([1, 10 ** (-x / 20)]))),
    "cancellation": ("channel_layout", 19.5, 20.5, lambda r, x: replace(r, waveform=_opposed(x))),
    "length": ("too_short", 2.0005, 1.998, lambda r, x: replace(r, audio_end=x)),
    "frame rate": ("low_frame_rate", 9.96, 9.94, lambda r, x: replace(r, frame_times=np.arange(48) / x, coded_fps=0, **_end(48 / x))),
}


def _lights(level: float) -> np.ndarray:
    """Black but for a square that moves."""
    return (wander(48).astype(int) == np.array([230, 200, 60])).all(-1, keepdims=True).astype(np.uint8) * np.uint8(level)


def _clock(count: int) -> dict[str, object]:
    return {"frame_times": np.arange(count) * SECONDS / count, "coded_fps": 0.0}


def _end(seconds: float) -> dict[str, object]:
    return {"video_end": seconds, "audio_end": seconds, "declared_video_seconds": None, "declared_audio_seconds": None}


def _opposed(lost: float) -> np.ndarray:
    """Channels that lose so many dB when they are averaged."""
    common, apart = tone(0.5), np.roll(tone(0.5), round(RATE / 800), 0)
    share = 10 ** (-lost / 10)
    return np.concatenate([np.sqrt(share) * common + np.sqrt(1 - share) * apart, np.sqrt(share) * common - np.sqrt(1 - share) * apart], 1)


@pytest.mark.parametrize("limit", NEAR)
def test_limits_are_where_they_are_said_to_be(limit: str, good: Recording) -> None:
    reason, inside, outside, change = NEAR[limit]
    assert reason not in reasons(change(good, inside), min_seconds=2.0)
    assert reason in reasons(change(good, outside), min_seconds=2.0)


@pytest.mark.parametrize(
    "unknown",
    [
        {"frame_times": np.full(48, np.nan)},
        {"frame_times": np.zeros(48)},
        {"frames": FRAMES[:1], "frame_times": np.zeros(1)},
        {"audio_start": np.nan},
        {"audio_end": np.nan},
        {"video_end": np.nan},
        {"audio_skew": np.nan},
        {"waveform": SOUND * np.nan},
        {"waveform": SOUND[:, :0]},
        {"errors": ("something",)},
    ],
)
def test_what_cannot_be_measured_is_refused(unknown: dict[str, object], good: Recording) -> None:
    assert reasons(replace(good, **unknown))  # type: ignore[arg-type]


def test_the_main_reason_comes_first_and_all_others_follow(good: Recording) -> None:
    found = reasons(replace(good, frames=0 * FRAMES, waveform=0 * SOUND, audio_start=1.0), min_seconds=3)
    assert found == sorted(found, key=list(REASONS).index)
    assert {"start_offset", "duration_mismatch", "too_short", "black_video", "frozen_video", "silent_audio"} <= set(found)


def test_what_is_not_needed_is_not_judged(good: Recording) -> None:
    broken = replace(good, waveform=None, frames=0 * FRAMES)
    assert reasons(broken, needs_video=False, needs_audio=False) == []
    assert reasons(broken, needs_video=False) == ["no_audio"]
    assert reasons(replace(good, frames=None), needs_video=False) == []


def test_a_rejection_travels_between_processes() -> None:
    again = pickle.loads(pickle.dumps(Rejection("drift", "by 3 s")))
    assert (type(again), again.reason, again.detail, str(again)) == (Rejection, "drift", "by 3 s", "drift: by 3 s")


def test_one_switch_trusts_the_times_of_uneven_frames(good: Recording) -> None:
    uneven = np.cumsum(np.random.default_rng(0).choice([1, 2], 48)) / 36
    phone = replace(good, frame_times=uneven - uneven[0], coded_fps=36.0)
    assert {"variable_frame_rate", "drift"} <= set(reasons(phone))
    assert not {"variable_frame_rate", "drift"} & {reason for reason, _ in inspect(phone, Limits(trust_times=True))}
    backwards = replace(good, frame_times=good.frame_times[::-1])
    assert "variable_frame_rate" in {reason for reason, _ in inspect(backwards, Limits(trust_times=True))}


# ---- what is read
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_the_same_content_in_another_container_has_the_same_digest(rate: int, tmp_path: Path) -> None:
    file = encode(tmp_path / "a.mp4", FRAMES, FPS, murmur(SECONDS, rate, 2), rate)
    digests = {content_digest(read_recording(remux(file, tmp_path / f"b.{kind}"))) for kind in ("mp4", "mov", "mkv", "ts")}
    assert digests == {content_digest(read_recording(file))}


def test_other_picture_or_other_sound_has_another_digest(good: Recording) -> None:
    picture = FRAMES.copy()
    picture[30, 5, 5] ^= 1
    others = [replace(good, frames=picture), replace(good, waveform=good.waveform[::-1]), replace(good, waveform=None)]  # type: ignore[index]
    others += [replace(good, sample_rate=48000), replace(good, frames=None), replace(good, frames=good.frames[1:])]  # type: ignore[index]
    assert len({content_digest(recording) for recording in [good, *others]}) == len(others) + 1


def test_a_recording_is_what_read_mp4_reads(tmp_path: Path) -> None:
    recording, media = read_recording(made(tmp_path / "a.mp4")), read_mp4(tmp_path / "a.mp4")
    assert recording.frames is not None and recording.waveform is not None
    assert np.array_equal(recording.frames, media.frames)
    assert np.array_equal(recording.waveform.mean(1), media.waveform)
    assert (recording.audio_start, recording.audio_end, recording.video_end, recording.audio_skew) == (0, 2, 2, 0)
    assert (recording.declared_num_frames, recording.declared_layout, recording.declared_channels) == (48, "stereo", 2)
    assert recording.num_bytes == (tmp_path / "a.mp4").stat().st_size
    assert recording.frame_times == pytest.approx(np.arange(48) / 24)


@pytest.mark.parametrize(("degrees", "quarter_turns"), [(90, 1), (-90, -1), (180, 2)])
def test_pictures_are_turned_upright(degrees: int, quarter_turns: int, tmp_path: Path) -> None:
    turned = read_recording(made(tmp_path / "turned.mp4", rotation=degrees)).frames
    stored = read_recording(made(tmp_path / "stored.mp4")).frames
    assert turned is not None and stored is not None and np.array_equal(turned, np.rot90(stored, quarter_turns, (1, 2)))


@pytest.mark.parametrize("kind", ["wav", "flac", "m4a", "mp3", "ogg"])
def test_sound_alone_is_read_whole(kind: str, tmp_path: Path) -> None:
    sound = murmur(SECONDS, 48000, 2)
    recording = read_recording(encode(tmp_path / f"a.{kind}", None, 0, sound, 48000))
    assert recording.frames is None and recording.waveform is not None and recording.waveform.shape == sound.shape
    assert inspect(recording, Limits(), needs_video=False, min_seconds=SECONDS) == []
    assert np.square(recording.waveform - sound).mean() < 0.1 * np.square(sound).mean()  # in place, not only as long


def test_reading_stops_and_still_knows_the_end(tmp_path: Path) -> None:
    recording = read_recording(made(tmp_path / "a.mp4"), max_seconds=1.0)
    assert recording.stopped and recording.frames is not None and recording.waveform is not None
    assert len(recording.frames) == 24 and abs(len(recording.waveform) - RATE) <= 1024
    assert (recording.audio_end, recording.video_end) == (2, 2)
    assert inspect(recording, Limits(), min_seconds=2.0) == []


# ---- measures
def test_measures_say_what_they_mean() -> None:
    assert loudness(tone(1.0)[:, 0], RATE) == pytest.approx(-3.01, abs=0.01) and decibel(0.01) == pytest.approx(-20)
    assert loudness(0 * tone(1.0)[:, 0] + 0.3, RATE) < -100  # a constant is no sound
    assert clipped_share(tone(1.0)[:, 0]) == 0 and clipped_share(np.clip(tone(2.0)[:, 0], -1, 1)) == pytest.approx(0.72, abs=0.02)
    assert brightness(np.full((32, 32, 3), 16, np.uint8)) == 0 and brightness(FRAMES[0]) > 200
    assert motion(np.repeat(FRAMES[:1], 9, 0), 3).max() == 0 and len(motion(FRAMES, 6)) == 42
