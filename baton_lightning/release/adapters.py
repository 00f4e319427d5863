"""LoRA adapters of a run: in the formats of PEFT and diffusers, or added to the weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baton_lightning import atomic, int8

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = {"planner": "language.llm.model.", "dit": ""}
"""Component -> prefix of the network with adapters in it."""
A, B, BASE = ".lora_A.default.", ".lora_B.default.", ".base_layer."
SETTINGS = ("lora", "lora_rank", "lora_alpha")
"""Settings of networks that describe adapters."""


@dataclass(frozen=True)
class Adapter:
    """Adapters of one network.

    Args:
        network: Prefix of the network's keys in its component.
        tensors: A and B, by the component's keys.
        rank: Rank of A and B.
        alpha: Scale: the product of B and A is multiplied by alpha / rank.
        base: Name or folder of the network that they belong to; ``None`` = unknown.
    """

    network: str
    tensors: dict[str, Tensor]
    rank: int
    alpha: float
    base: str | None

    def named(self, prefix: str) -> dict[str, Tensor]:
        """A and B by the names of PEFT, after a prefix."""
        return {
            prefix + key.removeprefix(self.network).replace(".default.", "."): tensor.contiguous() for key, tensor in self.tensors.items()
        }


def adapter_of(component: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Adapter | None:
    """The adapters of a component; ``None`` if it has none.

    Args:
        component: Name of the component.
        tensors: Its weights.
        settings: Its settings.
    """
    own = {key: tensor for key, tensor in tensors.items() if A in key or B in key}
    if not own or component not in NETWORKS:
        return None
    args, base = settings["init_args"], None
    if component == "planner":
        llm = args["llm"]["init_args"]
        given, base = {"rank": llm["lora_rank"], "alpha": llm.get("lora_alpha")}, llm.get("name_or_path")
    else:
        given = args["lora"]
    rank = next(tensor.shape[0] for key, tensor in own.items() if A in key)
    if given.get("rank", rank) != rank:
        raise ValueError(f"export: the adapters of {component} have rank {rank}, but its settings say {given['rank']}; restore them")
    return Adapter(NETWORKS[component], own, rank, float(given.get("alpha") or 2 * rank), base)


def merged(tensors: dict[str, Tensor], adapter: Adapter) -> dict[str, Tensor]:
    """Weights with the adapters added, under the names of a network without adapters.

    Sums are computed in float64 and rounded once to the type of the weight. A base in int8 is dequantised to float32 first: its rounding,
    with which the adapters were trained, stays in the weights.
    """
    whole = int8.dequantised({key.replace(BASE, "."): tensor for key, tensor in tensors.items() if key not in adapter.tensors})
    for key, low in adapter.tensors.items():
        if A in key:
            name = key.replace(A, ".")
            update = adapter.tensors[key.replace(A, B)].double() @ low.double()
            weight = whole[name]
            whole[name] = (weight.double() + adapter.alpha / adapter.rank * update).to(weight.dtype)
    return whole


def without_adapters(settings: Any) -> Any:
    """Settings of a component, of which no network has adapters."""
    if isinstance(settings, dict):
        return {key: without_adapters(value) for key, value in settings.items() if key not in SETTINGS}
    return [without_adapters(value) for value in settings] if isinstance(settings, list) else settings


def describe_merged(described: dict[str, Any], components: Iterable[str]) -> dict[str, Any]:
    """A run's manifest after the adapters of some of its components were merged."""
    described = copy.deepcopy(described)
    for name in components:
        for owner in (described.get("config", {}).get("model", {}).get("init_args", {}), described.get("beyond_shapes", {})):
            if name in owner:
                owner[name] = without_adapters(owner[name])
    return described


def write(folder: Path, adapter: Adapter) -> None:
    """Writes adapters in PEFT's format; those of a transformer also under the names of diffusers.

    Args:
        folder: Folder to create.
        adapter: The adapters.
    """
    from peft import LoraConfig

    folder.mkdir()
    layers = sorted({key.partition(A)[0].removeprefix(adapter.network) for key in adapter.tensors if A in key})
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=int(adapter.alpha) if adapter.alpha == int(adapter.alpha) else adapter.alpha,
        target_modules=sorted({layer.rpartition(".")[2] for layer in layers}) if adapter.network else layers,
        base_model_name_or_path=adapter.base,
    )
    config.save_pretrained(str(folder))
    atomic.write_tensors(folder / "adapter_model.safetensors", adapter.named("base_model.model."), {"format": "pt"})
    if adapter.network == "":
        described = {"format": "pt", "lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in jsonable(config).items()})}
        atomic.write_tensors(folder / "pytorch_lora_weights.safetensors", adapter.named("transformer."), described)


def jsonable(config: Any) -> dict[str, Any]:
    """PEFT's settings without sets, which JSON lacks."""
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
