"""Muon for matrices and AdamW for other parameters, which needs fewer steps to the same loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of a quintic whose iteration moves singular values towards 1


@torch.no_grad()
def orthogonalise(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """The matrix with singular values of about 1 (between 0.7 and 1.2) and unchanged singular vectors.

    Args:
        matrix: Matrix [R, C].
        steps: Newton-Schulz iterations.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class MuonAdamW(Optimizer):
    """An optimiser with two rules: weight matrices of layers are updated along their orthogonalised momentum, other parameters by AdamW.

    The update of a matrix is ``lr * 0.2 * sqrt(max(R, C))`` times an orthogonal matrix. Its root mean square equals that of an AdamW step,
    so both rules share learning rate and weight decay. The ``matrices`` flag of a group selects the rule; groups of
    :func:`baton_lightning.optim.parameter_groups` have it.

    Args:
        params: Parameters or groups. Parameters that are not matrices are always updated by AdamW.
        lr: Learning rate of AdamW groups and, times ``matrix_rate``, of matrices.
        matrix_rate: Factor of the learning rate of matrices.
        momentum: Momentum of matrices, in [0, 1); Nesterov.
        betas: Decay of AdamW's first and second moment.
        eps: AdamW's epsilon.
        weight_decay: Decoupled weight decay.

    Note:
        The paper's optimiser is AdamW. ZeRO flattens and partitions matrices, which this rule needs whole, so such a run is refused.

    References:
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
        J. Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982 (the 0.2 sqrt(max(R, C)) scale).
    """

    whole_matrices = True  # partitions are not supported

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        matrix_rate: float = 1.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        if lr < 0 or matrix_rate < 0 or weight_decay < 0:
            raise ValueError(f"MuonAdamW: lr, matrix_rate and weight_decay must be >= 0, got {lr}, {matrix_rate}, {weight_decay}")
        defaults = {
            "lr": lr,
            "matrix_rate": matrix_rate,
            "momentum": momentum,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "matrices": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["matrices"] and parameter.ndim == 2:
                    self._muon(parameter, group)
                else:
                    self._adamw(parameter, group)
        return loss

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, rate = self.state[parameter], group["lr"] * group["matrix_rate"]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        update = orthogonalise(parameter.grad.lerp(state["momentum"], group["momentum"]))
        parameter.mul_(1 - rate * group["weight_decay"])
        parameter.add_(update, alpha=-rate * 0.2 * max(parameter.shape) ** 0.5)

    def _adamw(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2), rate = self.state[parameter], group["betas"], group["lr"]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step = state["step"].item()
        state["mean"].lerp_(parameter.grad, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        scale = (state["square"] / (1 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.mul_(1 - rate * group["weight_decay"])
        parameter.addcdiv_(state["mean"], scale, value=-rate / (1 - beta1**step))
