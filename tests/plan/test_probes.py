"""Probes read scenes from features that hold them, and say where a plan differs from its prompt."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.plan import probes as probing
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.decoder import pictures_of, squared_error
from baton_lightning.plan.probes import Probes
from baton_lightning.plan.reading import read
from baton_lightning.world.detect_audio import detect_audio
from baton_lightning.world.prompts import prompts
from baton_lightning.world.scene import Scene, sample_scene
from baton_lightning.world.sound import synthesise

CLIP = ClipSpec(video_plan_width=16, audio_plan_width=24)
STATISTICS = {
    "video": torch.stack([torch.full((16,), 0.1), torch.full((16,), 2.0)]),
    "audio": torch.stack([torch.zeros(24), torch.ones(24)]),
}


def features(scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of an ideal perceiver: a fixed projection of what each column shows, and of the carriers' amplitudes."""
    draw = torch.Generator().manual_seed(0)
    state, colour, shape = (torch.from_numpy(part) for part in probing.columns_of(scene, CLIP))
    there = (colour < 6)[..., None]
    shown = torch.cat([torch.eye(7)[colour][..., :6], torch.eye(3)[shape] * there, state], -1)
    video = torch.zeros(*CLIP.video_plan_grid, 16)
    video[:, 1] = shown @ torch.randn(13, 16, generator=draw)
    audio = 10 * torch.from_numpy(probing.amplitudes(scene, CLIP)).float() @ torch.randn(20, 24, generator=draw)
    return video.flatten(0, 2), audio


def truth(scene: Scene) -> ClipPlan:
    video, audio = features(scene)
    tokens = [(raw - STATISTICS[name][0]) / STATISTICS[name][1] for name, raw in (("video", video), ("audio", audio))]
    seen, heard = prompts(scene)
    return ClipPlan(tokens[0].reshape(*CLIP.video_plan_grid, 16), tokens[1], CLIP, STATISTICS, seen, heard, source="truth")


@pytest.fixture(scope="module")
def probes() -> Probes:
    scenes = [sample_scene(0, k, ("single", "multi")[k % 2], CLIP) for k in range(160)]
    video, audio = (torch.stack(part) for part in zip(*map(features, scenes), strict=True))
    return Probes.fit(CLIP, scenes, video, audio, STATISTICS, steps=250)


def test_probes_read_the_facts_of_held_out_scenes(probes: Probes) -> None:
    scenes = [sample_scene(0, k, "multi", CLIP, "val") for k in range(13)]
    readings = [read(truth(scene), probes) for scene in scenes[:12]]
    checks = [holds for scene, reading in zip(scenes, readings, strict=False) for _, holds in reading.checks(scene)]
    assert len(checks) > 150 and np.mean(checks) > 0.95
    against = [holds for reading in readings for _, holds in reading.checks(scenes[12])]
    assert np.mean(against) < 0.6  # the facts of another scene are not found


def jump() -> tuple[Scene, ClipPlan]:
    from baton_lightning.world.parse import parse_prompts

    scene = parse_prompts("a red circle on the left and a blue square on the right. first the blue square jumps.", "first a thump.", 2.0)
    return scene, truth(scene)


def test_a_plan_is_told_in_words(probes: Probes) -> None:
    scene, plan = jump()
    reading = read(plan, probes)
    words = reading.words()
    assert words[0] == "a red circle left, a blue square right"
    assert [line.split("  ")[1] for line in words[1:]] in (["a thump", "blue jumps"], ["blue jumps", "a thump"])
    assert all(holds for _, holds in reading.checks(scene)) and not any(differs for _, _, differs in reading.compared(scene))


def test_held_out_keyframes_are_decoded_better_than_by_the_mean_picture(probes: Probes) -> None:
    scenes = [sample_scene(0, k, "multi", CLIP, "val") for k in range(12)]
    wanted = np.stack([pictures_of(scene, CLIP, (32, 32)) for scene in scenes])
    decoded = torch.stack([shown for scene in scenes if (shown := probes.pictures(truth(scene))) is not None])
    assert decoded.shape == wanted.shape == (12, 12, 32, 32, 3) and decoded.dtype == torch.uint8
    error = np.mean([squared_error(shown, scene, CLIP) for shown, scene in zip(decoded, scenes, strict=True)])
    assert error < 0.6 * np.square(wanted - wanted.mean((0, 1))).mean()
    other = np.mean([squared_error(shown, scene, CLIP) for shown, scene in zip(decoded, scenes[1:] + scenes[:1], strict=True)])
    assert error < 0.4 * other


