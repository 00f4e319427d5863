"""Stages of an experiment on a page: digests, parents, metrics, curves and environment, from the files of their run folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baton_lightning.evaluation.report.curves import curves
from baton_lightning.evaluation.report.inert import inert
from baton_lightning.runs import manifest
from baton_lightning.runs.ledgers import NAME as LEDGER
from baton_lightning.runs.ledgers import last_step

SHORT = 12
"""Characters of a digest."""
MOST_METRICS = 8
WIDTH, HEIGHT = 260, 84


@dataclass
class StageEntry:
    """A stage.

    Args:
        folder: Its run folder.
        record: Its manifest; empty if it is not finished or damaged.
        state: ``finished``, or what is the matter.
        curves: Name -> (step, value) of a scalar.
    """

    folder: Path
    record: dict[str, Any]
    state: str
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


def stages_of(folder: Path) -> list[StageEntry]:
    """Stages of an experiment's folder, or a run and its ancestors beside it. Parents come before children."""
    if (folder / manifest.NAME).is_file() or (folder / LEDGER).is_file():
        wanted, found = [folder], {}
        while wanted:
            entry = _entry(wanted.pop())
            found[entry.folder.name] = entry
            beside = [entry.folder.resolve().parent / Path(p["run"]).name for p in entry.record.get("parents", {}).values()]
            wanted += [path for path in beside if path.name not in found and (path / manifest.NAME).is_file()]
    else:
        places = [path for path in sorted(folder.iterdir()) if (path / manifest.NAME).is_file() or (path / LEDGER).is_file()]
        found = {path.name: _entry(path) for path in places}
    return _in_order(found)


def _entry(folder: Path) -> StageEntry:
    record: dict[str, Any] = {}
    try:
        if (folder / manifest.NAME).is_file():
            record, state = manifest.read(folder), "finished"
        else:
            state = f"not finished, step {last_step(folder)}"
    except (ValueError, OSError) as error:
        state = str(error)
    return StageEntry(folder, record, state, curves(folder))


def _in_order(found: dict[str, StageEntry]) -> list[StageEntry]:
    """Parents first; a circle is cut."""
    ordered: dict[str, StageEntry] = {}

    def add(name: str, above: tuple[str, ...] = ()) -> None:
        if name in ordered or name in above or name not in found:
            return
        for parent in found[name].record.get("parents", {}).values():
            add(Path(parent["run"]).name, (*above, name))
        ordered[name] = found[name]

    for name in found:
        add(name)
    return list(ordered.values())


def chain_table(stages: Iterable[StageEntry]) -> str:
    """Stages with weights, parents and metrics. Digests of parents are compared with the parents' manifests."""
    stages = list(stages)
    known = {stage.folder.name: stage.record.get("weights_sha256") for stage in stages}
    rows = []
    for stage in stages:
        parents = [_parent(role, entry, known) for role, entry in stage.record.get("parents", {}).items()]
        metrics = {k.removeprefix("val/"): v for k, v in stage.record.get("metrics", {}).items() if k.startswith("val/")}
        digest, seconds = str(stage.record.get("weights_sha256", "")), stage.record.get("seconds")
        cells = [
            inert(stage.record.get("stage", "-"), 60),
            _digest(digest),
            "<br>".join(parents) or "none",
            "<br>".join(f"{inert(name, 60)} {value:.3f}" for name, value in sorted(metrics.items())[:MOST_METRICS]) or "-",
            inert(stage.record.get("seed", "-"), 20),
            f"{seconds:.0f} s" if isinstance(seconds, int | float) else "-",
        ]
        name = f"{inert(stage.folder.name, 60)}<small>{inert(stage.state, 200)}</small>"
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    head = "".join(f'<th scope="col">{t}</th>' for t in ("stage", "class", "weights", "parents", "held-out", "seed", "session"))
    return f'<div class="wide" tabindex="0" role="region" aria-label="stages"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _parent(role: str, entry: dict[str, str], known: dict[str, str | None]) -> str:
    there = known.get(Path(entry["run"]).name)
    holds = "not here" if there is None else "✓ same weights" if there == entry["weights_sha256"] else "✗ other weights now"
    return f"{inert(role, 60)}: {inert(Path(entry['run']).name, 60)} {_digest(entry['weights_sha256'])} {holds}"


def _digest(text: str) -> str:
    return f'<code title="{inert(text, 80)}">{inert(text[:SHORT])}</code>' if text else "-"


def charts(stages: Iterable[StageEntry]) -> str:
    """Curves of all stages as small charts."""
    return "".join(
        f"<figure>{_chart(points)}<figcaption>{inert(stage.folder.name, 60)}: {inert(name, 60)}, last {points[-1][1]:.4g} "
        f"at step {points[-1][0]}</figcaption></figure>"
        for stage in stages
        for name, points in stage.curves.items()
    )


def _chart(points: list[tuple[int, float]]) -> str:
    """A curve with the range of both axes."""
    (first, last), values = (points[0][0], points[-1][0]), [value for _, value in points]
    low, high = min(values), max(values)
    across, up = max(last - first, 1), (high - low) or 1.0
    places = [(8 + (WIDTH - 16) * (step - first) / across, HEIGHT - 18 - (HEIGHT - 34) * (value - low) / up) for step, value in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places) if len(places) < 12 else ""
    words = f'<text x="8" y="11">{high:.3g}</text><text x="8" y="{HEIGHT - 4}">{low:.3g}</text>'
    words += f'<text x="{WIDTH - 8}" y="{HEIGHT - 4}" text-anchor="end">step {first} to {last}</text>'
    text = f"from {values[0]:.3g} at step {first} to {values[-1]:.3g} at step {last}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text}"><polyline points="{line}"/>{dots}{words}</svg>'


def environment(stages: Iterable[StageEntry]) -> str:
    """Packages, commit and data of the finished stages; each set of values once."""
    seen: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for stage in stages:
        if not stage.record:
            continue
        packages = stage.record.get("packages")
        entries = {"commit": str(stage.record.get("git_commit") or "unknown"), "data set": str(stage.record.get("data") or "unknown")}
        entries |= {str(name): str(version) for name, version in packages.items()} if isinstance(packages, dict) else {}
        seen.setdefault(tuple(entries.items()), []).append(stage.folder.name)
    parts = []
    for values, names in seen.items():
        items = "".join(f"<dt>{inert(name, 60)}</dt><dd>{inert(value, 80)}</dd>" for name, value in values)
        parts.append(f"<h3>{inert(', '.join(names), 300)}</h3><dl>{items}</dl>")
    return "".join(parts) or "<p>Unknown: no finished stage is here.</p>"
