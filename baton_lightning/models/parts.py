"""Parts of a network by dotted name, with ``*`` for any run of characters: `dit.latent_mlp`, `dit.*.plan_attn`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import accumulate

from torch import nn


def part_of(parameter: str, names: Iterable[str]) -> str:
    """The longest of some names of parts that a parameter is in, or is itself; empty if it is in none.

    Args:
        parameter: Dotted name of the parameter.
        names: Names of parts.
    """
    above = above_of(parameter)
    return max((name for name in names if any(fnmatchcase(place, name) for place in above)), key=len, default="")


def above_of(parameter: str) -> list[str]:
    """Names of all that a parameter is in, from the outside, and of itself."""
    return list(accumulate(parameter.split("."), "{}.{}".format))


def require_parts(names: Iterable[str], parameters: Collection[str], setting: str) -> None:
    """Refuses names of nothing.

    Args:
        names: Names of parts.
        parameters: Dotted names of the parameters that may be meant.
        setting: What the names were given to.

    Raises:
        ValueError: If a name matches no parameter and nothing that one is in; the message names the nearest that are.
    """
    for name in names:
        if not any(part_of(parameter, [name]) for parameter in parameters):
            known = list(dict.fromkeys(place for parameter in parameters for place in above_of(parameter)))
            near = get_close_matches(name, known, 3, 0.5) or list(dict.fromkeys(place.partition(".")[0] for place in known))
            raise ValueError(f"{setting}: nothing that could be meant is called {name!r}; the nearest are {', '.join(near)}")


def freeze(module: nn.Module, frozen: Collection[str], trained: Collection[str] = (), *, prefix: str = "", setting: str) -> None:
    """Stops the training of parts of a network.

    Args:
        module: The network.
        frozen: Names of parts that are not trained.
        trained: Names of parts within those that are trained all the same.
        prefix: What names of parameters begin with.
        setting: Where ``frozen`` was given, e.g. ``model.init_args``.

    Raises:
        ValueError: If a name matches nothing, or one in ``trained`` nothing that is frozen.
    """
    parameters = dict(module.named_parameters(prefix=prefix))
    if trained and not frozen:
        raise ValueError(
            f"{setting}.trained makes exceptions of {setting}.frozen, which names nothing, got {list(trained)}; name what is frozen, e.g. "
            f"[{next(iter(parameters)).partition('.')[0]}], or leave {setting}.trained out: everything is trained"
        )
    require_parts(frozen, parameters, f"{setting}.frozen")
    stopped = {name: parameter for name, parameter in parameters.items() if part_of(name, frozen)}
    require_parts(trained, stopped, f"{setting}.trained, which makes exceptions of {setting}.frozen")
    for name, parameter in stopped.items():
        parameter.requires_grad_(bool(part_of(name, trained)))
