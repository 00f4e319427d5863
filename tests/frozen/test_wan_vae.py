import pytest
import torch

from baton_lightning.frozen.codecs import VideoCodec
from baton_lightning.frozen.wan_vae import TinyWanVAE, WanVAE


@pytest.fixture(scope="module")
def codec():
    return TinyWanVAE()


@pytest.fixture(scope="module")
def frames():
    return torch.randint(0, 256, (1, 9, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_it_is_a_video_codec_with_wan_s_strides(codec, frames):
    assert isinstance(codec, VideoCodec) and codec.stride == (4, 16)
    latents = codec.encode(frames)
    assert latents.shape == (1, 8, 3, 2, 3)
    decoded = codec.decode(latents)
    assert decoded.shape == frames.shape and decoded.dtype == torch.uint8


def test_latents_are_the_posterior_mean_normalised_per_channel(codec, frames):
    config = codec.vae.config
    with torch.no_grad():
        raw = codec.vae.encode(frames.permute(0, 4, 1, 2, 3) / 127.5 - 1).latent_dist.mean
    for c in range(8):
        expected = (raw[:, c] - config.latents_mean[c]) / config.latents_std[c]
        torch.testing.assert_close(codec.encode(frames)[:, c], expected, atol=1e-5, rtol=1e-5)


def test_decoding_undoes_the_normalisation(codec, frames):
    with torch.no_grad():
        raw = codec.vae.encode(frames.permute(0, 4, 1, 2, 3) / 127.5 - 1).latent_dist.mean
        pictures = codec.vae.decode(raw).sample.clamp(-1, 1)
    levels = ((pictures + 1) * 127.5).permute(0, 2, 3, 4, 1)
    assert (codec.decode(codec.encode(frames)).float() - levels).abs().max() <= 0.51


def test_the_first_latent_is_of_the_first_frame_alone(codec, frames):
    changed = frames.clone()
    changed[:, 1:] = 0
    torch.testing.assert_close(codec.encode(changed)[:, :, 0], codec.encode(frames)[:, :, 0])
    torch.testing.assert_close(codec.encode(frames[:, :1])[:, :, 0], codec.encode(frames)[:, :, 0])


def test_wrong_frame_counts_and_sides_are_refused_with_the_nearest_right_ones(codec, frames):
    with pytest.raises(ValueError, match=r"4k \+ 1 frames, got 8; the nearest are 5 and 9"):
        codec.encode(frames[:, :8])
    with pytest.raises(ValueError, match="multiples of 16, got 30 x 48"):
        codec.encode(frames[:, :, :30])


def test_a_saved_vae_loads_by_path(codec, frames, tmp_path):
    codec.vae.save_pretrained(tmp_path / "vae")
    assert torch.equal(WanVAE(str(tmp_path)).encode(frames), codec.encode(frames))
