"""Frozen linear layers in int8: one byte for a weight, and one float32 scale for each output channel (weight-only quantisation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor, nn

LEVELS = 127
"""Largest code; codes are symmetric around zero."""


class Int8Linear(nn.Module):
    """A frozen linear layer whose weight W is rounded to scale x codes, codes in int8 and one scale for each output channel.

    The error of a weight is at most scale / 2, which is 1/254 of the largest weight of its row. The bias is unchanged. Codes and scales are
    parameters without a gradient, so whatever is done with frozen weights is done with them: they are constructed last, left out of
    checkpoints, counted by `estimate`.

    torchao's weights are not used: they are subclasses of tensors, which safetensors does not write, and which checkpoints that are read
    with ``weights_only=True`` do not hold. Two plain tensors are written, handed over and compared as any others.

    Args:
        linear: The layer; its weight is rounded, its bias is taken over.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.scale = (nn.Parameter(tensor, requires_grad=False) for tensor in quantise(linear.weight.detach()))
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        product: Tensor = Product.apply(x, self.weight, self.scale)
        return product if self.bias is None else product + self.bias.to(product.dtype)


class Product(torch.autograd.Function):
    """x W^T, for which W is dequantised to the type of x; in the backward pass once more, so that no float copy of W is kept until then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.dtype = x.dtype
        return F.linear(x, dequantise(codes, scale).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return (gradient @ dequantise(*ctx.saved_tensors).to(gradient.dtype)).to(ctx.dtype), None, None


def quantise(weight: Float[Tensor, "O I"]) -> tuple[Int8[Tensor, "O I"], Float[Tensor, "O"]]:
    """Codes in [-127, 127] of a weight, and the float32 scale of each row: its largest absolute value / 127."""
    weight = weight.float()
    scale = weight.abs().amax(1) / LEVELS
    safe = scale.clamp(min=torch.finfo(torch.float32).tiny)  # a row of zeros has codes of zero
    return (weight / safe[:, None]).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale


def dequantise(codes: Int8[Tensor, "O I"], scale: Float[Tensor, "O"]) -> Float[Tensor, "O I"]:
    """The weight that codes and scales stand for, in the type of the scales."""
    return codes * scale[:, None]


def quantise_frozen(network: nn.Module) -> None:
    """Replaces every linear layer of a network of which nothing is trained, in place."""
    for owner in list(network.modules()):
        for name, layer in owner.named_children():
            if isinstance(layer, nn.Linear) and not any(parameter.requires_grad for parameter in layer.parameters()):
                setattr(owner, name, Int8Linear(layer))


def scale_of(key: str) -> str:
    """Key of the scales that belong to the codes with a key."""
    return key.removesuffix("weight") + "scale"


def dequantised(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without int8 layers, which become float32; others are unchanged."""
    codes = {key for key, tensor in weights.items() if tensor.dtype == torch.int8 and scale_of(key) in weights}
    scales = {scale_of(key) for key in codes}
    return {
        key: dequantise(tensor, weights[scale_of(key)].float()) if key in codes else tensor
        for key, tensor in weights.items()
        if key not in scales
    }


@dataclass(frozen=True)
class QuantisedOnReading:
    """Codes or scales of a weight that is stored in float.

    Args:
        whole: The weight, with its ``shape`` and a method ``read``.
        part: 0 = codes, 1 = scales.
    """

    whole: Any
    part: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.whole.shape[: 2 - self.part]

    def read(self) -> Tensor:
        """Reads the weight and quantises it."""
        return quantise(self.whole.read())[self.part]


def quantised_on_reading(own: Mapping[str, Tensor], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Stored weights for a network, quantised where the network holds int8 and the files do not.

    Args:
        own: State dict of the network.
        stored: Weights on disk, by the network's keys.
    """
    found = dict(stored)
    for key, tensor in own.items():
        if tensor.dtype == torch.int8 and key in stored and scale_of(key) not in stored:
            found |= {key: QuantisedOnReading(stored[key], 0), scale_of(key): QuantisedOnReading(stored[key], 1)}
    return found
