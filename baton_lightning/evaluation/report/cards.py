"""A clip on a page: its plan, a player, prompts, scores, errors, and lanes of sound and events below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from baton_lightning.evaluation.report import assets, lanes
from baton_lightning.evaluation.report.found import ReportClip, title_of
from baton_lightning.evaluation.report.inert import inert, paragraph
from baton_lightning.evaluation.report.plan_strips import PlanStrip
from baton_lightning.media import Media, MediaError
from baton_lightning.recordings import clips
from baton_lightning.world.score_table import SCORES

SHOWN = ("p_acc", "p_check", "order", "m_ter", "m_ter_cp", "desync", "id")
NO_FACTS: dict[str, Any] = {"objects": [], "events": [], "surplus": {"objects": [], "seen": [], "heard": []}}


def read_media(file: Path) -> Media:
    """A clip at its own size; without sound, its waveform is empty.

    Raises:
        MediaError: If it cannot be decoded.
    """
    try:
        return clips.read_clip(file)
    except MediaError as error:
        if error.reason != "no_audio":
            raise
        media = clips.read_clip(file, has_audio=False)
        return replace(media, waveform=np.zeros(0, np.float32), sample_rate=0)


def card(clip: ReportClip, plans: Mapping[str, PlanStrip], places: Mapping[str, int], most_bytes: int) -> str:
    """HTML of a clip.

    Args:
        clip: The clip.
        plans: Label -> picture of a plan, above the player.
        places: Tab -> place of the clip in it.
        most_bytes: Largest length of the film.

    Raises:
        MediaError: If the clip cannot be decoded.
    """
    media = read_media(clip.file)
    seconds = max(media.seconds, 1e-3)
    facts = NO_FACTS if clip.scores is None else clip.scores["facts"]
    found = lanes.marks(facts)
    name = inert(clip.key, 120)
    order = " ".join(f'data-{tab}="{place}"' for tab, place in places.items())
    text = "\n".join(
        [
            paragraph("Picture", clip.prompt("video_prompt") or "no prompt"),
            paragraph("Sound", clip.prompt("audio_prompt") or "no prompt"),
            "" if clip.scores is None else _events(facts),
        ]
    )
    above = "".join(lanes.plan_lane(label, plan, seconds) for label, plan in plans.items())
    below = lanes.spectrogram_lane(assets.spectrogram(media), found, seconds, clip.key)
    below += lanes.timeline(found, seconds) if clip.scores is not None else ""
    return (
        f'<article class="card" data-tier="{inert(clip.tier, 60)}" data-seconds="{seconds:.3f}" {order}>'
        f'<h3>{name} <span class="tier">{inert(clip.tier, 60)}</span></h3>{_scores(clip)}'
        f'<div class="lanes">{above}</div><div class="middle">{player(media, clip, most_bytes, controls=True)}<div>{text}</div></div>'
        f'<div class="lanes">{below}{lanes.axis(seconds)}</div></article>'
    )


def player(media: Media, clip: ReportClip, most_bytes: int, *, controls: bool) -> str:
    """A player with its film, or a still if the film would be too large."""
    made = assets.film(media, most_bytes)
    name = inert(clip.key, 120)
    if made is None:
        still = lanes.image(assets.picture(assets.resized(media.frames[len(media.frames) // 2][None], 320)[0]), f"a frame of {clip.key}")
        return f'<figure class="still">{still}<figcaption>too large for this page; play {inert(clip.file.name)}</figcaption></figure>'
    uri, poster = made
    size = f'width="{poster.width}" height="{poster.height}"'
    how = "controls" if controls else 'tabindex="-1"'
    return f'<video {how} loop playsinline preload="none" {size} poster="{poster.uri}" src="{uri}" aria-label="clip {name}"></video>'


def _scores(clip: ReportClip) -> str:
    if clip.scores is None:
        return '<p class="scores">not scored</p>'
    parts = []
    for name in SHOWN:
        value = clip.scores.get(name)
        number = f"{value:.2f}" if isinstance(value, int | float) else "-"
        entry = SCORES[name]
        parts.append(f'<span title="{inert(entry.direction)}">{entry.title} <b>{number}</b></span>')
    return f'<p class="scores">{"".join(parts)}</p>'


def _events(facts: Mapping[str, Any]) -> str:
    """Objects and events of the prompt, errors marked in words."""
    objects = ", ".join(_marked(f"{o['colour']} {o['shape']} {o['column']}", o["faults"]) for o in facts["objects"])
    events = "".join(f"<li>{_event(event)}</li>" for event in facts["events"])
    surplus = [f"a {colour} object" for colour in facts["surplus"]["objects"]]
    surplus += [f"{extra['what']} at {extra['at']:.2f} s, {row}" for row in ("seen", "heard") for extra in facts["surplus"][row]]
    beyond = f'<p class="fault">× Not in the prompt: {inert("; ".join(surplus))}</p>' if surplus else ""
    return f"<p>Objects: {objects}</p><ol>{events}</ol>{beyond}"


def _event(event: Mapping[str, Any]) -> str:
    what = {"says": f"says '{' '.join(event['words'])}'", "hits": f"hits {event['target']}"}.get(event["kind"], event["kind"])
    note = f' <span class="note">({inert(event["note"])})</span>' if event["note"] else ""
    return _marked(f"{event['actor']} {what}", event["faults"]) + note


def _marked(text: str, faults: Iterable[str]) -> str:
    details = "; ".join(faults)
    return f'<mark>{inert(text)}</mark> <span class="fault">✗ {inert(details)}</span>' if details else inert(text)


def row(condition: str, clip: ReportClip, plan: PlanStrip | None, most_bytes: int) -> str:
    """A row of the comparison: a small player with a button, frames, plan and spectrogram on one axis."""
    media = read_media(clip.file)
    seconds = max(media.seconds, 1e-3)
    title = title_of(condition)
    score = "" if clip.scores is None else f"<span>P-Acc <b>{clip.scores['p_acc']:.2f}</b></span>"
    text = f"{title}: {clip.key}"
    shown = lanes.frames_lane(assets.frame_strip(media), text)
    shown += "" if plan is None else lanes.plan_lane("plan", plan, seconds)
    found = lanes.marks(NO_FACTS if clip.scores is None else clip.scores["facts"])
    shown += lanes.spectrogram_lane(assets.spectrogram(media), found, seconds, text) + lanes.axis(seconds)
    return (
        f'<div class="take" data-seconds="{seconds:.3f}"><div class="who"><h3>{inert(title)}</h3>{score}'
        f"{player(media, clip, most_bytes, controls=False)}"
        f'<button type="button" class="play" aria-label="play {inert(title)}">▶ Play</button></div>'
        f'<div class="lanes">{shown}</div></div>'
    )
