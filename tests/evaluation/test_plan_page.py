"""The page of a plan: complete in one file, with right numbers, sound and words; texts of others are inert; what is missing is said."""

from __future__ import annotations

import base64
import hashlib
import io
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.evaluation.report.plan_page import write_plan_page
from baton_lightning.plan.agreement import Neighbour, agreements
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.probes import Probes
from baton_lightning.plan.words import words_of
from tests.browser import opened
from tests.evaluation.test_report import HOSTILE, Elements, picture_of

CLIP = ClipSpec(video_plan_width=8, audio_plan_width=8)
STATISTICS = {name: torch.stack([torch.zeros(8), torch.ones(8)]) for name in ("video", "audio")}


def plan_of(seed: int, **more: str) -> ClipPlan:
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randn(*CLIP.video_plan_grid, 8, generator=draw), torch.randn(CLIP.num_audio_planned, 8, generator=draw)
    prompts = {"video_prompt": "a red circle on the left. first the red circle jumps.", "audio_prompt": "first a thump."}
    return ClipPlan(*tokens, CLIP, STATISTICS, **prompts | more)


@pytest.fixture
def probes() -> Probes:
    """Probes with random numbers, which read nonsense."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Probes(CLIP).requires_grad_(False).eval()
        made.audio.normal_(std=0.02)
        assert made.decoder is not None
        made.decoder.weights.normal_(std=0.1)
        made.decoder.pictures.normal_(std=0.1)
    return made


def test_the_page_needs_no_other_file_and_shows_plan_and_truth(probes: Probes, tmp_path: Path) -> None:
    plan, truth = plan_of(0), plan_of(1)
    write_plan_page(plan, tmp_path / "new/plan.html", "p", truth=truth, probes=probes)
    text = (tmp_path / "new/plan.html").read_text()
    elements = Elements(text)
    sources = [a[name] for _, a in elements.found for name in ("src", "href", "poster") if a.get(name)]
    assert sources and all(str(source).startswith("data:") for source in sources) and "url(" not in text and "@import" not in text
    assert all(a.get("alt") for a in elements.of("img")) and all(a.get("aria-label") for a in elements.of("audio"))
    for audio, one in zip(elements.of("audio"), (plan, truth), strict=True):
        with wave.open(io.BytesIO(base64.b64decode(str(audio["src"]).partition(",")[2]))) as file:
            played = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
        assert file.getframerate() == CLIP.sample_rate and np.allclose(played, probes.sound(one), atol=1e-4) and played.any()
    found = agreements(plan, truth)
    assert all(f"<td>{value:.2f}</td>" in text for value in (*found["keyframe"].r2, *found["audio"].cosine))
    assert all(differs in elements.text for _, _, differs in words_of(plan, probes).rows)
    [decoded] = [a for a in elements.of("img") if str(a["alt"]).startswith("plan: its 12 keyframes as pictures")]
    pictures = probes.pictures(plan)
    assert pictures is not None and np.array_equal(picture_of(str(decoded["src"]))[::3, :96:3, :3], pictures[0].numpy())


def test_an_error_is_drawn_at_its_token(tmp_path: Path) -> None:
    truth = plan_of(0)
    write_plan_page(truth.scale(0.0, modality="video", start=0.5, stop=0.6, columns=[0, 1]), tmp_path / "p.html", "p", truth=truth)
    [drawn] = [a for a in Elements((tmp_path / "p.html").read_text()).of("img") if str(a["alt"]).startswith("error, picture")]
    assert str(drawn["alt"]).endswith("at 0.50 s")
    tokens = picture_of(str(drawn["src"]))[4::8, :, :3].reshape(3, 12, 27, 3)[:, :, 4:24:8].sum(-1)  # 3 tokens of 8 pixels and a gap of 3
    wrong = np.zeros((3, 12, 3), bool)
    wrong[:, 3, 0] = True
    assert np.array_equal(tokens > tokens.min(), wrong)


def test_texts_of_others_are_inert(probes: Probes, tmp_path: Path) -> None:
    long = HOSTILE + "a" * 10_000
    plan = plan_of(0, video_prompt=long, audio_prompt=HOSTILE, run=HOSTILE, source=HOSTILE)
    plan = replace(plan, edits=({"op": HOSTILE},))
    neighbours = [Neighbour(HOSTILE, HOSTILE, long, 0.5, 0.25)]
    write_plan_page(plan, tmp_path / "p.html", HOSTILE, truth=plan, probes=probes, neighbours=neighbours, notes=[HOSTILE])
    text = (tmp_path / "p.html").read_text()
    elements = Elements(text)
    assert len(elements.of("script")) == 1 and text.count("</script>") == 1 and "onerror" not in {n for _, a in elements.found for n in a}
    assert not any(letter in text for letter in "\u202e\u2066\x00") and "[U+202E]evil" in elements.text
    assert "picture 0.500, sound 0.250" in elements.text and "the other " in elements.text
    script = text.partition("<script>")[2].partition("</script>")[0]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in text


def test_the_verb_writes_the_page_and_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str], probes: Probes) -> None:
    file, page = tmp_path / "plan.safetensors", tmp_path / "plan.html"
    plan_of(0, run=str(tmp_path)).save(file)
    words = ["plan", "show", str(file), "--html", str(page)]
    assert main(words) == 0
    text = Elements(page.read_text()).text
    assert "plan probes --run" in text and "--truth PLAN" in text and "--data FOLDER" in text
    assert not Elements(page.read_text()).of("audio") and not file.with_suffix(".png").exists()
    assert main(words) == 1 and "--force" in capsys.readouterr().err
    probes.decoder = None  # as earlier versions wrote them
    probes.save(tmp_path / "probes.safetensors")
    assert main([*words, "--force"]) == 0
    text = page.read_text()
    assert "to decode it to pictures, make its probes again" in text and "as pictures" not in text and len(Elements(text).of("audio")) == 1


def test_show_and_diff_name_the_clip_of_a_plan_whose_run_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text('{"weights_sha256": "0"}')
    plan_of(0).save(first)
    plan_of(1, run=str(run)).save(second)
    named = f"next: python -m baton_lightning generate --run {run} --plan {second} --out clips/second"
    for words in (["show", str(second)], ["diff", str(first), str(second)]):
        assert main(["plan", *words]) == 0 and capsys.readouterr().out.splitlines()[-1] == named
    for words in (["show", str(first)], ["diff", str(second), str(first)]):
        assert main(["plan", *words]) == 0 and "next:" not in capsys.readouterr().out


def test_a_page_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.safetensors"
    plan_of(0).save(file)
    replace(plan_of(0), statistics={name: rows + 1 for name, rows in STATISTICS.items()}).save(tmp_path / "other.safetensors")
    words = ["plan", "show", str(file)]
    for more, said in (
        (["--data", "d"], "give --html FILE"),
        (["--html", str(tmp_path / "p.html"), "--data", "d"], "the plan names none"),
        (["--html", str(tmp_path / "p.html"), "--truth", str(tmp_path / "other.safetensors")], "other statistics"),
    ):
        assert main([*words, *more]) == 1
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1 and not (tmp_path / "p.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_plays_its_sound_and_moves_the_playhead_without_an_error(width: int, probes: Probes, tmp_path: Path) -> None:
    plan = plan_of(0, video_prompt=HOSTILE + "a" * 10_000)
    write_plan_page(plan, tmp_path / "p.html", HOSTILE, truth=plan_of(1), probes=probes, notes=["n"])
    with opened((tmp_path / "p.html").as_uri(), width, 900, ("file:", "data:")) as (sheet, said):
        assert sheet.evaluate("document.documentElement.scrollWidth") <= width

        def at() -> float:
            return float(sheet.eval_on_selector(".card", "box => box.style.getPropertyValue('--at') || 0"))

        sheet.focus("input[type=range]")
        for _ in range(5):
            sheet.keyboard.press("ArrowRight")
        sheet.wait_for_timeout(200)
        assert at() == pytest.approx(0.05 / 2, abs=0.006), "five steps of 0.01 s"
        assert sheet.eval_on_selector("audio", "audio => audio.currentTime") == pytest.approx(0.05, abs=0.02)
        for place in (0, 1):  # the sound of the plan, then that of the truth, which pauses the first
            sheet.evaluate("place => { const one = document.querySelectorAll('audio')[place]; one.muted = true; return one.play() }", place)
            for _ in range(100):
                if sheet.evaluate("place => document.querySelectorAll('audio')[place].currentTime", place) > 0.2:
                    break
                sheet.wait_for_timeout(50)
            assert at() > 0.05
        assert sheet.eval_on_selector("audio", "audio => audio.paused")
        assert sheet.title().startswith("</script>")
    assert said == []
