"""Files of prompts: our own JSON, or those of Verse-Bench, AVGen-Bench and JavisBench."""

from __future__ import annotations

from pathlib import Path

from baton_lightning.metrics import avgen_bench, javis_bench, verse_bench
from baton_lightning.metrics.prompts import Prompt
from baton_lightning.plain_files import read_json


def read_prompts(file: Path) -> dict[str, Prompt]:
    """Reads prompts by the key of their clips: ``{"key": {"video_prompt": ..., ...}}``, or the file of a public benchmark.

    Raises:
        ValueError: If the file has none of these formats.
    """
    if file.suffix.lower() == ".csv":
        return javis_bench.prompts(file)
    try:
        values = read_json(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"prompts must be a JSON file, got {file}, which cannot be read ({error})") from error
    if avgen_bench.is_avgen_bench(values):
        return avgen_bench.prompts(values, file.stem, str(file))
    if not isinstance(values, dict) or not all(isinstance(entry, dict) for entry in values.values()):
        raise ValueError(
            f'{file} must hold {{"key": {{"video_prompt": ..., "audio_prompt": ...}}}}, the sets of Verse-Bench, or a list of AVGen-Bench'
        )
    if verse_bench.is_verse_bench(values):
        return verse_bench.prompts(values, str(file))
    return {key: Prompt.from_dict(entry, f"{file}: {key}") for key, entry in values.items()}
