"""A language model's configuration and tokenizer in a run folder: with them a run's weights are used without the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LANGUAGE = "language"
"""Subfolder of a run with the files, in the format of transformers."""
_current: ContextVar[Path | None] = ContextVar("language", default=None)


class LanguageModel(Protocol):
    """A network of transformers with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def save(llm: LanguageModel, run: Path) -> None:
    """Saves configuration and tokenizer of a language model, without weights, in a run folder."""
    llm.model.config.save_pretrained(run / LANGUAGE)
    llm.tokenizer.save_pretrained(run / LANGUAGE)


def exist_in(run: str | Path | None) -> bool:
    """Whether a run folder has a language model's configuration and tokenizer."""
    return run is not None and (Path(run) / LANGUAGE).is_dir()


@contextmanager
def used_from(run: str | Path | None) -> Iterator[None]:
    """Language models constructed inside use the configuration and tokenizer of a run, and their weights stay uninitialised.

    The caller loads the run's weights afterwards. If the folder has no such files, construction is not changed.

    Args:
        run: Folder of a run or of an export; ``None`` = no parent.
    """
    token = _current.set(Path(run) / LANGUAGE if run is not None and exist_in(run) else None)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Path | None:
    """The folder from which a language model constructed now reads its configuration and tokenizer; ``None`` = none."""
    return _current.get()
