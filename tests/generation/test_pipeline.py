"""The Python API and the verb `plan`: a run plans, plans are kept and changed, clips follow them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.generation.pipeline import Pipeline, load
from baton_lightning.media import read_mp4
from baton_lightning.plan import picture
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.probes import Probes
from baton_lightning.plan.words import WIDTH

SEEN, HEARD = "a red circle on the left. first the red circle jumps.", "first a thump."


@pytest.fixture(scope="module")
def run(made: Path) -> Path:
    return made / "runs/e/stage3_joint"


@pytest.fixture(scope="module")
def pipe(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))  # a notebook's working directory
        return load(str(run), device="cpu")


def test_a_plan_is_made_kept_changed_and_followed(pipe: Pipeline, tmp_path: Path) -> None:
    plan = pipe.plan(SEEN, HEARD)
    assert plan.video_prompt == SEEN and plan.planner is not None and plan.video.shape == (12, 3, 3, 64)
    clip = pipe(plan, seed=1)
    assert clip.frames.shape == (25, 32, 32, 3) and clip.audio.shape == (32000,) and clip.plan is plan
    plan.save(tmp_path / "plan.safetensors")
    assert np.array_equal(pipe(ClipPlan.load(tmp_path / "plan.safetensors"), seed=1).frames, clip.frames)
    assert np.array_equal(pipe(SEEN, HEARD, seed=1).frames, clip.frames)
    other = pipe.plan("a blue square on the right.", "first a ding.")
    for changed in (pipe(plan, seed=2), pipe(plan.replace_audio(other), seed=1), pipe.without_plan(SEEN, HEARD, seed=1)):
        assert not np.array_equal(changed.audio, clip.audio)


def test_a_saved_clip_plays_anywhere_and_in_a_notebook(pipe: Pipeline, tmp_path: Path) -> None:
    import av

    clip = pipe(SEEN, HEARD, seed=0)
    file = clip.save(tmp_path / "new" / "a.mp4", scale=4)
    with av.open(str(file)) as container:
        assert (container.streams.video[0].codec_context.pix_fmt, container.streams.video[0].width) == ("yuv420p", 128)
    assert len(read_mp4(file).frames) == len(clip.frames)
    assert clip._repr_html_().startswith('<video controls loop height="288" src="data:video/mp4;base64,')
    with pytest.raises(ValueError, match="1 or more, got 0"):
        clip.save(tmp_path / "b.mp4", scale=0)


def test_calls_that_cannot_be_answered_are_one_line(pipe: Pipeline) -> None:
    plan = pipe.plan(SEEN, HEARD)
    with pytest.raises(ValueError, match="two parts"):
        pipe(SEEN)
    with pytest.raises(ValueError, match="a plan has its prompts"):
        pipe(plan, HEARD)
    strange = replace(plan, statistics={name: rows + 1.0 for name, rows in plan.statistics.items()})
    with pytest.raises(ValueError, match="standardised with other statistics"):
        pipe(strange)


def test_the_words_of_a_plan_are_what_the_verb_prints(
    pipe: Pipeline, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = pipe.plan(SEEN, HEARD)
    with pytest.raises(ValueError, match=f"make probes once: `[^\n]*plan probes --run {run}`$"):
        pipe.words(plan)
    probes = Probes(plan.clip)
    for name, rows in plan.statistics.items():
        getattr(probes, f"{name}_statistics").copy_(rows)
    probes.save(tmp_path / "probes.safetensors")
    plan.save(tmp_path / "plan.safetensors")
    words = pipe.words(plan, tmp_path / "probes.safetensors")
    assert words.rows[0][0] == "red circle, left" and len(words.differences) >= 1 and words.verdict in str(words)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    assert main(["plan", "show", str(tmp_path / "plan.safetensors"), "--probes", str(tmp_path / "probes.safetensors")]) == 0
    assert str(words) in capsys.readouterr().out
    strange = pipe.words(replace(plan, video_prompt="[red]a cat[/nothing]"), tmp_path / "probes.safetensors")
    assert not strange.rows and "cannot be compared" in repr(strange) and strange.lines[0] in repr(strange)


def test_a_plan_is_shown_with_its_decoded_keyframes_and_words(
    pipe: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, shown = pipe.plan(SEEN, HEARD), []
    monkeypatch.setattr(picture, "show", shown.append)
    pipe.show(plan)
    assert shown == [plan.png()] and "make probes once" in capsys.readouterr().out
    probes = Probes(plan.clip)
    for name, rows in plan.statistics.items():
        getattr(probes, f"{name}_statistics").copy_(rows)
    probes.save(tmp_path / "probes.safetensors")
    monkeypatch.setattr(pipe, "run", tmp_path)
    pipe.show(plan)
    assert shown[1] == plan.png(pictures=probes.pictures(plan)) != shown[0] and "what the plan says" in capsys.readouterr().out


def test_the_verb_makes_draws_edits_and_compares_plans_and_a_clip_follows_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = ["--video-prompt", SEEN, "--audio-prompt", HEARD]
    assert main(["plan", "make", "--run", str(run), *prompts, "--out", "plan.safetensors"]) == 0
    assert main(["plan", "make", "--run", str(run), *prompts, "--out", "plan.safetensors"]) == 1  # is not replaced unasked
    assert main(["plan", "show", "plan.safetensors"]) == 0
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    Path("edits.jsonl").write_text(
        '{"op": "shift", "seconds": 0.5, "start": 0.5, "stop": 1.0}\n{"op": "mix", "other": "plan.safetensors", "modality": "audio"}'
    )
    assert main(["plan", "edit", "plan.safetensors", "edits.jsonl", "--out", "later.safetensors"]) == 0
    capsys.readouterr()
    assert main(["plan", "diff", "plan.safetensors", "later.safetensors"]) == 0
    printed = capsys.readouterr().out
    assert "0.500 to 1.500" in printed and "0 of 80" in printed  # the sound was taken back
    assert main(["generate", "--run", str(run), "--plan", "later.safetensors", "--out", "clips"]) == 0
    beside = json.loads(Path("clips/later.json").read_text())
    assert beside["video_prompt"] == SEEN and beside["plan_sha256"] == ClipPlan.load("later.safetensors").digest
    assert len(beside["edits"]) == 2 and Path("clips/later.mp4").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "make", "--run", "RUN", "--video-prompt", SEEN, "--out", "new.safetensors"], "--video-prompt and --audio-prompt"),
        (["plan", "make", "--run", "RUN", "--truth", "--video-prompt", SEEN, "--audio-prompt", HEARD, "--out", "p"], "--truth needs"),
        (["plan", "show", "absent.safetensors"], "must be a plan"),
        (["generate", "--run", "RUN", "--plan", "absent.safetensors", "--out", "c"], "or the file of a plan"),
        (["plan", "edit", "p.safetensors", "e.json", "--out", "o.safetensors"], "must name a plan"),
    ],
)
def test_a_mistake_is_one_line(
    run: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = ClipPlan(
        *(torch.zeros(shape) for shape in ((12, 3, 3, 64), (80, 64))), ClipSpec(), {"video": torch.ones(2, 64), "audio": torch.ones(2, 64)}
    )
    plan.save("p.safetensors")
    Path("e.json").write_text('[{"op": "mix", "share": 0.5}]')
    assert main([str(run) if word == "RUN" else word for word in words]) == 1
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed and printed.count("\n") == 1
