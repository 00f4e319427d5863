"""Texts of others on a page: markup has no effect, and invisible characters and those that change the direction are shown as their code."""

from __future__ import annotations

import unicodedata
from html import escape

LONGEST = 20_000
"""Longest text that is shown, in characters."""
FOLDED = 400
"""Longer texts are folded."""


def visible(text: object, longest: int = LONGEST) -> str:
    """The text without control characters: line breaks become spaces, other ones their code point, e.g. ``[U+202E]``.

    Args:
        text: Any value.
        longest: Largest number of characters; the rest is counted.
    """
    whole = str(text)
    shown = "".join(_letter(letter) for letter in whole[:longest])
    return shown if len(whole) <= longest else f"{shown} … ({len(whole) - longest:,} more characters)"


def _letter(letter: str) -> str:
    if letter in "\n\t\r":
        return " "
    return f"[U+{ord(letter):04X}]" if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else letter


def inert(text: object, longest: int = LONGEST) -> str:
    """HTML of :func:`visible`, for content and for quoted attributes."""
    return escape(visible(text, longest), quote=True)


def paragraph(label: str, text: object) -> str:
    """A labelled paragraph whose direction does not affect its surroundings. A long text is folded."""
    whole = visible(text)
    head = f'<p class="prompt"><b>{escape(label)}</b> '
    if len(whole) <= FOLDED:
        return f"{head}<bdi>{escape(whole)}</bdi></p>"
    start, rest = escape(whole[:FOLDED]), escape(whole[FOLDED:])
    summary = f"the other {len(whole) - FOLDED:,} characters"
    return f"{head}<bdi>{start}…</bdi></p><details><summary>{summary}</summary><p><bdi>…{rest}</bdi></p></details>"
