import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from baton_lightning.frozen.bigvgan import bigvgan_16k, rename_bigvgan
from baton_lightning.frozen.codecs import AudioCodec
from baton_lightning.frozen.freeze import seeded
from baton_lightning.frozen.mmaudio_vae import TinyMMAudio, load_vae, load_vocoder, mmaudio_vae_16k


@pytest.fixture(scope="module")
def codec():
    return TinyMMAudio()


def sound(num_samples, batch=1):
    return torch.randn(batch, num_samples, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.mark.parametrize(
    ("num_samples", "num_latents", "length"),
    [(80000, 157, 157), (80667, 157, 157), (160000, 314, 314), (160667, 314, 314), (80000, None, 157), (32000, None, 63), (512, None, 1)],
)
def test_sound_is_padded_to_the_clip_s_latents(num_samples, num_latents, length):
    codec = TinyMMAudio(num_latents)
    latents = codec.encode(sound(num_samples, 2))
    assert latents.shape == (2, length, 20)
    decoded = codec.decode(latents, num_samples)
    assert decoded.shape == (2, num_samples) and decoded.abs().max() <= 1


def test_padding_is_silence_at_the_end(codec):
    short = sound(80000)
    assert torch.equal(TinyMMAudio(157).encode(short), codec.encode(F.pad(short, (0, 157 * 512 - 80000))))


def test_sound_too_long_for_the_latents_is_refused():
    with pytest.raises(ValueError, match="157 audio latents hold 80384 samples, got 160000"):
        TinyMMAudio(157).encode(sound(160000))


def test_it_is_an_audio_codec_at_thirty_one_and_a_quarter_latents_a_second(codec):
    assert isinstance(codec, AudioCodec) and codec.sample_rate / codec.samples_per_latent == 31.25


def decimal_mels(waveform):
    """80 Slaney mels of a Hann spectrogram, log10, from another library's filter bank and numpy."""
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(513, 80, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    padded = np.pad(waveform, (384, 384), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::256] * np.hanning(1025)[:-1]
    magnitude = np.sqrt(np.abs(np.fft.rfft(windows)) ** 2 + 1e-9)
    return np.log10(np.maximum(magnitude @ bank, 1e-5)).T


def test_the_vae_sees_decimal_logarithms_of_mels_and_latents_are_the_posterior_mean():
    """With statistics like the released ones; about zero the network would not notice a scale, it normalises every magnitude."""
    codec = TinyMMAudio()
    codec.vae.vae.data_mean.fill_(-2.0)
    codec.vae.vae.data_std.fill_(0.9)
    waveform = sound(32768)
    mels = torch.from_numpy(decimal_mels(waveform[0].double().numpy())).float()[None]
    with torch.no_grad():
        mean = codec.vae.vae.encode(mels)[:, :20]
    torch.testing.assert_close(codec.encode(waveform), mean.transpose(1, 2), atol=1e-3, rtol=1e-3)


def test_the_vocoder_sees_decoded_mels_as_they_are(codec):
    latents = torch.randn(1, 10, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mels = codec.vae.decode(latents.transpose(1, 2)).sample
        waveform = codec.vocoder(mels.transpose(1, 2)[:, None])[:, 0]
    assert waveform.shape == (1, 5120)
    torch.testing.assert_close(codec.decode(latents, 5120), waveform)
    assert torch.equal(codec.decode(latents, 6000)[:, 5120:], torch.zeros(1, 880))


def test_mel_statistics_of_a_checkpoint_are_used_as_they_are():
    vae = mmaudio_vae_16k(8, (1, 1, 1), 1)
    raw = {key.removeprefix("vae."): tensor for key, tensor in vae.state_dict().items() if key.startswith("vae.")}
    raw |= {"data_mean": torch.full((1, 80, 1), -2.0), "data_std": torch.full((1, 80, 1), 0.9)}
    load_vae(vae, raw)
    assert vae.vae.data_mean.mean() == -2.0 and torch.equal(vae.vae.data_std, raw["data_std"])


def test_raw_weights_are_normalised_as_the_magnitude_preserving_network_does_in_its_forward(monkeypatch):
    from diffusers.models.autoencoders import autoencoder_mmaudio

    with seeded(0):
        raw_vae, vae = mmaudio_vae_16k(8, (1, 2, 4), 1), mmaudio_vae_16k(8, (1, 2, 4), 1)
        raw = {key.removeprefix("vae."): tensor.clone() for key, tensor in raw_vae.state_dict().items() if key.startswith("vae.")}
        raw = {key: torch.randn_like(tensor) * 3 if key.endswith(".weight") else tensor for key, tensor in raw.items()}
        raw |= {"encoder.learnable_gain": torch.tensor(0.3), "decoder.learnable_gain": torch.tensor(-0.2)}
    load_vae(vae, raw)
    raw_vae.vae.load_state_dict(raw)

    def forward(self, x, gain=1.0):
        """Forced weight normalisation, then the weight at unit magnitude over the root of its fan-in (EDM2, Eq. 66)."""
        weight = self.weight.flatten(1)
        root = math.sqrt(weight.shape[1])
        weight = weight / (1e-4 + weight.norm(dim=1, keepdim=True) / root) / root
        return F.conv1d(x, weight.view_as(self.weight) * gain, padding=self.padding)

    mels, latents = torch.randn(1, 80, 32), torch.randn(1, 20, 16)
    with torch.no_grad():
        ours = vae.vae.encode(mels), vae.vae.decode(latents)
        monkeypatch.setattr(autoencoder_mmaudio.MMAudioMPConv1d, "forward", forward)
        theirs = raw_vae.vae.encode(mels), raw_vae.vae.decode(latents)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def raw_vocoder(vocoder, spelling):
    """A vocoder's weights as a BigVGAN generator spells them, with weight normalisation."""
    gain, direction = spelling
    raw = {}
    for key, tensor in vocoder.state_dict().items():
        parts = key.split(".")
        if parts[0] == "upsamplers":
            parts = ["ups", parts[1], "0", *parts[2:]]
        elif parts[0] == "resnets":
            parts[0] = "resblocks"
            if parts[2].startswith("acts"):
                parts[2:4] = ["activations", str(2 * int(parts[3]) + int(parts[2][-1]) - 1)]
        parts[0] = {"conv_in": "conv_pre", "conv_out": "conv_post", "act_out": "activation_post"}.get(parts[0], parts[0])
        key = ".".join(parts).replace("downsample.filter", "downsample.lowpass.filter")
        if key.endswith(".weight"):
            norm = tensor.flatten(1).norm(dim=1).view(-1, *[1] * (tensor.ndim - 1))
            raw[key.removesuffix("weight") + gain], raw[key.removesuffix("weight") + direction] = norm, tensor * 7
        else:
            raw[key] = tensor
    return raw


SPELLINGS = [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=["old", "new"])
def test_a_bigvgan_checkpoint_gives_the_vocoder_it_was(spelling):
    with seeded(0):
        vocoder, loaded = (bigvgan_16k(64, (3, 5), ((1, 3), (1, 3))) for _ in range(2))
        for parameter in vocoder.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    load_vocoder(loaded, {"generator": raw_vocoder(vocoder, spelling)})
    mels = torch.randn(1, 1, 4, 80)
    with torch.no_grad():
        torch.testing.assert_close(loaded(mels), vocoder(mels), atol=1e-5, rtol=1e-5)


def test_the_full_vocoder_has_every_weight_of_the_released_generator():
    """Key names of the published architecture: six upsamplings, three residual blocks each, activations in one list of six."""
    names = ["conv_pre", "conv_post", *(f"ups.{i}.0" for i in range(6))]
    names += [f"resblocks.{i}.convs{half}.{j}" for i in range(18) for half in (1, 2) for j in range(3)]
    keys = [f"{name}.{part}" for name in names for part in ("bias", "weight_g", "weight_v")]
    activations = ["activation_post", *(f"resblocks.{i}.activations.{j}" for i in range(18) for j in range(6))]
    keys += [f"{name}.{part}" for name in activations for part in ("act.alpha", "act.beta", "upsample.filter", "downsample.lowpass.filter")]
    with torch.device("meta"):
        expected = bigvgan_16k().state_dict().keys()
    assert rename_bigvgan({key: torch.ones(2, 1, 1) for key in keys}).keys() == expected


def test_weights_of_something_else_are_refused():
    with pytest.raises(ValueError, match="does not hold the BigVGAN vocoder"):
        load_vocoder(bigvgan_16k(64, (3,), ((1,),)), {"generator": {"a": torch.ones(1)}})
