"""`base:` chains: a configuration file names the file that it builds on, which may name another. This module orders the files; the parser
merges them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from baton_lightning.plain_files import read_bytes

BASE = re.compile(r"^base:[ \t]*(?P<name>[^#\n]*)", re.MULTILINE)


def chain(path: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """A configuration file and all files that it builds on, the deepest base first.

    Args:
        path: The file. Its ``base:`` key is relative to its folder.
        above: Files that lead to this one by their ``base:`` keys.

    Raises:
        ValueError: If a file is missing or empty, or the chain is circular.
    """
    try:
        path = path.resolve()
    except RuntimeError as error:  # a link to itself
        raise ValueError(f"configuration: {path} must be a file, got a broken link; check the path") from error
    if path in above:
        names = " -> ".join(p.name for p in (*above[above.index(path) :], path))
        raise ValueError(f"configuration: `base:` entries form a cycle: {names}; remove `base:` from one of them")
    if not path.is_file():
        source = f", which {above[-1].name} names as its base" if above else ""
        raise ValueError(f"configuration: there is no file {path}{source}; check the path")
    try:
        text = read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"configuration: {path} must be YAML in UTF-8 ({error})") from error
    if not re.search(r"^[^#\s]", text, re.MULTILINE):
        raise ValueError(f"configuration: {path} is empty; a configuration needs at least one key")
    found = BASE.search(text)
    name = found["name"].strip().strip("'\"") if found else ""
    if not name or name in ("null", "~"):
        return [path]
    return [*chain(path.parent / name, (*above, path)), path]


def configs(argv: Sequence[str]) -> Iterator[Path]:
    """Configuration files that a command line names."""
    rest = iter(argv)
    for item in rest:
        flag, equals, value = item.partition("=")
        if flag in ("-c", "--config") and (value := value if equals else next(rest, "")):
            yield Path(value)


def expand(argv: list[str]) -> list[str]:
    """Command-line arguments in which each ``-c FILE`` is replaced by its whole chain."""
    out: list[str] = []
    rest = iter(argv)
    for item in rest:
        flag, equals, value = item.partition("=")
        if flag in ("-c", "--config"):
            value = value if equals else next(rest, "")
            if not value:
                raise ValueError(f"configuration: {flag} must be followed by a file; e.g. {flag} experiments/stage1.yaml")
            for path in chain(Path(value)):
                out += ["--config", str(path)]
        else:
            out.append(item)
    return out
