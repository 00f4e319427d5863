"""Checks whether plain values fit annotations, from the syntax tree of the annotation."""

from __future__ import annotations

import ast
import re
from typing import Any

PLAIN: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
LISTS = ("list", "List", "Sequence", "Iterable", "set")


def fits(value: Any, annotation: ast.expr | None) -> bool | None:
    """Whether a value fits the annotation of an argument.

    Args:
        value: Value from YAML.
        annotation: Annotation of the argument; ``None`` if it has none.

    Returns:
        ``None`` if only the parser can decide.
    """
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(text)):
            return fits(value, ast.parse(text, mode="eval").body)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return either(fits(value, left), fits(value, right))
        case ast.Name(id="Any"):
            return True
        case ast.Name(id=name) if name in PLAIN:
            return isinstance(value, PLAIN[name]) and (name == "bool" or not isinstance(value, bool))
        case ast.Name(id="timedelta"):
            return isinstance(value, str) and re.fullmatch(r"\d+:\d\d:\d\d", value) is not None
        case ast.Subscript(value=ast.Name(id=name), slice=inner):
            return fits_generic(value, name, inner.elts if isinstance(inner, ast.Tuple) else [inner])
    return None


def fits_generic(value: Any, name: str, inner: list[ast.expr]) -> bool | None:
    """Whether a value fits the annotation ``name[inner]``."""
    if name == "Literal":
        return any(isinstance(one, ast.Constant) and type(one.value) is type(value) and one.value == value for one in inner)
    if name == "Optional":
        return True if value is None else fits(value, inner[0])
    if name == "Union":
        return either(*(fits(value, one) for one in inner))
    if name in LISTS:
        return all_of([fits(one, inner[0]) for one in value]) if isinstance(value, list) else False
    if name in ("tuple", "Tuple") and not any(isinstance(one, ast.Constant) and one.value is Ellipsis for one in inner):
        alike = isinstance(value, list) and len(value) == len(inner)
        return all_of([fits(one, each) for one, each in zip(value, inner, strict=True)]) if alike else False
    if name in ("dict", "Mapping") and len(inner) == 2:
        return all_of([fits(one, inner[1]) for one in value.values()]) if isinstance(value, dict) else False
    return None


def either(*found: bool | None) -> bool | None:
    """Whether any is true; ``None`` if unknown."""
    return True if True in found else None if None in found else False


def all_of(found: list[bool | None]) -> bool | None:
    """Whether all are true; ``None`` if unknown."""
    return False if False in found else None if None in found else True
