"""Recordings are read as players show them: upright, in their shape and colours, from the first picture on, wherever a part lies."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from baton_lightning.__main__ import main
from baton_lightning.evaluation import scores
from baton_lightning.media import MediaError, read_mp4, write_mp4
from baton_lightning.metrics.clips import decode_clip
from baton_lightning.recordings import recording as module
from baton_lightning.recordings.clips import read_clip
from baton_lightning.recordings.recording import read_recording
from baton_lightning.recordings.screen import upright
from baton_lightning.recordings.tracks import Picture
from baton_lightning.shards.contract import Limits, inspect
from tests.shards.defects import encode, murmur, remux, wander

FPS, RATE = 24, 44100


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds, a key frame every one."""
    file = tmp_path_factory.mktemp("film") / "film.mp4"
    return encode(file, wander(12 * FPS, 48, 64), FPS, murmur(12.0, RATE, 2), RATE, options={"g": "24", "bf": "2"})


def later(file: Path, target: Path, seconds: float) -> Path:
    """The same packets, all of them so much later."""
    with av.open(str(file)) as source, av.open(str(target), "w", options={"avoid_negative_ts": "disabled", "muxdelay": "0"}) as container:
        streams = {stream.index: container.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                shift = round(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, streams[packet.stream_index]
                container.mux(packet)
    return target


@pytest.mark.parametrize(("kind", "shift"), [("mp4", 0), ("mkv", 3), ("ts", 10), ("flv", 0), ("mov", 0)])
def test_a_part_is_counted_from_the_first_picture_whatever_the_container_s_clock(film: Path, kind: str, shift: int, tmp_path: Path) -> None:
    file = later(film, tmp_path / f"a.{kind}", shift) if shift else remux(film, tmp_path / f"a.{kind}")
    whole = read_recording(file)
    truth = read_recording(film)
    assert whole.frame_times[0] == 0 and whole.frames is not None and truth.frames is not None
    assert np.array_equal(whole.frames, truth.frames)
    for start in (2.5, 8.0):
        part = read_recording(file, start=start, end=start + 2)
        first, last = np.searchsorted(part.frame_times, [start - 1e-3, start + 2 - 1e-3])
        at = round(start * FPS)
        assert part.frames is not None and part.waveform is not None and whole.waveform is not None
        assert last - first == 2 * FPS and np.array_equal(part.frames[first:last], truth.frames[at : at + 2 * FPS])
        assert part.audio_start == pytest.approx(start, abs=1 / RATE)
        skipped = round((part.audio_start - whole.audio_start) * RATE)
        heard, reach = part.waveform[1000:-1000, 0], range(-100, 101)
        apart = {lag: np.square(heard - whole.waveform[skipped + 1000 + lag :][: len(heard), 0]).mean() for lag in reach}
        best = min(apart, key=lambda lag: apart[lag])  # clocks of some containers are rounded to a millisecond
        assert abs(best) <= 0.001 * RATE and apart[best] < 0.03 * np.square(heard).mean()
        assert not part.errors and "too_short" not in dict(inspect(part, Limits(), min_seconds=2.0))


def test_what_a_part_costs_does_not_depend_on_where_it_lies(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    decoded = Picture.decoded
    monkeypatch.setattr(Picture, "decoded", lambda self, frame: (seen.append(0), decoded(self, frame))[1])
    monkeypatch.setattr(module, "LEADS", (0.3,))
    for start in (2.0, 10.0):
        seen.clear()
        part = read_recording(film, start=start, end=start + 1)
        assert len(seen) < 4 * FPS and part.frames is not None and len(part.frames) <= FPS + 1


def test_a_part_beyond_the_end_holds_nothing(film: Path) -> None:
    part = read_recording(film, start=20.0, end=22.0)
    assert part.frames is not None and not len(part.frames)


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_scores_and_data_sets_see_a_turned_clip_upright(degrees: int, tmp_path: Path) -> None:
    frames, sound = wander(24, 64, 48), murmur(1.0, RATE)
    stored = np.rot90(frames, -degrees // 90, (1, 2))
    plain = read_clip(encode(tmp_path / "a.mp4", frames, FPS, sound, RATE))
    file = encode(tmp_path / "b.mp4", np.ascontiguousarray(stored), FPS, sound, RATE, rotation=degrees)
    for read in (read_clip, scores.read_clip, decode_clip):
        turned = read(file)
        assert turned.frames.shape == plain.frames.shape
        assert np.abs(turned.frames.astype(int) - plain.frames).mean() < 6


def test_every_quarter_turn_and_mirror_image_is_undone() -> None:
    picture, one = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8), 1 << 16
    for a, b, c, d in [(x, 0, 0, y) for x in (one, -one) for y in (one, -one)] + [(0, x, y, 0) for x in (one, -one) for y in (one, -one)]:
        shown = upright(picture, (a, b, c, d), "")
        for row, column in ((0, 0), (3, 1), (2, 5)):  # x' = a x + c y, y' = b x + d y, then moved into sight
            x, y = (a * column + c * row) // one, (b * column + d * row) // one
            place = (y if b + d > 0 else shown.shape[0] - 1 + y, x if a + c > 0 else shown.shape[1] - 1 + x)
            assert np.array_equal(shown[place], picture[row, column])
    with pytest.raises(MediaError, match="not a multiple of 90 degrees"):
        upright(picture, (one, one // 2, -one // 2, one), "a.mp4")


def test_uneven_frames_are_shown_at_an_even_rate_as_long_as_they_last(tmp_path: Path) -> None:
    frames = np.repeat(np.arange(24, dtype=np.uint8)[:, None, None, None] * 10, 64, 1) + np.zeros((1, 64, 64, 3), np.uint8)
    kept = [*range(0, 12, 2), *range(12, 24)]
    clock = lambda t: float(np.interp(t * 12, [-9, *range(18), 27], [-9, *kept, 33])) / 12  # noqa: E731
    file = encode(tmp_path / "a.mp4", frames[kept], 12, None, RATE, video_clock=clock)
    media = read_clip(file, has_audio=False)
    assert media.fps == pytest.approx(12, rel=0.01) and len(media.frames) == 24
    level = media.frames[:, 32, 32, 0].astype(int)
    assert np.abs(level - [10 * (i if i in kept else i - 1) for i in range(24)]).max() <= 3


def squeezed(file: Path, side: int = 64) -> Path:
    """A white disc on black, in pixels twice as wide as high."""
    y, x = np.mgrid[:side, : side // 2]
    disc = (((y - side / 2) ** 2 + (2 * x - side / 2) ** 2 < (side / 4) ** 2) * 255).astype(np.uint8)
    with av.open(str(file), "w") as container:
        video = container.add_stream("libx264", rate=12)
        video.height, video.width, video.pix_fmt = side, side // 2, "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(np.repeat(disc[:, :, None], 3, 2), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 12)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return file


def test_pixels_that_are_not_square_leave_discs_round(tmp_path: Path) -> None:
    from baton_lightning.clip import ClipSpec
    from baton_lightning.shards.parts import members_of
    from baton_lightning.shards.source import Source

    file = squeezed(tmp_path / "a.mp4")
    recording = read_recording(file)
    assert recording.pixel_aspect == 2 and recording.size_on_screen == (64, 64) and recording.frames is not None
    clip, source = ClipSpec(seconds=1, height=48, width=48), Source("a", file, "x", "x", (), "", "train")
    built = members_of(recording, "video", 0.0, clip, source, "a.mp4")
    for picture in (read_mp4(built["mp4"], has_audio=False).frames[5], read_clip(file, has_audio=False).frames[5]):
        white = picture[..., 0] > 128
        assert picture.shape[0] == picture.shape[1] and abs(int(white.any(0).sum()) - int(white.any(1).sum())) <= 2


def test_interlaced_pictures_lose_their_comb_and_keep_their_times(tmp_path: Path) -> None:
    fields = np.full((48, 64, 64, 3), 30, np.uint8)
    for i, field in enumerate(fields):
        field[:, i : i + 12] = 220
    woven = fields[::2].copy()
    woven[:, 1::2] = fields[1::2, 1::2]

    def comb(frames: np.ndarray) -> float:
        y = frames.astype(float).mean(-1)
        return float(np.square(np.diff(y, axis=1)).mean())

    plain = read_recording(encode(tmp_path / "a.mp4", woven, 24, None, RATE))
    joined = read_recording(encode(tmp_path / "b.mp4", woven, 24, None, RATE, options={"x264-params": "interlaced=1:tff=1"}))
    assert joined.interlaced and not plain.interlaced and joined.frames is not None and plain.frames is not None
    assert comb(joined.frames) < 0.1 * comb(plain.frames)
    assert np.array_equal(joined.frame_times, plain.frame_times)


def lines(file: Path, flagged: int) -> Path:
    """A film with a silent track and one with sound, which of them is the default; a cover in front of the picture."""
    from av.stream import Disposition

    with av.open(str(file), "w") as container:
        video = container.add_stream("libx264", rate=12)
        video.height = video.width = 64
        sounds = [container.add_stream("aac", rate=16000, layout="mono") for _ in range(2)]
        for i, stream in enumerate(sounds):
            stream.disposition = Disposition.default if i == flagged else Disposition(0)
            stream.metadata["language"] = ("deu", "eng")[i]
        for i, picture in enumerate(wander(12, 64, 64)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 12)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for i, stream in enumerate(sounds):
            for start in range(0, 16000, 1024):
                tone = i * 0.5 * np.sin(np.arange(start, start + 1024) / 5)
                chunk = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
                chunk.sample_rate, chunk.pts, chunk.time_base = 16000, start, Fraction(1, 16000)
                container.mux(stream.encode(chunk))
            container.mux(stream.encode())
    return file


@pytest.mark.parametrize("kind", ["mkv", "mp4"])
def test_the_default_track_is_heard_or_that_of_the_language(kind: str, tmp_path: Path) -> None:
    for flagged in (0, 1):
        file = lines(tmp_path / f"{flagged}.{kind}", flagged)
        loud = [float(np.abs(read_recording(file, language=name).waveform).max()) > 0.1 for name in ("", "deu", "eng")]  # type: ignore[arg-type]
        assert loud == [bool(flagged), False, True]
    with pytest.raises(MediaError, match=r"no_audio: .* has no sound in the language 'fra'; its tracks are deu, eng"):
        read_recording(file, language="fra")


def test_a_build_hears_the_language_that_it_asks_for(tmp_path: Path) -> None:
    lines(tmp_path / "a.mkv", 1)
    (tmp_path / "list.jsonl").write_text('{"file": "a.mkv", "text": "x", "split": "train"}')
    words = ["shards", "build", str(tmp_path / "list.jsonl"), "--seconds", "0.5", "--workers", "0", "--cut", "first"]
    assert main([*words, str(tmp_path / "default")]) == 0
    assert main([*words, str(tmp_path / "deu"), "--audio-language", "deu"]) == 1
    assert '"silent_audio"' in (tmp_path / "deu/rejected.jsonl").read_text()


def hdr(file: Path, transfer: int) -> Path:
    """A red square on grey in PQ (16) or HLG (18), of BT.2020 primaries, white at 203 cd/m2."""
    scene = np.full((64, 64, 3), 90 / 255)
    scene[16:48, 16:48] = np.array([219, 59, 61]) / 255
    wide = scene**2.4 @ np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]).T
    if transfer == 16:
        m = (wide * 203 / 10000) ** 0.1593017578125
        coded = ((0.8359375 + 18.8515625 * m) / (1 + 18.6875 * m)) ** 78.84375
    else:  # inverse system gamma of 1000 cd/m2, then the curve
        light = wide * 203 / 1000
        luminance = (light @ np.array([0.2627, 0.6780, 0.0593]))[..., None]
        light = light * luminance ** (1 / 1.2 - 1)
        coded = np.where(light <= 1 / 12, np.sqrt(3 * light), 0.17883277 * np.log(np.maximum(12 * light - 0.28466892, 1e-9)) + 0.55991073)
    y = coded @ np.array([0.2627, 0.6780, 0.0593])
    planes = [64 + 876 * y, 512 + 896 * (coded[..., 2] - y) / 1.8814, 512 + 896 * (coded[..., 0] - y) / 1.4746]
    with av.open(str(file), "w") as container:
        video = container.add_stream("ffv1", rate=12)
        video.height = video.width = 64
        video.pix_fmt = "yuv444p10le"
        codec = video.codec_context
        codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range = 9, 9, transfer, 1
        for i in range(3):
            frame = av.VideoFrame(64, 64, "yuv444p10le")
            for plane, values in zip(frame.planes, planes, strict=True):
                plane.update(np.round(values).astype("<u2").tobytes())
            frame.pts, frame.time_base = i, Fraction(1, 12)
            frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range = 9, 9, transfer, 1
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return file


@pytest.mark.parametrize("transfer", [16, pytest.param(18, marks=pytest.mark.slow)])  # each table of colours takes seconds
def test_hdr_is_shown_as_on_an_ordinary_screen(transfer: int, tmp_path: Path) -> None:
    recording = read_recording(hdr(tmp_path / "a.mkv", transfer))
    assert recording.tone_mapped and recording.frames is not None
    assert np.abs(recording.frames[1, 32, 32].astype(int) - [219, 59, 61]).max() < 25
    assert np.abs(recording.frames[1, 4, 4].astype(int) - 90).max() < 15


@pytest.mark.parametrize(
    "content",
    [
        b"ffconcat version 1.0\nfile square.mp4\n",
        b"#EXTM3U\n#EXTINF:2,\nsquare.mp4\n#EXT-X-ENDLIST\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    ],
)
def test_lists_of_other_files_are_no_recordings(content: bytes, tmp_path: Path) -> None:
    write_mp4(tmp_path / "square.mp4", wander(4, 32, 32), 12, None, 0)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(MediaError, match="unreadable: .*cannot be opened as a known kind"):
        read_recording(tmp_path / "a.mp4")


def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = encode(tmp_path / "a.mp4", wander(4, 64, 64), 12, None, RATE)
    monkeypatch.setattr("baton_lightning.recordings.container.MAX_PIXELS", 64 * 63)
    with pytest.raises(MediaError, match="too_large: .*a.mp4 declares pictures of 64 x 64"):
        read_recording(file)


@pytest.mark.parametrize("kind", ["mp4", "ts"])  # one declares its duration, one does not
def test_pictures_that_would_fill_the_memory_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = encode(tmp_path / f"a.{kind}", wander(60, 64, 64), 12, None, RATE)
    monkeypatch.setattr("baton_lightning.recordings.container.MAX_BYTES", 40 * 64 * 64 * 3)
    with pytest.raises(MediaError, match="too_large: .* would need more than .* of memory at a time"):
        read_recording(file)
    assert read_recording(file, start=1.0, end=2.0).frames is not None


def test_a_track_without_a_decoder_is_named(tmp_path: Path) -> None:
    file = encode(tmp_path / "a.mp4", wander(4, 64, 64), 12, None, RATE)
    file.write_bytes(file.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match="unreadable: .*a.mp4 has a track without a known decoder"):
        read_recording(file)
