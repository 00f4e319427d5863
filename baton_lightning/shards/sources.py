"""What a data set is built from: recordings with captions, listed by a folder, a CSV or a JSONL file.

A row names a recording, or a part of one:

    file            path of the media file, relative to the list; required
    video_prompt    what is seen       } both, or one of them, or
    audio_prompt    what is heard      }
    text            one caption that stands for both
    speakers        who speaks: names, in CSV separated by `;`
    speech          what is said
    split           train, val, test or another name; default: by a hash of the key
    start, end      part of the recording that is meant, in s; default: all of it
    key             name of the recording in the set; default: its path, with the start if one is given, and with a digest of the path if
                    it holds letters that a key cannot

In a folder, each media file has a neighbour of the same stem: `a.txt` with the caption, or `a.json` with the fields above but `file`.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("file", "video_prompt", "audio_prompt", "text", "speakers", "speech", "split", "start", "end", "key")
MEDIA_SUFFIXES = frozenset(
    ".mp4 .mov .mkv .webm .avi .m4v .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv .mxf .vob "
    ".wav .flac .mp3 .m4a .ogg .oga .opus .aac .aif .aiff .wma .gif".split()
)


@dataclass(frozen=True)
class Source:
    """A recording, or a part of one, with its captions.

    Args:
        key: Name, unique in the set; letters, digits, ``-`` and ``_``.
        file: Media file.
        video_prompt: What is seen; empty if nobody said.
        audio_prompt: What is heard; empty if nobody said.
        speakers: Who speaks.
        speech: What is said; empty if nobody said.
        split: Part of the set.
        start: Where the part begins, in s.
        end: Where it ends, in s; ``None`` = with the recording.
    """

    key: str
    file: Path
    video_prompt: str
    audio_prompt: str
    speakers: tuple[str, ...]
    speech: str
    split: str
    start: float = 0.0
    end: float | None = None


def read_sources(source: str | Path, fractions: Mapping[str, float]) -> list[Source]:
    """Every recording of a source, in its order: that of the list, or of the paths in a folder.

    Args:
        source: A folder, a ``.csv`` or a ``.jsonl`` file.
        fractions: Split -> its share of the recordings that name none; positive, they are scaled to 1.

    Raises:
        ValueError: If there is no source, or a row is wrong; the message names the line.
    """
    source = Path(source)
    if not fractions or any(not share > 0 for share in fractions.values()):
        raise ValueError(f"shards build: shares of splits must be positive, got {dict(fractions)}; leave out a split that is to be empty")
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
        made = source_of(row, base, fractions, place)
        if made.key in seen:
            raise ValueError(f"{place}: the key {made.key!r} was given at {seen[made.key]} already; give each its own in the column `key`")
        seen[made.key] = place
        found.append(made)
    if not found:
        kinds = " ".join(sorted(MEDIA_SUFFIXES))
        raise ValueError(f"shards build: {source} lists no recordings{f' ({kinds})' if source.is_dir() else ''}")
    return found


def digest_of(sources: list[Source], base: Path) -> str:
    """Digest of a list: which recordings, of which size, in which order, with which captions. Where its folder lies does not matter."""
    digest = hashlib.sha256()
    for source in sources:
        file = source.file.relative_to(base) if source.file.is_relative_to(base) else source.file
        digest.update(
            json.dumps(asdict(source) | {"file": str(file), "num_bytes": source.file.stat().st_size}, sort_keys=True).encode() + b"\n"
        )
    return digest.hexdigest()


# ---- three ways to list recordings: each row with the place to be named if it is wrong
def folder_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Media files in the order of their paths, with what their neighbours say."""
    stems: dict[Path, Path] = {}
    for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES and not path.is_dir()):
        if not file.is_file():
            raise ValueError(f"{file}: is a link to nothing, or no file; mend it or take it away")
        if (stem := file.with_suffix("")) in stems:
            raise ValueError(f"{file}: shares its stem, and so its caption, with {stems[stem].name}; rename one of them")
        stems[stem] = file
        facts, caption = file.with_suffix(".json"), file.with_suffix(".txt")
        row: dict[str, Any] = {}
        if facts.exists():
            row = json_object(text_in(facts), str(facts))
            if "file" in row:
                raise ValueError(f"{facts}: must not hold `file`, which is {file.name}")
        elif caption.exists():
            row = {"text": text_in(caption)}
        else:
            raise ValueError(f"{file}: has no caption; write it to {caption.name} or {facts.name} in the same folder")
        yield str(facts if facts.exists() else caption), row | {"file": str(file.relative_to(folder))}


def csv_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a CSV file with a header."""
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            names = list(reader.fieldnames or [])
            require_known(names, f"{file}, line 1")
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{file}, line 1: the column {min(twice)} is there twice; keep one")
            for row in reader:
                place = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(
                        f"{place}: must have {len(reader.fieldnames or [])} fields as the header does; quote a text with commas"
                    )
                filled: dict[str, Any] = {name: value for name, value in row.items() if value.strip()}
                if "speakers" in filled:
                    filled["speakers"] = [name.strip() for name in row["speakers"].split(";") if name.strip()]
                yield place, filled
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{file}, line {reader.line_num + 1}: is no CSV in UTF-8 ({error})") from error


def jsonl_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSONL file; empty lines are passed over."""
    for number, line in enumerate(text_in(file).split("\n"), 1):
        if line.strip():
            yield f"{file}, line {number}", json_object(line, f"{file}, line {number}")


def text_in(file: Path) -> str:
    """Text of a file, with or without a byte-order mark.

    Raises:
        ValueError: If it is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is no text in UTF-8 ({error}); save it as UTF-8") from error


def json_object(text: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: must be an object of named fields, got {type(row).__name__}")
    return row


# ---- one row
def require_known(names: Any, place: str) -> None:
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(str(name), COLUMNS, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(COLUMNS)}"
            raise ValueError(f"{place}: there is no column {name!r}; {hint}")


def source_of(row: Mapping[str, Any], base: Path, fractions: Mapping[str, float], place: str) -> Source:
    """A row, checked.

    Raises:
        ValueError: With the row's place.
    """
    require_known(row, place)
    texts = {name: text_of(row, name, place) for name in ("file", "video_prompt", "audio_prompt", "text", "speech", "split", "key")}
    if not texts["file"]:
        raise ValueError(f"{place}: has no `file`; every row names a media file")
    file = base / texts["file"]
    if not file.is_file():
        raise ValueError(f"{place}: the file {file} does not exist; paths are relative to {base}/")
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
    stem = texts["file"].removesuffix(file.suffix) + (f"-{start:g}" if start else "")
    key = texts["key"] or re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_")
    if not texts["key"] and (not key or not stem.isascii()):
        key = f"{key}_{hashlib.blake2b(stem.encode(errors='surrogateescape'), digest_size=4).hexdigest()}".lstrip("_")
    for name, value in (("key", key), ("split", texts["split"] or "train")):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
            raise ValueError(f"{place}: {name} must consist of letters, digits, - and _, got {value!r}; give one in the column `{name}`")
    return Source(key, file, *captions, tuple(speakers), texts["speech"], texts["split"] or split_of(key, fractions), start or 0.0, end)


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


def split_of(key: str, fractions: Mapping[str, float]) -> str:
    """Split of a recording that names none: where the hash of its key falls. Recordings that join later change no other's split."""
    point = int.from_bytes(hashlib.blake2b(f"split/{key}".encode(), digest_size=8).digest()) / 2**64 * sum(fractions.values())
    for split, share in fractions.items():
        point -= share
        if point < 0:
            return split
    return list(fractions)[-1]
