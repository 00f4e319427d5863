"""Low-rank adapters of linear layers (LoRA, arXiv 2106.09685): a frozen weight W acts as W + (alpha / rank) B A, and A and B are trained.

PEFT makes the layers. A layer `q` with an adapter has the weights `q.base_layer.weight`, `q.lora_A.default.weight` and
`q.lora_B.default.weight`, where a layer without one has `q.weight`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeVar

from torch import nn

BASE = ".base_layer."
A, B = ".lora_A.default.", ".lora_B.default."
T = TypeVar("T")


@dataclass(frozen=True)
class LoraOptions:
    """Options of adapters. All other weights of the layers that exist in the pretrained network are frozen.

    Args:
        rank: Rows of A and columns of B, >= 1.
        alpha: Scale of the adapters: their output is multiplied by alpha / rank; ``None`` = ``2 * rank``.
        targets: Last parts of the names of the linear layers that get an adapter, e.g. ``q``, ``cross_attn.q`` or ``ffn.0``. The default is
            every linear layer of the transformer's blocks.
        base: Type of the frozen linear layers of the transformer's blocks: ``int8`` rounds their weights to one byte
            (:mod:`~baton_lightning.int8`), ``None`` leaves them as they are.

    Raises:
        ValueError: If rank or alpha is not positive, there is no target, or the type of the base is not known.
    """

    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] = ("q", "k", "v", "o", "k_fusion", "v_fusion", "ffn.0", "ffn.2")
    base: Literal["int8"] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.scale > 0 or not self.targets:
            raise ValueError(
                f"lora needs a rank of at least 1, a positive alpha and at least one target, got rank={self.rank}, alpha={self.alpha}, "
                f"targets={list(self.targets)}"
            )
        if self.base not in (None, "int8"):
            raise ValueError(f"lora.base must be int8, or null for weights as they are, got {self.base!r}")

    @property
    def scale(self) -> float:
        """Alpha, with its default."""
        return 2.0 * self.rank if self.alpha is None else float(self.alpha)


def add_adapters(network: nn.Module, options: LoraOptions, whole: Collection[str] = ()) -> None:
    """Adds float32 adapters to linear layers of a network and freezes its other weights. New adapters do not change the output.

    Args:
        network: The network; its layers are replaced in place.
        options: Rank, scale and targets.
        whole: Names of submodules, e.g. ``plan_attn``, that get no adapters and whose weights are trained.

    Raises:
        ValueError: If a target matches no linear layer; the message names the nearest ones.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    inside = {name for name in linear if set(name.split(".")) & set(whole)}
    for target in options.targets:
        if not any(ends_with(name, target) for name in linear if name not in inside):
            known = dict.fromkeys(".".join(name.split(".")[-n:]) for name in linear if name not in inside for n in (1, 2))
            near = get_close_matches(target, [name for name in known if not name.isdigit()], 3, 0.3) or list(known)[:3]
            raise ValueError(f"lora.targets: {target!r} must end the name of a linear layer, none does; near it are {', '.join(near)}")
    excluded = any(ends_with(name, target) for name in inside for target in options.targets)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.scale,  # declared as int, used as a factor
        target_modules=list(options.targets),
        exclude_modules=rf"(.*\.)?({'|'.join(whole)})\..*" if excluded else None,
    )
    inject_adapter_in_model(config, network)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()  # the frozen base may have half precision; trained adapters must not
        parameter.requires_grad_("lora_" in name or bool(set(name.split(".")) & set(whole)))


def ends_with(name: str, target: str) -> bool:
    """Whether a layer is a target, as PEFT matches names."""
    return name == target or name.endswith(f".{target}")


def is_adapter(key: str) -> bool:
    """Whether a weight belongs to an adapter."""
    return A in key or B in key


def under_base_names(own: Collection[str], weights: Mapping[str, T]) -> dict[str, T]:
    """Weights of a network without adapters, named as in a network with adapters; weights that have such names already are unchanged.

    Args:
        own: Keys of the network with adapters.
        weights: Weights by their keys.
    """
    wrapped = {key.replace(BASE, "."): key for key in own if BASE in key}
    return {wrapped.get(key, key): weight for key, weight in weights.items()}
