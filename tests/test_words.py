"""The words of the code: names that were replaced do not come back, and the table of renames in CONTRIBUTING.md stays true."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Renames\n")[2].partition("\n## ")[0]
NAMES = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\S+) \|$", TABLE, re.MULTILINE)
"""(old, new, path prefix) of identifiers."""
MODULES = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", TABLE, re.MULTILINE)
"""(old, new) of modules and of names in them."""


def identifiers(path: Path) -> Iterator[str]:
    """Names that a file defines, binds, uses or imports; texts, comments and keys of dictionaries are not names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.alias(name=name):
                yield from name.split(".")
            case ast.keyword(arg=str(name)):
                yield name


@cache
def names_in(prefix: str) -> frozenset[str]:
    """Identifiers of all files whose path begins with a prefix; ``everywhere`` is the library, the workbench and the tests."""
    prefixes = ("baton_lightning/", "callbacks/", "datamodules/", "tests/") if prefix == "everywhere" else (prefix,)
    files = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).as_posix().startswith(prefixes)]
    return frozenset(name for path in files for name in identifiers(path))


@pytest.mark.parametrize(("old", "new", "where"), NAMES, ids=[f"{old}-{where}" for old, _, where in NAMES])
def test_a_replaced_name_does_not_come_back(old: str, new: str, where: str) -> None:
    assert old not in names_in(where), f"{old} was renamed to {new} in {where}"
    assert new in names_in(where), f"the table of renames names {new}, which is not in {where}"


@pytest.mark.parametrize(("old", "new"), MODULES, ids=[old for old, _ in MODULES])
def test_a_moved_module_is_where_the_table_says(old: str, new: str) -> None:
    assert not module_file(old), f"{old} was moved to {new}"
    assert module_file(new), f"the table of renames names {new}, which does not exist"


def module_file(name: str) -> Path | None:
    """File or folder of a module below ``baton_lightning`` or of the workbench."""
    stem = (
        ROOT / name.replace(".", "/")
        if name.startswith(("callbacks", "datamodules"))
        else ROOT / "baton_lightning" / name.replace(".", "/")
    )
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.exists()), None)


def test_the_tables_are_read() -> None:
    assert len(NAMES) > 50 and len(MODULES) > 20
    assert {"rotate", "Located", "look_inward", "claim", "Standing", "Conductor"} <= {old for old, _, _ in NAMES}
