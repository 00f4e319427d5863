"""WavTokenizer's encoder, the audio perceiver: continuous features before quantisation (Baton, Sec. 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from baton_lightning.frozen.downloads import hub_file, load_checkpoint, load_strict
from baton_lightning.frozen.freeze import seeded
from baton_lightning.frozen.perceivers import AudioPerceiver
from baton_lightning.frozen.resample import resample

if TYPE_CHECKING:
    from transformers import EncodecConfig

REPOSITORY = "novateur/WavTokenizer-large-unify-40token"
CHECKPOINT = "wavtokenizer_large_unify_600_24k.ckpt"
KEY_PREFIX = "feature_extractor.encodec.encoder."


class EncodecPerceiver(AudioPerceiver):
    """Features of an Encodec encoder, on which WavTokenizer is built.

    The convolutions are not causal, so a whole clip is encoded at once; features of 1-s chunks are slices of the result.

    Args:
        config: Encoder settings; the token rate is ``sampling_rate`` divided by the product of ``upsampling_ratios``.
        final_convolution: Take the output of the last convolution, which the quantiser gets, instead of the LSTM's output.

    Note:
        The paper does not state the layer; the LSTM's output is our choice.
    """

    def __init__(self, config: EncodecConfig, final_convolution: bool = False) -> None:
        super().__init__()
        from transformers import EncodecModel

        self.sample_rate: int = config.sampling_rate
        self.hop: int = math.prod(config.upsampling_ratios)
        self.rate: float = self.sample_rate / self.hop
        self.encoder = EncodecModel(config).encoder
        self.final_convolution = final_convolution
        self.width: int = config.hidden_size if final_convolution else config.num_filters * 2 ** len(config.upsampling_ratios)
        self.freeze()

    @torch.no_grad()
    def forward(self, waveform: Float[Tensor, "B S"], sample_rate: int) -> Float[Tensor, "B K C"]:
        """Features of a clip, K = ceil(S / sample_rate * rate).

        Args:
            waveform: Mono sound in [-1, 1].
            sample_rate: Its rate, in Hz; the sound is resampled to the encoder's rate.
        """
        hidden = resample(waveform.to(self.device, self.dtype), sample_rate, self.sample_rate)[:, None]
        for layer in self._layers():
            hidden = layer(hidden)
        return hidden.transpose(1, 2).float()

    def _layers(self) -> nn.ModuleList:
        return self.encoder.layers if self.final_convolution else self.encoder.layers[:-2]


def rename_wavtokenizer(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights of a WavTokenizer checkpoint, under the keys of transformers."""
    swaps = (
        ("model.", "layers."),
        (".conv.conv.", ".conv."),
        (".weight_g", ".parametrizations.weight.original0"),
        (".weight_v", ".parametrizations.weight.original1"),
    )
    renamed = {}
    for key, tensor in weights.items():
        if key.startswith(KEY_PREFIX):
            name = key.removeprefix(KEY_PREFIX)
            for old, new in swaps:
                name = name.replace(old, new)
            renamed[name] = tensor
    return renamed


def wavtokenizer_config(
    ratios: tuple[int, ...] = (6, 5, 5, 4), num_filters: int = 32, width: int = 512, sample_rate: int = 24000
) -> EncodecConfig:
    """WavTokenizer's settings of an Encodec encoder; ratios (6, 5, 5, 4) give 40 tokens/s and (8, 5, 4, 2) give 75."""
    from transformers import EncodecConfig

    return EncodecConfig(
        sampling_rate=sample_rate,
        audio_channels=1,
        num_filters=num_filters,
        hidden_size=width,
        num_residual_layers=1,
        upsampling_ratios=list(ratios),
        norm_type="weight_norm",
        kernel_size=7,
        last_kernel_size=7,
        residual_kernel_size=3,
        dilation_growth_rate=2,
        use_causal_conv=False,
        pad_mode="reflect",
        compress=2,
        num_lstm_layers=2,
        codebook_size=8,
        codebook_dim=width,
        use_conv_shortcut=True,
    )


@torch.no_grad()
def _keep_variance(encoder: nn.Module) -> None:
    """Initialises weights with variance 1 / fan-in and biases with zero, so that the features of a random encoder depend on the sound. With
    the library's initialisation the biases dominate, and all tones have nearly the same features."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv1d):
            module.weight = torch.randn_like(module.weight) / module.weight[0].numel() ** 0.5
            module.bias.zero_()


def _four_strides(sample_rate: int, rate: int) -> tuple[int, ...]:
    """Four strides whose product is the hop length, as equal as possible, largest first."""
    hop, rest = divmod(sample_rate, rate)
    choices = [
        (a, b, c, hop // (a * b * c))
        for a in range(10, 1, -1)
        for b in range(a, 1, -1)
        for c in range(b, 1, -1)
        if rest == 0 and hop % (a * b * c) == 0 and 1 < hop // (a * b * c) <= c
    ]
    if not choices:
        raise ValueError(f"TinyEncodec: sample_rate / rate must be a product of four strides from 2 to 10, got {sample_rate} / {rate}")
    return min(choices, key=max)


class TinyEncodec(EncodecPerceiver):
    """A small, randomly initialised WavTokenizer encoder, by default at 16 kHz with an eighth of the filters.

    Features of a tone are constant over tokens only if its frequency is a multiple of the token rate.

    Args:
        rate: Tokens per second.
        width: Channels C, a multiple of 16.
        sample_rate: Sample rate of the encoder, in Hz.
        final_convolution: As in :class:`EncodecPerceiver`.
        seed: Seed of the weights; the global random state does not change.

    Raises:
        ValueError: If ``sample_rate / rate`` is not a product of four strides from 2 to 10, or ``width`` is not a multiple of 16.
    """

    def __init__(self, rate: int = 40, width: int = 64, sample_rate: int = 16000, final_convolution: bool = False, seed: int = 0) -> None:
        if width % 16:
            raise ValueError(f"TinyEncodec: width must be a multiple of 16 (four stages double the filters), got {width}")
        config = wavtokenizer_config(_four_strides(sample_rate, rate), width // 16, width, sample_rate)
        with seeded(seed):
            super().__init__(config, final_convolution)
            _keep_variance(self.encoder)


class WavTokenizer(EncodecPerceiver):
    """The released WavTokenizer encoder, 40 tokens/s x 512 channels at 24 kHz.

    Args:
        path: A local checkpoint; ``None`` = the released one from the hub.
        ratios: Strides of the checkpoint; (8, 5, 4, 2) for the models of 75 tokens/s.
        final_convolution: As in :class:`EncodecPerceiver`.

    Raises:
        ValueError: If the checkpoint cannot be read or is not one of WavTokenizer's.
    """

    def __init__(self, path: str | None = None, ratios: tuple[int, int, int, int] = (6, 5, 5, 4), final_convolution: bool = False) -> None:
        licence = "MIT (WavTokenizer)"
        file = hub_file(REPOSITORY, CHECKPOINT, licence=licence, path=path)
        with seeded(0):
            super().__init__(wavtokenizer_config(ratios), final_convolution)
        weights = load_checkpoint(file, licence=licence)
        state_dict = weights.get("state_dict", weights)
        load_strict(
            self.encoder, rename_wavtokenizer(state_dict) if isinstance(state_dict, Mapping) else {}, f"a WavTokenizer encoder ({file})"
        )
