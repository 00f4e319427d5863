"""What is trained is what is sampled: the transformer meets the same tensors, for every task, modality and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from baton_lightning.batch import Batch
from baton_lightning.bench.trained_as_sampled import TIMES, compare
from baton_lightning.clip import ClipSpec, Geometry
from baton_lightning.flow import given, guidance, matching, savings, tasks
from baton_lightning.flow.condition import Condition
from baton_lightning.flow.sampler import EulerSampler, Sampler, UniPCSampler
from baton_lightning.flow.tasks import CONDITIONS, Task, TaskMix, given_of
from baton_lightning.generation.generator import Generator
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.stages import flow_matching
from baton_lightning.stages.joint import JointTraining
from baton_lightning.stages.plan_sources import GroundTruthPlan

Clips = Callable[[int], Batch]
CLIP = ClipSpec(seconds=1.0, height=16, width=16, video_channels=6, plan_grid=(2, 2), audio_plan_rate=10, text_tokens=8, text_width=12)
TASKS = {
    "plain": Task(),
    "image to video": Task(first_frame=1.0),
    "last frame": Task(last_frame=1.0),
    "continuation": Task(prefix=1.0),
    "suffix": Task(suffix=1.0),
    "inpainting": Task(mask=1.0),
    "sound for a picture": Task(video="given"),
    "picture for a sound": Task(audio="given"),
    "sound alone": Task(video="absent"),
    "picture alone": Task(audio="absent"),
    "several": Task(first_frame=0.5, prefix=0.5, mask=0.5),
}


def module(*mix: Task, clip: ClipSpec = CLIP) -> JointTraining:
    torch.manual_seed(0)

    def dit(clip: ClipSpec) -> DualBranchDiT:
        return DualBranchDiT(clip, width=24, depth=2, num_heads=2, ffn_width=32, frequency_width=8)

    made = JointTraining(clip, dit, GroundTruthPlan, torch.optim.AdamW, tasks=list(mix), plan_dropout=0.3, caption_dropout=0.3, seed=5)
    made.configure_model()
    for norm, width in ((made.plan.video_norm, 64), (made.plan.audio_norm, 64)):
        norm.fit(torch.full((width,), 0.3), torch.full((width,), 2.0))
    for parameter in made.dit.parameters():  # nothing may be silent
        parameter.data += 0.05 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("name", TASKS)
def test_training_and_sampling_give_the_network_the_same_tensors(clips: Clips, name: str) -> None:
    made = module(TASKS[name])
    for t in TIMES:
        rows = compare(made, clips(3), t)
        assert {row.name for row in rows} >= {"video", "audio", "t", "plan.video", "plan.video_times", "known_video", "known_audio"}
        assert all(row.difference == 0.0 for row in rows), rows


@pytest.mark.parametrize("geometry", ["16x16x1s", "32x16x1s", "16x16x0.5s"])
@pytest.mark.parametrize("name", ["plain", "inpainting"])
def test_clips_of_every_geometry_of_a_run_are_trained_as_they_are_sampled(clips: Clips, geometry: str, name: str) -> None:
    several = replace(CLIP, geometries=(Geometry(16, 32, 1.0), Geometry(16, 16, 0.5)))
    clip, batch = several.at(geometry), clips(3)
    shapes = {
        "video_latents": (clip.video_channels, *clip.latent_grid),
        "audio_latents": (clip.num_audio_latents, clip.audio_channels),
        "video_features": (clip.num_video_planned, clip.video_plan_width),
        "audio_features": (clip.num_audio_planned, clip.audio_plan_width),
    }
    batch = replace(batch, geometry=geometry, **{field: torch.randn(3, *shape) for field, shape in shapes.items()})
    made = module(TASKS[name], clip=several)
    rows = compare(made, batch, 0.5)
    assert {row.name for row in rows} >= {"video", "audio", "t", "plan.video", "plan.video_times"}
    assert all(row.difference == 0.0 for row in rows), rows
    video, audio = Generator(made).sample_own(batch)
    assert video.shape == batch.video_latents.shape and audio.shape == batch.audio_latents.shape


def test_a_clip_without_sound_is_trained_as_it_is_sampled(clips: Clips) -> None:
    batch = replace(clips(3), has_audio=torch.tensor([True, False, True]))
    assert all(row.difference == 0.0 for row in compare(module(), batch, 0.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_latents_and_text_that_are_kept_in_half_precision_are_trained_as_they_are_sampled(clips: Clips, dtype: torch.dtype) -> None:
    batch = clips(2)
    stored = replace(batch, **{name: getattr(batch, name).to(dtype) for name in ("video_latents", "audio_latents", "context")})
    assert all(row.difference == 0.0 for row in compare(module(Task(first_frame=1.0)), stored, 0.5))


# ---- divergences that are planted
def scaled_latents(patch: pytest.MonkeyPatch) -> None:
    original = matching.flow_errors

    def louder(net, clean, *r, **k):  # type: ignore[no-untyped-def]
        return original(net, {name: 1.01 * x for name, x in clean.items()}, *r, **k)

    patch.setattr(flow_matching, "flow_errors", louder)


def rounded_time(patch: pytest.MonkeyPatch) -> None:
    original = given.evaluate
    patch.setattr(savings, "evaluate", lambda net, v, a, t, *r, **k: original(net, v, a, (t + 1e-4), *r, **k))


def time_in_thousands(patch: pytest.MonkeyPatch) -> None:
    original = given.evaluate
    patch.setattr(savings, "evaluate", lambda net, v, a, t, *r, **k: original(net, v, a, 1000 * t, *r, **k))


def swapped_texts(patch: pytest.MonkeyPatch) -> None:
    original = given.evaluate

    def evaluate(net, v, a, t, c, *r, **k):  # type: ignore[no-untyped-def]
        return original(net, v, a, t, Condition(c.video_context, c.audio_context.flip(1), c.plan), *r, **k)

    patch.setattr(savings, "evaluate", evaluate)


def texts_without_their_last_row(patch: pytest.MonkeyPatch) -> None:
    original = Generator.denoise
    patch.setattr(Generator, "denoise", lambda self, noise, context, *r: original(self, noise, context[:, :-1], *r))


def features_for_a_plan(patch: pytest.MonkeyPatch) -> None:
    original = Generator.plan

    def plan(self, batch):  # type: ignore[no-untyped-def]
        return replace(original(self, batch), video=batch.video_features)  # not standardised

    patch.setattr(Generator, "plan", plan)


def plan_without_times(patch: pytest.MonkeyPatch) -> None:
    original = Generator.plan
    patch.setattr(Generator, "plan", lambda self, batch: replace(original(self, batch), video_times=None))


def plan_of_another_grid(patch: pytest.MonkeyPatch) -> None:
    original = Generator.plan
    patch.setattr(Generator, "plan", lambda self, batch: replace(original(self, batch), video_grid=(12, 2, 1)))


def known_latents_at_the_clips_time(patch: pytest.MonkeyPatch) -> None:
    original = given.evaluate
    patch.setattr(savings, "evaluate", lambda net, v, a, t, c, g, **k: original(net, *g.over(v, a), t, c, **k))


def known_latents_not_put_back(patch: pytest.MonkeyPatch) -> None:
    def evaluate(net, v, a, t, c, g, **k):  # type: ignore[no-untyped-def]
        known = {f"known_{name}": held.known for name, held in zip(given.MODALITIES, g.both, strict=True) if held is not None}
        return net(v, a, t, c.video_context, c.audio_context, c.plan, **known)

    patch.setattr(savings, "evaluate", evaluate)


def another_task(patch: pytest.MonkeyPatch) -> None:
    sampled_otherwise(patch, lambda known, clean, noise, has: given_of([replace(k, video=~k.video) for k in known], clean, noise, has))


def absent_sound_made_of_zeros(patch: pytest.MonkeyPatch) -> None:
    sampled_otherwise(patch, lambda known, clean, noise, has: given_of(known, clean, {name: 0 * x for name, x in noise.items()}, has))


def sampled_otherwise(patch: pytest.MonkeyPatch, make: Callable[..., given.Given]) -> None:
    """Training holds what its tasks say, sampling something else."""
    calls = iter((given_of, make))
    patch.setattr(flow_matching, "given_of", lambda *arguments: next(calls)(*arguments))


PLANTED: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (scaled_latents, "plain"),
    (rounded_time, "plain"),
    (time_in_thousands, "plain"),
    (swapped_texts, "plain"),
    (texts_without_their_last_row, "plain"),
    (features_for_a_plan, "plain"),
    (plan_without_times, "plain"),
    (plan_of_another_grid, "plain"),
    (known_latents_at_the_clips_time, "image to video"),
    (known_latents_not_put_back, "image to video"),
    (another_task, "continuation"),
    (absent_sound_made_of_zeros, "picture alone"),
]


@pytest.mark.parametrize(("plant", "task"), PLANTED, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_divergence_of_sampling_from_training_is_seen(
    clips, plant: Callable[[pytest.MonkeyPatch], None], task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, batch = module(TASKS[task]), clips(2)
    plant(monkeypatch)
    try:
        rows = compare(made, batch, 0.25)
    except (RuntimeError, ValueError):
        return  # refused, which is as good
    assert any(row.difference > 0 for row in rows)


# ---- the sampler
@pytest.mark.parametrize("kind", [EulerSampler, UniPCSampler])
@pytest.mark.parametrize("steps", [1, 4, 20])
@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("task", ["plain", "continuation", "sound for a picture"])
def test_with_an_oracle_s_velocity_the_sampler_returns_the_clip(
    clips: Clips, kind: type[Sampler], steps: int, shift: float, task: str
) -> None:
    batch = clips(2)
    clean, noise = {"video": batch.video_latents, "audio": batch.audio_latents}, flow_matching.noise(batch, seed=5, epoch=0, purpose="x")
    held = given_of(TaskMix([TASKS[task]], CLIP, 0).draw(batch.index, 0), clean, noise)

    def oracle(video: torch.Tensor, audio: torch.Tensor, t: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor, ...]:
        return tuple((x - clean[name]) / t[0] for name, x in (("video", video), ("audio", audio)))

    velocity = guidance.Guidance()(oracle, Condition(batch.context, batch.context), given=held)
    found = held.over(*kind(steps=steps, shift=shift)(velocity, noise["video"], noise["audio"]))
    for name, latents in zip(("video", "audio"), found, strict=True):
        assert (latents - clean[name]).abs().max() < 1e-2 if kind is UniPCSampler else (latents - clean[name]).abs().max() < 1e-4


# ---- tasks
def test_every_condition_makes_known_what_its_name_says() -> None:
    draw = [0.0] * 5 + [0.5, 0.0, 0.0, 0.0, 0.0, 0.0]  # half of the second; the smallest box in the corner
    frames, sound = CLIP.latent_grid[0], CLIP.num_audio_latents
    known = {name: tasks.known_of(Task(**{name: 1.0}), CLIP, draw) for name in CONDITIONS}
    whole = {name: [bool(frame.all()) for frame in k.video] for name, k in known.items()}
    assert frames == 4 and whole["first_frame"] == [True, False, False, False] and whole["last_frame"] == [False] * 3 + [True]
    assert whole["prefix"] == [True, True, False, False] and whole["suffix"] == [False, False, False, True]  # latent 2 straddles 0.5 s
    assert known["prefix"].audio[: sound // 2 - 1].all() and not known["prefix"].audio[sound // 2 + 1 :].any()
    assert not known["first_frame"].audio.any()
    hole = ~known["mask"].video
    assert hole.any() and hole.sum() == hole[:, 0, 0].sum()  # one cell in space
    assert (~known["mask"].audio).any() and known["mask"].audio.any()


def test_a_state_holds_for_the_whole_modality() -> None:
    draw = [0.0] * 11
    known = tasks.known_of(Task(video="given", prefix=1.0), CLIP, draw)
    assert known.video.all() and known.absent == ()
    known = tasks.known_of(Task(audio="absent", first_frame=1.0), CLIP, draw)
    assert not known.audio.any() and known.absent == ("audio",) and known.video[0].all()


def test_shares_are_met_and_a_clip_has_its_task_in_any_batch() -> None:
    mix = TaskMix([Task(share=3.0), Task(share=1.0, video="given")], CLIP, seed=1)
    drawn = mix.draw(torch.arange(2000), 0)
    given_share = sum(bool(k.video.all()) for k in drawn) / 2000
    assert abs(given_share - 0.25) < 0.03
    alone = mix.draw(torch.tensor([7]), 0)[0]
    assert torch.equal(alone.video, drawn[7].video)
    assert any(bool(a.video.all()) != bool(b.video.all()) for a, b in zip(drawn, mix.draw(torch.arange(2000), 1), strict=True))


def test_known_latents_weigh_nothing_in_the_loss(clips: Clips) -> None:
    made, batch = module(Task(first_frame=1.0)), clips(2)
    known, noise, t = made.tasks.draw(batch.index, 0), flow_matching.noise(batch, seed=5, epoch=0, purpose="x"), torch.full((2,), 0.5)
    louder = replace(batch, video_latents=batch.video_latents.clone())
    made.dit.forward = lambda video, audio, *_, **__: (torch.zeros_like(video), torch.zeros_like(audio))  # type: ignore[method-assign]
    louder.video_latents[:, :, 0] *= 100
    losses = [made.flow_loss(b, None, t, noise, known=known).mean("video") for b in (batch, louder)]
    assert torch.equal(*losses)
    given_sound = made.flow_loss(batch, None, t, noise, known=TaskMix([Task(audio="given")], CLIP, 0).draw(batch.index, 0))
    assert given_sound.mean("audio") == 0 and given_sound.num == {"video": 2, "audio": 0}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 0.0}, "share must be positive"),
        ({"video": "given", "audio": "given"}, "must generate"),
        ({"video": "guessed"}, "must be one of generated, given, absent"),
        ({"prefix": 1.5}, "prefix must be a probability"),
    ],
)
def test_a_task_without_meaning_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task(**wrong)
