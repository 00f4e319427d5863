"""The scores of the world in one table: their names, units, which way is better, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ScoreEntry:
    """One score, for tables and pages.

    Args:
        name: Short name.
        better: Which values are better: ``higher``, ``lower``, or ``zero`` for signed errors.
        meaning: One sentence for a reader who has not read the code.
        unit: Unit; empty for shares and counts.
        full: Value at the end of an axis; ``None`` = it has no fixed range.
    """

    name: str
    better: Literal["higher", "lower", "zero"]
    meaning: str
    unit: str = ""
    full: float | None = 1.0

    @property
    def title(self) -> str:
        """Name with its unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def direction(self) -> str:
        """Which way is better, in words."""
        return {"higher": "higher is better", "lower": "lower is better", "zero": "zero is best"}[self.better]


SCORES = {
    "p_acc": ScoreEntry(
        "P-Acc",
        "higher",
        "The longest chain of events that are right in picture, sound, actor and target, and in the right order, divided by the number of "
        "expected and surplus events and objects. 1 = the prompt holds, 0 = no event is right.",
    ),
    "p_check": ScoreEntry("P-Check", "higher", "Share of the prompt's claims that hold. A static, silent clip can reach 0.8."),
    "p_strict": ScoreEntry("P-Strict", "higher", "1 if every claim of the prompt holds, else 0."),
    "order": ScoreEntry("Order", "higher", "Share of consecutive events that are in the prompt's order."),
    "m_ter": ScoreEntry(
        "M-TER", "lower", "Wrong, missing and surplus words divided by the prompt's words; the voice is the speaker.", full=2.0
    ),
    "m_ter_cp": ScoreEntry("M-TERcp", "lower", "M-TER with the best assignment of voices to speakers.", full=2.0),
    "desync": ScoreEntry("DeSync", "lower", "Mean distance in time of sound and picture, over events that are seen and heard.", "s", 2.0),
    "desync_signed": ScoreEntry("signed", "zero", "Mean of sound time minus picture time; positive = the sound is late.", "s", None),
    "desync_p": ScoreEntry("DeSync-P", "lower", "DeSync in which an event that is not both seen and heard counts as 2 s.", "s", 2.0),
    "desync21": ScoreEntry(
        "DeSync21", "lower", "Without the prompt: the shift among 21 in steps of 0.2 s at which sound and picture agree best.", "s", 2.0
    ),
    "sync_c": ScoreEntry("Sync-C", "higher", "Without the prompt: agreement at the best shift minus the median over shifts.", full=None),
    "id": ScoreEntry("ID", "higher", "Share of frames in which every object is there, in its shape and in one piece, and nothing else."),
    "psnr": ScoreEntry("PSNR", "higher", "Distance of the picture from one that is drawn from the detected tracks.", "dB", 40.0),
    "in_bank": ScoreEntry("in-bank", "higher", "Share of the sound's energy in the bands of the world's voices and effects."),
}
"""Score, as in :class:`~baton_lightning.world.scores.ClipScores` -> its entry."""
HEADLINE = ("p_acc", "p_check", "order", "m_ter", "m_ter_cp", "desync", "desync_p")
"""Scores of tables that have no room for all."""
