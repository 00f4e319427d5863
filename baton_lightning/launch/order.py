"""Checks of the order and the dependencies of the stages of a chain."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from baton_lightning.launch.stage import Stage


def require_order(path: Path, name: str, after: list[str], entries: dict[str, Any]) -> None:
    """Refuses a stage with an unknown dependency, a circular dependency, or a dependency that stands below it in the file.

    Args:
        path: The chain file, for the message.
        name: Name of the stage.
        after: Names of the stages that it depends on.
        entries: All stages of the file.

    Raises:
        ValueError: If a dependency is invalid. The message says what to change in the file.
    """
    names = [str(known) for known in entries]
    for other in after:
        if other not in names:
            near = get_close_matches(other, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"the stages are {', '.join(names)}"
            raise ValueError(f"chain: {path}: {name} comes after {other}, but there is no stage of that name; {hint}")
        if circle := dependency_path(entries, other, name):
            raise ValueError(
                f"chain: {path}: {name} comes after {other}, and {other} after {name} ({' -> '.join([name, *circle])}), so none could "
                f"start; remove one of the names from its `after`"
            )
        if names.index(other) > names.index(name):
            raise ValueError(f"chain: {path}: {name} comes after {other}, which is below it in the file; move {other} above {name}")


def dependency_path(entries: dict[str, Any], start: str, end: str, seen: tuple[str, ...] = ()) -> list[str]:
    """Path from stage ``start`` to stage ``end`` along `after`, both included; empty if there is none."""
    if start == end:
        return [end]
    after = entries.get(start, {}).get("after") or ()
    for other in after if isinstance(after, list | tuple) else ():
        if other not in seen and (rest := dependency_path(entries, str(other), end, (*seen, start))):
            return [start, *rest]
    return []


def require_parents(path: Path, stages: dict[str, Stage]) -> None:
    """Refuses a stage that loads the run of another stage as a parent without depending on it.

    Raises:
        ValueError: If a dependency is missing. The message says what to add to the file.
    """
    before: dict[str, set[str]] = {}
    folders = {stage.folder.absolute(): name for name, stage in stages.items() if stage.verb == "fit"}
    for name, stage in stages.items():
        before[name] = {earlier for other in stage.after for earlier in (other, *before[other])}
        given = ((stage.settings.get("model") or {}).get("init_args") or {}).get("parents") or {}
        for role, run in given.items() if isinstance(given, dict) else ():
            parent = folders.get(Path(str(run)).absolute())
            if parent is not None and parent != name and parent not in before[name]:
                where = "" if list(stages).index(parent) < list(stages).index(name) else f", and move {parent} above {name}"
                raise ValueError(
                    f"chain: {path}: {name} starts from the run of {parent} (parents.{role}: {run}), but does not come after it; add "
                    f"`after: [{parent}]` to {name}{where}"
                )
