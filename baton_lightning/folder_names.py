"""Keeps names of folders as text: YAML reads `007`, `1e3`, `0x1F`, `1:30` and `yes` as numbers or booleans."""

from __future__ import annotations

import re
from typing import Any

import yaml

NAMES = ("run.root", "run.experiment", "run.stage", "data.init_args.root")
"""Settings that name folders."""
FLOAT = re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$")
"""Numbers in YAML 1.2 and for jsonargparse that PyYAML reads as text."""


def named(values: Any, text: str) -> Any:
    """Restores the original text of settings in :data:`NAMES`.

    Args:
        values: Parsed settings; changed in place.
        text: Content of the file.
    """
    if not isinstance(values, dict) or not (wrong := [name for name in NAMES if not isinstance(of(values, name), str | None)]):
        return values
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for name in wrong:
        *above, last = name.split(".")
        node, holder = root, values
        for key in above:
            node, holder = below(node, key), holder[key]
        if isinstance(scalar := below(node, last), yaml.ScalarNode):
            holder[last] = scalar.value
    return values


def of(values: Any, name: str) -> Any:
    """The value of a dotted key; ``None`` if it is not given."""
    for key in name.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def below(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """The node of a mapping's key; the last one if a key is given twice."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in reversed(pairs) if name.value == key), None)


def keep_names() -> None:
    """Makes the parser of a run read files in this way, and quote text that it would otherwise read back as a number."""
    from jsonargparse import ArgumentParser, get_loader, set_loader

    mode = "omegaconf+"
    ArgumentParser(parser_mode=mode).parse_string("{}")  # registers the loader
    load = get_loader(mode)
    set_loader(mode, lambda text: named(load(text), text), exceptions=(yaml.YAMLError,))
    yaml.SafeDumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))
