"""AVGen-Bench's prompts (235, one JSON file a category; MIT licence), converted for `generate` and `metrics`.

A file is a list of ``{"content": title, "prompt": text}``. The one text describes picture and sound together, so it is both prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from baton_lightning.metrics.prompts import Prompt


def is_avgen_bench(values: Any) -> bool:
    """Whether JSON values have the format of AVGen-Bench."""
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(entry, dict) and {"content", "prompt"} <= entry.keys() for entry in values)
    )


def prompts(values: Sequence[dict[str, Any]], tier: str, where: str) -> dict[str, Prompt]:
    """Prompts by the letters and digits of their titles.

    Args:
        values: The records.
        tier: Name of the category, which is that of the file.
        where: Source of the values, for error messages.

    Raises:
        ValueError: If a title or prompt is not a text, or two titles give the same key.
    """
    parsed: dict[str, Prompt] = {}
    for number, entry in enumerate(values):
        title, text = entry["content"], entry["prompt"]
        if not (isinstance(title, str) and isinstance(text, str) and text.strip()):
            raise ValueError(f"{where}: content and prompt of record {number} must be texts, got {title!r:.60} and {text!r:.60}")
        key = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower() or str(number)
        if key in parsed:
            raise ValueError(f"{where}: titles must be unique, because clips are named after them; {title!r:.60} gives {key} again")
        parsed[key] = Prompt(text, text, tier=tier)
    return parsed
