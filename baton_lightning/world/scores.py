"""Scores of a clip against its scene, computed from pixels and waveform, without a neural judge.

* **P-Acc**: length of the longest chain of correct events (picture, sound, actor and target) in order of picture and sound time, divided by
  the number of expected events + surplus events + surplus objects. A correct clip has 1, its first event alone 1/K, a static clip 0.
* **P-Check**: share of a checklist that holds (a static silent clip can reach 0.8); **P-Strict**: 1 if all of it holds.
* **Order**: share of consecutive pairs in order. **M-TER**: word errors divided by words, with the voice as the speaker; **M-TERcp**: with
  the best assignment of speakers (cpWER).
* **DeSync**: mean |sound - picture| of matched anchors, in s, and the signed mean; **DeSync-P**: an unmatched event counts as 2 s;
  **DeSync21**: without the prompt, the best of 21 shifts in steps of 0.2 s; **Sync-C**: the peak over shifts minus the median.
* **ID**: share of frames with every object visible, correct and in one piece, and nothing else. **PSNR** to a picture rendered from the
  tracks, in dB. **in-bank**: share of the sound's energy in the bands of the carriers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baton_lightning.world.align import best_permutation_errors
from baton_lightning.world.detect_audio import detect_audio
from baton_lightning.world.detect_video import detect_video
from baton_lightning.world.facts import checklist, facts, p_acc
from baton_lightning.world.matching import match
from baton_lightning.world.quality import free_sync, identity, psnr
from baton_lightning.world.scene import Scene
from baton_lightning.world.vocabulary import COLOURS

UNMATCHED_SECONDS = 2.0
RESAMPLES = 1000


@dataclass(frozen=True)
class ClipScores:
    """Scores of one clip, and counts for the sums over a set. ``None`` = the score does not apply."""

    p_acc: float
    p_check: float
    p_strict: float
    order: float | None
    m_ter: float | None
    m_ter_cp: float | None
    desync: float | None
    desync_signed: float | None
    desync_p: float | None
    desync21: float | None
    sync_c: float
    id: float
    psnr: float | None
    in_bank: float | None
    num_words: int
    num_word_errors: int
    num_word_errors_cp: int
    num_matched: int
    num_unmatched: int
    sum_desync: float
    sum_desync_signed: float
    sum_desync_p: float

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Judgement:
    """A clip's scores with their explanation (see :func:`~baton_lightning.world.facts.facts`)."""

    scores: ClipScores
    facts: dict[str, Any]


def score(scene: Scene, frames: NDArray[np.uint8], waveform: NDArray, fps: float, sample_rate: int = 16000) -> ClipScores:
    """Scores of a clip; see :func:`judge`."""
    return judge(scene, frames, waveform, fps, sample_rate).scores


