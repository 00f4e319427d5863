"""JavisBench's prompts (a CSV with the columns ``video_text`` and ``audio_text``), converted for `generate` and `metrics`.

The column ``id``, if there is one, gives the keys, else the number of the row. Other columns are not read.
"""

from __future__ import annotations

import csv
from pathlib import Path

from baton_lightning.metrics.prompts import Prompt

COLUMNS = ("video_text", "audio_text")


def prompts(file: Path) -> dict[str, Prompt]:
    """Prompts of all rows.

    Raises:
        ValueError: If the file is not a CSV in UTF-8, lacks a column, or has an empty text or a key twice.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise ValueError(f"{file} must have the columns {' and '.join(COLUMNS)}, as JavisBench has; {missing[0]} is missing")
            parsed: dict[str, Prompt] = {}
            for number, row in enumerate(reader):
                key = (row.get("id") or "").strip() or f"{number:05d}"
                seen, heard = ((row[name] or "").strip() for name in COLUMNS)
                if not (seen and heard):
                    raise ValueError(f"{file}: row {number + 1} must have a text in {' and '.join(COLUMNS)}")
                if key in parsed:
                    raise ValueError(
                        f"{file}: ids must be unique, because clips are named after them; {key:.60} is given again in row {number + 1}"
                    )
                parsed[key] = Prompt(seen, heard)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"prompts must be a CSV file in UTF-8, got {file}, which cannot be read ({error})") from error
    return parsed
