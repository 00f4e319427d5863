"""Clips that are given something: pictures, films, sounds and clips of anybody's making, or latents of held-out clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from baton_lightning.__main__ import main
from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.flow.tasks import Known
from baton_lightning.generation import conditions
from baton_lightning.generation.pipeline import Pipeline, load
from baton_lightning.media import read_mp4
from baton_lightning.verbs import generate_options

PROMPTS = ["--video-prompt", "a red circle on the left. first the red circle jumps.", "--audio-prompt", "first a thump."]


@pytest.fixture(scope="module")
def run(made: Path) -> Path:
    return made / "runs/e/stage3_joint"


@pytest.fixture(scope="module")
def pipe(run: Path) -> Pipeline:
    return load(run, device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph, films and a sound as other tools write them: H.264 and AAC at 30 frames/s, WAV at 44.1 kHz, PNG."""
    import av
    from PIL import Image
    from scipy.io import wavfile

    folder = tmp_path_factory.mktemp("files")
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(folder / "first.png")
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(3 * 44100) / 44100)).astype(np.float32)
    wavfile.write(folder / "voice.wav", 44100, tone)
    wavfile.write(folder / "short.wav", 44100, tone[:44100])
    for name, seconds in (("film.mp4", 3), ("short.mp4", 1)):
        with av.open(str(folder / name), "w") as container:
            video, audio = container.add_stream("libx264", rate=30), container.add_stream("aac", rate=44100, layout="mono")
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for i in range(30 * seconds):
                picture = np.full((48, 64, 3), 40, np.uint8)
                picture[10:30, i % 40 : i % 40 + 15] = (200, 30, 30)
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            frame = av.AudioFrame.from_ndarray(tone[None, : seconds * 44100], format="fltp", layout="mono")
            frame.sample_rate = 44100
            for stream, packets in ((audio, audio.encode(frame)), (video, video.encode(None)), (audio, audio.encode(None))):
                container.mux(packets)
                assert stream is not None
    return folder


def generate(run: Path, out: Path, *words: object) -> tuple[np.ndarray, np.ndarray]:
    assert main(["generate", "--run", str(run), "--out", str(out), *PROMPTS, *map(str, words)]) == 0
    media = read_mp4(next(out.glob("*.mp4")))
    return media.frames, media.waveform


@pytest.mark.slow
def test_each_form_makes_a_clip_that_keeps_what_was_given(run: Path, files: Path, tmp_path: Path) -> None:
    plain, plain_sound = generate(run, tmp_path / "plain")
    first, _ = generate(run, tmp_path / "image", "--image", files / "first.png")
    assert first.shape == plain.shape and np.abs(first[0].astype(int) - plain[0]).mean() > 2
    film, sound = generate(run, tmp_path / "video", "--video", files / "film.mp4")
    red = (film[..., 0].astype(int) - film[..., 1] > 80).reshape(len(film), -1).sum(1)
    assert (red > 20).all() and not np.allclose(sound, plain_sound, atol=0.01)  # every picture has the film's square
    _, voice = generate(run, tmp_path / "audio", "--audio", files / "voice.wav")
    spectrum = np.abs(np.fft.rfft(voice[4000:20000]))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    longer, heard = generate(run, tmp_path / "extend", "--extend", files / "film.mp4", "--seconds", 1)
    assert len(longer) == 12 * 4 + 1 and abs(len(heard) / 16000 - 4.0) < 0.05  # 3 s of the film and 1 s more
    part, _ = generate(run, tmp_path / "inpaint", "--inpaint", files / "film.mp4", "--box", 0, 0, 0.5, 1)
    assert part.shape == plain.shape
    metadata = json.loads(next((tmp_path / "image").glob("*.json")).read_text())
    assert metadata["given"] == "image" and metadata["given_file"].endswith("first.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "first.png", "--video", "film.mp4"], "give one of --image"),
        (["--image", "absent.png"], "--image must be a file"),
        (["--image", "voice.wav"], "--image must be a readable picture"),
        (["--video", "first.png"], "first.png"),
        (["--video", "short.mp4"], "must last the run's 2 s or more, its picture lasts 1.000 s"),
        (["--audio", "short.wav"], "must last the run's 2 s or more, its sound lasts 1.000 s"),
        (["--extend", "film.mp4"], "--extend FILE and --seconds go together"),
        (["--extend", "film.mp4", "--seconds", "3"], "--seconds must lie between 0 and the run's 2 s"),
        (["--extend", "short.mp4", "--seconds", "0.2"], "must last 1.8 s or more"),
        (["--inpaint", "film.mp4", "--box", "0", "0", "2", "1"], "--box must be LEFT TOP RIGHT BOTTOM"),
        (["--inpaint", "film.mp4", "--box", "0", "0", "1", "1", "1"], "--box must be LEFT TOP RIGHT BOTTOM"),
        (["--task", "video=given"], "--task takes what is given from held-out clips"),
    ],
)
def test_a_wrong_file_or_option_is_one_line(
    pipe: Pipeline, files: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    options = generate_options.parser().parse_args(["--run", "r", "--out", "o", *PROMPTS, *words])
    with pytest.raises(ValueError, match="^[^\n]*$") as caught:
        generate_options.check(options)
        conditions.read(pipe.generator, options, generate_options.form_of(options) or "")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["video", "video=", "smell=given", "prefix=often", "video=given,audio=given", "share=2"])
def test_words_that_are_no_task_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"task"):
        conditions.task_of(text)
    assert conditions.task_of("first_frame=1, mask=0.5").mask == 0.5


def test_a_task_holds_a_held_out_clip_s_own_latents(pipe: Pipeline) -> None:
    generator, clip = pipe.generator, pipe.generator.model.clip
    batch = Batch(["a", "b"], torch.arange(2), 0, [""] * 2, [""] * 2, context=torch.randn(2, clip.text_tokens, clip.text_width))
    batch.video_latents = torch.randn(2, clip.video_channels, *clip.latent_grid)
    batch.audio_latents = torch.randn(2, clip.num_audio_latents, clip.audio_channels)
    held = conditions.held_by_task(conditions.task_of("video=given,prefix=1"), generator, batch)
    video, audio = generator.sample(batch, None, held)
    assert torch.equal(video, batch.video_latents)
    assert torch.equal(audio[:, 0], batch.audio_latents[:, 0]) and not torch.equal(audio[:, -1], batch.audio_latents[:, -1])


def test_a_box_holds_whole_latents_that_touch_it() -> None:
    box = conditions.box_of([0.3, 0.0, 0.6, 0.5, 0.5, 1.0], ClipSpec())
    assert (box.places, box.span) == ((slice(0, 2), slice(1, 3)), (0.5, 1.0))
    assert Known.nothing(ClipSpec()).span(ClipSpec(), 0.0, 2.0) == (slice(0, 7), slice(0, 63))
