"""Loading of the weights that come with the library."""

from __future__ import annotations

from typing import Any

from baton_lightning.generation.pipeline import Pipeline, load


def pretrained(name: str = "nano", **options: Any) -> Pipeline:
    """Loads weights that come with the library.

    Args:
        name: ``nano``: a tiny chain of the benchmark world, for a look at the method on any CPU.
        options: ``device`` and ``dtype`` of :func:`baton_lightning.load`.

    Raises:
        ValueError: If there are no weights of this name.
    """
    from baton_lightning.generation.pretrained import HOME, names

    if name not in names():
        raise ValueError(f"the library comes with weights named {', '.join(names()) or 'nothing'}, got {name!r}; `load` takes a folder")
    return load(HOME / name, **options)
