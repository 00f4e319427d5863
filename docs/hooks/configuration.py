"""The page of the configuration: the experiments, and every class that they name with its arguments. Nothing is imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe
from commands import table

OURS = ("baton_lightning", "datamodules", "callbacks")
ALWAYS = {"clip": "baton_lightning.clip.ClipSpec", "run": "baton_lightning.runs.run_spec.RunSpec"}
"""Sections that are no classes' arguments in a file, but those of one class."""


def page(root: Path) -> str:
    """Sections, experiments and classes, as Markdown."""
    files = sorted((root / "experiments").rglob("*.yaml"))
    named = sorted({name for file in files for name in re.findall(r"class_path: ([\w.]+)", file.read_text()) if name.startswith(OURS)})
    packages = {name: griffe.load(name, search_paths=[str(root)], docstring_parser="google") for name in OURS}
    parts = ["## Sections of every file"]
    parts += [part for section, name in ALWAYS.items() for part in described(f"{section}:", find(packages, name))]
    parts.append("## Classes that experiments name")
    parts += [part for name in named for part in described(name.rpartition(".")[2], find(packages, name))]
    parts.append("## Experiments")
    for file in files:
        path = file.relative_to(root).as_posix()
        comment = " ".join(line[1:].strip() for line in file.read_text().splitlines() if line.startswith("# ")).split(". ")[0].rstrip(".")
        source = "\n".join(f"    {line}".rstrip() for line in file.read_text().splitlines())
        title = f"{path}: {comment}".replace('"', "'")
        parts.append(f'??? note "{title}"\n\n    ```yaml\n{source}\n    ```')
    return "\n\n".join(parts)


def find(packages: dict[str, Any], name: str) -> Any:
    """A class by its full name."""
    package, _, rest = name.partition(".")
    found = packages[package][rest]
    return found.final_target if found.is_alias else found


def described(title: str, found: Any) -> list[str]:
    """Heading, purpose and arguments of a class."""
    sections = found.docstring.parse("google", warnings=False) if found.docstring else []
    text = next((section.value for section in sections if section.kind.value == "text"), "")
    about = {one.name: one.description for section in sections if section.kind.value == "parameters" for one in section.value}
    rows = []
    for one in found.parameters:
        if one.name in ("self", "clip", "seed") or one.kind in (griffe.ParameterKind.var_positional, griffe.ParameterKind.var_keyword):
            continue  # linked from the sections of the same name
        usual = "required" if one.default is None else f"`{one.default}`"
        rows.append((f"`{one.name}`", f"`{one.annotation}`" if one.annotation else "", usual, about.get(one.name, "")))
    parts = [f"### {title}", f"`{found.path}`", text.split("\n\n")[0]]
    return [part for part in (*parts, table(("argument", "type", "default", "meaning"), rows) if rows else "") if part]
