"""Dual towers and the readouts that ablate them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from baton_lightning.clip import ClipSpec
from baton_lightning.models.codes import DiscreteTowers
from baton_lightning.models.sem_mlp import SemHeads
from baton_lightning.models.towers import DualTowers

CLIP = ClipSpec(seconds=2.0, keyframe_fps=2.0, plan_grid=(2, 2), audio_plan_rate=4, video_plan_width=6, audio_plan_width=5)
WIDTH, HEADS = 16, 2


def states() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 16, WIDTH, generator=generator), torch.randn(3, 8, WIDTH, generator=generator)


def towers(*, warm: bool = True, **options: object) -> DualTowers:
    """Towers; ``warm`` ones have left the start, where both attentions are silent."""
    torch.manual_seed(0)
    model = DualTowers(CLIP, WIDTH, HEADS, **options)
    if warm:
        for module in model.modules():
            if hasattr(module, "out"):
                nn.init.normal_(module.out.weight, std=0.5)
    return model


def test_shapes_are_the_perceivers() -> None:
    video, audio = towers()(*states())
    assert video.shape == (3, 16, 6)
    assert audio.shape == (3, 8, 5)


def test_fresh_towers_over_trained_heads_equal_the_heads_but_for_the_queries() -> None:
    heads, fresh = SemHeads(CLIP, WIDTH), towers(warm=False)
    report = fresh.load_state_dict(heads.state_dict(), strict=False)
    assert report.unexpected_keys == []
    assert all("_tower." in key for key in report.missing_keys)
    for ours, theirs in zip(fresh(*states()), heads(*states()), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.1, rtol=0)
    nn.init.zeros_(fresh.video_tower.queries)
    nn.init.zeros_(fresh.audio_tower.queries)
    for ours, theirs in zip(fresh(*states()), heads(*states()), strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)


def test_a_fresh_tower_still_has_a_gradient_to_leave_the_start() -> None:
    fresh = towers(warm=False)
    sum(tokens.square().mean() for tokens in fresh(*states())).backward()
    for tower in (fresh.video_tower, fresh.audio_tower):
        assert tower.extraction.out.weight.grad.any()
        assert tower.cross_modal.out.weight.grad.any()


def test_every_parameter_of_a_warm_tower_gets_a_finite_gradient() -> None:
    model = towers()
    sum(tokens.square().mean() for tokens in model(*states())).backward()
    lost = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert lost == []


def test_towers_undo_the_one_way_sight_of_the_language_model() -> None:
    video_states, audio_states = states()
    audio_states.requires_grad_()
    towers()(video_states, audio_states)[0].sum().backward()
    assert audio_states.grad.abs().amax((0, 2)).min() > 0
    audio_states.grad = None
    SemHeads(CLIP, WIDTH)(video_states, audio_states)[0].sum().backward()
    assert audio_states.grad is None


def test_queries_are_one_per_planned_token_and_start_at_two_hundredths() -> None:
    model = towers()
    assert model.video_tower.queries.shape == (16, WIDTH)
    assert model.audio_tower.queries.shape == (8, WIDTH)
    assert 0.015 < model.video_tower.queries.std() < 0.025


def test_both_clocks_count_seconds_times_the_audio_rate() -> None:
    model = towers()
    video, audio = model.timestamp_phases(8, torch.device("cpu"))
    assert video.shape == (16, 4)
    assert audio.shape == (8, 4)
    torch.testing.assert_close(audio[:, 0].angle() % (2 * torch.pi), torch.arange(8.0) % (2 * torch.pi))
    for k in range(4):  # keyframe k sits at k / 2 s, which is audio token 2 k
        torch.testing.assert_close(video[4 * k : 4 * k + 4], audio[2 * k].expand(4, -1))


def test_cross_modal_scores_depend_on_the_time_difference_alone() -> None:
    """Content the same everywhere: a patch's score for a sound is a function of their distance in time, and largest at zero."""
    _, audio = towers().timestamp_phases(8, torch.device("cpu"))
    scores = (audio[:, None] * audio[None].conj()).real.sum(-1)
    for offset in range(8):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert (scores.argmax(-1) == torch.arange(8)).all()


def test_without_timestamp_rope_time_is_invisible_to_the_cross_modal_attention() -> None:
    """Shuffling the other modality's tokens in time changes nothing without the rotation, and something with it."""
    video_states, audio_states = states()
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    for rope, same in ((False, True), (True, False)):
        model = towers(timestamp_rope=rope)
        straight, shuffled = model(video_states, audio_states)[0], model(video_states, audio_states[:, order])[0]
        assert torch.allclose(straight, shuffled, atol=1e-4) is same


def test_the_ablations_keep_every_other_parameter() -> None:
    full = {n: tuple(p.shape) for n, p in towers().named_parameters()}
    assert {n: tuple(p.shape) for n, p in towers(timestamp_rope=False).named_parameters()} == full
    without_queries = {n: tuple(p.shape) for n, p in towers(learned_queries=False).named_parameters()}
    assert full.keys() - without_queries.keys() == {"video_tower.queries", "audio_tower.queries"}
    assert without_queries == {n: full[n] for n in without_queries}
    discrete = {n: tuple(p.shape) for n, p in DiscreteTowers(CLIP, WIDTH, num_codes=9, num_heads=HEADS).named_parameters()}
    assert discrete == full | {"video_codebook.codes": (9, 6), "audio_codebook.codes": (9, 5)}
    without_towers = {n: tuple(p.shape) for n, p in SemHeads(CLIP, WIDTH).named_parameters()}
    assert without_towers == {n: s for n, s in full.items() if "_tower." not in n}


def test_discrete_plans_use_only_codes_of_the_codebook() -> None:
    torch.manual_seed(0)
    readout = DiscreteTowers(CLIP, WIDTH, num_codes=7, num_heads=HEADS)
    video, audio = readout(*states())
    for tokens, book in ((video, readout.video_codebook), (audio, readout.audio_codebook)):
        assert all(any(torch.equal(token, code) for code in book.codes) for token in tokens.flatten(0, 1))
    sum(tokens.square().mean() for tokens in (video, audio)).backward()
    assert readout.video_codebook.codes.grad.any()
    assert readout.video_sem_mlp.down.weight.grad.any()


def test_the_nearest_code_is_the_nearest() -> None:
    torch.manual_seed(0)
    book = DiscreteTowers(CLIP, WIDTH, num_codes=20).video_codebook
    nn.init.normal_(book.codes)
    tokens = torch.randn(2, 9, 6)
    assert (book.nearest(tokens) == torch.cdist(tokens, book.codes).argmin(-1)).all()


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads must divide"):
        DualTowers(CLIP, WIDTH, num_heads=5)
