"""One run over three geometries of the benchmark world, by the command line: encode, train, stop by force, resume, generate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from baton_lightning.__main__ import main
from baton_lightning.bench.resume_case import first_difference
from baton_lightning.clip import ClipSpec, Geometry
from baton_lightning.generation.load import load_run
from baton_lightning.launch.processes import kill_at
from baton_lightning.media import read_mp4
from baton_lightning.runs import manifest
from baton_lightning.shards.world import build_world
from tests.small import SMALL_DIT_OPTIONS

ROOT = Path(__file__).parents[2]
CLIP = ClipSpec(geometries=(Geometry(32, 48, 2.0), Geometry(32, 32, 1.0)))
STEPS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cached data sets of three geometries, encoded by one command."""
    folder = tmp_path_factory.mktemp("geometries")
    for name, clip in CLIP.each.items():
        tiers = ("single",) if clip.seconds < 2 else ("single", "multi")
        build_world(folder / "data" / name, clip, {"train": 12, "val": 4, "test": 2}, tiers, workers=0, shard_clips=12)
    shutil.copy(folder / "data/32x32x2s/codec.safetensors", folder / "data")
    sizes = [{"height": clip.height, "width": clip.width, "seconds": clip.seconds} for clip in list(CLIP.each.values())[1:]]
    callbacks = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())["trainer"]["callbacks"]
    callbacks[0]["init_args"]["every_n_train_steps"] = 2
    overlay = {
        "clip": {"geometries": sizes},
        "data": {"init_args": {"root": str(folder / "data")}},
        "run": {"root": str(folder / "runs")},
        "trainer": {"accelerator": "cpu", "enable_model_summary": False},
    }
    (folder / "three.yaml").write_text(yaml.safe_dump(overlay))
    (folder / "often.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    assert main(["predict", "-c", str(ROOT / "experiments/encode.yaml"), "-c", str(folder / "three.yaml")]) == 0
    return folder


def command(folder: Path, stage: str, experiment: str, *more: str, steps: int = STEPS) -> list[str]:
    files = [ROOT / f"experiments/{stage}.yaml", folder / "three.yaml", folder / "often.yaml"]
    settings = [
        f"--run.experiment={experiment}",
        "--data.init_args.batch_size=null",
        "--data.init_args.tokens=525",
        f"--trainer.max_steps={steps}",
        f"--trainer.val_check_interval={steps}",
        "--model.init_args.scheduler.init_args.warmup_steps=1",
    ]
    return ["fit", *(word for file in files for word in ("-c", str(file))), *settings, *more]


@pytest.mark.slow
def test_a_run_over_three_geometries_killed_twice_equals_one_that_was_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    runs, output = folder / "runs", folder / "output.txt"
    assert main(command(folder, "stage3_adapt", "whole", *SMALL_DIT_OPTIONS)) == 0
    killed = command(folder, "stage3_adapt", "killed", *SMALL_DIT_OPTIONS)
    for step in (3, 6):
        kill_at(killed, output, 1, runs / "killed/stage3_adapt/ledger.jsonl", step)
        assert not (runs / "killed/stage3_adapt" / manifest.NAME).exists()
    assert main(killed) == 0
    assert first_difference(runs / "whole/stage3_adapt", runs / "killed/stage3_adapt") is None
    lines = [json.loads(line) for line in (runs / "whole/stage3_adapt/ledger.jsonl").read_text().splitlines()]
    assert {line["samples"] for line in lines} == {3, 2, 5} and len(lines) == STEPS
    samples = {file.name for file in (runs / "whole/stage3_adapt/samples").glob("*/*.mp4")}
    assert {name.rpartition("-")[2] for name in samples} == {f"{name}.mp4" for name in CLIP.each} and len(samples) == 6
    metrics = manifest.read(runs / "whole/stage3_adapt")["metrics"]
    assert {f"val/loss/{name}" for name in CLIP.each} <= metrics.keys()


@pytest.mark.slow
def test_a_chain_over_three_geometries_generates_the_one_that_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for stage in ("stage1", "stage2", "stage3_adapt", "stage3_joint"):
        assert main(command(folder, stage, "chain", *(SMALL_DIT_OPTIONS if "stage3" in stage else ()), steps=2)) == 0
    run = folder / "runs/chain/stage3_joint"
    generate: Callable[..., int] = lambda *words: main(["generate", "--run", str(run), "--num", "1", "--steps", "1", *words])  # noqa: E731
    shapes: dict[str, Any] = {}
    for name, words in {"32x32x2s": (), "48x32x2s": ("--geometry", "48x32x2s"), "32x32x1s": ("--geometry", "32x32x1s")}.items():
        assert generate("--out", str(folder / name), *words) == 0
        media = [read_mp4(file.read_bytes()) for file in (folder / name).glob("*.mp4")]
        shapes[name] = {clip.frames.shape for clip in media}
    assert shapes == {name: {(clip.num_frames, clip.height, clip.width, 3)} for name, clip in CLIP.each.items()}
    plan = next((folder / "48x32x2s").glob("*.plan.safetensors"), None)
    capsys.readouterr()
    assert generate("--out", str(folder / "x"), "--geometry", "64x64x2s") == 1
    assert "the run has clips of 32x32x2s, 48x32x2s, 32x32x1s, got the geometry '64x64x2s'" in capsys.readouterr().err
    if plan is not None:
        assert generate("--out", str(folder / "y"), "--plan", str(plan)) == 1
        assert "its geometry must be the run's" in capsys.readouterr().err
    model, data, _ = load_run(run, geometry="32x32x1s")
    assert model.clip.name == "32x32x1s" and [data_set.name for data_set in data.sets] == ["32x32x1s"]
