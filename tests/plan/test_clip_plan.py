"""Plans of one clip: edits that replay, files that read back, pictures that show where something happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from baton_lightning.batch import Plan
from baton_lightning.clip import ClipSpec
from baton_lightning.plan import edits, picture
from baton_lightning.plan.clip_plan import ClipPlan, distance

CLIP = ClipSpec()


def plan_of(seed: int, **more: object) -> ClipPlan:
    draw = torch.Generator().manual_seed(seed)
    video = torch.randn(*CLIP.video_plan_grid, CLIP.video_plan_width, generator=draw)
    audio = torch.randn(CLIP.num_audio_planned, CLIP.audio_plan_width, generator=draw)
    statistics = {"video": torch.stack([torch.zeros(64), torch.ones(64)]), "audio": torch.stack([torch.zeros(64), torch.ones(64)])}
    return ClipPlan(video, audio, CLIP, statistics, video_prompt="a red circle jumps.", audio_prompt="a thump.", planner="ab" * 32, **more)


def test_a_saved_plan_reads_back_to_the_bit_with_its_history(tmp_path: Path) -> None:
    plan = plan_of(0).shift(0.5, start=0.5, stop=1.0)
    plan.save(tmp_path / "plan.safetensors")
    back = ClipPlan.load(tmp_path / "plan.safetensors")
    assert torch.equal(back.video, plan.video) and torch.equal(back.audio, plan.audio)
    assert (back.clip, back.edits, back.planner, back.digest) == (plan.clip, plan.edits, plan.planner, plan.digest)
    assert (back.video_prompt, back.audio_prompt) == ("a red circle jumps.", "a thump.")


def test_a_batch_s_plan_becomes_a_clip_s_and_the_other_way_round() -> None:
    plan = plan_of(0)
    batch = Plan(plan.video.flatten(0, 2)[None].repeat(2, 1, 1), plan.audio[None].repeat(2, 1, 1), CLIP.video_plan_grid)
    again = ClipPlan.of(batch, 1, CLIP, statistics=plan.statistics)
    assert torch.equal(again.video, plan.video)
    assert torch.equal(again.batched().video[0], batch.video[0]) and torch.equal(again.batched().audio[0], batch.audio[0])
    assert again.batched().video_grid == batch.video_grid


def test_a_block_that_is_shifted_lies_later_by_the_same_time_in_both_modalities() -> None:
    plan = plan_of(1)
    moved = plan.shift(0.5, start=0.5, stop=1.0)
    assert torch.equal(moved.video[6:9], plan.video[3:6]) and torch.equal(moved.audio[40:60], plan.audio[20:40])
    assert all(torch.equal(moved.video[step], plan.video[2]) for step in (3, 4, 5))  # what stood before the block
    assert torch.equal(moved.video[9:], plan.video[9:]) and torch.equal(moved.audio[60:], plan.audio[60:])
    assert torch.equal(plan.video, plan_of(1).video)  # the old plan stays


def test_a_block_at_the_start_leaves_what_came_after_it() -> None:
    plan = plan_of(1)
    moved = plan.shift(1.0, start=0.0, stop=0.5)
    assert torch.equal(moved.video[0], plan.video[3]) and torch.equal(moved.video[6:9], plan.video[0:3])


def test_edits_touch_nothing_outside_their_region() -> None:
    plan, other = plan_of(2), plan_of(3)
    region = {"start": 0.5, "stop": 1.0, "rows": [0, 2], "columns": [1, 2], "modality": "video"}
    inside = torch.zeros(CLIP.video_plan_grid, dtype=torch.bool)
    inside[3:6, 0:2, 1:2] = True
    for changed in (plan.scale(2.0, **region), plan.mask(**region), plan.mix(other, 0.3, **region), plan.replace(other, **region)):
        apart = distance(plan, changed)
        assert (apart["video"][inside] > 0).all() and (apart["video"][~inside] == 0).all() and (apart["audio"] == 0).all()


def test_swapping_twice_gives_the_plan_back() -> None:
    plan = plan_of(4)
    assert not torch.equal(plan.swap([0, 1], [2, 3]).video, plan.video)
    assert torch.equal(plan.swap([0, 1], [2, 3]).swap([0, 1], [2, 3]).video, plan.video)
    sound = {"modality": "audio"}
    once = plan.swap([0.2, 0.6], [1.0, 1.4], **sound)
    assert torch.equal(once.audio[40:56], plan.audio[8:24])
    assert torch.equal(once.swap([0.2, 0.6], [1.0, 1.4], **sound).audio, plan.audio)
    moved = plan.edited({"op": "move", "columns": [0, 1], "columns_by": 2})
    assert torch.equal(moved.video, plan.swap([0, 1], [2, 3]).video)


def test_the_sound_of_another_plan_comes_whole() -> None:
    plan, other = plan_of(5), plan_of(6)
    mixed = plan.replace_audio(other)
    assert torch.equal(mixed.audio, other.audio) and torch.equal(mixed.video, plan.video)
    assert mixed.edits[-1]["other_digest"] == other.digest


def test_operations_replay_to_the_bit_and_one_is_undone_by_dropping_its_line(tmp_path: Path) -> None:
    plan = plan_of(7)
    edited = plan.shift(0.5, start=0.5, stop=1.0).scale(1.5, modality="audio").swap([0, 1], [1, 2])
    lines = [json.dumps(operation) for operation in edited.edits]
    (tmp_path / "edits.jsonl").write_text("\n".join(lines))
    (tmp_path / "edits.json").write_text("[" + ",".join(lines) + "]")
    for file in ("edits.jsonl", "edits.json"):
        assert plan.edited(*edits.read(tmp_path / file)).digest == edited.digest
    assert (
        plan.edited(*edits.read(tmp_path / "edits.jsonl")[:-1]).digest
        == plan.shift(0.5, start=0.5, stop=1.0).scale(1.5, modality="audio").digest
    )


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ({"op": "turn"}, "op must be one of"),
        ({"op": "shift", "second": 0.5}, "shift knows"),
        ({"op": "shift"}, "seconds must be a finite number"),
        ({"op": "shift", "seconds": 0.1, "start": 0.5, "stop": 1.0}, "whole video steps of 0.1667 s, got 0.1; the nearest are 0, 0.1667"),
        ({"op": "shift", "seconds": 1.5, "start": 0.5, "stop": 1.0}, "must stay within the clip's 2 s"),
        ({"op": "shift", "seconds": 0.5}, "must stay within the clip's 2 s"),
        ({"op": "shift", "seconds": 0.5, "start": 1.0, "stop": 0.5}, "0 <= start < stop"),
        ({"op": "shift", "seconds": 0.5, "start": 0.01, "stop": 0.02}, "no video token lies in"),
        ({"op": "scale", "factor": float("nan")}, "finite"),
        ({"op": "scale", "factor": 1, "columns": [2, 5], "modality": "video"}, "columns must be"),
        ({"op": "scale", "factor": 1, "rows": [0, 1], "modality": "audio"}, "audio tokens have no rows"),
        ({"op": "scale", "factor": 1, "modality": "smell"}, "modality must be"),
        ({"op": "move", "columns": [0, 2], "columns_by": 1}, "must not overlap"),
        ({"op": "move", "columns": [0, 1], "columns_by": 3}, "within 3 rows and 3 columns"),
        ({"op": "swap", "first": [0, 2], "second": [1, 3]}, "equally long and apart"),
        ({"op": "swap"}, "first must be"),
        ({"op": "mix", "share": 0.5}, "needs another plan"),
    ],
)
def test_an_edit_that_does_not_fit_is_one_line(operation: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match="^[^\n]*$") as caught:
        plan_of(0).edited(operation)
    assert said in str(caught.value)


@pytest.mark.parametrize(("content", "said"), [(None, "be a file of operations"), ("", "got none"), ("[]", "got none")])
def test_a_file_without_an_operation_is_refused_by_name(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "edits.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^\S*edits\.json must [^\n]*{said}[^\n]*`plan edit --help`"):
        edits.read(tmp_path / "edits.json")


def test_one_edit_is_told_in_the_singular() -> None:
    once = plan_of(0).scale(2.0)
    assert ", 1 edit)" in str(once) and ", 2 edits)" in str(once.scale(2.0))


def test_plans_of_another_geometry_or_space_are_refused() -> None:
    plan = plan_of(0)
    with pytest.raises(ValueError, match="keyframe_fps: 3.0 != 6.0"):
        plan.require_fits(ClipSpec(keyframe_fps=3.0))
    shifted = {name: torch.stack([rows[0] + 0.5, rows[1]]) for name, rows in plan.statistics.items()}
    with pytest.raises(ValueError, match="0.50 standard deviations"):
        plan.require_fits(CLIP, shifted)
    plan.require_fits(CLIP, plan.statistics)


def test_files_that_are_no_plans_are_one_line(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    plan_of(0).save(tmp_path / "plan.safetensors")
    whole = (tmp_path / "plan.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "text.safetensors").write_text("not a plan")
    (tmp_path / "folder.safetensors").mkdir()
    save_file({"video": torch.zeros(2)}, tmp_path / "weights.safetensors")
    (tmp_path / "field.safetensors").write_bytes(whole.replace(b"video_prompt", b"video_prompX"))
    for name in ("cut", "text", "folder", "weights", "field", "absent"):
        with pytest.raises(ValueError, match=f"{name}.safetensors[^\n]*$"):
            ClipPlan.load(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="must be a safetensors file, but is none or is damaged .*give another$"):
        ClipPlan.load(tmp_path / "text.safetensors")


def test_tokens_of_the_wrong_shape_or_not_finite_are_refused() -> None:
    plan = plan_of(0)
    with pytest.raises(ValueError, match="video tokens of this clip must have the shape"):
        ClipPlan(plan.video[1:], plan.audio, CLIP, plan.statistics)
    with pytest.raises(ValueError, match="audio tokens must be finite"):
        ClipPlan(plan.video, plan.audio * float("nan"), CLIP, plan.statistics)


def test_the_same_token_has_the_same_colour_and_another_one_another() -> None:
    tokens = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    painted = picture.colours(tokens, tokens)
    assert painted.shape == (50, 3) and painted.min() >= 0 and painted.max() <= 1
    assert torch.equal(picture.colours(tokens[7:8], tokens), painted[7:8])
    assert (painted[0] - painted[1]).abs().max() > 0.05
    assert torch.allclose(picture.colours(tokens[:1], tokens[:1]), picture.colours(tokens[:1], tokens[:1]))  # a single token is no error


def test_the_curve_of_the_sound_rises_where_the_tokens_change() -> None:
    sound = torch.zeros(80, 4)
    sound[30:34] = 3.0
    found = picture.change(sound)
    assert found[30:34].min() == 3.0 and found[:30].max() == 0.0


def test_hostile_prompts_are_drawn_as_text(tmp_path: Path) -> None:
    from dataclasses import replace

    plan = replace(plan_of(0), video_prompt="<script>alert(1)</script> $\\frac{1}{$ \u202e\x00" + "x" * 10_000)
    plan.save_png(tmp_path / "pictures" / "plan.png", truth=plan_of(1))
    assert (tmp_path / "pictures" / "plan.png").read_bytes().startswith(b"\x89PNG")
