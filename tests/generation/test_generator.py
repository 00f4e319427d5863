"""Clips from the networks of a stage 3: steps that run alone, and components that are on a device only while they are used."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from baton_lightning.batch import Batch
from baton_lightning.clip import ClipSpec
from baton_lightning.flow.sampler import EulerSampler, UniPCSampler
from baton_lightning.generation.generator import Generator
from baton_lightning.media import read_mp4
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.placement import Placement
from baton_lightning.stages.joint import JointTraining
from baton_lightning.stages.plan_sources import GroundTruthPlan

CLIP = ClipSpec(seconds=1.0, height=16, width=16, video_channels=6, plan_grid=(2, 2), audio_plan_rate=10, text_tokens=8, text_width=12)


def clips(count: int) -> Batch:
    prompts = ["a red circle on the left."] * count
    features = {"video_features": torch.randn(count, CLIP.num_video_planned, CLIP.video_plan_width)}
    features["audio_features"] = torch.randn(count, CLIP.num_audio_planned, CLIP.audio_plan_width)
    context = torch.randn(count, CLIP.text_tokens, CLIP.text_width)
    return Batch([f"k{i}" for i in range(count)], torch.arange(count), 3, prompts, prompts, **features, context=context)


@pytest.fixture
def generator() -> Generator:
    def dit(clip: ClipSpec) -> DualBranchDiT:
        return DualBranchDiT(clip, width=24, depth=2, num_heads=2, ffn_width=32, frequency_width=8)

    model = JointTraining(CLIP, dit, GroundTruthPlan, torch.optim.AdamW, sampler=EulerSampler(2), seed=5)
    model.configure_model()
    for norm, width in ((model.plan.video_norm, CLIP.video_plan_width), (model.plan.audio_norm, CLIP.audio_plan_width)):
        norm.fit(torch.zeros(width), torch.ones(width))
    for parameter in model.dit.parameters():  # nothing may be silent
        parameter.data += 0.05 * torch.randn_like(parameter)
    return Generator(model)


def test_noise_is_a_function_of_seed_and_index(generator):
    drawn = ((torch.arange(3), 5), (torch.tensor([2]), None), (torch.arange(3), 6))
    whole, alone, other = (generator.noise(index, torch.device("cpu"), seed=seed) for index, seed in drawn)
    assert whole[0].shape == (3, CLIP.video_channels, *CLIP.latent_grid)
    assert whole[1].shape == (3, CLIP.num_audio_latents, CLIP.audio_channels)
    assert all(torch.equal(a[2:], b) and not torch.equal(a, c) for a, b, c in zip(whole, alone, other, strict=True))


def test_steps_that_are_run_alone_make_what_they_make_together(generator):
    batch = clips(2)
    plan = generator.plan(batch)
    steps = generator.denoise(generator.noise(batch.index, batch.context.device), batch.context, plan)
    together, unplanned = generator.sample_own(batch), generator.sample(batch, None)
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in zip(steps, together, unplanned, strict=True))


def test_a_written_clip_has_the_pictures_and_the_length_of_sound_it_was_given(generator, tmp_path):
    frames = torch.full((CLIP.num_frames, 16, 16, 3), 128, dtype=torch.uint8)
    generator.write(tmp_path / "clip.mp4", frames, torch.zeros(CLIP.num_samples))
    read = read_mp4(tmp_path / "clip.mp4")
    assert read.frames.shape == frames.shape and abs(read.frames.astype(int) - 128).max() < 4


def test_codecs_are_asked_for_by_name(generator):
    with pytest.raises(ValueError, match=r"model.init_args.video_codec"):
        generator.decode(*generator.sample(clips(1), None))


def test_nothing_of_sampling_stays_on_the_cpu_when_batch_and_networks_are_elsewhere(generator):
    batch = clips(2)
    generator.model.sampler.steps, generator.model.guidance.video_scale, generator.model.guidance.plan_scale = 2, 2.0, 2.0
    generator.model.dit.to("meta")
    generator.model.plan.to("meta")
    elsewhere = replace(batch.to("meta"), index=batch.index)  # draws are made on the CPU, by index
    for sampler in (EulerSampler(2), UniPCSampler(3)):
        generator.model.sampler = sampler
        assert [latents.device.type for latents in generator.sample_own(elsewhere)] == ["meta", "meta"]


@pytest.mark.parametrize(
    ("offload", "asked", "moved"),
    [(False, {}, {"plan", "dit"}), (False, {"follows": False}, {"dit"}), (False, {"denoises": False}, set()), (True, {}, set())],
)
def test_networks_that_are_needed_are_moved_to_the_device_in_their_type(generator, offload, asked, moved):
    placed = Generator(generator.model, Placement(torch.device("meta"), offload=offload))
    placed.place_networks(torch.bfloat16, **asked)
    parts = {"plan": placed.model.plan.buffers(), "dit": placed.model.dit.parameters()}
    assert {name for name, tensors in parts.items() if all(tensor.is_meta for tensor in tensors)} == moved
    assert {parameter.dtype for parameter in placed.model.dit.parameters()} == {torch.bfloat16}
    assert placed.model.plan.video_norm.mean.dtype == torch.float32


def test_frozen_components_are_on_a_device_only_while_they_are_used(generator):
    places = []

    class Codec(torch.nn.Module):
        def to(self, device):
            places.append(str(device))
            return self

        def decode(self, latents, *_):
            assert places[-1] == "meta"
            return latents

    generator.model.component_factories |= {"video_codec": Codec, "audio_codec": Codec}
    generator.decode(torch.zeros(1, device="meta"), torch.zeros(1, device="meta"))
    assert places == ["meta", "cpu"] * 2


def test_a_text_encoder_is_asked_for_only_where_texts_are_guided(generator):
    generator.model.sampler.steps, generator.model.negatives = 1, ("blurred", "")
    generator.sample(clips(1), None)
    generator.model.guidance.video_scale = 2.0
    with pytest.raises(ValueError, match=r"model.init_args.text_encoder"):
        generator.sample(clips(1), None)


def test_each_branch_is_led_away_from_its_own_negative_text(generator):
    asked = []

    class Encoder(torch.nn.Module):
        def forward(self, texts):
            asked.extend(texts)
            return [torch.full((2, CLIP.text_width), float(len(text))) for text in texts]

    generator.model.component_factories["text_encoder"] = Encoder
    generator.model.negatives = ("blurred", "")
    context = torch.ones(3, CLIP.text_tokens, CLIP.text_width)
    picture, sound = (generator.negative(text, context) for text in generator.model.negatives)
    assert generator.negative("blurred", context).equal(picture) and not generator.components.made
    assert asked == ["blurred"] and picture.shape == context.shape
    assert (picture[:, :2] == 7).all() and not picture[:, 2:].any() and not sound.any()
