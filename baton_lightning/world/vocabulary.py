"""Constants of the world: colours, shapes, columns, voices, words and durations.

Lengths are in units of a canvas of 48 x 48, for any number of pixels, with y downwards; times are in s, frequencies in Hz.

Every carrier is a multiple of 40 Hz, so that an encoder with 40 tokens/s gives a constant token for a constant tone. Carriers are at least
80 Hz apart.
"""

from __future__ import annotations

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (50, 90, 240),
    "yellow": (235, 215, 40),
    "magenta": (220, 50, 220),
    "cyan": (40, 210, 220),
}
"""RGB of each colour. Colours are unique in a scene, so a colour identifies an object and its voice."""
GROUND = (16, 16, 20)
SHAPES = ("circle", "square", "triangle")
COLUMNS = ("left", "middle", "right")

CANVAS = 48.0
COLUMN_X = (9.0, 24.0, 39.0)
BASELINE_Y = 31.0
RADIUS = 5.0

# Voices: colour k speaks with carriers 3k, 3k + 1, 3k + 2; a word is an ordered pair of two of them.
CARRIERS = (400, 480, 560, 640, 760, 880, 1000, 1160, 1320, 1520, 1760, 2000, 2320, 2680, 3080, 3520, 4080, 4680, 160, 6000)
THUMP, DING = 18, 19
"""Indices of the carriers of the two sound effects; both together are a clack."""
WORDS: dict[str, tuple[int, int]] = {"ba": (0, 1), "bo": (0, 2), "di": (1, 0), "do": (1, 2), "ku": (2, 0), "ka": (2, 1)}

TONE_SECONDS = 0.14
WORD_SECONDS = 2 * TONE_SECONDS
PAUSE_SECONDS = 0.14
EFFECT_SECONDS = 0.12
TONE_AMPLITUDE = 0.3

FIRST_EVENT = 0.3
BETWEEN_EVENTS = 0.2
AFTER_LAST_EVENT = 0.1

PULSE_SCALE = 0.45
JUMP_HEIGHT, JUMP_SECONDS = 13.0, 0.5
DASH_SECONDS, RETURN_SECONDS, PUSH = 0.25, 0.35, 2.0
FLASH_WHITE, FLASH_SECONDS = 0.75, 0.34
SLIDE_SECONDS = 0.5

KINDS = ("says", "jumps", "hits", "flashes", "slides")
EFFECTS: dict[str, str] = {"jumps": "thump", "flashes": "ding", "hits": "clack"}
"""Sound effect of each kind of event that has one; a slide is silent."""


def word_start(k: int) -> float:
    """Start of the k-th word of an utterance, in s after its beginning."""
    return k * (WORD_SECONDS + PAUSE_SECONDS)
