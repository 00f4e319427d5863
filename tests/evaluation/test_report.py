"""The page of `report`: complete in one file, with right numbers and places; texts of others are inert; damage is named."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baton_lightning.__main__ import main
from baton_lightning.evaluation.report import assets, choice, lanes, page
from baton_lightning.evaluation.report.curves import curves
from baton_lightning.evaluation.report.found import find
from baton_lightning.evaluation.report.inert import visible
from baton_lightning.evaluation.report.plan_strips import plan_strips
from baton_lightning.media import Media

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>\u202eevil\u2066\x00"


class Elements(HTMLParser):
    """Elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


def report(folder: Path, *words: str, code: int = 0) -> str:
    assert main(["report", str(folder), *words]) == code
    return (folder / "index.html").read_text() if (folder / "index.html").exists() else ""


def picture_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_the_page_needs_no_other_file_and_compares_five_conditions(experiment, capsys):
    text = report(experiment)
    elements = Elements(text)
    sources = [a[name] for _, a in elements.found for name in ("src", "href", "poster") if a.get(name)]
    assert sources and all(source.startswith(("data:", "#")) for source in sources) and "url(" not in text and "@import" not in text
    assert len(text.encode()) < 10_000_000 and len(elements.of("video")) == 5 + 3
    assert all(a.get("alt") for a in elements.of("img"))
    means = {c: np.mean([clip.scores["p_acc"] for clip in found.values()]) for c, found in find(experiment).clips.items()}
    order = [f"{means[name]:.2f} {words}" for name, words in (("none", "without a plan"), ("planned", "with the planner's plan"))]
    assert f"P-Acc of 3 clips each: {order[0]}, {order[1]}, {means['truth']:.2f} with the true plan" in capsys.readouterr().out
    assert re.findall(r'class="who"><h3>(.*?)</h3>', text)[::4] == ["truth through the codecs", "no plan"]
    assert "✓ same weights" in text and text.index(">stage2<") < text.index(">stage3_joint<")


def test_the_worst_tab_is_in_order_of_p_acc_and_the_best_in_the_opposite_one(demo):
    clips = find(demo).clips["planned"]
    lists = choice.tabs(clips, 24)
    quality = [clips[key].scores["p_acc"] for key in lists["worst"]]
    assert quality == sorted(quality) and quality[0] < quality[-1] and lists["best"] == lists["worst"][::-1]
    few = choice.tabs(clips, 2)
    assert [len(keys) for keys in few.values()] == [1, 1, 1] and few["worst"][0] != few["best"][0]
    assert choice.interleaved({"a": ["x", "y"], "b": ["y", "z"]}, 9) == ["x", "y", "z"]


