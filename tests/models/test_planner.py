"""The planner: sequence, causality, padding, room, and what a tiny one can learn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from baton_lightning.clip import ClipSpec, Geometry
from baton_lightning.frozen.llm import TextLLM, TinyLLM
from baton_lightning.losses import plan_loss
from baton_lightning.models.feature_norm import FeatureNorm
from baton_lightning.models.planner import VAPlanner
from baton_lightning.models.sem_mlp import SemHeads
from baton_lightning.models.towers import DualTowers

CLIP = ClipSpec(seconds=1.5, keyframe_fps=2.0, plan_grid=(2, 2), audio_plan_rate=4, video_plan_width=6, audio_plan_width=5)
WORDS = ["a", "red", "blue", "square", "circle", "jumps", "talks", "then", "first", "says", "ku", "thump"]
VIDEO, AUDIO = ["a red square jumps", "a blue circle talks then a red circle jumps"], ["first thump", "first says ku then thump"]


def tiny(max_positions: int = 64) -> TextLLM:
    return TinyLLM(width=16, depth=2, num_heads=2, num_kv_heads=1, max_positions=max_positions, vocabulary=WORDS)


def planner(clip: ClipSpec = CLIP, **options: object) -> VAPlanner:
    torch.manual_seed(0)
    return VAPlanner(clip, tiny, **options)


def test_a_plan_has_the_clips_tokens_widths_and_times() -> None:
    plan = planner()(VIDEO, AUDIO)
    assert plan.video.shape == (2, 3 * 2 * 2, 6)
    assert plan.audio.shape == (2, 6, 5)
    assert plan.video_grid == (3, 2, 2)
    assert plan.video_times.tolist() == [0.0, 0.5, 1.0]
    assert plan.audio_times.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_audio_states_see_video_placeholders_and_not_the_other_way_round() -> None:
    language = planner().language
    video, audio = language(VIDEO, AUDIO)
    with torch.no_grad():
        language.video_cell[1] += 1.0
    video_moved, audio_moved = language(VIDEO, AUDIO)
    assert not torch.allclose(audio, audio_moved)
    with torch.no_grad():
        language.audio_step[0] += 1.0
    video_still, audio_again = language(VIDEO, AUDIO)
    assert not torch.allclose(audio_again, audio_moved)
    torch.testing.assert_close(video_still, video_moved, rtol=0, atol=0)
    assert not torch.allclose(video, video_moved)


def test_states_are_read_at_their_own_placeholders() -> None:
    """A placeholder's embedding reaches its own state and later ones, never earlier ones."""
    language = planner().language
    video, _ = language(VIDEO, AUDIO)
    with torch.no_grad():
        language.video_keyframe[1] += 1.0  # tokens 4..7
    moved, _ = language(VIDEO, AUDIO)
    change = (moved - video).abs().amax((0, 2))
    assert change[:4].max() == 0
    assert change[4:].min() > 0
    assert change[4:8].min() > change[8:].max()


def test_end_marks_are_not_planned_tokens() -> None:
    language = planner().language
    _, audio = language(VIDEO, AUDIO)
    with torch.no_grad():
        language.marks[3] += 10.0  # <a_end> is last: nobody reads it
    torch.testing.assert_close(language(VIDEO, AUDIO)[1], audio, rtol=0, atol=0)


