"""Lanes of a clip: pictures and marks on one time axis in seconds, over which a playhead moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baton_lightning.evaluation.report import assets
from baton_lightning.evaluation.report.assets import Picture
from baton_lightning.evaluation.report.inert import inert
from baton_lightning.evaluation.report.plan_strips import PlanStrip
from baton_lightning.world.vocabulary import EFFECTS

STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
MOST_TICKS = 8
ROWS = {"expected": "prompt", "seen": "seen", "heard": "heard"}


@dataclass(frozen=True)
class Mark:
    """An event at a time.

    Args:
        at: Time, in s.
        sign: Number of the event in the prompt, or ``×`` for an event that the prompt does not describe.
        kind: ``expected``, ``right``, ``wrong`` or ``surplus``.
        text: What it is, in words.
    """

    at: float
    sign: str
    kind: str
    text: str


def marks(facts: Mapping[str, Any]) -> dict[str, list[Mark]]:
    """Row of the timeline -> its marks, in order of time; ``sounding`` has those expected marks at which something should be heard.

    Args:
        facts: See :func:`~baton_lightning.world.facts.facts`.
    """
    rows: dict[str, list[Mark]] = {name: [] for name in ROWS}
    for number, event in enumerate(facts["events"], 1):
        faults = f"; {'; '.join(event['faults'])}" if event["faults"] else ""
        for row, found in rows.items():
            kind = "expected" if row == "expected" else "wrong" if faults else "right"
            text = f"event {number} {row}{faults if kind == 'wrong' else ''}"
            found += [Mark(float(at), str(number), kind, text) for at in event[row] or []]
    for row in ("seen", "heard"):
        rows[row] += [
            Mark(float(extra["at"]), "×", "surplus", f"not in the prompt: {extra['what']}, {row}") for extra in facts["surplus"][row]
        ]
    silent = {str(number) for number, event in enumerate(facts["events"], 1) if event["kind"] not in (*EFFECTS, "says")}
    rows["sounding"] = [mark for mark in rows["expected"] if mark.sign not in silent]
    return {row: sorted(found, key=lambda mark: mark.at) for row, found in rows.items()}


def lane(label: str, content: str, kind: str) -> str:
    """One row with its label."""
    return f'<div class="row"><span class="label">{label}</span><div class="lane {kind}">{content}</div></div>'


def image(shown: Picture, text: str, share: float = 1.0) -> str:
    """A picture that spans a share of the time axis."""
    style = f' style="width:{100 * share:.3f}%"' if share != 1.0 else ""
    return f'<img src="{shown.uri}" alt="{inert(text, 300)}" width="{shown.width}" height="{shown.height}"{style}>'


def plan_lane(label: str, plan: PlanStrip, seconds: float) -> str:
    """Keyframes in the colours of their principal components, and the curve of the audio tokens."""
    points = " ".join(f"{1000 * at / seconds:.1f},{28 - 26 * height:.1f}" for at, height in plan.sound if at <= seconds)
    curve = f'<svg viewBox="0 0 1000 30" preserveAspectRatio="none" aria-hidden="true"><polyline points="{points}"/></svg>'
    text = f"{label}: {plan.text}; keyframes in the colours of their principal components"
    return lane(inert(label), image(plan.tiles, text, min(plan.seconds / seconds, 1.0)) + curve, "plan")


def frames_lane(frames: Picture, text: str) -> str:
    return lane("frames", image(frames, f"frames of {text}"), "frames")


def spectrogram_lane(shown: Picture, found: Mapping[str, list[Mark]], seconds: float, text: str, label: str = "sound") -> str:
    """The spectrogram with expected and heard times as lines."""
    ticks = "".join(f'<i class="hertz" style="bottom:{100 * assets.height_of(hz):.1f}%">{name}</i>' for hz, name in assets.TICKS.items())
    lines = "".join(_mark(mark, seconds, "line") for row in ("sounding", "heard") for mark in found.get(row, ()))
    return lane(label, image(shown, f"spectrogram of {text}") + ticks + lines, "spectrogram")


def timeline(found: Mapping[str, list[Mark]], seconds: float) -> str:
    """Times at which events were expected, seen and heard."""
    return "".join(lane(label, "".join(_mark(mark, seconds, "chip") for mark in found[row]), "times") for row, label in ROWS.items())


def axis(seconds: float) -> str:
    """The time axis, which is also a slider that moves the playhead."""
    step = next((step for step in STEPS if seconds / step <= MOST_TICKS), seconds / MOST_TICKS)
    at = [step * k for k in range(int(seconds / step + 1e-6) + 1)]
    places = [(t, "start" if not t else "end" if t > 0.97 * seconds else "mid") for t in at]
    ticks = "".join(f'<i class="tick {side}" style="left:{100 * t / seconds:.2f}%">{t:g} s</i>' for t, side in places)
    slider = f'<input type="range" min="0" max="{seconds:.3f}" step="0.01" value="0" aria-label="time of the playhead, in s">'
    return lane("time", f"{slider}{ticks}", "axis")


def _mark(mark: Mark, seconds: float, form: str) -> str:
    left = 100 * min(max(mark.at / seconds, 0.0), 1.0)
    text = inert(f"{mark.text}, {mark.at:.2f} s", 300)
    return f'<i class="{form} {mark.kind}" style="left:{left:.2f}%" title="{text}" role="img" aria-label="{text}">{mark.sign}</i>'
