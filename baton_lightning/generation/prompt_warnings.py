"""Warnings about prompts that a run may not understand: unknown words, and sentences outside the benchmark world's language."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from baton_lightning.frozen.words import unknown_words
from baton_lightning.world.parse import EXAMPLE, parse_prompts
from baton_lightning.world.prompts import VOCABULARY

if TYPE_CHECKING:
    from baton_lightning.metrics.prompts import Prompt

MOST = 3
"""Maximum number of prompts with a warning of their own; the others are counted."""


def prompt_warnings(tokenizer: Any, prompts: Iterable[Prompt]) -> list[str]:
    """Warnings about prompts that a run may not understand. Clips are generated nevertheless.

    Args:
        tokenizer: Tokenizer of the run, or ``None``. Only a tokenizer of whole words has unknown words.
        prompts: Prompts of the clips to generate.
    """
    prompts = list(prompts)
    if tokenizer is None or tokenizer.unk_token_id is None:
        return []
    of_world = {word for word in VOCABULARY if word.isalpha()} <= tokenizer.get_vocab().keys()
    if words := unknown_words(tokenizer, [text for prompt in prompts for text in (prompt.video_prompt, prompt.audio_prompt)]):
        return [f"{words}; write as in {EXAMPLE}" if of_world else words]
    found = []
    for prompt in prompts if of_world else ():
        try:
            parse_prompts(prompt.video_prompt, prompt.audio_prompt, 2.0)
        except ValueError as error:
            found.append(f"{error}; the clip is made, but cannot be scored")
    return found[:MOST] + ([f"and {len(found) - MOST} more such prompts"] if found[MOST:] else [])
