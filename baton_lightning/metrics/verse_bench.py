"""Verse-Bench's prompts (600, in three sets: Wang et al. 2025) in the form that `generate` and `metrics` take.

A record holds a ``video_prompt``, a list of sounds as ``audio_prompt`` (empty or blank in one record of thirteen, all of which
have speech), and a ``speech_prompt`` of one speaker and a text, often empty, about half of it in Chinese.

Note:
    Speech goes into the video prompt in double quotes, as generators with speech tags expect it (``frozen/prompts.py``); where no
    sound is given, what is heard is the speaker. The merged ``prompt`` that some publications add is not used: it exists for
    models that take one text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baton_lightning.metrics.prompts import Line, Prompt, language_of

DOUBLE_QUOTES = str.maketrans({'"': "'", "“": "‘", "”": "’"})


def is_verse_bench(values: Mapping[str, Any]) -> bool:
    """Whether JSON values are sets of Verse-Bench's records."""
    records = [record for records in values.values() if isinstance(records, dict) for record in records.values()]
    return bool(records) and all(isinstance(record, dict) and "speech_prompt" in record for record in records)


def prompts(values: Mapping[str, Any], where: str) -> dict[str, Prompt]:
    """All records, by their number; the set becomes the tier.

    Args:
        values: Set -> number -> record.
        where: Named in errors.

    Raises:
        ValueError: If a record lacks something, or two have the same number.
    """
    read: dict[str, Prompt] = {}
    for tier, records in values.items():
        for key, record in records.items():
            if key in read:
                raise ValueError(
                    f"{where}: {key} is in {read[key].tier} and in {tier}; clips are named after it, so it must be one record's"
                )
            read[key] = prompt_of(record, tier, f"{where}: {tier}/{key}")
    return read


def prompt_of(record: Mapping[str, Any], tier: str, where: str) -> Prompt:
    """One record.

    Args:
        record: As published.
        tier: Its set.
        where: Named in errors.

    Raises:
        ValueError: If it lacks a video prompt, or both sounds and speech.
    """
    seen, sounds, speech = (record.get(name) for name in ("video_prompt", "audio_prompt", "speech_prompt"))
    if not isinstance(seen, str) or not seen.strip():
        raise ValueError(f"{where}: video_prompt must be a text, got {seen!r}")
    if not isinstance(sounds, list) or not all(isinstance(sound, str) for sound in sounds):
        raise ValueError(f"{where}: audio_prompt must be a list of texts, got {sounds!r}")
    if not isinstance(speech, dict) or not {"speaker", "text"} <= speech.keys():
        raise ValueError(f'{where}: speech_prompt must be {{"speaker": ..., "text": ...}}, got {speech!r}')
    speaker, text = speech["speaker"].strip().rstrip("."), speech["text"].strip()
    heard = ", ".join(sound.strip().rstrip(".") for sound in sounds if sound.strip())
    if not heard and not text:
        raise ValueError(f"{where}: a record must have sounds or speech, got neither")
    if not text:
        return Prompt(seen.strip(), heard, (), "en", tier)
    who = speaker or "a voice"
    quoted = f'{who[0].upper()}{who[1:]} says: "{text.translate(DOUBLE_QUOTES)}"'
    return Prompt(f"{seen.strip()} {quoted}", heard or f"{who} speaking", (Line(speaker, text),), language_of(text), tier)
