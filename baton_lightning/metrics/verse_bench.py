"""Verse-Bench's prompts (600, in three sets: Wang et al. 2025), converted for `generate` and `metrics`.

A record has a ``video_prompt``, a list of sounds as ``audio_prompt`` (empty or blank in one record of thirteen, all of which have speech),
and a ``speech_prompt`` with one speaker and a text, often empty, about half of it in Chinese.

Note:
    Speech is added to the video prompt in double quotes, as generators with speech tags expect it (``frozen/prompts.py``). If a record has
    no sound, the audio prompt is the speaker. The merged ``prompt`` of some publications is not used: it is for models with one text input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baton_lightning.metrics.prompts import Line, Prompt, language_of

DOUBLE_QUOTES = str.maketrans({'"': "'", "“": "‘", "”": "’"})


def is_verse_bench(values: Mapping[str, Any]) -> bool:
    """Whether JSON values have the format of Verse-Bench."""
    records = [record for records in values.values() if isinstance(records, dict) for record in records.values()]
    return bool(records) and all(isinstance(record, dict) and "speech_prompt" in record for record in records)


def prompts(values: Mapping[str, Any], where: str) -> dict[str, Prompt]:
    """Prompts of all records by their number; the set's name is the tier.

    Args:
        values: Set -> number -> record.
        where: Source of the values, for error messages.

    Raises:
        ValueError: If a record lacks a field, or two records have the same number.
    """
    parsed: dict[str, Prompt] = {}
    for tier, records in values.items():
        for key, record in records.items():
            if key in parsed:
                raise ValueError(
                    f"{where}: numbers of records must be unique, because clips are named after them; "
                    f"{key} is in {parsed[key].tier} and {tier}"
                )
            parsed[key] = prompt_of(record, tier, f"{where}: {tier}/{key}")
    return parsed


def prompt_of(record: Mapping[str, Any], tier: str, where: str) -> Prompt:
    """Prompt of one record.

    Args:
        record: The record, as published.
        tier: Name of its set.
        where: Source of the record, for error messages.

    Raises:
        ValueError: If it lacks a video prompt, or both sounds and speech.
    """
    video_prompt, sounds, speech = (record.get(name) for name in ("video_prompt", "audio_prompt", "speech_prompt"))
    if not isinstance(video_prompt, str) or not video_prompt.strip():
        raise ValueError(f"{where}: video_prompt must be a text, got {video_prompt!r}")
    if not isinstance(sounds, list) or not all(isinstance(sound, str) for sound in sounds):
        raise ValueError(f"{where}: audio_prompt must be a list of texts, got {sounds!r}")
    if not isinstance(speech, dict) or not {"speaker", "text"} <= speech.keys():
        raise ValueError(f'{where}: speech_prompt must be {{"speaker": ..., "text": ...}}, got {speech!r}')
    speaker, text = speech["speaker"].strip().rstrip("."), speech["text"].strip()
    sound_text = ", ".join(sound.strip().rstrip(".") for sound in sounds if sound.strip())
    if not sound_text and not text:
        raise ValueError(f"{where}: a record must have sounds or speech, got neither")
    if not text:
        return Prompt(video_prompt.strip(), sound_text, (), "en", tier)
    speaker_name = speaker or "a voice"
    quoted = f'{speaker_name[0].upper()}{speaker_name[1:]} says: "{text.translate(DOUBLE_QUOTES)}"'
    video_prompt, audio_prompt = f"{video_prompt.strip()} {quoted}", sound_text or f"{speaker_name} speaking"
    return Prompt(video_prompt, audio_prompt, (Line(speaker, text),), language_of(text), tier)
