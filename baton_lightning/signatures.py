"""Reads arguments of classes and their annotations from source code. No module is imported, so misspelt keys are found before torch is
loaded.

Where the source code does not determine the arguments (``**kwargs``, decorators, star imports), the result is unknown, never guessed.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


class Missing(Exception):
    """A module or class certainly does not exist.

    Args:
        why: Python's error about a missing module; empty if the module exists but lacks the class.
        names: Classes that the module defines or imports.
    """

    def __init__(self, why: str, names: list[str]) -> None:
        super().__init__(why)
        self.why, self.names = why, names


Arguments = dict[str, ast.expr | None]
"""Name of an argument -> its annotation; ``None`` without one."""


def arguments(name: str) -> Arguments | None:
    """Arguments of a class's constructor, without ``self``.

    Args:
        name: Dotted name of the class, e.g. ``baton_lightning.muon.MuonAdamW``.

    Returns:
        Name -> annotation; ``None`` if the source code does not determine them.

    Raises:
        Missing: If there is no such class.
    """
    found = located(name)
    return None if found is None else own_arguments(*found)


def parameters(name: str, method: str) -> Arguments | None:
    """Parameters of a method of a class, without ``self``; ``None`` if it is inherited or the source code does not determine them."""
    found = located(name)
    defined = None if found is None else method_of(found[1], method)
    return None if defined is None else names_of(defined)


def located(name: str, depth: int = 8) -> tuple[str, ast.ClassDef] | None:
    """The module that defines a class, and the definition. Imports by name are followed.

    Raises:
        Missing: If there is no such module, or its source code does not contain the name of the class.
    """
    module, _, attribute = name.rpartition(".")
    file = file_of(module) if module else None
    if file is None or not depth:
        return None
    tree = parsed(file)
    bound = [node for node in tree.body if attribute in bindings(node)]
    if not bound:
        require_mentioned(file, tree, attribute)
        return None
    node = bound[-1]
    if isinstance(node, ast.ClassDef):
        return module, node
    if not isinstance(node, ast.ImportFrom):
        return None
    original = next(alias.name for alias in node.names if (alias.asname or alias.name) == attribute)
    try:
        return located(f"{source_of(node, module, file)}.{original}", depth - 1)
    except Missing:
        return None


def require_mentioned(file: Path, tree: ast.Module, attribute: str) -> None:
    """Checks that a module contains a name, or may define it dynamically.

    Raises:
        Missing: If it does neither.
    """
    text = file.read_text()
    if re.search(rf"\b{re.escape(attribute)}\b", text) or re.search(r"import \*|__getattr__|globals\(\)|setattr\(", text):
        return
    if file.name == "__init__.py" and any((file.parent / f"{attribute}{end}").exists() for end in ("", ".py")):
        return
    raise Missing("", [name for node in tree.body for name in bindings(node) if name[:1].isupper() and not name.isupper()])


def own_arguments(module: str, node: ast.ClassDef) -> Arguments | None:
    """Arguments of a class that is defined in ``module``; inherited ones if it has no constructor of its own."""
    if node.keywords or method_of(node, "__new__"):
        return None
    decorators = [ast.unparse(decorator).partition("(")[0].rpartition(".")[2] for decorator in node.decorator_list]
    if decorators == ["dataclass"]:
        return fields_of(module, node)
    if decorators:
        return None
    if (constructor := method_of(node, "__init__")) is not None:
        return names_of(constructor)
    return inherited(module, node)


def inherited(module: str, node: ast.ClassDef) -> Arguments | None:
    """Arguments of the constructor of the only base class; none without a base class, ``None`` if unknown."""
    bases = [ast.unparse(base) for base in node.bases if ast.unparse(base) not in ("object", "ABC", "abc.ABC")]
    if not bases:
        return {}
    file = file_of(module)
    if len(bases) > 1 or file is None or not bases[0].isidentifier():
        return None
    try:
        found = located(f"{module}.{bases[0]}")
    except Missing:
        return None
    return None if found is None else own_arguments(*found)


def fields_of(module: str, node: ast.ClassDef) -> Arguments | None:
    """Fields of a dataclass; those of its base class come first."""
    first = inherited(module, node)
    own = [statement for statement in node.body if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)]
    plain = all(
        "ClassVar" not in (annotation := ast.unparse(field)) and "InitVar" not in annotation and "init=" not in annotation for field in own
    )
    if first is None or not plain or method_of(node, "__init__"):
        return None
    return first | {field.target.id: field.annotation for field in own if isinstance(field.target, ast.Name)}


def names_of(function: ast.FunctionDef) -> Arguments | None:
    """Arguments of a method, without ``self``; ``None`` if it accepts arbitrary or positional-only ones."""
    taken = function.args
    if taken.vararg or taken.kwarg or taken.posonlyargs:
        return None
    return {argument.arg: argument.annotation for argument in (*taken.args[1:], *taken.kwonlyargs)}


def method_of(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """A method that a class defines itself."""
    return next((found for found in reversed(node.body) if isinstance(found, ast.FunctionDef) and found.name == name), None)


def bindings(node: ast.stmt) -> list[str]:
    """Names that a top-level statement of a module binds."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    return [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)]


def source_of(node: ast.ImportFrom, module: str, file: Path) -> str:
    """Absolute name of the module that a statement imports from."""
    if not node.level:
        return str(node.module)
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


@lru_cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def file_of(module: str) -> Path | None:
    """Source file of a module; ``None`` if it has none. The top-level package is located by Python's import system, the rest by path.

    Raises:
        Missing: If there is no such module.
    """
    top, *below = module.split(".")
    spec = find_spec(top)
    if spec is None:
        raise Missing(f"No module named {top!r}", [])
    if not below:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    if not spec.submodule_search_locations:
        raise Missing(f"No module named {'.'.join([top, below[0]])!r}; {top!r} is not a package", [])
    folders = [Path(place) for place in spec.submodule_search_locations]
    for depth, part in enumerate(below):
        last = depth == len(below) - 1
        inner = [folder / part for folder in folders]
        if packages := [folder for folder in inner if (folder / "__init__.py").exists()]:
            folders = packages[:1]
            if last:
                return packages[0] / "__init__.py"
        elif files := [folder.with_suffix(".py") for folder in inner if folder.with_suffix(".py").exists()]:
            return files[0] if last else None
        elif any(folder.is_dir() or list(folder.parent.glob(f"{part}.*")) for folder in inner):
            return None  # a compiled module or a namespace package
        else:
            raise Missing(f"No module named {'.'.join([top, *below[: depth + 1]])!r}", [])
    return None
