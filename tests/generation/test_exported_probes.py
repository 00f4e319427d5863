"""An export of a joint run keeps the run's probes, so that its plans are told in words where it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.probes import NAME, Probes
from baton_lightning.runs import manifest
from baton_lightning.shards.stored_clip import clip_of

Export = Callable[..., tuple[int, Path]]


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of a joint run with its parent and codec."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made/runs/e/stage3_joint"


@pytest.fixture
def export(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Exports the run. Returns the exit code and the folder."""
    monkeypatch.chdir(tmp_path / "made")

    def exported(*words: str) -> tuple[int, Path]:
        return main(["export", str(run), "--out", str(tmp_path / "out"), *words]), tmp_path / "out"

    return exported


def probes_of(run: Path) -> Probes:
    """Untrained probes of a run's geometry."""
    return Probes(clip_of(manifest.read(run)["clip"]))


def plan_of(folder: Path) -> ClipPlan:
    """A plan that names the folder as its run."""
    clip = clip_of(manifest.read(folder)["clip"])
    tokens = torch.zeros(*clip.video_plan_grid, clip.video_plan_width), torch.zeros(clip.num_audio_planned, clip.audio_plan_width)
    statistics = {
        name: torch.tensor([[0.0], [1.0]]).repeat(1, part.shape[-1]) for name, part in zip(("video", "audio"), tokens, strict=True)
    }
    return ClipPlan(*tokens, clip, statistics, "a red circle on the left. first the red circle jumps.", "first a thump.", run=str(folder))


def test_an_export_tells_its_plans_in_words(run: Path, export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probes_of(run).save(run / NAME, accuracy="0.5")
    code, out = export()
    assert code == 0 and (out / NAME).read_bytes() == (run / NAME).read_bytes()
    assert f"`{NAME}`" in (out / "README.md").read_text()
    shutil.rmtree(run)
    plan_of(out).save(tmp_path / "plan.safetensors")
    capsys.readouterr()
    assert main(["plan", "show", str(tmp_path / "plan.safetensors")]) == 0
    told = capsys.readouterr().out
    assert "what the plan says" in told and "red circle, left" in told and "plan probes" not in told


def test_an_export_without_probes_does_not_name_them(export: Export) -> None:
    code, out = export()
    assert code == 0 and not (out / NAME).exists() and NAME not in (out / "README.md").read_text()


def test_force_keeps_the_probes_of_the_same_weights_alone(run: Path, export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    _, out = export()
    probes_of(run).save(out / NAME, accuracy="made in the export")
    kept = (out / NAME).read_bytes()
    assert export("--force", "--dtype", "float16")[0] == 0
    assert (out / NAME).read_bytes() == kept and NAME in (out / "README.md").read_text()
    record = out / manifest.NAME
    record.write_text(record.read_text().replace(manifest.read(run)["weights_sha256"], "0" * 64))
    capsys.readouterr()
    assert export("--force")[0] == 0
    assert not (out / NAME).exists() and "was made for other weights and is left out" in capsys.readouterr().out


def test_probes_that_do_not_fit_or_are_a_link_are_one_line(run: Path, export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    Probes(ClipSpec(video_plan_width=16)).save(run / NAME)
    (run / "other.safetensors").write_bytes(b"?")
    for wrong, said in (
        (lambda: None, "must be of the run's geometry"),
        (lambda: (run / NAME).write_bytes(b"?"), "must hold probes"),
        (lambda: ((run / NAME).unlink(), (run / NAME).symlink_to("other.safetensors")), "link"),
    ):
        wrong()
        code, out = export()
        told = capsys.readouterr().err
        assert code == 1 and said in told and told.count("\n") == 1 and not out.exists()
