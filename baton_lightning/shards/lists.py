"""Readers of the three kinds of lists of recordings: a folder, a CSV file and a JSONL file. Each yields rows with their place, which error
messages name."""

from __future__ import annotations

import csv
import difflib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COLUMNS = ("file", "video_prompt", "audio_prompt", "text", "speakers", "speech", "words", "split", "start", "end", "key")
MEDIA_SUFFIXES = frozenset(
    ".mp4 .mov .mkv .webm .avi .m4v .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv .mxf .vob "
    ".wav .flac .mp3 .m4a .ogg .oga .opus .aac .aif .aiff .wma .gif".split()
)
OUT_OF_SIGHT = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""Folders that operating systems create, apart from those whose names begin with a dot. They count as hidden."""


def folder_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of the media files in a folder, in the order of their paths. The fields of a row come from the text file beside the media file.

    Hidden files are skipped.

    Raises:
        ValueError: If a media file has no text file, two media files share one, or a text file is invalid.
    """
    stems: dict[Path, Path] = {}
    files = media_files(folder)
    bare = [file for file in files if not (beside(file, ".json", folder) or beside(file, ".txt", folder))]
    if bare:
        others = ", ".join(file.name for file in bare[1:4])
        more = f"; nor have {len(bare) - 1} more, e.g. {others}" if bare[1:] else ""
        names = f"{bare[0].with_suffix('.txt').name} or {bare[0].with_suffix('.json').name}"
        raise ValueError(f"{bare[0]}: has no caption; write it to {names} in the same folder{more}")
    for file in files:
        if (stem := file.with_suffix("")) in stems:
            raise ValueError(f"{file}: shares its stem, and so its caption, with {stems[stem].name}; rename one of them")
        stems[stem] = file
        facts, caption = beside(file, ".json", folder), beside(file, ".txt", folder)
        row: dict[str, Any] = {}
        if facts is not None:
            row = json_object(text_in(facts), str(facts))
            if "file" in row:
                raise ValueError(f"{facts}: must not hold `file`, which is {file.name}")
        elif caption is not None:
            row = {"text": text_in(caption)}
        yield str(facts or caption), row | {"file": str(file.relative_to(folder))}


def media_files(folder: Path) -> list[Path]:
    """Media files in a folder and its subfolders, sorted, without hidden ones."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES and not path.is_dir())
    return sorted(file for file in files if not is_hidden(file, folder))


def num_hidden(folder: Path) -> int:
    """Number of hidden media files, which are skipped."""
    return sum(path.suffix.lower() in MEDIA_SUFFIXES and is_hidden(path, folder) for path in folder.rglob("*"))


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether a file or a folder in its path is hidden, e.g. ``._a.mp4`` of macOS, trash or thumbnails."""
    return any(part.startswith(".") or part in OUT_OF_SIGHT for part in file.relative_to(folder).parts)


def leads_out(file: Path, base: Path) -> bool:
    """Whether a path inside a folder leads out of it through a link."""
    named = Path(os.path.normpath(file))
    return named.is_relative_to(os.path.normpath(base)) and not file.resolve().is_relative_to(base.resolve())


def beside(file: Path, suffix: str, folder: Path) -> Path | None:
    """The text file of a media file: it has the same stem and is not a link out of the folder. ``None`` if there is none."""
    text = file.with_suffix(suffix)
    return text if text.is_file() and not leads_out(text, folder) else None


def csv_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a CSV file with a header."""
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            names = list(reader.fieldnames or [])
            require_known(names, f"{file}, line 1")
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{file}, line 1: the column {min(twice)} occurs twice; keep one")
            for row in reader:
                place = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(
                        f"{place}: must have {len(reader.fieldnames or [])} fields as the header does; quote a text with commas"
                    )
                filled: dict[str, Any] = {name: value for name, value in row.items() if value.strip()}
                if "words" in filled:
                    filled["words"] = json_list(row["words"], place)
                if "speakers" in filled:
                    filled["speakers"] = [name.strip() for name in row["speakers"].split(";") if name.strip()]
                yield place, filled
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{file}, line {reader.line_num + 1}: is not CSV in UTF-8 ({error})") from error


def jsonl_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSONL file; empty lines are skipped."""
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
        raise ValueError(f"{file}: is not text in UTF-8 ({error}); save it as UTF-8") from error


def json_list(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: words must be a JSON list ({error})") from error


def json_object(text: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: must be an object of named fields, got {type(row).__name__}")
    return row


def require_known(names: Any, place: str) -> None:
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(str(name), COLUMNS, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(COLUMNS)}"
            raise ValueError(f"{place}: there is no column {name!r}; {hint}")
