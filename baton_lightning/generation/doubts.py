"""What a run may not understand in a prompt: words outside its vocabulary, and sentences that are not in the benchmark world's language."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from baton_lightning.frozen.words import unknown_words
from baton_lightning.world.parse import EXAMPLE, parse_prompts
from baton_lightning.world.prompts import VOCABULARY

if TYPE_CHECKING:
    from baton_lightning.metrics.prompts import Prompt

MOST = 3
"""Sentences that are told."""


def doubts(tokenizer: Any, prompts: Iterable[Prompt]) -> list[str]:
    """What a run may not understand, each as a sentence; it makes clips of it all the same.

    Args:
        tokenizer: The run's; only one of whole words has a vocabulary that can be left.
        prompts: What is asked for.
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
