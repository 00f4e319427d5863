import numpy as np
import pytest
import torch

from baton_lightning.clip import ClipSpec
from baton_lightning.frozen.codecs import AudioCodec, VideoCodec
from baton_lightning.world.clips import make_clip
from baton_lightning.world.codecs import PatchPCA, ToneBank
from baton_lightning.world.scores import aggregate, score

NANO = ClipSpec()
TIERS = ("single", "multi", "talk")


@pytest.fixture(scope="module")
def patches() -> PatchPCA:
    return PatchPCA.fit((make_clip(0, i, tier, NANO).frames for i in range(60) for tier in TIERS), channels=NANO.video_channels)


def stack(clips) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([torch.as_tensor(c.frames) for c in clips]), torch.stack([torch.as_tensor(c.waveform) for c in clips])


def test_the_codecs_fit_the_seam_and_the_geometry(patches):
    frames, waveform = stack([make_clip(1, i, "multi", NANO, "test") for i in range(2)])
    tones = ToneBank()
    assert isinstance(patches, VideoCodec) and isinstance(tones, AudioCodec)
    video, audio = patches.encode(frames), tones.encode(waveform)
    assert video.shape == (2, NANO.video_channels, *NANO.latent_grid)
    assert audio.shape == (2, NANO.num_audio_latents, NANO.audio_channels)
    assert patches.decode(video).shape == frames.shape and patches.decode(video).dtype == torch.uint8
    assert tones.decode(audio, NANO.num_samples).shape == waveform.shape


def test_audio_latents_have_ovis_shape_at_five_seconds():
    assert ToneBank().encode(torch.zeros(1, 80_000)).shape == (1, 157, 20)


@pytest.mark.parametrize("tier", TIERS)
def test_what_the_codecs_lose_costs_no_event(patches, tier, record_property):
    tones = ToneBank()
    clips = [make_clip(2, i, tier, NANO, "test") for i in range(20)]
    frames, waveform = stack(clips)
    frames, waveform = patches.decode(patches.encode(frames)), tones.decode(tones.encode(waveform), NANO.num_samples)
    scores = [score(c.scene, f.numpy(), w.numpy(), NANO.fps) for c, f, w in zip(clips, frames, waveform, strict=True)]
    ceiling = aggregate(scores)
    p_acc, desync, steady = (ceiling[name]["mean"] for name in ("p_acc", "desync", "id"))
    print(f"codec ceiling, {tier}: P-Acc {p_acc:.3f}, DeSync {desync:.4f} s, ID {steady:.3f}")
    record_property("ceiling_p_acc", p_acc)
    assert ceiling["p_acc"]["mean"] >= 0.95
    assert ceiling["desync"]["mean"] < 0.01
    assert ceiling["m_ter"]["mean"] in (0.0, None)


def test_video_latents_have_unit_variance_together_and_the_coarse_ones_most_of_it():
    frames = stack([make_clip(3, i, "multi", NANO) for i in range(30)])[0]
    latents = PatchPCA.fit(frames, channels=8).encode(frames)
    variance = latents.var((0, 2, 3, 4), unbiased=False)
    assert latents.mean((0, 2, 3, 4)).abs().max() < 1e-3
    assert abs(float(variance.mean()) - 1) < 1e-3 and (variance.diff() < 0).all()


def test_audio_latents_are_of_moderate_size():
    latents = ToneBank().encode(stack([make_clip(0, i, tier, NANO) for i in range(20) for tier in TIERS])[1])
    assert abs(float(latents.mean())) < 0.1 and 0.8 < float(latents.std()) < 1.3 and float(latents.max()) < 15


def test_video_of_one_frame_and_sound_of_odd_length_pass():
    codec = PatchPCA.fit(stack([make_clip(3, i, "multi", NANO) for i in range(4)])[0], channels=8)
    frame = torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8)
    assert codec.decode(codec.encode(frame)).shape == frame.shape
    tones = ToneBank()
    assert tones.decode(tones.encode(torch.zeros(1, 1000)), 1000).shape == (1, 1000)
    assert tones.decode(torch.zeros(1, 2, 20), 2000).shape == (1, 2000)


def test_a_saved_basis_comes_back_bit_for_bit(patches, tmp_path):
    patches.save(tmp_path / "basis.safetensors")
    again = PatchPCA(str(tmp_path / "basis.safetensors"))
    frames = torch.as_tensor(np.random.default_rng(0).integers(0, 256, (1, 5, 32, 32, 3), dtype=np.uint8))
    assert torch.equal(again.encode(frames), patches.encode(frames))


def test_mistakes_are_named(patches, tmp_path):
    with pytest.raises(ValueError, match="4k"):
        patches.encode(torch.zeros(1, 6, 32, 32, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="no basis"):
        PatchPCA().encode(torch.zeros(1, 5, 32, 32, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="do not exist"):
        PatchPCA(str(tmp_path / "absent.safetensors"))


def test_wild_latents_decode_to_legal_clips(patches):
    wild = torch.tensor([1e9, -1e9, 50.0, -50.0])
    video = patches.decode(wild.repeat(96 * 2 * 16 // 4).reshape(1, 96, 2, 4, 4))
    assert video.dtype == torch.uint8
    audio = ToneBank().decode(wild.repeat(63 * 5).reshape(1, 63, 20), 32000)
    assert torch.isfinite(audio).all() and audio.abs().max() <= 1
