"""What is written is what is read: the same length, the same picture, the same sound, the same bytes."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from baton_lightning import media
from baton_lightning.media import AAC_FRAME, MediaError, mp4_bytes, read_mp4, write_mp4


def pictures(count: int = 9, side: int = 32) -> np.ndarray:
    """A red square that wanders over grey."""
    frames = np.full((count, side, side, 3), 60, np.uint8)
    for i in range(count):
        frames[i, 8:20, i : i + 12] = (210, 40, 30)
    return frames


def tone(samples: int = 12000, rate: int = 16000, pitch: float = 440.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * pitch * np.arange(samples) / rate)).astype(np.float32)


def decibel(signal: np.ndarray, noise: np.ndarray, peak: float | None = None) -> float:
    power = np.square(peak) if peak else np.square(signal.astype(np.float64)).mean()
    return float(10 * np.log10(power / np.square(noise.astype(np.float64)).mean()))


@pytest.mark.parametrize(
    ("count", "samples", "rate"), [(1, 1, 16000), (9, 12000, 16000), (25, 32000, 16000), (9, 16385, 24000), (9, 1023, 48000)]
)
def test_every_frame_and_every_sample_comes_back_and_none_more(count: int, samples: int, rate: int) -> None:
    media = read_mp4(mp4_bytes(pictures(count), 12, tone(samples, rate), rate))
    assert media.frames.shape == (count, 32, 32, 3) and media.frames.dtype == np.uint8
    assert media.waveform.shape == (samples,) and media.waveform.dtype == np.float32
    assert (media.fps, media.sample_rate, media.seconds) == (12.0, rate, samples / rate)


def test_picture_and_sound_survive_and_keep_their_time() -> None:
    frames, sound = pictures(), tone()
    sound[:4000] = 0
    media = read_mp4(mp4_bytes(frames, 12, sound, 16000))
    assert decibel(frames, media.frames.astype(int) - frames, peak=255) > 38
    assert decibel(sound, media.waveform - sound) > 25
    shifts = {d: decibel(sound, np.roll(media.waveform, d) - sound) for d in (-1, 0, 1)}
    assert max(shifts, key=lambda d: shifts[d]) == 0
    assert np.abs(media.waveform[:2900]).max() < 0.01


def test_small_pictures_keep_full_colour_and_large_ones_play_everywhere() -> None:
    for side, wanted in ((32, "yuv444p"), (128, "yuv420p")):
        with av.open(io.BytesIO(mp4_bytes(pictures(2, side), 12, tone(), 16000))) as container:
            assert container.streams.video[0].codec_context.pix_fmt == wanted
    halved = read_mp4(mp4_bytes(pictures(), 12, tone(), 16000, pix_fmt="yuv420p")).frames
    whole = read_mp4(mp4_bytes(pictures(), 12, tone(), 16000)).frames
    assert decibel(pictures(), halved.astype(int) - pictures(), 255) < decibel(pictures(), whole.astype(int) - pictures(), 255) - 4


def test_the_same_clip_is_always_the_same_bytes(tmp_path: Path) -> None:
    made = {mp4_bytes(pictures(25), 12, tone(32000), 16000, qp=12) for _ in range(20)}
    assert len(made) == 1
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, pictures(), 12, tone(), 16000)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_file_has_its_index_in_front_and_nothing_beside_it(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", pictures(), 12, tone(), 16000)
    content = (tmp_path / "clip.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
    assert np.array_equal(read_mp4(tmp_path / "clip.mp4").frames, read_mp4(content).frames)


@pytest.mark.parametrize("fps", [24, 25, 30, Fraction(30000, 1001), 23.976])
def test_frame_rates_come_back(fps: float) -> None:
    assert read_mp4(mp4_bytes(pictures(), float(fps), tone(), 16000)).fps == pytest.approx(float(fps), abs=1e-3)


def test_channels_are_averaged() -> None:
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=12)
        video.width = video.height = 32
        audio = container.add_stream("aac", rate=16000, layout="stereo")
        for i, picture in enumerate(pictures()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for start in range(0, 12288, 1024):
            left = tone(12288)[start : start + 1024]
            chunk = av.AudioFrame.from_ndarray(np.stack([left, 0 * left]), format="fltp", layout="stereo")
            chunk.sample_rate, chunk.pts = 16000, start
            container.mux(audio.encode(chunk))
        container.mux(audio.encode())
    waveform = read_mp4(memory.getvalue()).waveform
    assert decibel(tone(12288) / 2, waveform - tone(12288) / 2) > 20


# ---- damage
def single_stream(kind: str) -> bytes:
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        if kind == "video":
            stream = container.add_stream("libx264", rate=12)
            stream.width = stream.height = 32
            frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures()]
        else:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            frames = [av.AudioFrame.from_ndarray(tone(1024)[None], format="fltp", layout="mono") for _ in range(8)]
        for i, frame in enumerate(frames):
            frame.pts = i * (1 if kind == "video" else 1024)
            if kind == "audio":
                frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return memory.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "unreadable"), (b"no movie" * 99, "unreadable"), (single_stream("video"), "no_audio"), (single_stream("audio"), "no_video")],
)
def test_what_is_no_clip_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(MediaError) as error:
        read_mp4(content)
    assert error.value.reason == reason


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="unreadable: .*nothing.mp4 cannot be opened"):
        read_mp4(tmp_path / "nothing.mp4")


@pytest.mark.parametrize("in_front", [False, True])
def test_a_file_that_was_cut_anywhere_never_passes(tmp_path: Path, in_front: bool) -> None:
    write_mp4(tmp_path / "clip.mp4", pictures(), 12, tone(), 16000)
    content = (tmp_path / "clip.mp4").read_bytes() if in_front else mp4_bytes(pictures(), 12, tone(), 16000)
    for length in np.linspace(1, len(content) - 200, 12).astype(int):
        with pytest.raises(MediaError):
            read_mp4(content[:length])


@pytest.mark.parametrize(
    ("frames", "waveform", "message"),
    [
        (pictures().astype(np.float32), tone(), "frames must be uint8"),
        (pictures()[:0], tone(), "with T >= 1"),
        (pictures()[:, :31], tone(), "even sides, got 31 x 32"),
        (pictures(), np.stack([tone(), tone()]), "mono"),
        (pictures(), np.full(9, np.nan, np.float32), "finite"),
    ],
)
def test_what_cannot_be_written_is_refused(frames: np.ndarray, waveform: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_mp4(tmp_path / "clip.mp4", frames, 12, waveform, 16000)
    assert not list(tmp_path.iterdir())


def test_picture_alone_and_sound_alone_come_back_and_a_missing_half_is_named() -> None:
    frames, sound = pictures(), tone()
    silent, blind = mp4_bytes(frames, 12, None, 16000), mp4_bytes(None, 12, sound, 16000)
    seen, heard = read_mp4(silent, has_audio=False), read_mp4(blind, has_video=False)
    assert (seen.frames.shape, seen.waveform.shape, seen.seconds) == (frames.shape, (0,), 9 / 12)
    assert (heard.waveform.shape, heard.frames.shape, heard.sample_rate) == ((12000,), (0, 0, 0, 3), 16000)
    both = read_mp4(mp4_bytes(frames, 12, sound, 16000))
    assert np.array_equal(seen.frames, both.frames) and np.array_equal(heard.waveform, both.waveform)
    for content, missing in ((silent, "no_audio"), (blind, "no_video")):
        with pytest.raises(MediaError, match=missing):
            read_mp4(content)
    with pytest.raises(ValueError, match="must have picture or sound, got neither"):
        mp4_bytes(None, 12, None, 16000)


def test_files_say_what_their_colours_are_and_come_back_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    for pix_fmt in ("yuv444p", "yuv420p"):
        content = mp4_bytes(frames, 12, None, 0, pix_fmt=pix_fmt)
        with av.open(io.BytesIO(content)) as container:
            frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (6, 1, 1, 1) and b"colr" in content
        with monkeypatch.context() as patch:
            patch.setattr("baton_lightning.media.COLOURS", (2, 2, 2, 0))
            plain = mp4_bytes(frames, 12, None, 0, pix_fmt=pix_fmt)
        assert np.array_equal(read_mp4(content, has_audio=False).frames, read_mp4(plain, has_audio=False).frames)


def test_a_clip_that_would_fill_the_memory_is_refused_by_what_it_declares_or_as_soon_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mp4_bytes(pictures(), 12, tone(), 16000)
    num_bytes = 9 * 32 * 32 * 3 + 12 * AAC_FRAME * 4
    assert len(read_mp4(whole, most_bytes=num_bytes + 2 * AAC_FRAME * 4).frames) == 9
    for most_bytes in (num_bytes - 4 * AAC_FRAME * 4, 9 * 32 * 32 * 3):  # the sound, which declares no size, is too long
        with pytest.raises(MediaError, match="too_large: .* holds more picture and sound than"):
            read_mp4(whole, most_bytes=most_bytes)
    monkeypatch.setattr(media, "_decode", None)
    with pytest.raises(MediaError, match="too_large"):
        read_mp4(whole, most_bytes=9 * 32 * 32 * 3 - 1)


def test_a_list_of_other_files_is_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # which the names in a list without a place of its own start from
    write_mp4(tmp_path / "real.mp4", pictures(), 12, tone(), 16000)
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile real.mp4\n")
    with pytest.raises(MediaError, match="unreadable: .*a.mp4 cannot be opened"):
        read_mp4(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="unreadable: .* bytes cannot be opened"):
        read_mp4((tmp_path / "a.mp4").read_bytes())
