"""Folders of clips that others made: drawn, synthesised and encoded by other means than the world's own, with a log of what happens."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from baton_lightning.__main__ import main
from baton_lightning.evaluation import scores
from baton_lightning.world.detect_audio import detect_audio
from baton_lightning.world.detect_video import detect_video
from baton_lightning.world.score_table import HEADLINE, SCORES

RGB = {"red": (230, 40, 40), "blue": (50, 90, 240), "yellow": (235, 215, 40)}
VOICE = {"red": (400, 480, 560), "blue": (1000, 1160, 1320), "yellow": (1520, 1760, 2000)}
WORD = {"ba": (0, 1), "ku": (2, 0), "di": (1, 0)}
X = {"left": 9.0, "middle": 24.0, "right": 39.0}


@dataclass
class Script:
    """Objects and what they do at which time; the log of a script that knows nothing of the library."""

    seconds: float
    objects: dict[str, tuple[str, str]]
    log: list[tuple] = field(default_factory=list)
    """(kind, actor, target, words, start): kind is one of talk, jump, hit, flash."""

    def state(self, t: float) -> dict[str, list[float]]:
        now = {c: [X[column], 31.0, 5.0, 0.0] for c, (_, column) in self.objects.items()}
        for kind, actor, target, words, start in self.log:
            s, o = t - start, now[actor]
            if kind == "talk":
                for k in range(len(words)):
                    phase = (s - 0.42 * k) / 0.28
                    o[2] += 5 * 0.45 * np.sin(np.pi * phase) ** 2 if 0 < phase < 1 else 0
            if kind == "jump" and 0 < s < 0.5:
                o[1] -= 13 * (1 - ((s - 0.25) / 0.25) ** 2)
            if kind == "flash" and 0 < s < 0.34:
                o[3] = 0.75 * np.sin(np.pi * s / 0.34) ** 2
            if kind == "hit":
                way = now[target][0] - o[0]
                way -= 10 * np.sign(way)
                o[0] += way * (s / 0.25 if 0 < s < 0.25 else max(0.0, 1 - (s - 0.25) / 0.35) if s >= 0.25 else 0)
        return now

    def frames(self, fps: int, side: int) -> np.ndarray:
        big, pictures = 4, []
        for i in range(round(self.seconds * fps)):
            image = Image.new("RGB", (side * big, side * big), (16, 16, 20))
            pen = ImageDraw.Draw(image)
            for colour, (x, y, r, white) in self.state(i / fps).items():
                fill = tuple(round(c + (255 - c) * white) for c in RGB[colour])
                x, y, r = (value * side * big / 48 for value in (x, y, r))
                shape = self.objects[colour][0]
                if shape == "circle":
                    pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
                elif shape == "square":
                    pen.rectangle((x - 0.92 * r, y - 0.92 * r, x + 0.92 * r, y + 0.92 * r), fill=fill)
                else:
                    pen.polygon([(x, y - r), (x - 1.1 * r, y + r), (x + 1.1 * r, y + r)], fill=fill)
            pictures.append(np.asarray(image.resize((side, side), Image.Resampling.LANCZOS)))
        return np.stack(pictures)

    def sound(self, rate: int) -> np.ndarray:
        t = np.arange(round(self.seconds * rate)) / rate
        total = np.zeros_like(t)
        for at, seconds, hertz in self.tones():
            phase = np.clip((t - at) / seconds, 0, 1)
            total += 0.3 * np.sin(np.pi * phase) ** 2 * np.sin(2 * np.pi * hertz * t + 0.7)
        return total.astype(np.float32)

    def tones(self) -> list[tuple[float, float, float]]:
        played = []
        for kind, actor, _, words, start in self.log:
            for k, word in enumerate(words):
                played += [(start + 0.42 * k + 0.14 * half, 0.14, VOICE[actor][tone]) for half, tone in enumerate(WORD[word])]
            if kind in ("jump", "hit"):
                played.append((start + {"jump": 0.44, "hit": 0.19}[kind], 0.12, 160))
            if kind in ("flash", "hit"):
                played.append((start + {"flash": 0.11, "hit": 0.19}[kind], 0.12, 6000))
        return played

    def write(self, file: Path, side: int, fps: int, rate: int, crf: int, channels: int = 1) -> None:
        layout = "stereo" if channels == 2 else "mono"
        with av.open(str(file), "w") as out:
            video, audio = out.add_stream("libx264", rate=fps), out.add_stream("aac", rate=rate, layout=layout)
            video.width = video.height = side
            video.pix_fmt, video.options = "yuv420p", {"crf": str(crf), "threads": "1"}
            for picture in self.frames(fps, side):
                out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
            out.mux(video.encode())
            frame = av.AudioFrame.from_ndarray(np.repeat(self.sound(rate)[None], channels, 0), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0  # without a time stamp the encoder's delay of 1024 samples stays in the file
            out.mux(audio.encode(frame))
            out.mux(audio.encode())


OBJECTS = {"red": ("circle", "left"), "blue": ("square", "middle"), "yellow": ("triangle", "right")}
STAGE = "a red circle on the left and a blue square in the middle and a yellow triangle on the right."
LOG = [
    ("talk", "red", None, ("ba", "ku"), 0.3),
    ("hit", "red", "blue", (), 1.34),
    ("flash", "yellow", None, (), 2.14),
    ("jump", "blue", None, (), 2.68),
    ("talk", "blue", None, ("ba", "ku"), 3.38),
]
PROMPTS = {
    "video_prompt": f"{STAGE} first the red circle talks. then the red circle hits the blue square. then the yellow triangle flashes. "
    "then the one that was hit jumps. then the one that was hit talks.",
    "audio_prompt": "first [red] says 'ba ku'. then a clack. then a ding. then a thump. "
    "then [blue] says the same words as the first speaker.",
}
WAYS = {
    "48 px": (48, 12, 16000, 18, 1),
    "64 px": (64, 24, 44100, 23, 2),
    "96 px": (96, 25, 24000, 28, 1),
    "160 px": (160, 12, 48000, 23, 2),
}
KIND = {"talk": "says", "jump": "jumps", "hit": "hits", "flash": "flashes"}


def folder_of(folder: Path, *scripts: Script, way: str = "48 px", meta: dict | None = None) -> Path:
    for k, script in enumerate(scripts):
        script.write(folder / f"{k}.mp4", *WAYS[way])
        (folder / f"{k}.json").write_text(json.dumps(meta or PROMPTS))
    return folder


@pytest.mark.parametrize("way", list(WAYS))
def test_detectors_agree_with_the_log_of_another_script(tmp_path, way):
    jittered = [(kind, actor, target, words, start + 0.11 * k) for k, (kind, actor, target, words, start) in enumerate(LOG)]
    folder_of(tmp_path, Script(6.0, OBJECTS, LOG), Script(7.0, OBJECTS, jittered), way=way)
    for file, log in ((tmp_path / "0.mp4", LOG), (tmp_path / "1.mp4", jittered)):
        media = scores.read_clip(file)
        seen, heard = detect_video(media.frames, media.fps), detect_audio(media.waveform, media.sample_rate)
        assert {colour: track.shape for colour, track in seen.tracks.items()} == {colour: look[0] for colour, look in OBJECTS.items()}
        assert [(e.kind, e.actor, e.target) for e in seen.events] == [(KIND[kind], actor, target) for kind, actor, target, *_ in log]
        after = {"talk": 0.14, "jump": 0.5, "hit": 0.25, "flash": 0.17}
        for e, (kind, *_, start) in zip(seen.events, log, strict=True):
            assert e.anchors[0] == pytest.approx(start + after[kind], abs=0.025)
        spoken = [(actor, word, start + 0.42 * k + 0.14) for kind, actor, _, words, start in log for k, word in enumerate(words)]
        assert [(w.voice, w.word) for w in heard.words] == [(voice, word) for voice, word, _ in spoken]
        assert [w.time for w in heard.words] == pytest.approx([t for *_, t in spoken], abs=0.005)
        assert [e.sound for e in heard.effects] == ["clack", "ding", "thump"]


def test_prompts_alone_are_enough_to_score_a_folder(tmp_path):
    wrong = [*LOG[:2], ("jump", "yellow", None, (), 2.14), *LOG[3:]]
    folder_of(tmp_path, Script(5.0, OBJECTS, LOG), Script(5.0, OBJECTS, wrong))
    result = scores.score_folder(tmp_path)
    right, broken = result["clips"]["0"], result["clips"]["1"]
    assert right["p_acc"] == right["p_strict"] == 1 and right["m_ter"] == 0 and right["desync"] < 0.02 and right["tier"] == "multi"
    assert broken["p_acc"] == pytest.approx(4 / 6)
    assert broken["facts"]["events"][2]["faults"] == ["not seen", "no ding heard"]
    assert [e["what"] for e in broken["facts"]["surplus"]["seen"]] == ["yellow jumps"]
    assert json.loads((tmp_path / "scores.json").read_text()) == result


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.videos: list[str] = []
        self.marked: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "line", "br", "img", "input"):
            self.open.append(tag)
        if tag == "video":
            self.videos.append(dict(attrs)["src"])

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "mark":
            self.marked.append(data)


def test_the_verb_leaves_a_page_that_plays_by_itself_and_marks_what_fails(tmp_path, capsys):
    swapped = [("talk", "blue", None, ("ba", "ku"), 0.3), *LOG[1:]]
    folder_of(tmp_path, Script(5.0, OBJECTS, LOG), Script(5.0, OBJECTS, swapped))
    assert main(["evaluate", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"next: open {tmp_path / 'index.html'} in a browser"
    assert all(f" {SCORES[name].title} " in printed for name in HEADLINE), "a name or a number that is cut tells nothing"
    text = (tmp_path / "index.html").read_text()
    page = Page(text)
    assert not page.open and len(page.videos) == 2 and all(src.startswith("data:video/mp4;base64,AAAA") for src in page.videos)
    assert "red says 'ba ku'" in page.marked and "spoken by the voice of blue" in text and 'src="http' not in text
    assert text.index("<h3>1 ") < text.index("<h3>0 "), "the worst clip comes first"
    with Image.open(tmp_path / "scores.png") as picture:
        assert picture.width > 800


def test_a_clip_without_sound_counts_as_silent(tmp_path):
    frames = Script(5.0, OBJECTS, LOG).frames(12, 48)
    with av.open(str(tmp_path / "0.mp4"), "w") as out:
        video = out.add_stream("libx264", rate=12)
        video.width = video.height = 48
        video.pix_fmt = "yuv420p"
        for picture in frames:
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        out.mux(video.encode())
    (tmp_path / "0.json").write_text(json.dumps(PROMPTS))
    clip = scores.score_folder(tmp_path)["clips"]["0"]
    assert clip["p_acc"] == 0 and clip["m_ter"] == 1 and all(e["seen"] for e in clip["facts"]["events"])


def test_a_clip_whose_sound_cannot_hold_the_ding_is_named(tmp_path):
    Script(1.0, OBJECTS).write(tmp_path / "0.mp4", 48, 12, 8000, 18)
    (tmp_path / "0.json").write_text(json.dumps(PROMPTS))
    with pytest.raises(ValueError, match=r"0\.mp4: .* at least 14000 Hz .* got 8000"):
        scores.score_folder(tmp_path)


def test_a_clip_that_cannot_be_scored_is_left_out_by_name_and_the_others_are_scored(tmp_path, capsys):
    for number, told in enumerate((PROMPTS, {"video_prompt": "a dog barks.", "audio_prompt": "bark."}, {"scene": 3})):
        Script(1.0, OBJECTS).write(tmp_path / f"{number}.mp4", *WAYS["48 px"])
        (tmp_path / f"{number}.json").write_text(json.dumps(told))
    (tmp_path / "3.mp4").write_bytes(b"no film")
    (tmp_path / "3.json").write_text(json.dumps(PROMPTS))
    found = scores.score_folder(tmp_path)
    said = capsys.readouterr().err
    assert list(found["clips"]) == ["0"] and list(found["unreadable"]) == ["1", "2", "3"]
    assert all(f"{key}.mp4 is left out" in said for key in "123") and "0.mp4" not in said


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (None, "it is missing"),
        ("not json", "it is not JSON"),
        (
            '{"video_prompt": "a red circle on the left."}',
            "must hold the `scene` .*, or its `video_prompt` and `audio_prompt`; got video_prompt",
        ),
        ('{"video_prompt": "a dog barks.", "audio_prompt": "bark."}', "0.json: prompt: the first sentence"),
        ('{"scene": {"tier": "multi"}}', "0.json: scene: must have"),
        ('{"video_prompt": null, "audio_prompt": "bark."}', "`video_prompt` must be a text, got None"),
        (json.dumps(PROMPTS | {"tier": 5}), "`tier` must be a text, got 5"),
    ],
)
def test_what_cannot_be_scored_is_named_in_one_line(tmp_path, capsys, side, message):
    Script(1.0, OBJECTS).write(tmp_path / "0.mp4", *WAYS["48 px"])
    if side is not None:
        (tmp_path / "0.json").write_text(side)
    with pytest.raises(ValueError, match=message):
        scores.score_folder(tmp_path)
    assert main(["evaluate", str(tmp_path)]) == 1 and "Traceback" not in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--page-clips", "0"]) == 1 and "--page-clips must be at least 1" in capsys.readouterr().err
    assert main(["evaluate"]) == 1 and "give a FOLDER" in capsys.readouterr().err
