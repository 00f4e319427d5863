"""An experiment's folder as the demo leaves it, small: clips of five conditions with plans and scores, and a stage with its parent."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baton_lightning.clip import ClipSpec
from baton_lightning.evaluation.report.found import condition_folder
from baton_lightning.evaluation.scores import score_folder
from baton_lightning.media import write_mp4
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.world.clips import WorldClip, make_clip

CLIP = ClipSpec(video_plan_width=8, audio_plan_width=8)


def write_clip(folder: Path, made: WorldClip, frames: np.ndarray, waveform: np.ndarray, **metadata: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_mp4(folder / f"{made.key}.mp4", frames, CLIP.fps, waveform, CLIP.sample_rate)
    texts = {"video_prompt": made.video_prompt, "audio_prompt": made.audio_prompt}
    (folder / f"{made.key}.json").write_text(json.dumps({"scene": made.scene.to_dict()} | texts | metadata))
    return folder / f"{made.key}.mp4"


def plan_of(seed: int) -> ClipPlan:
    drawn = torch.Generator().manual_seed(seed)
    tokens = torch.randn(*CLIP.video_plan_grid, 8, generator=drawn), torch.randn(CLIP.num_audio_planned, 8, generator=drawn)
    return ClipPlan(*tokens, CLIP, {name: torch.ones(2, 8) for name in ("video", "audio")})


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write into it; `experiment` is a copy."""
    out = tmp_path_factory.mktemp("made") / "demo"
    made = [make_clip(0, i, tier, CLIP, "test") for tier, i in (("single", 0), ("multi", 0), ("multi", 1))]
    for condition in ("ceiling", "truth", "planned", "shuffled", "none"):
        folder = condition_folder(out, condition)
        for k, clip in enumerate(made):
            shown = made[k - 1] if condition == "shuffled" else clip
            frames = np.repeat(shown.frames[:1], len(shown.frames), 0) if condition == "none" else shown.frames
            waveform = np.zeros_like(shown.waveform) if condition == "planned" and k == 1 else shown.waveform
            file = write_clip(folder, clip, frames, waveform, plan=condition)
            if condition in ("truth", "planned"):
                replace(plan_of(k), source="truth" if condition == "truth" else "planner").save(file.with_suffix(".plan.safetensors"))
        score_folder(folder)
    for name, parents in (("stage2", {}), ("stage3_joint", {"planner": {"run": "runs/demo/stage2", "weights_sha256": "stage2" * 8}})):
        (out / name).mkdir()
        record = {
            "stage": "Joint",
            "weights_sha256": name * 8,
            "parents": parents,
            "metrics": {"val/loss": 0.5},
            "packages": {"torch": "2"},
        }
        (out / name / "manifest.json").write_text(json.dumps(record))
    return out


@pytest.fixture
def experiment(demo: Path, tmp_path: Path) -> Path:
    """A copy of the experiment's folder, to write into."""
    return Path(shutil.copytree(demo, tmp_path / "demo"))
