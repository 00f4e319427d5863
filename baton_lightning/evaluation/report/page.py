"""`index.html`: clips, scores and stages in one file that needs no server and loads nothing.

All texts of prompts and files are inert: they are escaped, and a content security policy lets no other script run than the page's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton_lightning import atomic
from baton_lightning.evaluation.report import cards, choice, stages
from baton_lightning.evaluation.report.document import MOST_BYTES, document
from baton_lightning.evaluation.report.found import CONDITIONS, OTHER, Found, find, title_of
from baton_lightning.evaluation.report.inert import inert, paragraph
from baton_lightning.evaluation.report.plan_strips import PlanStrip, plan_strips
from baton_lightning.evaluation.scores import cell
from baton_lightning.plain_files import require_no_link
from baton_lightning.world.score_table import HEADLINE, SCORES

NAME = "index.html"
RESERVE = 1_500_000
"""Bytes of a page that its clips may not fill."""
MOST_FILM = 600_000
LEAST_FILM = 60_000
MOST_NOTES = 20
SECTIONS = ("compare", "clips", "scores", "glossary", "stages")
GENERATOR = '<meta name="generator" content="baton_lightning report">'
BROKEN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError)
"""Errors of damaged clips and of records that nobody's `evaluate` wrote."""


@dataclass
class Budget:
    """Bytes that are left for clips."""

    left: int = MOST_BYTES - RESERVE

    @property
    def film(self) -> int:
        """Largest length of the next film."""
        return min(MOST_FILM, self.left // 2)

    def spend(self, part: str) -> str:
        self.left -= len(part.encode())
        return part


@dataclass(frozen=True)
class Written:
    """A page that was written.

    Args:
        file: The page.
        headline: Its numbers in one sentence; empty if nothing is scored.
        num_clips: Clips with a card.
        notes: What could not be shown.
    """

    file: Path
    headline: str
    num_clips: int
    notes: list[str]


def write_page(folder: Path, num_clips: int = 24, *, run: Path | None = None, out: Path | None = None) -> Written:
    """Writes the page of a folder.

    Args:
        folder: A run, an experiment, or a folder of clips.
        num_clips: Number of clips to show.
        run: Run of the clips, if it is not ``folder``.
        out: The page; ``None`` = ``index.html`` in the folder.

    Raises:
        ValueError: If the folder holds neither clips nor stages, or the page would replace a file that is no such page.
    """
    found = find(folder)
    file = out or folder / NAME
    require_replaceable(file)
    chain = stages.stages_of(run or folder)
    if not found.clips and not chain:
        raise ValueError(
            f"report: {folder}/ must hold clips (k.mp4, or samples/ and controls/ of a demo, evaluation/ of a run) or stages, got none; "
            " write clips with `python -m baton_lightning generate`"
        )
    budget = Budget()
    hero, shown, scores = _hero(found, budget), _cards(found, num_clips, budget), _score_tables(found)
    found.notes = list(dict.fromkeys(found.notes))
    notes = "".join(f"<li>{inert(note, 500)}</li>" for note in found.notes[:MOST_NOTES])
    more = f"<li>and {len(found.notes) - MOST_NOTES} more</li>" if len(found.notes) > MOST_NOTES else ""
    values = {
        "generator": GENERATOR,
        "title": inert(folder.resolve().name, 120),
        "headline": inert(found.headline() or "No clip is scored."),
        "bounds": inert(found.headline() and "Higher is better, 1 is the best." + (found.bounds() and f" Controls: {found.bounds()}.")),
        "links": "".join(f'<a href="#{name}">{name}</a>' for name in SECTIONS if name != "compare" or hero),
        "hero": hero,
        "clips": _tabs(found, shown, num_clips),
        "notes": f'<section class="notes"><h2>Not shown</h2><ul>{notes}{more}</ul></section>' if notes else "",
        "scores": scores,
        "glossary": _glossary(),
        "chain": stages.chain_table(chain) if chain else "<p>No stage of a run is in this folder.</p>",
        "curves": stages.charts(chain) or "<p>No curves: there are no TensorBoard files of stages here.</p>",
        "environment": stages.environment(chain),
    }
    text = document("page.html", values)
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(f"report: {file} would have {len(text.encode()):,} bytes, more than {MOST_BYTES:,}; give fewer --clips")
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(file, text)
    return Written(file, found.headline(), len(shown), found.notes)


def require_replaceable(file: Path) -> None:
    """Refuses to replace a file that is no page of a report.

    Raises:
        ValueError: If it is something else, or a link.
    """
    require_no_link(file)
    if not file.exists():
        return
    if not file.is_file() or GENERATOR.encode() not in file.read_bytes()[:4096]:
        raise ValueError(f"report: {file} must be a page of `report` to be replaced, and is another file; move it, or give --out FILE")


def _hero(found: Found, budget: Budget) -> str:
    """One prompt under all conditions."""
    key = choice.compared_key(found)
    if key is None or found.shown is None:
        return ""
    takes = {name: found.clips[name][key] for name in CONDITIONS if key in found.clips.get(name, {})}
    plans, notes = plan_strips({name: clip.plan_file for name, clip in takes.items()})
    found.notes += notes
    rows = []
    for name, clip in takes.items():
        try:
            rows.append(budget.spend(cards.row(name, clip, plans.get(name), budget.film)))
        except BROKEN as error:
            found.notes.append(f"{clip.file}: {' '.join(str(error).split())}")
    shown = takes[found.shown]
    prompts = paragraph("Picture", shown.prompt("video_prompt")) + paragraph("Sound", shown.prompt("audio_prompt"))
    missing = [title_of(name) for name in CONDITIONS if name not in takes]
    absent = f" There are no clips of: {', '.join(missing)}." if missing else ""
    how = (
        f"The prompt with the median P-Acc of “{title_of(found.shown)}” among prompts of several events: {inert(key, 120)}.{inert(absent)}"
    )
    return f'<section id="compare"><h2>One prompt, {len(rows)} ways</h2><p class="how">{how}</p>{prompts}{"".join(rows)}</section>'


def _cards(found: Found, num_clips: int, budget: Budget) -> dict[str, str]:
    """Key -> card, as many as fit."""
    if found.shown is None:
        return {}
    clips = found.clips[found.shown]
    lists = choice.tabs(clips, num_clips)
    keys = choice.interleaved(lists, num_clips)
    truth = found.clips.get("truth", {}) if found.shown == "planned" else {}
    named = {(key, "plan"): clips[key].plan_file for key in keys}
    named |= {(key, "true plan"): truth[key].plan_file for key in keys if key in truth}
    plans, notes = plan_strips({f"{label}\0{key}": file for (key, label), file in named.items()})
    found.notes += notes
    shown: dict[str, str] = {}
    for key in keys:
        if budget.film < LEAST_FILM:
            found.notes.append(f"{len(keys) - len(shown)} of {len(keys)} chosen clips, to keep the page below {MOST_BYTES:,} bytes")
            break
        places = {tab: list_.index(key) for tab, list_ in lists.items() if key in list_}
        strips: dict[str, PlanStrip] = {}
        for label in ("plan", "true plan"):
            if (strip := plans.get(f"{label}\0{key}")) is not None:
                strips[label] = strip
        try:
            shown[key] = budget.spend(cards.card(clips[key], strips, places, budget.film))
        except BROKEN as error:
            found.notes.append(f"{clips[key].file}: {' '.join(str(error).split())}")
    return shown


def _tabs(found: Found, shown: dict[str, str], num_clips: int) -> str:
    """Tabs, filter and cards."""
    if found.shown is None:
        return '<p class="empty">0 clips: there are none in this folder. <code>baton generate</code> writes some.</p>'
    clips = found.clips[found.shown]
    if not shown:
        return f'<p class="empty">0 clips: none of the {len(clips)} files can be shown; see “Not shown”.</p>'
    tiers = sorted({clips[key].tier for key in shown})
    options = "".join(f'<option value="{inert(tier, 60)}">{inert(tier, 60)}</option>' for tier in tiers)
    names = [name for name, keys in choice.tabs(clips, num_clips).items() if not shown.keys().isdisjoint(keys)]  # without scores: random
    buttons = "".join(
        f'<button type="button" role="tab" id="tab-{name}" aria-controls="cards" data-tab="{name}" '
        f'aria-selected="{"true" if not place else "false"}" tabindex="{0 if not place else -1}">{name}</button>'
        for place, name in enumerate(names)
    )
    of = "" if found.shown == OTHER else f" of “{inert(title_of(found.shown))}”"
    lacking = "" if any(clip.plan_file.is_file() for clip in clips.values()) else " Plans: <code>generate --save-plans</code> writes them."
    return (
        f'<p class="how">{len(shown)} of {len(clips)} clips{of}.{lacking}</p>'
        f'<div class="tools"><div role="tablist" aria-label="clips by P-Acc">{buttons}</div>'
        f'<label>tier <select id="tier"><option value="">all</option>{options}</select></label>'
        f'<span id="count" role="status"></span></div>'
        f'<div id="cards" role="tabpanel" aria-labelledby="tab-{names[0]}">{"".join(shown.values())}</div>'
    )


def _score_tables(found: Found) -> str:
    """A table of each tier: a row per score, a column per condition."""
    tiers = sorted({tier for aggregates in found.tiers.values() for tier in aggregates})
    parts = []
    for tier in tiers:
        columns = {name: aggregates[tier] for name, aggregates in found.tiers.items() if tier in aggregates}
        try:
            parts.append(_score_table(tier, columns))
        except BROKEN as error:
            found.notes.append(f"scores of {tier}: {type(error).__name__}")
    return "".join(parts) or "<p>Nothing is scored. <code>baton evaluate FOLDER</code> scores clips of the benchmark world.</p>"


def _score_table(tier: str, columns: dict[str, Any]) -> str:
    head = "".join(f'<th scope="col">{inert(title_of(name))}</th>' for name in columns)
    rows = [_row("clips", "", (str(int(aggregate["num_clips"])) for aggregate in columns.values()))]
    rows += [_row(SCORES[name].title, SCORES[name].direction, (cell(agg[name]) for agg in columns.values())) for name in HEADLINE]
    title = f"{inert(tier, 60)}: mean [95 % interval]"
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="scores of {inert(tier, 60)}"><table><caption>{title}</caption>'
        f'<tr><th scope="col">score</th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _row(name: str, direction: str, cells: Iterable[str]) -> str:
    how = f" <small>{'↑' if direction.startswith('higher') else '↓'} {direction}</small>" if direction else ""
    return f'<tr><th scope="row">{name}{how}</th>{"".join(f"<td>{inert(text, 40)}</td>" for text in cells)}</tr>'


def _glossary() -> str:
    entries = (f"<dt>{e.title} <small>({e.direction})</small></dt><dd>{inert(e.meaning)}</dd>" for e in SCORES.values())
    return f"<dl>{''.join(entries)}</dl>"
