"""Clips and their scores as one self-contained HTML file: players, prompts, and marked errors."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from baton_lightning import atomic
from baton_lightning.evaluation.scores import cell, read_clip
from baton_lightning.world.score_table import HEADLINE

SIDE = 288
"""Smallest width of enlarged clips, in pixels. Browsers only support chroma at half resolution, which blurs small pictures."""
CLIP_SCORES = {
    "p_acc": "P-Acc",
    "p_check": "P-Check",
    "order": "Order",
    "m_ter": "M-TER",
    "m_ter_cp": "M-TERcp",
    "desync": "DeSync",
    "id": "ID",
}
ROWS = {"expected": "prompt", "seen": "seen", "heard": "heard"}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1080px; color: #222; padding: 0 1em }
table { border-collapse: collapse } th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
article { display: flex; gap: 1.2em; padding: 1em 0; border-top: 1px solid #ccc } article > div { flex: 1; min-width: 0 }
video { width: 288px; height: auto; background: #101014; image-rendering: pixelated } h3 { margin: 0 0 .3em; font-size: 1em }
p { margin: .25em 0 } .score { display: inline-block; margin-right: .9em; white-space: nowrap; color: #444 }
mark { background: #ffd9d6; border-bottom: 2px solid #c0392b } .fault { color: #a93226 } .note { color: #8a6d00 }
svg { width: 100%; height: 62px } svg text { font: 10px system-ui, sans-serif; fill: #555 }
"""


def write_page(folder: Path, result: dict[str, Any], num_clips: int) -> None:
    """Writes ``index.html`` into the folder.

    Args:
        folder: Folder of the clips.
        result: Result of :func:`~baton_lightning.evaluation.scores.score_folder`.
        num_clips: Number of clips to show. The clips with the lowest P-Acc are shown, the worst first.
    """
    worst = sorted(result["clips"].items(), key=lambda item: (item[1]["p_acc"], item[1]["p_check"], item[0]))[:num_clips]
    body = [f"<h1>{escape(folder.name)}</h1>", _table(result["tiers"])]
    body.append(f"<p>{len(worst)} of {len(result['clips'])} clips, the worst first. <mark>Marked</mark> events and objects are wrong.</p>")
    body += [_clip(folder / f"{key}.mp4", key, clip) for key, clip in worst]
    head = f'<meta charset="utf-8"><title>{escape(folder.name)}: scores</title><style>{STYLE}</style>'
    text = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"
    atomic.write_text(folder / "index.html", text)


def _table(tiers: dict[str, Any]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("tier", "clips", *HEADLINE))
    rows = []
    for tier, scores in tiers.items():
        cells = [escape(tier), str(scores["num_clips"]), *(cell(scores[name]) for name in HEADLINE)]
        rows.append(f"<tr>{''.join(f'<td>{text}</td>' for text in cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table><p>Mean and 95 % interval.</p>"


def _clip(file: Path, key: str, clip: dict[str, Any]) -> str:
    facts = clip["facts"]
    movie = base64.b64encode(playable(file)).decode()
    scores = "".join(f'<span class="score">{name} {_number(clip[score])}</span>' for score, name in CLIP_SCORES.items())
    objects = ", ".join(_marked(f"{o['colour']} {o['shape']} {o['column']}", o["faults"]) for o in facts["objects"])
    events = "".join(f"<li>{_event(event)}</li>" for event in facts["events"])
    surplus = [f"a {colour} object" for colour in facts["surplus"]["objects"]]
    surplus += [f"{extra['what']} at {extra['at']:.2f} s" for sense in ("seen", "heard") for extra in facts["surplus"][sense]]
    beyond = f'<p class="fault">Not in the prompt: {escape("; ".join(surplus))}</p>' if surplus else ""
    prompts = "".join(f"<p>{escape(clip[name])}</p>" for name in ("video_prompt", "audio_prompt") if name in clip)
    return (
        f'<article><video controls loop src="data:video/mp4;base64,{movie}"></video><div><h3>{escape(key)} ({escape(clip["tier"])})</h3>'
        f"<p>{scores}</p>{prompts}<p>Objects: {objects}</p><ol>{events}</ol>{beyond}{_timeline(facts)}</div></article>"
    )


def _event(event: dict[str, Any]) -> str:
    what = {"says": f"says '{' '.join(event['words'])}'", "hits": f"hits {event['target']}"}.get(event["kind"], event["kind"])
    note = f' <span class="note">{escape(event["note"])}</span>' if event["note"] else ""
    return _marked(f"{event['actor']} {what}", event["faults"]) + note


def _marked(text: str, faults: Iterable[str]) -> str:
    details = "; ".join(faults)
    return f'<mark>{escape(text)}</mark> <span class="fault">{escape(details)}</span>' if details else escape(text)


def _timeline(facts: dict[str, Any]) -> str:
    """Times at which events were expected, seen and heard; surplus events are red."""
    ticks = {name: [(t, "#2c6cb0") for e in facts["events"] for t in e[name] or []] for name in ROWS}
    for sense in ("seen", "heard"):
        ticks[sense] += [(extra["at"], "#c0392b") for extra in facts["surplus"][sense]]
    last = max([t for row in ticks.values() for t, _ in row], default=1.0) * 1.05
    marks = []
    for row, (name, label) in enumerate(ROWS.items()):
        y = 10 + 18 * row
        marks.append(f'<text x="0" y="{y + 4}">{label}</text><line x1="50" x2="690" y1="{y}" y2="{y}" stroke="#ddd"/>')
        marks += [
            f'<circle cx="{50 + 640 * t / last:.1f}" cy="{y}" r="5" fill="{colour}"><title>{t:.2f} s</title></circle>'
            for t, colour in ticks[name]
        ]
    marks.append(f'<text x="50" y="60">0 s</text><text x="690" y="60" text-anchor="end">{last:.1f} s</text>')
    return f'<svg viewBox="0 0 700 62">{"".join(marks)}</svg>'


def playable(file: Path) -> bytes:
    """An mp4 of an enlarged clip, in a pixel format that all browsers support."""
    import numpy as np

    from baton_lightning.media import mp4_bytes

    media = read_clip(file)
    times = 2 * -(-SIDE // (2 * media.frames.shape[2]))
    frames = np.ascontiguousarray(media.frames.repeat(times, 1).repeat(times, 2))
    return mp4_bytes(frames, media.fps, media.waveform, media.sample_rate, pix_fmt="yuv420p", qp=24)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
