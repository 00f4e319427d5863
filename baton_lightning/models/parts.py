"""Patterns for parts of a network: dotted names in which ``*`` stands for any characters, e.g. `dit.latent_mlp`, `dit.*.plan_attn`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import accumulate

from torch import nn


def matching_part(parameter: str, names: Iterable[str]) -> str:
    """The longest pattern that matches a parameter or a module that contains it; empty if none does.

    Args:
        parameter: Dotted name of the parameter.
        names: Patterns.
    """
    prefixes = prefixes_of(parameter)
    return max((name for name in names if any(fnmatchcase(prefix, name) for prefix in prefixes)), key=len, default="")


def prefixes_of(parameter: str) -> list[str]:
    """Names of all modules that contain a parameter, outermost first, and its own name."""
    return list(accumulate(parameter.split("."), "{}.{}".format))


def require_parts(names: Iterable[str], parameters: Collection[str], setting: str) -> None:
    """Refuses patterns that match nothing.

    Args:
        names: Patterns.
        parameters: Dotted names of the parameters that may be matched.
        setting: The setting that holds the patterns, for the error message.

    Raises:
        ValueError: If a pattern matches no parameter and no module that contains one; the message names the nearest matches.
    """
    for name in names:
        if not any(matching_part(parameter, [name]) for parameter in parameters):
            known = list(dict.fromkeys(prefix for parameter in parameters for prefix in prefixes_of(parameter)))
            near = get_close_matches(name, known, 3, 0.5) or list(dict.fromkeys(prefix.partition(".")[0] for prefix in known))
            raise ValueError(f"{setting}: {name!r} matches no part of the network; the nearest names are {', '.join(near)}")


def freeze(module: nn.Module, frozen: Collection[str], trained: Collection[str] = (), *, prefix: str = "", setting: str) -> None:
    """Sets ``requires_grad`` of parts of a network to false.

    Args:
        module: The network.
        frozen: Patterns of parts that are not trained.
        trained: Patterns of parts within the frozen ones that are trained nevertheless.
        prefix: Prefix of parameter names.
        setting: The section that holds ``frozen``, e.g. ``model.init_args``, for error messages.

    Raises:
        ValueError: If a pattern in ``frozen`` matches nothing, or a pattern in ``trained`` matches nothing frozen, or weights in int8.
    """
    parameters = dict(module.named_parameters(prefix=prefix))
    if trained and not frozen:
        raise ValueError(
            f"{setting}.trained lists exceptions of {setting}.frozen, which must not be empty, got trained={list(trained)}; set "
            f"{setting}.frozen, e.g. to [{next(iter(parameters)).partition('.')[0]}], or remove {setting}.trained: everything is trained"
        )
    require_parts(frozen, parameters, f"{setting}.frozen")
    frozen_parameters = {name: parameter for name, parameter in parameters.items() if matching_part(name, frozen)}
    require_parts(trained, frozen_parameters, f"{setting}.trained, which lists exceptions of {setting}.frozen")
    codes = [name for name, parameter in frozen_parameters.items() if not parameter.is_floating_point() and matching_part(name, trained)]
    if codes:
        raise ValueError(f"{setting}.trained: {codes[0]} is in int8, which has no gradient; train its adapter, or leave out lora.base")
    for name, parameter in frozen_parameters.items():
        parameter.requires_grad_(bool(matching_part(name, trained)))
