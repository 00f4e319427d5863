"""Relative Semantic RoPE as properties: where planned tokens lie, and what that does to attention."""

import pytest
import torch

from baton_lightning.clip import ClipSpec
from baton_lightning.models.rope import apply_rotary, grid_positions, rotary_phases
from baton_lightning.models.rs_rope import align, planned_positions

HEAD = 128


def scores(query_positions, key_positions, content=None):
    """Logits between tokens of equal content."""
    content = torch.ones(HEAD).double() if content is None else content
    query, key = (
        apply_rotary(content.expand(1, len(p), 1, HEAD).contiguous(), rotary_phases(p, HEAD, dtype=torch.float64))[0, :, 0]
        for p in (query_positions, key_positions)
    )
    return query @ key.T


@pytest.mark.parametrize("alignment", ["ends", "centres"])
def test_a_plan_on_the_latents_own_grid_lies_on_the_latents(alignment):
    grid = (4, 3, 5)
    torch.testing.assert_close(align(grid, grid, alignment), grid_positions(grid))


def test_first_and_last_planned_tokens_lie_on_first_and_last_latents():
    positions = align((6, 4, 4), (31, 15, 26))
    assert positions[0].tolist() == [0, 0, 0]
    assert positions[-1].tolist() == [30, 14, 25]


def test_formula_of_end_point_alignment():
    positions = align((6, 3, 5), (31, 9, 9)).reshape(6, 3, 5, 3)
    torch.testing.assert_close(positions[4, 1, 3], torch.tensor([4 * 30 / 5, 1 * 8 / 2, 3 * 8 / 4], dtype=torch.float64))


def test_centres_spread_cells_of_equal_size():
    torch.testing.assert_close(align((2,), (8,), "centres").squeeze(), torch.tensor([1.5, 5.5]).double())


def test_a_grid_of_one_token_sits_at_zero():
    assert align((1, 1, 1), (7, 4, 4)).tolist() == [[0, 0, 0]]
    assert align((3,), (1,)).squeeze().tolist() == [0, 0, 0]


def test_refining_a_grid_does_not_move_the_coarse_points():
    coarse, fine = align((4, 3, 3), (7, 4, 4)).reshape(4, 3, 3, 3), align((7, 5, 5), (7, 4, 4)).reshape(7, 5, 5, 3)
    torch.testing.assert_close(fine[::2, ::2, ::2], coarse)


def test_shifting_both_grids_leaves_attention_unchanged():
    torch.manual_seed(0)
    latents, planned, content = grid_positions((7, 4, 4)), align((6, 3, 3), (7, 4, 4)), torch.randn(HEAD).double()
    shift = torch.tensor([2.5, -1.25, 8.0])
    torch.testing.assert_close(scores(latents + shift, planned + shift, content), scores(latents, planned, content))


@pytest.mark.parametrize(
    ("planned", "latents"), [((4, 1, 1), (13, 1, 1)), ((1, 4, 1), (1, 13, 1)), ((1, 1, 3), (1, 1, 9)), ((12, 1, 1), (7, 1, 1))]
)
def test_the_nearest_planned_token_scores_highest_for_equal_content(planned, latents):
    here, there = grid_positions(latents), align(planned, latents)
    distance = torch.cdist(here, there)
    best = distance.gather(1, scores(here, there).argmax(1, keepdim=True)).squeeze()
    torch.testing.assert_close(best, distance.min(1).values)


def test_sound_lands_on_the_picture_of_its_moment():
    clip = ClipSpec()
    unit, rate = clip.audio_scale, clip.video_latent_rate
    latents = grid_positions((clip.num_audio_latents,)) * unit
    torch.testing.assert_close(latents.squeeze() / rate, torch.arange(clip.num_audio_latents).double() / clip.audio_latent_rate)
    planned = planned_positions((clip.num_audio_planned,), (clip.num_audio_latents,), unit=unit)
    torch.testing.assert_close(planned[[0, -1]], latents[[0, -1]])


def test_true_times_replace_the_time_axis_alone():
    times = torch.tensor([0.0, 0.5, 1.4])
    spread = planned_positions((3, 2, 2), (7, 4, 4))
    timed = planned_positions((3, 2, 2), (7, 4, 4), times=times, rate=3.0)
    torch.testing.assert_close(timed[:, 1:], spread[:, 1:])
    torch.testing.assert_close(timed[:, 0], (times.double() * 3).repeat_interleave(4))


def test_times_beyond_the_clip_are_not_clamped():
    assert planned_positions((2,), (4,), times=torch.tensor([0.0, 9.0]), rate=3.0)[-1].item() == 27


def test_audio_times_agree_with_audio_latents_of_the_same_moment():
    clip = ClipSpec()
    unit = clip.audio_scale
    rate = unit * clip.audio_latent_rate
    latents = grid_positions((clip.num_audio_latents,)) * unit
    times = torch.tensor([0.0, 8 / clip.audio_latent_rate])
    planned = planned_positions((2,), (clip.num_audio_latents,), unit=unit, times=times.double(), rate=rate)
    torch.testing.assert_close(planned, latents[[0, 8]])


def test_grids_with_different_axes_are_refused():
    with pytest.raises(ValueError, match="same axes"):
        align((3, 3), (3, 3, 3))
