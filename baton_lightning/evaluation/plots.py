"""A plot of scores: one panel per score, with a mean and its interval for every tier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from baton_lightning import atomic
from baton_lightning.world.score_table import SCORES

PANELS = ("p_acc", "order", "m_ter", "desync_p")
WIDTH, ROW, LABEL = 260, 36, 64
BLUE = (60, 100, 170)


def draw_scores(file: Path, tiers: dict[str, Any]) -> None:
    """Draws means and 95 % intervals.

    Args:
        file: PNG to write.
        tiers: Aggregates by tier, as :func:`~baton_lightning.world.scores.aggregate` returns them.
    """
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (LABEL + WIDTH * len(PANELS), 60 + ROW * len(tiers)), "white")
    pen = ImageDraw.Draw(picture)
    floor = 32 + ROW * len(tiers)
    for row, tier in enumerate(tiers):
        pen.text((8, 32 + ROW * row + ROW // 2), tier, fill="black", anchor="lm")
    for column, name in enumerate(PANELS):
        full = SCORES[name].full or 1.0
        left, right = LABEL + column * WIDTH + 12, LABEL + (column + 1) * WIDTH - 24
        pen.text((left, 8), f"{SCORES[name].title} ({SCORES[name].direction})", fill="black")
        pen.line((left, floor, right, floor), fill="black")
        for share in (0.0, 0.5, 1.0):
            x = left + share * (right - left)
            pen.line((x, 28, x, floor + 4), fill=(220, 220, 220) if share else "black")
            pen.text((x, floor + 6), f"{share * full:g}", fill="black", anchor="ma")
        for row, scores in enumerate(tiers.values()):
            y, entry = 32 + ROW * row + ROW // 2, scores[name]
            if entry["mean"] is None:
                pen.text((left + 4, y), "nothing to measure", fill=(130, 130, 130), anchor="lm")
                continue
            low, mean, high = (left + min(entry[k] / full, 1.0) * (right - left) for k in ("low", "mean", "high"))
            pen.line((low, y, high, y), fill=BLUE, width=3)
            pen.ellipse((mean - 5, y - 5, mean + 5, y + 5), fill=BLUE)
            pen.text((min(high, right - 30) + 8, y - 12), f"{entry['mean']:.2f}", fill="black", anchor="lm")
    with atomic.aside(file) as part:
        picture.save(part, "PNG")
