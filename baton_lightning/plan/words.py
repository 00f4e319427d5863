"""What a plan says as a table of words, and where it differs from its prompts: `plan show` prints it, `pipe.words(plan)` returns it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton_lightning import hints
from baton_lightning.plan.clip_plan import ClipPlan
from baton_lightning.plan.probes import NAME, Probes
from baton_lightning.plan.reading import read
from baton_lightning.runs import manifest
from baton_lightning.world.parse import parse_prompts

WIDTH = 100
"""Characters of a line of :class:`PlanWords` as text."""


class NoProbes(ValueError):
    """A run has no probes."""


@dataclass(frozen=True, repr=False)
class PlanWords:
    """Content of a plan in words. As text it is what `plan show` prints.

    Args:
        lines: The content alone: a line of objects, then each event at its moment in s.
        rows: A fact of the prompts, what the plan says of it, and where the two differ (empty if they do not). Empty if the prompts cannot
            be compared.
        reason: Why the prompts cannot be compared; empty if they can.
        facts: The same as values, see :func:`baton_lightning.world.facts.facts`; ``None`` if the prompts cannot be compared.
    """

    lines: tuple[str, ...]
    rows: tuple[tuple[str, str, str], ...]
    reason: str = ""
    facts: dict[str, Any] | None = None

    @property
    def differences(self) -> list[tuple[str, str, str]]:
        """Rows in which plan and prompts differ."""
        return [row for row in self.rows if row[2]]

    @property
    def verdict(self) -> str:
        """Whether plan and prompts agree, in one line."""
        if self.reason:
            return f"its prompts cannot be compared ({self.reason})"
        differ = len(self.differences)
        return f"{differ} of {len(self.rows)} lines differ from the prompt" if differ else "it says what the prompt says"

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.table import Table
        from rich.text import Text

        if self.reason:
            yield Text("\n".join([f"plan: {self.verdict}", *(f"  {line}" for line in self.lines)]))
            return
        table = Table("prompt", "plan", "differs", title="what the plan says")
        for row in self.rows:
            table.add_row(*map(Text, row), style="red" if row[2] else None)
        yield table
        yield Text(f"plan: {self.verdict}")

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=WIDTH, color_system=None, force_jupyter=False).print(self)
        return text.getvalue().rstrip()

    __repr__ = __str__


def words_of(plan: ClipPlan, probes: Probes) -> PlanWords:
    """Reads a plan, and compares it with its prompts if they are in the world's language.

    Raises:
        ValueError: If the plan has another geometry, or other feature statistics than the probes' clips.
    """
    reading = read(plan, probes)
    lines = tuple(reading.words())
    try:
        scene = parse_prompts(plan.video_prompt, plan.audio_prompt, plan.clip.seconds)
    except ValueError as error:
        return PlanWords(lines, (), str(error))
    return PlanWords(lines, tuple(reading.compared(scene)), facts=reading.facts(scene))


def probes_of_run(run: str | Path | None) -> Probes:
    """The probes in the folder of a run.

    Args:
        run: The folder; empty or ``None`` = unknown.

    Raises:
        NoProbes: If the folder has none. The message is the command that makes them.
        ValueError: If the file is damaged.
    """
    folder = Path(run) if run else None
    if folder is not None and (folder / NAME).exists():
        return Probes.load(folder / NAME)
    raise NoProbes(f"plan: to read it in words, make probes once: {made_by(folder)}")


def made_by(run: Path | None, *more: str) -> str:
    """The command that makes the probes of a run, with further arguments. An export has no data set, so the command names one."""
    exported = run is not None and (run / manifest.NAME).is_file() and "bundled" in manifest.read(run)
    return hints.command("plan", "probes", "--run", run or "RUN", *(["--data", "FOLDER"] if exported else []), *more)
