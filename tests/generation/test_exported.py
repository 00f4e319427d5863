"""An exported stage-3 run generates by itself: planner, codecs and settings are in the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import baton_lightning as baton
from baton_lightning.__main__ import main
from baton_lightning.plan.words import words_of
from baton_lightning.verbs.plan_show import probes_of

pytestmark = pytest.mark.slow
PROMPTS = "a red circle on the left. first the red circle jumps.", "first a thump."


@pytest.fixture(scope="module")
def exported(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a joint run, in a place of its own."""
    out = tmp_path_factory.mktemp("exported") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        assert main(["export", "runs/e/stage3_joint", "--out", "model"]) == 0
    shutil.move(made / "model", out)
    return out


def test_an_exported_run_makes_the_same_clip_elsewhere(made: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.chdir(made)
        own = baton.load("runs/e/stage3_joint")(*PROMPTS, seed=1)
    monkeypatch.chdir(tmp_path)
    assert not list(tmp_path.iterdir())
    clip = baton.load(exported)(*PROMPTS, seed=1)
    assert np.array_equal(clip.frames, own.frames) and np.array_equal(clip.audio, own.audio)
    assert all(np.array_equal(a, b) for a, b in ((clip.plan.video, own.plan.video), (clip.plan.audio, own.plan.audio)))


def test_an_export_names_nothing_outside_of_itself(made: Path, exported: Path) -> None:
    described = json.loads((exported / "manifest.json").read_text())
    args = described["config"]["model"]["init_args"]
    assert described["bundled"] == ["planner"] and args["parents"] == {"planner": "."}
    assert args["video_codec"]["init_args"]["weights"] == "video_codec/codec.safetensors"
    assert (exported / "video_codec/codec.safetensors").read_bytes() == (made / "data/d/codec.safetensors").read_bytes()
    assert str(made) not in json.dumps({name: args[name] for name in ("video_codec", "audio_codec", "text_encoder", "dit")})


def test_half_precision_halves_the_files_and_still_generates(
    made: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["export", str(exported), "--out", str(tmp_path / "half"), "--dtype", "float16"]) == 0
    sizes = [sum(file.stat().st_size for file in (folder / "dit").glob("*.safetensors")) for folder in (exported, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    monkeypatch.chdir(tmp_path)
    whole, half = (baton.load(folder)(*PROMPTS, seed=1) for folder in (exported, tmp_path / "half"))
    assert np.abs(whole.frames.astype(float) - half.frames).mean() < 5


def test_an_export_whose_planner_was_taken_away_is_refused(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "model")
    shutil.rmtree(tmp_path / "model/planner")
    with pytest.raises(ValueError, match="must have the digest"):
        baton.load(tmp_path / "model")


def test_an_export_has_no_held_out_prompts(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--run", str(exported), "--out", str(tmp_path / "clips")]) == 1
    assert "is an export and has no data set" in capsys.readouterr().err and not (tmp_path / "clips").exists()
    with pytest.raises(ValueError, match="has no data set here"):
        baton.load(exported).held_out("0")


def test_the_weights_that_come_with_the_library_follow_their_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipe = baton.pretrained("nano")
    clip, other, bare = pipe(*PROMPTS, seed=1), pipe(*PROMPTS, seed=2), pipe.without_plan(*PROMPTS, seed=1)
    assert clip.frames.shape == (25, 32, 32, 3) and np.abs(clip.audio).max() > 0.05
    assert not np.array_equal(clip.frames, other.frames) and not np.array_equal(clip.frames, bare.frames)
    red = (clip.frames[..., 0].astype(float) - clip.frames[..., 1:].max(-1)) > 60  # of the red circle alone
    assert red[:, :, :16].sum() > 10 * red[:, :, 16:].sum() > -1


def test_the_plan_of_an_export_is_told_in_words_or_where_its_probes_get_their_data(
    exported: Path,
) -> None:
    plan = baton.pretrained("nano").plan(*PROMPTS)
    probes, lacking = probes_of(plan, None)
    words = str(words_of(plan, probes))
    assert not lacking and "red circle, left" in words and "it says what the prompt says" in words
    probes, lacking = probes_of(baton.load(exported).plan(*PROMPTS), None)
    assert probes is None and f"plan probes --run {exported.absolute()} --data FOLDER" in lacking