def test_a_shorter_prompt_plans_the_same_alone_and_padded() -> None:
    model = planner()
    alone, together = model(VIDEO[:1], AUDIO[:1]), model(VIDEO, AUDIO)
    torch.testing.assert_close(alone.video[0], together.video[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.audio[0], together.audio[0], rtol=1e-4, atol=1e-5)


def test_prompts_of_any_length_take_the_causal_kernel_and_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def recorded(*tensors: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False, **more: object) -> torch.Tensor:
        calls.append((attn_mask, is_causal))
        return attention(*tensors, attn_mask=attn_mask, is_causal=is_causal, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    planner().language(VIDEO, AUDIO)
    assert calls == [(None, True)] * 2  # one a layer


def test_the_system_text_comes_before_both_prompts() -> None:
    ids, lengths = planner(system="first then").language.prompt_ids(VIDEO[:1], AUDIO[:1])
    assert ids[0].tolist() == tiny().tokenize([f"first then {VIDEO[0]} {AUDIO[0]}"])[0]
    assert lengths.tolist() == [ids.shape[1]]


def test_prompts_may_be_empty() -> None:
    assert planner()(["", ""], ["", "thump"]).video.isfinite().all()


def test_a_sequence_that_does_not_fit_is_refused_with_the_arithmetic() -> None:
    model = VAPlanner(CLIP, partial(tiny, max_positions=27))
    model(["a"] * 2, ["thump then thump then"] * 2)  # 5 + 12 + 6 + 4 = 27
    with pytest.raises(ValueError, match=r"prompt 6 \+ video 12 \(3 x 2 x 2\) \+ audio 6 \+ 4 marks = 28 positions, .* has 27"):
        model(["a a", "a"], ["thump then thump then"] * 2)


def test_the_vocabulary_stays_and_placeholders_are_factorised() -> None:
    language = planner().language
    assert language.llm.model.get_input_embeddings().num_embeddings == tiny().model.get_input_embeddings().num_embeddings
    shapes = {name: tuple(p.shape) for name, p in language.named_parameters(recurse=False)}
    assert shapes == {"marks": (4, 16), "video_keyframe": (3, 16), "video_cell": (4, 16), "audio_second": (2, 16), "audio_step": (4, 16)}


def test_placeholders_start_with_the_spread_asked_for() -> None:
    language = planner(placeholder_std=0.5).language
    values = torch.cat([p.flatten() for p in language.parameters(recurse=False)])
    assert 0.4 < values.std() < 0.6


def test_every_parameter_gets_a_finite_gradient() -> None:
    model = planner()
    plan = model(VIDEO, AUDIO)
    (plan.video.square().mean() + plan.audio.square().mean()).backward()
    lost = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
    assert lost == []


def test_frozen_names_stop_training_and_nothing_else() -> None:
    frozen = {n for n, p in planner(frozen=("language.llm",)).named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in planner().named_parameters() if n.startswith("language.llm.")}
    with pytest.raises(ValueError, match="planner.frozen: 'languag' matches no part .* nearest names are language"):
        planner(frozen=("languag",))


def test_weights_survive_a_round_trip() -> None:
    model, other = planner(), VAPlanner(CLIP, tiny)
    model.video_norm.fit(torch.ones(6), torch.full((6,), 2.0))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(VIDEO, AUDIO).video, model(VIDEO, AUDIO).video)
    assert bool(other.video_norm.fitted)


def test_features_of_another_geometry_are_refused() -> None:
    with pytest.raises(ValueError, match=r"video features must be \[B, 12, 6\].*got \[2, 11, 6\]"):
        planner().standardise(torch.zeros(2, 11, 6), torch.zeros(2, 6, 5))


def test_a_clip_of_a_broken_second_keeps_whole_audio_steps() -> None:
    clip = replace(CLIP, seconds=2.5, keyframe_fps=2.0)
    region = planner(clip).language.planning_region()
    assert len(region) == clip.num_video_planned + clip.num_audio_planned + 4 == 20 + 10 + 4


def test_standardised_features_have_zero_mean_unit_spread_and_come_back() -> None:
    torch.manual_seed(0)
    features = torch.randn(50, 7, 3) * torch.tensor([0.1, 1.0, 30.0]) + torch.tensor([5.0, 0.0, -100.0])
    norm = FeatureNorm(3)
    assert not norm.fitted
    norm.fit(features.mean((0, 1)), features.std((0, 1)))
    tokens = norm(features)
    torch.testing.assert_close(tokens.mean((0, 1)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens.std((0, 1)), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm.inverse(tokens), features, atol=1e-3, rtol=1e-4)


def test_drift_reads_in_standard_deviations() -> None:
    norm = FeatureNorm(2)
    norm.fit(torch.zeros(2), torch.tensor([1.0, 4.0]))
    assert norm.drift(torch.zeros(2), torch.tensor([1.0, 4.0])) == 0
    assert norm.drift(torch.tensor([0.5, 2.0]), torch.tensor([1.0, 4.0])) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="has 2 channels, got statistics of 3"):
        norm.fit(torch.zeros(3), torch.ones(3))


def test_a_constant_channel_stays_finite() -> None:
    norm = FeatureNorm(1)
    norm.fit(torch.ones(1), torch.zeros(1))
    assert norm(torch.ones(2, 4, 1)).abs().max() == 0


def test_a_tiny_planner_learns_to_tell_two_prompts_apart() -> None:
    model = planner()
    features = torch.randn(2, 12, 6), torch.randn(2, 6, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = plan_loss(model(VIDEO, AUDIO), model.standardise(*features)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2  # predicting the mean costs about 2; one plan for both prompts about 1


@pytest.mark.parametrize("readout", [SemHeads, partial(DualTowers, num_heads=2)])
def test_a_planner_of_several_geometries_plans_each_as_a_planner_of_it_alone(readout: Any) -> None:
    short, tall = Geometry(32, 32, 0.5), Geometry(64, 32, 1.5)
    several = planner(replace(CLIP, geometries=(short, tall)), readout=readout)
    for name, rows in {"32x32x1.5s": 3, "32x64x1.5s": 3, "32x32x0.5s": 1}.items():
        clip = several.clip.at(name)
        alone = planner(clip, readout=readout)
        weights = {key: several.state_dict()[key][: len(value)] if value.ndim else value for key, value in alone.state_dict().items()}
        alone.load_state_dict(weights)
        plan, own = several(VIDEO, AUDIO, clip), alone(VIDEO, AUDIO)
        torch.testing.assert_close(plan.video, own.video, rtol=0, atol=0)
        torch.testing.assert_close(plan.audio, own.audio, rtol=0, atol=0)
        assert plan.video_grid == (rows, 2, 2) and plan.video_times.tolist() == own.video_times.tolist()


def test_a_planner_that_starts_with_a_short_clip_has_placeholders_for_the_longest() -> None:
    language = planner(replace(CLIP, seconds=0.5, geometries=(Geometry(32, 32, 1.5),))).language
    assert len(language.video_keyframe) == 3 and len(language.audio_second) == 2
    assert language(VIDEO, AUDIO)[0].shape[1] == 4
