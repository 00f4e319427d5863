"""The page of one plan: tokens, decoded pictures and sound on one time axis, words, and the ground truth beside it where it is known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baton_lightning import atomic, hints
from baton_lightning.evaluation.report import assets, lanes
from baton_lightning.evaluation.report.cards import NO_FACTS
from baton_lightning.evaluation.report.document import MOST_BYTES, document
from baton_lightning.evaluation.report.inert import inert, paragraph
from baton_lightning.evaluation.report.plan_strips import PlanStrip, strips_of, tiles
from baton_lightning.media import Media
from baton_lightning.plan.agreement import Agreement, Neighbour, agreements
from baton_lightning.plan.clip_plan import ClipPlan, distance
from baton_lightning.plan.probes import Probes
from baton_lightning.plan.words import PlanWords, words_of

MOST_KEYFRAMES = 400
MOST_EDITS = 50
MOST_ROWS = 200
"""Largest numbers of keyframes of a plan, and of edits and differences that are listed."""


@dataclass(frozen=True)
class Decoded:
    """What probes read from a plan.

    Args:
        pictures: Keyframes, uint8 [N, Y, X, 3]; ``None`` if the probes have no decoder.
        sound: Waveform [S] in [-1, 1].
    """

    pictures: NDArray[np.uint8] | None
    sound: NDArray[np.float32]

    @classmethod
    def of(cls, plan: ClipPlan, probes: Probes) -> Decoded:
        pictures = probes.pictures(plan)
        return cls(None if pictures is None else pictures.numpy(), probes.sound(plan))


def write_plan_page(
    plan: ClipPlan,
    file: Path,
    title: str,
    *,
    truth: ClipPlan | None = None,
    probes: Probes | None = None,
    neighbours: Sequence[Neighbour] | None = None,
    notes: Iterable[str] = (),
) -> None:
    """Writes the page of a plan, and creates its folder. All texts of the plan are inert.

    Args:
        plan: The plan.
        file: The page; an existing file is replaced.
        title: Title of the page.
        truth: Ground-truth plan of the clip.
        probes: Probes that read both plans; ``None`` = neither words nor pictures nor sound.
        neighbours: Nearest clips of the training split; ``None`` = unknown.
        notes: What is not shown, and how to get it.

    Raises:
        ValueError: If the plans or the probes do not fit, the plan has more than 400 keyframes, or the page would exceed 10 MB.
    """
    if plan.clip.num_keyframes > MOST_KEYFRAMES:
        raise ValueError(
            f"plan show: a page shows at most {MOST_KEYFRAMES} keyframes, the plan has {plan.clip.num_keyframes}; leave out --html"
        )
    found = None if truth is None else agreements(plan, truth)
    words = None if probes is None else words_of(plan, probes)
    shown = {"plan": plan} | ({} if truth is None else {"truth": truth})
    decoded = {} if probes is None else {name: Decoded.of(one, probes) for name, one in shown.items()}
    strips = strips_of(shown)
    sections = [
        "" if words is None else _words(words),
        "" if found is None else _agreement(found, plan),
        "" if neighbours is None else _neighbours(neighbours),
        _edits(plan),
        _notes(notes),
    ]
    made = f"; made by {inert(hints.argument(plan.run), 300)}" if plan.run else ""
    values = {
        "title": inert(title, 120),
        "headline": "" if words is None else inert(words.verdict[:1].upper() + words.verdict[1:] + ".", 500),
        "origin": f"{plan.clip.seconds:g} s; {inert(strips['plan'].text)}{made}",
        "prompts": paragraph("Picture", plan.video_prompt or "no prompt") + paragraph("Sound", plan.audio_prompt or "no prompt"),
        "seconds": f"{plan.clip.seconds:.3f}",
        "lanes": _lanes(plan, truth, strips, decoded, words, found),
        "sounds": "".join(_player(name, one, plan.clip.sample_rate) for name, one in decoded.items()),
        "sections": "".join(sections),
    }
    text = document("plan.html", values)
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(f"plan show: the page would have {len(text.encode()):,} bytes, more than {MOST_BYTES:,}; leave out --html")
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(file, text)


def _lanes(
    plan: ClipPlan,
    truth: ClipPlan | None,
    strips: dict[str, PlanStrip],
    decoded: dict[str, Decoded],
    words: PlanWords | None,
    found: dict[str, Agreement] | None,
) -> str:
    """All lanes, from the tokens to the time axis."""
    clip, parts = plan.clip, []
    for name, strip in strips.items():
        parts.append(lanes.plan_lane(name, strip, clip.seconds))
        if name in decoded and (pictures := decoded[name].pictures) is not None:
            text = f"{name}: its {len(pictures)} keyframes as pictures"
            share = min(strip.seconds / clip.seconds, 1.0)
            label = "pictures" if name == "plan" else "true pictures"
            parts.append(lanes.lane(label, lanes.image(tiles(pictures, 3), text, share), "pictures"))
    if truth is not None and found is not None:
        apart = distance(plan, truth)
        parts.append(
            _heat("error, picture", apart["video"].numpy(), clip.keyframe_times, clip.num_keyframes / clip.keyframe_fps / clip.seconds)
        )
        parts.append(_steps(found["keyframe"], clip.keyframe_fps, clip.seconds))
        parts.append(
            _heat(
                "error, sound",
                apart["audio"][:, None, None].numpy(),
                clip.audio_plan_times,
                len(plan.audio) / clip.audio_plan_rate / clip.seconds,
            )
        )
    marks = lanes.marks(NO_FACTS if words is None or words.facts is None else words.facts)
    for name, one in decoded.items():
        heard = Media(np.zeros((0, 0, 0, 3), np.uint8), 0.0, one.sound, clip.sample_rate)
        spectrogram = assets.spectrogram(heard)
        label, over = ("sound", marks) if name == "plan" else ("true sound", {})
        parts.append(lanes.spectrogram_lane(spectrogram, over, clip.seconds, f"the sound of the {name}", label))
    if words is not None and words.facts is not None:
        parts.append(lanes.timeline(marks, clip.seconds))
    return "".join([*parts, lanes.axis(clip.seconds)])


def _heat(label: str, error: NDArray[np.floating], times: Sequence[float], share: float) -> str:
    """Errors [N, h, w] of tokens as colours, from black for 0 to light yellow for the largest."""
    from matplotlib import colormaps

    largest, place = float(error.max()), int(error.max((1, 2)).argmax())
    painted = (colormaps["magma"](error / max(largest, 1e-9))[..., :3] * 255).astype(np.uint8)
    picture = tiles(painted) if error.shape[1] > 1 else assets.picture(np.ascontiguousarray(painted[:, 0].transpose(1, 0, 2)), quality=0)
    text = f"{label}: {error.mean():.2f} standard deviations on average, {largest:.2f} at most, at {times[place]:.2f} s"
    scale = f"{label} <small>≤ {largest:.2f} σ</small>"
    return lanes.lane(scale, lanes.image(picture, text, min(share, 1.0)), "heat")


def _steps(found: Agreement, rate: float, seconds: float) -> str:
    """R2 and cosine of each keyframe as steps over its time, cut at 0."""
    lines = []
    for kind, values in (("r2", found.r2), ("cosine", found.cosine)):
        heights = [28 - 26 * min(max(value, 0.0), 1.0) for value in values]
        points = " ".join(f"{1000 * (k + end) / rate / seconds:.1f},{y:.1f}" for k, y in enumerate(heights) for end in (0, 1))
        lines.append(f'<polyline class="{kind}" points="{points}"/>')
    text = "R2 and cosine of each keyframe; the table has the numbers"
    svg = f'<svg viewBox="0 0 1000 30" preserveAspectRatio="none" role="img" aria-label="{text}">'
    return lanes.lane("R2 solid, cosine dashed", f"{svg}{''.join(lines)}</svg>", "steps")


def _player(name: str, one: Decoded, sample_rate: int) -> str:
    title = {"plan": "Sound of the plan", "truth": "Sound of the truth"}[name]
    audio = f'<audio controls preload="auto" src="{assets.sound(one.sound, sample_rate)}" aria-label="{title}"></audio>'
    return f'<figure class="heard"><figcaption>{title}</figcaption>{audio}</figure>'


def _words(words: PlanWords) -> str:
    """What the plan says; rows that differ from the prompt have a sign and a text, not only a colour."""
    if words.reason:
        listed = "".join(f"<li>{inert(line)}</li>" for line in words.lines)
        return f'<section id="words"><h2>In words</h2><ul>{listed}</ul></section>'
    rows = "".join(
        f"<tr><td>{inert(prompt or '-')}</td><td>{inert(told or '-')}</td>"
        f'<td>{f"""<span class="fault">✗ {inert(differs)}</span>""" if differs else "✓ agrees"}</td></tr>'
        for prompt, told, differs in words.rows[:MOST_ROWS]
    )
    return (
        f'<section id="words" class="wrap"><h2>In words</h2>{_table("what the plan says", ("prompt", "plan", "differs"), rows)}</section>'
    )


def _agreement(found: dict[str, Agreement], plan: ClipPlan) -> str:
    def row(label: str, *numbers: float) -> str:
        return f'<tr><th scope="row">{label}</th>{"".join(f"<td>{_number(value)}</td>" for value in numbers)}</tr>'

    video, audio, keyframe = found["video"], found["audio"], found["keyframe"]
    seconds = max(len(video.r2), len(audio.r2))
    pad = (float("nan"),) * seconds
    columns = [(*values, *pad)[:seconds] for values in (video.r2, video.cosine, audio.r2, audio.cosine)]
    by_second = "".join(row(f"{k} to {k + 1} s", *numbers) for k, numbers in enumerate(zip(*columns, strict=True)))
    numbered = zip(plan.clip.keyframe_times, keyframe.r2, keyframe.cosine, strict=True)
    by_keyframe = "".join(row(f"{at:.3f} s", r2, cosine) for at, r2, cosine in numbered)
    heads = ("second", "picture: R2", "picture: cosine", "sound: R2", "sound: cosine")
    seconds_table = _table("agreement by second", heads, by_second)
    keyframes_table = _table("agreement by keyframe", ("keyframe", "R2", "cosine"), by_keyframe)
    details = f"<details><summary>By keyframe</summary>{keyframes_table}</details>"
    return f'<section id="truth" class="wrap"><h2>Against the truth</h2>{seconds_table}{details}</section>'


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.2f}" if abs(value) < 100 else f"{value:.1e}"


def _neighbours(clips: Sequence[Neighbour]) -> str:
    listed = "".join(
        f"<li><b>{inert(clip.key, 120)}</b> picture {clip.video:.3f}, sound {clip.audio:.3f}<br>"
        f"<bdi>{inert(clip.video_prompt, 400)}</bdi> <bdi>{inert(clip.audio_prompt, 400)}</bdi></li>"
        for clip in clips
    )
    how = "Mean squared distance of the tokens from those of the plan, in variances of the training set."
    return f'<section id="nearest"><h2>Nearest training clips</h2><p class="how">{how}</p><ol>{listed}</ol></section>'


def _table(caption: str, heads: Iterable[str], rows: str) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<tr>{head}</tr>{rows}</table></div>"
    )


def _edits(plan: ClipPlan) -> str:
    if not plan.edits:
        return ""
    listed = "".join(f"<li><code>{inert(json.dumps(edit, ensure_ascii=False), 400)}</code></li>" for edit in plan.edits[:MOST_EDITS])
    return f'<section id="edits"><h2>Edits</h2><p>Operations on the tokens, in their order.</p><ol>{listed}</ol></section>'


def _notes(notes: Iterable[str]) -> str:
    listed = "".join(f"<li>{inert(note, 500)}</li>" for note in notes)
    return f'<section id="missing" class="notes"><h2>Not shown</h2><ul>{listed}</ul></section>' if listed else ""
