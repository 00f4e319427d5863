import pytest
import torch

from baton_lightning.frozen.resample import resample
from baton_lightning.frozen.wavtokenizer import EncodecPerceiver, TinyEncodec, WavTokenizer, rename_wavtokenizer, wavtokenizer_config

CARRIERS = (160, 400, 480, 560, 640, 760, 880, 1000, 1160, 1320, 1520, 1760, 2000, 2320, 2680, 3080, 3520, 4080, 4680, 6000)


def tones(frequencies, seconds=2.0, sample_rate=16000, loudness=0.3):
    time = torch.arange(round(seconds * sample_rate)) / sample_rate
    return loudness * torch.sin(2 * torch.pi * torch.tensor(frequencies)[:, None] * time)


@pytest.fixture(scope="module")
def ears():
    return TinyEncodec()


@pytest.mark.parametrize(("seconds", "sample_rate"), [(2, 16000), (5, 24000), (1, 44100), (3, 48000)])
def test_token_counts_are_seconds_times_rate(ears, seconds, sample_rate):
    assert ears(torch.zeros(2, seconds * sample_rate), sample_rate).shape == (2, 40 * seconds, 64)


@pytest.mark.parametrize(("rate", "sample_rate"), [(40, 16000), (40, 24000), (75, 24000), (50, 16000)])
def test_other_rates_keep_the_count(rate, sample_rate):
    ears = TinyEncodec(rate=rate, sample_rate=sample_rate)
    assert ears.rate == rate and ears(torch.zeros(1, 16000), 16000).shape == (1, rate, 64)


def test_impossible_rates_and_widths_are_refused():
    with pytest.raises(ValueError, match="four strides"):
        TinyEncodec(rate=41)
    with pytest.raises(ValueError, match="multiple of 16"):
        TinyEncodec(width=70)


def test_features_tell_every_carrier_of_the_world_from_every_other(ears):
    features = ears(tones(CARRIERS), 16000)[:, 10:-10]
    spread = features.std(1).norm(dim=-1).max()
    distances = torch.cdist(features.mean(1), features.mean(1)).fill_diagonal_(torch.inf)
    assert distances.min() > 20 * spread


def test_tones_off_the_token_rate_turn_from_token_to_token(ears):
    on, off = ears(tones((1000,)), 16000)[0, 10:-10], ears(tones((1010,)), 16000)[0, 10:-10]
    assert off.std(0).norm() > 20 * on.std(0).norm()


def test_a_linear_probe_reads_loudness_of_a_mixture(ears):
    generator = torch.Generator().manual_seed(0)
    loudness = torch.rand(220, len(CARRIERS), generator=generator) * 0.1
    features = ears(loudness @ tones(CARRIERS, 0.4, loudness=1.0), 16000)[:, 8]
    inputs = torch.cat([features, torch.ones(220, 1)], 1)
    probe = torch.linalg.lstsq(inputs[:180], loudness[:180]).solution
    error = (inputs[180:] @ probe - loudness[180:]).square().mean() / loudness[180:].var()
    assert error < 0.1


def test_the_whole_clip_is_encoded_because_features_look_both_ways(ears):
    sound = torch.randn(1, 32000, generator=torch.Generator().manual_seed(0)) * 0.1
    whole, halves = ears(sound, 16000), torch.cat([ears(half, 16000) for half in sound.chunk(2, 1)], 1)
    assert (whole - halves)[:, 39].abs().max() > 1e-3


def test_features_stop_before_the_last_convolution_unless_asked():
    config = wavtokenizer_config((5, 5, 4, 4), 4, 32, 16000)
    torch.manual_seed(0)
    early = EncodecPerceiver(config)
    late = EncodecPerceiver(config, final_convolution=True)
    late.encoder.load_state_dict(early.encoder.state_dict())
    sound = torch.randn(1, 16000) * 0.1
    hidden = early(sound, 16000)
    assert (early.width, hidden.shape[-1], late.width) == (64, 64, 32)
    for layer in early.encoder.layers[-2:]:
        hidden = layer(hidden.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(late(sound, 16000), hidden)
    torch.testing.assert_close(late(sound, 16000), early.encoder(sound[:, None]).transpose(1, 2))


def raw_checkpoint(encoder):
    """An encoder's weights as WavTokenizer's checkpoint spells them, beside weights of other parts."""
    raw = {"backbone.norm.weight": torch.ones(2), "feature_extractor.encodec.decoder.model.0.conv.conv.bias": torch.ones(2)}
    for key, tensor in encoder.state_dict().items():
        key = key.replace("layers.", "model.", 1).replace(".conv.", ".conv.conv.")
        key = key.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v")
        raw["feature_extractor.encodec.encoder." + key] = tensor
    return raw


def test_checkpoint_keys_are_those_of_the_released_model():
    raw = raw_checkpoint(TinyEncodec().encoder)
    for key in (
        "model.0.conv.conv.weight_g",
        "model.1.block.1.conv.conv.weight_v",
        "model.1.shortcut.conv.conv.bias",
        "model.13.lstm.weight_ih_l0",
    ):
        assert f"feature_extractor.encodec.encoder.{key}" in raw
    assert rename_wavtokenizer(raw).keys() == TinyEncodec().encoder.state_dict().keys()


def test_a_checkpoint_on_disk_gives_its_own_features(tmp_path):
    torch.manual_seed(0)
    original = EncodecPerceiver(wavtokenizer_config())
    torch.save({"state_dict": raw_checkpoint(original.encoder)}, tmp_path / "w.ckpt")
    loaded = WavTokenizer(str(tmp_path / "w.ckpt"))
    sound = torch.randn(1, 24000) * 0.1
    assert (loaded.rate, loaded.width, loaded.sample_rate) == (40, 512, 24000)
    assert torch.equal(loaded(sound, 24000), original(sound, 24000))
    convolution = loaded.encoder.layers[0].conv
    gain, direction = convolution.parametrizations.weight.original0, convolution.parametrizations.weight.original1
    torch.testing.assert_close(convolution.weight, gain * direction / direction.flatten(1).norm(dim=1)[:, None, None])


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "w.ckpt")
    with pytest.raises(ValueError, match="does not hold a WavTokenizer encoder"):
        WavTokenizer(str(tmp_path / "w.ckpt"))


@pytest.mark.parametrize("rates", [(16000, 24000), (24000, 16000), (44100, 24000), (48000, 24000)])
def test_resampling_agrees_with_scipy(rates):
    from scipy.signal import resample_poly

    sound = torch.randn(2, 4410, generator=torch.Generator().manual_seed(0))
    theirs = torch.from_numpy(resample_poly(sound.double().numpy(), rates[1], rates[0], axis=1)).float()
    ours = resample(sound, *rates)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_tone_survives_resampling_and_one_above_the_new_band_does_not():
    low, high = resample(tones((1000, 11000), 1.0, 24000), 24000, 16000)[:, 1000:-1000]
    torch.testing.assert_close(low, tones((1000,), 1.0, 16000)[0, 1000:-1000], atol=2e-3, rtol=0)
    assert high.abs().max() < 0.01
