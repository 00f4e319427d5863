"""A run's data set trains its probes, and its held-out prompts show whether clips obey edits of their plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from baton_lightning.__main__ import main
from baton_lightning.batch import Batch
from baton_lightning.generation import pipeline, probing
from baton_lightning.plan.probes import Probes
from baton_lightning.world.prompts import prompts
from baton_lightning.world.scene import sample_scene


class Clips:
    """A split of random features with the scenes of the world."""

    def __init__(self, clip: Any, split: str, count: int, of_world: bool = True) -> None:
        scenes = [sample_scene(0, k, "multi", clip, split) for k in range(count)]
        texts = [dict(zip(("video_prompt", "audio_prompt"), prompts(scene), strict=True)) for scene in scenes]
        self.described = [
            {"key": f"k{n}", **text} | ({"scene": s.to_dict()} if of_world else {})
            for n, (text, s) in enumerate(zip(texts, scenes, strict=True))
        ]
        draw = torch.Generator().manual_seed(0)
        self.video = torch.randn(count, clip.num_video_planned, clip.video_plan_width, generator=draw)
        self.audio = torch.randn(count, clip.num_audio_planned, clip.audio_plan_width, generator=draw)

    def metadata(self) -> list[dict[str, Any]]:
        return self.described

    def batch(self, rows: Any) -> Batch:
        rows = list(rows)
        texts = [[self.described[row][name] for row in rows] for name in ("video_prompt", "audio_prompt")]
        features = {"video_features": self.video[rows], "audio_features": self.audio[rows]}
        return Batch([self.described[row]["key"] for row in rows], torch.tensor(rows), 0, *texts, **features)


@pytest.fixture(scope="module")
def pipe(made: Path) -> pipeline.Pipeline:
    return pipeline.load(made / "runs/e/stage3_joint", device="cpu")


def test_the_verb_trains_probes_beside_the_run_and_scores_them(
    pipe: pipeline.Pipeline, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = pipe.generator.model.clip
    monkeypatch.setattr(probing.Probes, "fit", lambda clip, scenes, *rest: Probes(clip))
    monkeypatch.setattr(pipeline, "load", lambda run, **options: pipe)
    monkeypatch.setattr(pipe, "datasets", {"train": Clips(clip, "train", 4), "val": Clips(clip, "val", 3)})
    words = ["plan", "probes", "--run", str(made / "runs/e/stage3_joint"), "--out", str(tmp_path / "p.safetensors")]
    assert main([*words, "--planned"]) == 0
    told = capsys.readouterr().out
    assert "facts of 3 val clips" in told and "from the planner's plans" in told and told.count("a PSNR of") == 2
    assert main(words) == 1 and "give another --out, or --force" in capsys.readouterr().err
    Probes.load(tmp_path / "p.safetensors")


def test_the_page_of_a_plan_lists_the_nearest_training_clips(
    pipe: pipeline.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = Clips(pipe.generator.model.clip, "train", 8)
    monkeypatch.setattr(pipeline, "load", lambda run, **options: pipe)
    monkeypatch.setattr(pipe, "datasets", {"train": clips, "val": clips})
    pipe.held_out("k5", "val")[0].save(tmp_path / "plan.safetensors")
    words = ["plan", "show", str(tmp_path / "plan.safetensors"), "--html", str(tmp_path / "p.html"), "--data", str(tmp_path)]
    assert main(words) == 0
    nearest = (tmp_path / "p.html").read_text().partition("Nearest training clips")[2]
    assert nearest.count("<li><b>k") == 5 and "<ol><li><b>k5</b> picture 0.000, sound 0.000" in nearest


def test_a_data_set_that_is_not_of_the_world_is_one_line(pipe: pipeline.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "datasets", {"train": Clips(pipe.generator.model.clip, "train", 2, of_world=False)})
    with pytest.raises(ValueError, match="must be of the benchmark world[^\n]*k0 has none$"):
        probing.train(pipe)


def test_obedience_of_an_untrained_run_is_measured_on_the_same_prompts_for_both_plans(
    pipe: pipeline.Pipeline, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "load", lambda run, **options: pipe)
    monkeypatch.setattr(pipe, "datasets", {"test": Clips(pipe.generator.model.clip, "test", 12)})
    words = ["plan", "obey", str(made / "runs/e/stage3_joint"), "--num", "1"]
    found = {}
    for plan, edits in (("planned", "shift,swap,splice"), ("truth", "shift")):
        file = tmp_path / f"{plan}.json"
        assert main([*words, "--edits", edits, "--plan", plan, "--json", str(file)]) == 0
        told = capsys.readouterr().out
        assert max(map(len, told.split(str(file))[0].splitlines())) <= 80 and "hit rate" in told
        found[plan] = json.loads(file.read_text())
    assert found["planned"]["edits"].keys() == {"shift", "swap", "splice"} and found["planned"]["plan"] == "planned"
    assert [row["key"] for row in found["truth"]["clips"]] == [row["key"] for row in found["planned"]["clips"] if row["edit"] == "shift"]
    assert all(row["kept"] <= row["held"] for row in found["planned"]["clips"])
    for wrong, said in ((["--edits", "shift,turn"], "got 'turn'"), (["--json", str(file)], "--force"), (["--num", "0"], "num")):
        assert main([*words, *wrong]) == 1
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1
