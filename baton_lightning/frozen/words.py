"""A word-level tokenizer built in memory from a list of words."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "[PAD]", "[EOS]", "[UNK]"
WORDS = tuple(
    ". , [ ] ' a and the on in to first then red green blue yellow magenta cyan circle square triangle left middle right ba bo di do ku ka "
    "talks jumps hits flashes slides says thump ding clack silence other one that was hit same words as speaker".split()
)
"""The language of the benchmark world. A word's place is its token, so the order stays."""


def word_tokenizer(words: Sequence[str] = WORDS, *, append_end: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word or punctuation mark, lower case, with the interface of a pretrained tokenizer.

    Args:
        words: The vocabulary; entries with punctuation or blanks are split like any text.
        append_end: Whether an end token is appended to every text, as by umT5's tokenizer.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    normalise = normalizers.Lowercase()
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")])
    pieces = dict.fromkeys(piece for word in words for piece, _ in split.pre_tokenize_str(normalise.normalize_str(word)))
    ids = {token: i for i, token in enumerate((PAD, EOS, UNKNOWN, *pieces))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalise
    tokenizer.pre_tokenizer = split
    if append_end:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, ids[EOS])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)


def warn_of_unknown_words(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> None:
    """Warns once of words that are not in the vocabulary, e.g. misspelt ones, with the nearest that are."""
    unknown = tokenizer.unk_token_id
    affected = [text for text, row in zip(texts, ids, strict=True) if unknown is not None and unknown in row]
    if message := unknown_words(tokenizer, affected):
        warnings.warn(message, stacklevel=3)


def unknown_words(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> str:
    """The words of texts that are not in a vocabulary, each with the nearest that is, as a sentence; empty if all are.

    Args:
        tokenizer: Of whole words; others know all of them.
        texts: Prompts.
    """
    unknown, vocabulary = tokenizer.unk_token_id, tokenizer.get_vocab()
    if unknown is None:
        return ""
    found: dict[str, list[str]] = {}
    for text in texts:
        row = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        for token, (start, end) in zip(row["input_ids"], row["offset_mapping"], strict=True):
            if token == unknown:
                found.setdefault(text[start:end].lower(), difflib.get_close_matches(text[start:end].lower(), vocabulary, 1, 0.75))
    named = [f"{word} (did you mean {near[0]}?)" if near else word for word, near in list(found.items())[:12]]
    more = f" and {len(found) - 12} more" if found.keys() and len(found) > 12 else ""
    return f"the run's vocabulary does not have: {', '.join(named)}{more}; they are read as {tokenizer.unk_token}" if found else ""
