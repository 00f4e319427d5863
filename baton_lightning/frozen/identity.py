"""Fingerprint of a frozen network, by which caches of its outputs are identified."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

PLAIN = (bool, int, float, str, tuple, list, dict, type(None))


def describe(network: nn.Module) -> dict[str, Any]:
    """Description of a network: class, plain attributes of the root, parameter types, and a digest of the plain attributes of all
    submodules, weights and buffers."""
    settings: dict[str, Any] = {}
    for path, module in network.named_modules():
        own = [c for c in type(module).__mro__ if issubclass(c, nn.Module) and c is not nn.Module]
        for name, value in {k: v for level in (*map(vars, reversed(own)), vars(module)) for k, v in level.items()}.items():
            if name != "training" and not name.startswith("_") and isinstance(value, PLAIN):
                settings[f"{path}.{name}".lstrip(".")] = repr(value)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted([*network.named_parameters(), *network.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    shown = {name: value for name, value in settings.items() if "." not in name}
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in network.parameters()})
    name = f"{type(network).__module__}.{type(network).__qualname__}"
    return {"class": name, "settings": shown, "dtypes": dtypes, "sha256": digest.hexdigest()}
