"""BigVGAN, the vocoder of 16 kHz mel spectrograms, as diffusers' ``LTX2Vocoder``: the same network with other parameter names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

RENAMES = (
    (r"^conv_pre\.", "conv_in."),
    (r"^conv_post\.", "conv_out."),
    (r"^activation_post\.", "act_out."),
    (r"^ups\.(\d+)\.0\.", r"upsamplers.\1."),
    (r"^resblocks\.", "resnets."),
    (r"\.downsample\.lowpass\.filter$", ".downsample.filter"),
)


def rename_bigvgan(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A BigVGAN generator's weights under the vocoder's keys, with weight normalisation folded in: w = g v / |v|.

    BigVGAN has one alternating list of the activations before first and second convolutions; the vocoder has two lists.
    """
    weights = _fold_weight_norm(weights)
    renamed = {}
    for key, tensor in weights.items():
        for pattern, name in RENAMES:
            key = re.sub(pattern, name, key)
        key = re.sub(r"\.activations\.(\d+)\.", lambda found: f".acts{int(found[1]) % 2 + 1}.{int(found[1]) // 2}.", key)
        renamed[key] = tensor
    return renamed


def _fold_weight_norm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Folds normalised weights, stored as ``weight_g``/``weight_v`` or as ``parametrizations.weight.original0``/``1``."""
    factors = {
        key.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v"): tensor
        for key, tensor in weights.items()
    }
    folded = {key: tensor for key, tensor in factors.items() if not key.endswith((".weight_g", ".weight_v"))}
    for key, direction in factors.items():
        if key.endswith(".weight_v"):
            norm = torch.linalg.vector_norm(direction, dim=tuple(range(1, direction.ndim)), keepdim=True)
            folded[key.removesuffix("_v")] = factors[key.removesuffix("_v") + "_g"] * direction / norm
    return folded


def bigvgan_16k(
    hidden_channels: int = 1536,
    kernel_sizes: tuple[int, ...] = (3, 7, 11),
    dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
) -> LTX2Vocoder:
    """The vocoder of MMAudio's 16 kHz mels, without its weights: 80 log10 mels to 256 samples per frame.

    Args:
        hidden_channels: Channels after the first convolution; each of six upsamplings halves them.
        kernel_sizes: Kernel sizes of the residual blocks of one scale.
        dilations: Dilations of the residual blocks.
    """
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

    return LTX2Vocoder(
        in_channels=80,
        hidden_channels=hidden_channels,
        out_channels=1,
        upsample_kernel_sizes=[8, 8, 4, 4, 4, 4],
        upsample_factors=[4, 4, 2, 2, 2, 2],
        resnet_kernel_sizes=list(kernel_sizes),
        resnet_dilations=[list(d) for d in dilations],
        act_fn="snakebeta",
        antialias=True,
        final_act_fn="tanh",
        final_bias=True,
        output_sampling_rate=16000,
    )