def test_prompts_and_names_of_others_are_inert(experiment):
    clips = find(experiment).clips["planned"]
    for k, clip in enumerate(clips.values()):
        told = HOSTILE if k else "long " * 2000
        clip.file.with_suffix(".json").write_text(json.dumps({"video_prompt": told, "audio_prompt": told, "tier": told, "plan": told}))
    shown = next(iter(clips.values()))
    for suffix in (".mp4", ".json"):
        shown.file.with_suffix(suffix).rename(shown.file.with_name(f'x" onload="alert(3){suffix}'))
    (experiment / "samples/scores.json").unlink()
    text = report(experiment)
    elements = Elements(text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for a in elements.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert not [name for _, attrs in elements.found for name in attrs if name.startswith("on")]
    assert not re.search("[\u202e\u2066\x00]", text) and "[U+202E]evil[U+2066][U+0000]" in text
    assert elements.text.count("long ") >= 2 * 1998 and 'x" onload="alert(3)' in elements.text
    assert [a["data-tab"] for a in elements.of("button") if "data-tab" in a] == ["random"], "unscored clips are neither best nor worst"
    assert visible("a" * 30_000).endswith("… (10,000 more characters)")


def test_clips_that_cannot_be_read_are_named_and_the_page_is_made(experiment, capsys):
    broken = sorted((experiment / "samples").glob("*.mp4"))
    broken[0].write_bytes(broken[0].read_bytes()[:3000])
    scores = json.loads((experiment / "samples/scores.json").read_text())
    scores["clips"][broken[1].stem]["facts"] = {"events": 3}
    scores["tiers"]["multi"] = {"num_clips": "many"}
    (experiment / "samples/scores.json").write_text(json.dumps(scores))
    (experiment / "controls/none/scores.json").write_text("{")
    text = report(experiment)
    said = capsys.readouterr().err
    assert all(name in said and name in text for name in (broken[0].name, broken[1].name, "scores.json")) and broken[2].name not in said
    assert 'class="card"' in text and "Traceback" not in said
    for file in broken:
        file.write_bytes(b"no film")
    assert "0 clips: none of the 3 files can be shown" in report(experiment)


def test_a_folder_without_clips_is_a_page_of_stages_or_one_line(experiment, tmp_path, capsys):
    assert "0 clips: there are none" in report(experiment / "stage3_joint")
    assert ">stage2<" in (experiment / "stage3_joint/index.html").read_text()
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        assert main(["report", str(tmp_path / folder)]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and folder in said and "report:" in said and not (tmp_path / folder / "index.html").exists()


def test_a_file_that_is_no_such_page_is_not_replaced(experiment, tmp_path, capsys):
    (experiment / "index.html").write_text("<title>mine</title>")
    assert report(experiment, code=1) == "<title>mine</title>" and "give --out FILE" in capsys.readouterr().err
    for _ in range(2):
        report(experiment / "samples", "--clips", "1", "--out", str(tmp_path / "one/page.html"))
    assert (tmp_path / "one/page.html").read_text().count('class="card"') == 1
    assert main(["report", str(experiment), "--clips", "0"]) == 1 and "--clips must be at least 1" in capsys.readouterr().err


def test_clips_beyond_the_size_of_a_page_are_left_out_by_number(experiment, monkeypatch):
    monkeypatch.setattr(page.Budget.__init__, "__defaults__", (150_000,))
    written = page.write_page(experiment / "samples")
    assert 0 < written.num_clips < 3 and f"{3 - written.num_clips} of 3 chosen clips" in written.notes[-1]


def test_a_tone_is_brightest_at_its_frequency_and_time():
    time = np.arange(32000) / 16000
    waveform = np.where(time > 1, np.sin(2 * np.pi * 1000 * time), 0).astype(np.float32)
    shown = picture_of(assets.spectrogram(Media(np.zeros((24, 8, 8, 3), np.uint8), 12.0, waveform, 16000)).uri).sum(-1)
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert 1 - row / len(shown) == pytest.approx(assets.height_of(1000), abs=0.03) and column > shown.shape[1] / 2
    assert shown[:, : int(0.45 * shown.shape[1])].max() < 60 < shown.max()


def test_marks_stand_at_their_times_and_say_in_words_what_they_are():
    event = {"kind": "jumps", "expected": [0.5], "seen": [0.55], "heard": None, "faults": ["no thump heard"]}
    silent = event | {"kind": "slides", "expected": [1.0], "seen": [1.0], "faults": []}
    extra = {"seen": [], "heard": [{"what": "a ding", "at": 1.5}]}
    found = lanes.marks({"events": [event, silent], "surplus": extra})
    assert [(m.at, m.sign, m.kind) for m in found["seen"]] == [(0.55, "1", "wrong"), (1.0, "2", "right")]
    assert [m.sign for m in found["sounding"]] == ["1"], "no sound is expected of a slide"
    drawn = Elements(lanes.timeline(found, 2.0))
    (ding,) = [a for a in drawn.of("i") if "a ding" in a["title"]]
    assert ding["style"] == "left:75.00%" and ding["aria-label"] == "not in the prompt: a ding, heard, 1.50 s"
    assert [a["style"] for a in Elements(lanes.axis(2.0)).of("i")][-1] == "left:100.00%"


def test_equal_features_have_equal_colours_in_all_plans(demo, tmp_path):
    first, second = sorted((demo / "samples").glob("*.plan.safetensors"))[:2]
    from baton_lightning.plan.clip_plan import ClipPlan

    ClipPlan.load(first).mask(start=0.9, stop=1.1).save(tmp_path / "masked")
    (tmp_path / "broken").write_bytes(b"no plan")
    files = {"a": first, "b": second, "masked": tmp_path / "masked", "broken": tmp_path / "broken", "absent": tmp_path / "absent"}
    strips, notes = plan_strips(files)
    assert list(strips) == ["a", "b", "masked"] and len(notes) == 1 and "broken" in notes[0]
    one, other = (picture_of(strips[name].tiles.uri) for name in ("a", "masked"))
    changed = np.flatnonzero((one != other).any((0, 2)))
    assert 0.8 < changed.min() / one.shape[1] * strips["a"].seconds < changed.max() / one.shape[1] * strips["a"].seconds < 1.2


def test_curves_are_read_from_tensorboard_s_files_also_of_a_run_that_is_writing(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(400):
            writer.add_scalar("train/loss", 400.0 - step, step)
        writer.add_scalar("val/loss", 1.0, 5)
        writer.add_scalar("perf/x", 1.0, 5)
    (file,) = tmp_path.glob("events.*")
    found = curves(tmp_path)
    assert list(found) == ["train/loss"] and found["train/loss"][0] == (0, 400.0) and found["train/loss"][-1] == (399, 1.0)
    assert len(found["train/loss"]) <= 161
    file.write_bytes(file.read_bytes()[:-9])
    assert curves(tmp_path)["train/loss"][-1][0] >= 398
    file.write_bytes(file.read_bytes()[:2000] + b"damage" + file.read_bytes()[2006:])
    assert curves(tmp_path)["train/loss"][0] == (0, 400.0)
    assert curves(tmp_path / "nothing") == {}
