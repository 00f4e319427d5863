"""Small modules of a Wan/Ovi branch. Their attribute names equal those of Ovi's checkpoint, so its weights load without a mapping."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from baton_lightning.models.attention import EPS


def sinusoid(t: Float[Tensor, "*B"], width: int) -> Float[Tensor, "*B W"]:
    """Sinusoidal embedding of the flow time, cosines first: angles 1000 t * 10000^(-i / (W/2)), computed in float64.

    Args:
        t: Flow time in [0, 1], 0 = clean, 1 = noise; it is multiplied by 1000, as in Wan.
        width: Width W, even.
    """
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
    angle = 1000.0 * t.double().unsqueeze(-1) * frequencies
    return torch.cat((angle.cos(), angle.sin()), -1)


def layer_norm(tokens: Float[Tensor, "*B C"], eps: float = EPS) -> Float[Tensor, "*B C"]:
    """Layer normalisation without learned scale and shift."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=eps)


def rows_of_tokens(rows: Float[Tensor, "B N C"], known: Bool[Tensor, "B L"] | None) -> Float[Tensor, "B M C"]:
    """The row of each token's own flow time.

    Args:
        rows: A row of the clip's time and, if there are known tokens, a row of time 0.
        known: Which tokens are known and clean; ``None`` = none, and the one row is for all.
    """
    return rows if known is None else torch.where(known[..., None], rows[:, 1:], rows[:, :1])


def modulate(
    tokens: Float[Tensor, "B L C"], shift: Float[Tensor, "B N C"], scale: Float[Tensor, "B N C"], eps: float
) -> Float[Tensor, "B L C"]:
    """LN(x) (1 + scale) + shift; N is 1 (one row a clip) or L (a row a token)."""
    return layer_norm(tokens, eps) * (1 + scale) + shift


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, tanh-GELU, Linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, outputs))


class Modulation(nn.Module):
    """A block's learned offset to the shared time modulation: shift, scale, gate of attention, then of the feed-forward network.

    Args:
        width: Channels C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 6, width) / width**0.5)

    def forward(self, time: Float[Tensor, "B N 6 C"]) -> tuple[Tensor, ...]:
        return (self.modulation.unsqueeze(0) + time).unbind(2)


class Head(nn.Module):
    """Modulated projection of tokens to the velocity of their patch.

    Args:
        width: Channels C of the tokens.
        outputs: Values per token.
        eps: Epsilon of the norm.
    """

    def __init__(self, width: int, outputs: int, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.modulation = nn.Parameter(torch.randn(1, 2, width) / width**0.5)
        self.head = nn.Linear(width, outputs)

    def forward(
        self, tokens: Float[Tensor, "B L C"], time: Float[Tensor, "B N C"], known: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L O"]:
        """Velocities; ``time`` is the time embedding itself, not its projection to six rows."""
        shift, scale = (rows_of_tokens(rows, known) for rows in (self.modulation.unsqueeze(0) + time.unsqueeze(2)).unbind(2))
        return self.head(modulate(tokens, shift, scale, self.eps))


class ConvMLP(nn.Module):
    """Gated convolutional MLP along time, w2(silu(w1 x) * w3 x), without biases (MMAudio).

    Args:
        width: Channels C in and out.
        hidden: Hidden channels before they are multiplied by 2/3 (as usual in gated MLPs) and rounded up to a multiple of 256.
        kernel: Kernel size, odd.
    """

    def __init__(self, width: int, hidden: int, kernel: int = 7) -> None:
        super().__init__()
        hidden = -(-int(2 * hidden / 3) // 256) * 256
        convolution = {"kernel_size": kernel, "padding": kernel // 2, "bias": False}
        self.w1 = nn.Conv1d(width, hidden, **convolution)
        self.w2 = nn.Conv1d(hidden, width, **convolution)
        self.w3 = nn.Conv1d(width, hidden, **convolution)

    def forward(self, x: Float[Tensor, "B C L"]) -> Float[Tensor, "B C L"]:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))
