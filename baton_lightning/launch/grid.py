"""Tasks of a SLURM array: the lines of a list file, or all combinations of the values of ``--grid``."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

from baton_lightning import settings

RUN = ("run.root", "run.experiment", "run.stage")
OPENS, CLOSES = "[{(", "]})"


def tasks(grid: list[str], listed: Path | None) -> list[list[str]]:
    """Overrides of every array task; empty if there is no array.

    Args:
        grid: Axes ``key=a,b``. A comma inside brackets, braces or quotes is part of the value: ``betas=[0.9,0.98],[0.9,0.95]``.
        listed: File with one line of overrides per task.

    Raises:
        ValueError: If a grid is not ``key=a,b``, the list is missing or empty, or both are given.
    """
    if listed is not None and grid:
        raise ValueError("slurm: --array FILE and --grid both define the tasks; give one of them")
    if listed is not None:
        return lines_of(listed)
    axes = []
    for axis in grid:
        key, equals, text = axis.partition("=")
        key, values = key.removeprefix("--"), split(text)
        if not key or not equals or not all(values):
            raise ValueError(
                f"slurm: --grid must be key=value,value, got {axis!r}; e.g. --grid seed_everything=0,1,2, or lists: "
                "--grid betas=[0.9,0.98],[0.9,0.95]"
            )
        axes.append([f"--{key}={value}" for value in values])
    return [list(words) for words in itertools.product(*axes)] if axes else []


def lines_of(listed: Path) -> list[list[str]]:
    """Overrides of every line of a list file."""
    if not listed.is_file():
        raise ValueError(f"slurm: there is no list {listed}; write one line of overrides per task, e.g. `--seed_everything=1`")
    try:
        lines = [shlex.split(line, comments=True) for line in listed.read_text().splitlines()]
    except ValueError as error:  # an unclosed quote, or a file that is not text
        raise ValueError(f"slurm: {listed} must hold overrides in shell syntax: {error}") from error
    if not any(lines):
        raise ValueError(f"slurm: {listed} must hold one line of overrides per task, it holds none")
    return [line for line in lines if line]


def split(text: str) -> list[str]:
    """Values separated by commas outside brackets, braces and quotes. One empty value if a bracket or quote is not closed."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += 0 if quote else (letter in OPENS) - (letter in CLOSES)
        if letter == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values] if not depth and not quote else [""]


def with_own_folder(words: list[str], experiment: str) -> list[str]:
    """Overrides of a task, with a ``run.experiment`` named after them unless they set the run folder themselves."""
    given = settings.overrides(words)
    if any(name in given for name in RUN):
        return words
    name = "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in given.items())
    return [f"--run.experiment={experiment}-{re.sub(r'[^A-Za-z0-9.=+_-]+', '_', name)}", *words]
