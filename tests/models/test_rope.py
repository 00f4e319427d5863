"""Rotary embedding as properties."""

import pytest
import torch

from baton_lightning.models.rope import apply_rotary, axis_dims, grid_positions, rotary_phases


def scores(query, key, query_positions, key_positions):
    """Logits between a query and a key of one head."""
    rotated = [
        apply_rotary(x[None, :, None], rotary_phases(p, x.shape[-1], dtype=x.dtype))
        for x, p in ((query, query_positions), (key, key_positions))
    ]
    return (rotated[0][0, :, 0] @ rotated[1][0, :, 0].T).squeeze()


@pytest.mark.parametrize(("head_dim", "dims"), [(128, (44, 42, 42)), (24, (8, 8, 8)), (32, (12, 10, 10)), (16, (8, 4, 4)), (4, (4, 0, 0))])
def test_head_splits_over_time_and_space_as_in_wan(head_dim, dims):
    assert axis_dims(head_dim) == dims
    assert sum(dims) == head_dim


def test_odd_heads_are_refused():
    with pytest.raises(ValueError, match="even"):
        axis_dims(7)


def test_four_axes_are_refused():
    with pytest.raises(ValueError, match="at most 3 axes"):
        rotary_phases(torch.zeros(1, 4), 24)


def test_grid_positions_count_columns_fastest():
    assert grid_positions((2, 1, 3)).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [1, 0, 0], [1, 0, 1], [1, 0, 2]]


def test_turning_keeps_lengths_and_the_origin():
    x = torch.randn(2, 5, 3, 24, dtype=torch.float64)
    positions = torch.cat((torch.zeros(1, 3), torch.randn(4, 3) * 9)).double()
    rotated = apply_rotary(x, rotary_phases(positions, 24, dtype=x.dtype))
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotated[:, 0], x[:, 0])


def test_shifting_queries_and_keys_together_leaves_scores_unchanged():
    torch.manual_seed(0)
    query, key, place, shift = (
        torch.randn(1, 24).double(),
        torch.randn(7, 24).double(),
        torch.randn(7, 3).double(),
        torch.tensor([[3.7, -2.0, 11.5]]),
    )
    here = torch.tensor([[1.0, 2.0, 3.0]]).double()
    torch.testing.assert_close(scores(query, key, here + shift, place + shift), scores(query, key, here, place))


def test_tokens_with_time_alone_leave_the_spatial_dims_as_they_are():
    x = torch.randn(1, 6, 2, 128)
    rotated = apply_rotary(x, rotary_phases(torch.arange(6.0)[:, None] * 0.19676, 128))
    assert torch.equal(rotated[..., 44:], x[..., 44:])
    assert not torch.allclose(rotated[:, 1:, :, :44], x[:, 1:, :, :44])


def test_time_alone_turns_as_video_does_in_its_first_row_and_column():
    x = torch.randn(1, 4, 2, 24).double()
    video = torch.stack((torch.arange(4.0), torch.zeros(4), torch.zeros(4)), -1)
    torch.testing.assert_close(
        apply_rotary(x, rotary_phases(video, 24, dtype=torch.float64)),
        apply_rotary(x, rotary_phases(video[:, :1], 24, dtype=torch.float64)),
    )


def test_half_precision_stays_half_and_close():
    x, phase = torch.randn(1, 4, 2, 24), rotary_phases(torch.rand(4, 3) * 50, 24)
    rotated = apply_rotary(x.bfloat16(), phase)
    assert rotated.dtype == torch.bfloat16
    torch.testing.assert_close(rotated.float(), apply_rotary(x, phase), atol=3e-2, rtol=2e-2)
