"""A word-level tokenizer built in memory from a list of words."""

from __future__ import annotations

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
    """Warns of texts with words that are not in the vocabulary, e.g. misspelt prompts."""
    unknown = tokenizer.unk_token_id
    affected = [text for text, row in zip(texts, ids, strict=True) if unknown is not None and unknown in row]
    if affected:
        warnings.warn(f"words outside the tokenizer's vocabulary were read as {tokenizer.unk_token}: {affected[:4]}", stacklevel=3)