def judge(scene: Scene, frames: NDArray[np.uint8], waveform: NDArray, fps: float, sample_rate: int = 16000) -> Judgement:
    """Scores a clip.

    Args:
        scene: The expected scene.
        frames: uint8 [T, Y, X, 3].
        waveform: [S] in [-1, 1].
        fps: Frames per second.
        sample_rate: Sample rate of the waveform, in Hz; at least 14 kHz, for the ding of 6 kHz.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"score: frames must be uint8 [T, Y, X, 3], got {frames.dtype} {list(frames.shape)}")
    if sample_rate < 14000:
        raise ValueError(f"score: sample_rate must be at least 14000 Hz for the 6 kHz ding, got {sample_rate}")
    seen, heard = detect_video(frames, fps), detect_audio(waveform, sample_rate)
    found = match(scene, seen, heard)
    checks = checklist(scene, seen, found)
    order = [passed for name, passed in checks if name == "order"]
    apart = [a - p for m in found.matches if m.seen and m.heard for p, a in zip(m.seen, m.heard, strict=True)]
    num_unmatched = sum(e.kind != "slides" and not (m.seen and m.heard) for e, m in zip(scene.events, found.matches, strict=True))
    words = {o.colour: [w for e in scene.events if e.kind == "says" and e.actor == o.colour for w in e.words] for o in scene.objects}
    spoken = {colour: [w.word for w in heard.words if w.voice == colour] for colour in COLOURS}
    num_words, errors_cp = sum(map(len, words.values())), best_permutation_errors(words, spoken)
    penalty = float(np.minimum(np.abs(apart), UNMATCHED_SECONDS).sum()) + UNMATCHED_SECONDS * num_unmatched
    desync21, sync_c = free_sync(seen, heard)
    scores = ClipScores(
        p_acc=p_acc(scene, seen, found),
        p_check=float(np.mean([passed for _, passed in checks])),
        p_strict=float(all(passed for _, passed in checks)),
        order=float(np.mean(order)) if order else None,
        m_ter=found.word_errors / num_words if num_words else None,
        m_ter_cp=errors_cp / num_words if num_words else None,
        desync=float(np.mean(np.abs(apart))) if apart else None,
        desync_signed=float(np.mean(apart)) if apart else None,
        desync_p=penalty / (len(apart) + num_unmatched) if apart or num_unmatched else None,
        desync21=desync21,
        sync_c=sync_c,
        id=identity(scene, seen, len(frames)),
        psnr=psnr(seen, frames),
        in_bank=heard.in_bank,
        num_words=num_words,
        num_word_errors=found.word_errors,
        num_word_errors_cp=errors_cp,
        num_matched=len(apart),
        num_unmatched=num_unmatched,
        sum_desync=float(np.abs(apart).sum()),
        sum_desync_signed=float(np.sum(apart)),
        sum_desync_p=penalty,
    )
    return Judgement(scores, facts(scene, seen, found))


_PLAIN = ("p_acc", "p_check", "p_strict", "order", "desync21", "sync_c", "id", "psnr", "in_bank")
_RATIOS = {
    "m_ter": ("num_word_errors", ("num_words",)),
    "m_ter_cp": ("num_word_errors_cp", ("num_words",)),
    "desync": ("sum_desync", ("num_matched",)),
    "desync_signed": ("sum_desync_signed", ("num_matched",)),
    "desync_p": ("sum_desync_p", ("num_matched", "num_unmatched")),
}


def aggregate(scores: Sequence[ClipScores]) -> dict[str, Any]:
    """Scores of a set, each with the 95 % bootstrap interval of 1,000 resamplings of the clips.

    Rates are ratios of sums (e.g. all word errors divided by all words, not a mean of clips' rates). The other scores are means over the
    clips to which they apply.

    Returns:
        ``{"num_clips", "num_words", "num_matched", name: {"mean", "low", "high", "n"}}``, with ``None`` if a score applies to no clip; n is
        the number of clips, words or anchors.
    """
    draws = np.random.Generator(np.random.Philox(0)).integers(0, max(len(scores), 1), (RESAMPLES, len(scores)))
    result: dict[str, Any] = {"num_clips": len(scores)}
    result |= {name: int(sum(getattr(s, name) for s in scores)) for name in ("num_words", "num_matched")}
    for name in (*_PLAIN, *_RATIOS):
        if name in _RATIOS:
            over, under = _RATIOS[name]
            top = np.array([getattr(s, over) for s in scores], np.float64)
            bottom = np.array([sum(getattr(s, count) for count in under) for s in scores], np.float64)
        else:
            values = [getattr(s, name) for s in scores]
            top = np.array([0.0 if value is None else value for value in values])
            bottom = np.array([float(value is not None) for value in values])
        result[name] = _interval(top, bottom, draws)
    return result


def _interval(top: NDArray, bottom: NDArray, draws: NDArray) -> dict[str, float | int | None]:
    """Ratio of sums, with its 95 % interval over resampled clips."""
    n = int(bottom.sum())
    if n == 0:
        return {"mean": None, "low": None, "high": None, "n": 0}
    tops, bottoms = top[draws].sum(1), bottom[draws].sum(1)
    low, high = np.percentile(tops[bottoms > 0] / bottoms[bottoms > 0], [2.5, 97.5])
    return {"mean": float(top.sum() / n), "low": float(low), "high": float(high), "n": n}
