"""Sources of a data set: recordings with captions, listed by a folder, a CSV or a JSONL file.

A row describes a recording, or a part of one:

    file            path of the media file, relative to the list; required
    video_prompt    description of the picture   } both, or one of them, or
    audio_prompt    description of the sound     }
    text            one caption for both
    speakers        names of the speakers; in CSV separated by `;`
    speech          spoken text
    words           spoken words with times: [{"text": ..., "start": s, "end": s, "speaker": ...}], in CSV as JSON; replaces `speech`
    split           train, val, test or another name; default: by a hash of the file, the same for all rows of a recording
    start, end      selected part of the recording, in s from its first picture; default: the whole recording
    key             name of the recording in the set; default: its path, with the start if one is given, and with a digest of the path if
                    the path holds characters that are not allowed in a key

In a folder, each media file has a text file of the same stem beside it: `a.txt` with the caption, or `a.json` with the fields above except
`file`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from baton_lightning.shards.captions import words_of
from baton_lightning.shards.lists import MEDIA_SUFFIXES, csv_rows, folder_rows, jsonl_rows, leads_out, require_known
from baton_lightning.shards.source import Source
from baton_lightning.shards.splits import assign_splits


def read_sources(source: str | Path, held_out: Mapping[str, float]) -> list[Source]:
    """All recordings of a list, in the order of its rows, or of a folder, in the order of the paths.

    Args:
        source: A folder, a ``.csv`` or a ``.jsonl`` file.
        held_out: Split -> its part of the recordings without a split: a share below 1, or a number of recordings. The others belong to
            ``train``.

    Raises:
        ValueError: If the source does not exist, or a row is invalid; the message names the line.
    """
    source = Path(source)
    if source.is_dir():
        rows = folder_rows(source)
    elif source.is_file() and source.suffix in (".csv", ".jsonl"):
        rows = csv_rows(source) if source.suffix == ".csv" else jsonl_rows(source)
    else:
        state = "is neither" if source.exists() else "does not exist; it must be"
        raise ValueError(f"shards build: {source} {state} a folder, a .csv or a .jsonl file")
    base = source if source.is_dir() else source.parent
    found: list[Source] = []
    seen: dict[str, str] = {}
    for place, row in rows:
        made = source_of(row, base, place)
        if made.key in seen:
            raise ValueError(f"{place}: the key {made.key!r} was given at {seen[made.key]} already; give each its own in the column `key`")
        seen[made.key] = place
        found.append(made)
    if not found:
        kinds = " ".join(sorted(MEDIA_SUFFIXES))
        raise ValueError(f"shards build: {source} lists no recordings{f' ({kinds})' if source.is_dir() else ''}")
    if all(made.refused for made in found):
        raise ValueError(f"shards build: none of the {len(found)} recordings of {source} can be read, e.g. {found[0].refused}")
    return assign_splits(found, base, held_out)


def digest_of(sources: list[Source], base: Path) -> str:
    """Digest of a list: its recordings, their sizes, their order and their captions. It does not depend on the location of the folder."""
    digest = hashlib.sha256()
    for source in sources:
        file = source.file.relative_to(base) if source.file.is_relative_to(base) else source.file
        digest.update(
            json.dumps(
                asdict(source) | {"file": str(file), "refused": bool(source.refused), "num_bytes": size_of(source)}, sort_keys=True
            ).encode()
            + b"\n"
        )
    return digest.hexdigest()


def size_of(source: Source) -> int:
    """Size of a file in bytes; 0 if it cannot be read."""
    return 0 if source.refused else source.file.stat().st_size


# ---- one row
def source_of(row: Mapping[str, Any], base: Path, place: str) -> Source:
    """Source of a row, after checking the row. Its split is empty unless the row names one.

    Args:
        row: Column -> value.
        base: Folder to which the file is relative.
        place: File and line of the row, for error messages.

    Raises:
        ValueError: If the row is invalid; the message names its place.
    """
    require_known(row, place)
    texts = {name: text_of(row, name, place) for name in ("file", "video_prompt", "audio_prompt", "text", "speech", "split", "key")}
    if not texts["file"]:
        raise ValueError(f"{place}: has no `file`; every row names a media file")
    file = base / texts["file"]
    refused = ""
    if not file.is_file():
        refused = f"{place}: the file {file} does not exist; paths are relative to {base}/"
    elif leads_out(file, base):
        refused = f"{place}: {file} is a link out of {base}/; copy the file there, or give a list with its own path"
    captions = (texts["video_prompt"], texts["audio_prompt"])
    if texts["text"]:
        if any(captions):
            raise ValueError(f"{place}: has both `text` and a prompt of its own for picture or sound; keep one or the other")
        captions = (texts["text"], texts["text"])
    if not any(captions):
        raise ValueError(f"{place}: has no caption; fill `text`, or `video_prompt` and `audio_prompt`")
    start, end = seconds_of(row, "start", place), seconds_of(row, "end", place)
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"{place}: end must lie after start, got start={start or 0:g}, end={end:g}")
    speakers = row.get("speakers") or []
    if not isinstance(speakers, list) or not all(isinstance(name, str) for name in speakers):
        raise ValueError(f"{place}: speakers must be a list of names, got {speakers!r}")
    words = words_of(row.get("words"), place)
    if words and texts["speech"]:
        raise ValueError(f"{place}: has both `speech` and `words`; remove `speech`, which `words` contains")
    stem = texts["file"].removesuffix(file.suffix) + (f"-{start:g}" if start else "")
    key = texts["key"] or re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_")
    if not texts["key"] and (not key or not stem.isascii()):
        key = f"{key}_{hashlib.blake2b(stem.encode(errors='surrogateescape'), digest_size=4).hexdigest()}".lstrip("_")
    for name, value in (("key", key), ("split", texts["split"] or "train")):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
            raise ValueError(f"{place}: {name} must consist of letters, digits, - and _, got {value!r}; give one in the column `{name}`")
    return Source(key, file, *captions, tuple(speakers), texts["speech"], texts["split"], start or 0.0, end, words, refused)


def text_of(row: Mapping[str, Any], name: str, place: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{place}: {name} must be a text, got {value!r}")
    return (value or "").strip()


def seconds_of(row: Mapping[str, Any], name: str, place: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{place}: {name} must be seconds >= 0, got {value!r}")
    return seconds
