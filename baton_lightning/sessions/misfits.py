"""Reports a checkpoint that does not fit the built networks or optimiser in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def misfits_named() -> Iterator[None]:
    """Context in which torch's error about a state that does not fit is replaced by one line that says how to fix it.

    Raises:
        ValueError: If a state does not fit. The message names the first parameters that differ.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if not (what := misfit(str(error))):
            raise
        raise ValueError(
            f"the checkpoint holds {what}; networks, frozen parts and parts with their own learning rate must be those of the "
            f"checkpoint: restore the setting, or give another run.experiment"
        ) from error


def misfit(message: str) -> str:
    """Short description of what does not fit, from torch's message; empty if the message is about something else."""
    if message.startswith("loaded state dict"):
        return "the state of an optimiser of other parameters"
    if "Error(s) in loading state_dict" not in message:
        return ""
    sizes = re.findall(r"size mismatch for ([\w.]+): .*?torch\.Size\((\[[\d, ]*\])\).*?torch\.Size\((\[[\d, ]*\])\)", message)
    names = [
        name
        for listed in re.findall(r"(?:Missing|Unexpected) key\(s\) in state_dict: (.*?)\.\s*$", message, re.M)
        for name in listed.split(", ")
    ]
    first = [f"{name} is {was} there and {now} here" for name, was, now in sizes[:2]] or [name.strip('"') for name in names[:2]]
    return f"other networks: {len(sizes)} parameters of another shape, {len(names)} that only one of both has ({', '.join(first)})"