def test_the_sound_of_a_plan_has_the_right_carrier_at_the_right_time(probes: Probes) -> None:
    _, plan = jump()
    sound = probes.sound(plan)
    assert sound.shape == (CLIP.num_samples,) and sound.dtype == np.float32
    [thump] = detect_audio(sound).effects
    assert thump.sound == "thump" and thump.time == pytest.approx(0.8, abs=0.01)
    assert not sound[: round(0.65 * CLIP.sample_rate)].any() and not sound[round(0.95 * CLIP.sample_rate) :].any()
    assert 0.2 < np.abs(sound).max() < 0.4
    spoken = sample_scene(0, 5, "multi", CLIP, "val")
    expected, heard = detect_audio(synthesise(spoken, CLIP)), detect_audio(probes.sound(truth(spoken)))
    assert [(w.voice, w.word) for w in heard.words] == [(w.voice, w.word) for w in expected.words]


def test_probes_of_earlier_versions_have_no_decoder(probes: Probes, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    probes.save(tmp_path / "new.safetensors")
    tensors = {name: tensor for name, tensor in load_file(tmp_path / "new.safetensors").items() if "decoder" not in name}
    told = {"format": probing.FORMAT, "clip": json.dumps(CLIP.to_dict())}
    save_file(tensors, tmp_path / "old.safetensors", told)
    old, (_, plan) = Probes.load(tmp_path / "old.safetensors"), jump()
    assert old.pictures(plan) is None and np.array_equal(old.curves(plan).state, probes.curves(plan).state)
    save_file(tensors | {"decoder.weights": torch.zeros(2)}, tmp_path / "half.safetensors", told)
    with pytest.raises(ValueError, match="must hold probes"):
        Probes.load(tmp_path / "half.safetensors")


def test_an_edit_is_seen_in_the_words(probes: Probes) -> None:
    scene, plan = jump()
    [differs] = [row[2] for row in read(plan.shift(0.5, start=0.25, stop=1.0), probes).compared(scene) if row[2]]
    assert re.fullmatch(r"seen 0\.(4[6-9]|5[0-4]) s later; heard 0\.50 s later", differs)
    swapped = [row for row in read(plan.swap([0, 1], [2, 3]), probes).compared(scene) if row[2]]
    assert ("red circle, left", "", "is seen as circle right") in swapped
    deaf = read(plan.scale(0.0, modality="audio"), probes)
    assert not deaf.heard.effects and not deaf.heard.words
    assert [(prompt, differs) for prompt, _, differs in deaf.compared(scene) if differs] == [("blue jumps 0.80 s", "no thump heard")]


def test_standardisation_of_the_run_does_not_matter(probes: Probes) -> None:
    _, plan = jump()
    near = {name: torch.stack([rows[0] + 0.05, rows[1] * 1.5]) for name, rows in STATISTICS.items()}
    tokens = {name: (t * STATISTICS[name][1] + STATISTICS[name][0] - near[name][0]) / near[name][1] for name, t in plan.tokens.items()}
    other = replace(plan, **tokens, statistics=near)
    assert np.allclose(probes.curves(other).loudness, probes.curves(plan).loudness, atol=1e-4)
    far = {name: torch.stack([rows[0] + 1, rows[1]]) for name, rows in STATISTICS.items()}
    with pytest.raises(ValueError, match="standard deviations apart"):
        probes.curves(replace(plan, statistics=far))


def test_probes_are_kept_and_damage_is_one_line(probes: Probes, tmp_path: Path) -> None:
    _, plan = jump()
    probes.save(tmp_path / "probes.safetensors", accuracy=0.99)
    again = Probes.load(tmp_path / "probes.safetensors")
    assert np.array_equal(again.curves(plan).state, probes.curves(plan).state)
    assert torch.equal(again.pictures(plan), probes.pictures(plan))
    plan.save(tmp_path / "plan.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "probes.safetensors").read_bytes()[:-9])
    for name in ("plan", "cut", "absent"):
        with pytest.raises(ValueError, match=f"{name}.safetensors must hold probes[^\n]*$"):
            Probes.load(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="at least 3 rows and columns of tokens, got 2 x 2"):
        Probes(ClipSpec(plan_grid=(2, 2)))


def test_show_tells_the_words_or_how_to_get_them(probes: Probes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, plan = jump()
    plan, file = replace(plan, run=str(tmp_path)), tmp_path / "plan.safetensors"

    def told(shown: ClipPlan) -> str:
        shown.save(file)
        capsys.readouterr()
        assert main(["plan", "show", str(file), "--force"]) == 0
        return capsys.readouterr().out

    alone = told(plan)
    height = Image.open(tmp_path / "plan.png").height
    assert "make probes once" in alone and f"plan probes --run {tmp_path}" in alone and "differ" not in alone
    probes.save(tmp_path / probing.NAME)
    assert "it says what the prompt says" in told(plan)
    assert Image.open(tmp_path / "plan.png").height > height  # its pictures are drawn
    assert "differ from the prompt" in told(plan.replace_audio(truth(sample_scene(0, 5, "multi", CLIP, "val"))))
    other = told(replace(plan, video_prompt="[red]a cat[/nothing] <b>"))
    assert "cannot be compared" in other and "a red circle left" in other
