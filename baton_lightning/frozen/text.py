"""The text encoder of the diffusion transformer (Ovi and Wan: umT5-xxl)."""

from __future__ import annotations

import html
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from baton_lightning.frozen.downloads import load_pretrained, load_tokenizer
from baton_lightning.frozen.freeze import Dtype, Frozen, seeded
from baton_lightning.frozen.prompts import PromptFormat
from baton_lightning.frozen.words import WORDS, warn_of_unknown_words, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, UMT5EncoderModel


class TextEncoder(Frozen):
    """A frozen umT5 encoder. It returns one row per token, without padding.

    Args:
        model: The encoder.
        tokenizer: Its tokenizer, which appends an end token to every text; an empty text thus has one row.
        max_tokens: Longest text, in tokens; longer texts are cut, with a warning.
        prompt_format: Joins a clip's two prompts to one text; ``None`` joins them with a blank.

    Note: Wan also repairs broken unicode with ``ftfy``. Here HTML entities are unescaped and whitespace is collapsed.
    """

    def __init__(
        self,
        model: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerFast,
        max_tokens: int = 512,
        prompt_format: PromptFormat | None = None,
    ) -> None:
        super().__init__()
        self.merge = prompt_format or PromptFormat()
        self.format = repr(self.merge)  # part of the fingerprint of cached rows
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.width: int = model.config.d_model
        self.freeze()

    def context(self, video_prompts: Sequence[str], audio_prompts: Sequence[str]) -> list[Float[Tensor, "n C"]]:
        """Rows of each clip's joined prompts."""
        return self([self.merge(video, audio) for video, audio in zip(video_prompts, audio_prompts, strict=True)])

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> list[Float[Tensor, "n C"]]:
        """Rows of each text, one per token; the caller zero-pads them."""
        if not texts:
            return []
        texts = [" ".join(html.unescape(html.unescape(text)).split()) for text in texts]
        ids = self.tokenizer(texts)["input_ids"]
        warn_of_unknown_words(self.tokenizer, texts, ids)
        longest = max(len(row) for row in ids)
        if longest > self.max_tokens:
            warnings.warn(f"a text of {longest} tokens was cut to {self.max_tokens}", stacklevel=2)
        rows = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        ids, mask = rows["input_ids"].to(self.device), rows["attention_mask"].to(self.device)
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return [hidden[i, :n] for i, n in enumerate(mask.sum(1).tolist())]


class TinyText(TextEncoder):
    """A small, randomly initialised umT5 encoder with the vocabulary of the benchmark world.

    Args:
        width: Channels C of a row.
        depth: Blocks.
        num_heads: Attention heads, a divisor of ``width``.
        max_tokens: Longest text, in tokens.
        vocabulary: Words; ``None`` = those of the benchmark world.
        seed: Seed of the weights; the global random state does not change.
    """

    def __init__(
        self,
        width: int = 64,
        depth: int = 2,
        num_heads: int = 4,
        max_tokens: int = 64,
        vocabulary: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        from transformers import UMT5Config, UMT5EncoderModel

        tokenizer = word_tokenizer(vocabulary or WORDS, append_end=True)
        config = UMT5Config(
            vocab_size=len(tokenizer), d_model=width, d_kv=width // num_heads, d_ff=2 * width, num_layers=depth, num_heads=num_heads
        )
        with seeded(seed):
            super().__init__(UMT5EncoderModel(config), tokenizer, max_tokens)


class UMT5(TextEncoder):
    """The released umT5 encoder, 5.7 B parameters; embed texts once and cache the rows.

    Args:
        name_or_path: Hub name or local directory.
        dtype: Type of the weights; rows are float32.
        max_tokens: Longest text, in tokens (Wan, Ovi: 512).
        prompt_format: Joins a clip's two prompts to one text; ``None`` joins them with a blank.

    Raises:
        ValueError: If the weights cannot be read.
    """

    def __init__(
        self,
        name_or_path: str = "google/umt5-xxl",
        dtype: Dtype = "bfloat16",
        max_tokens: int = 512,
        prompt_format: PromptFormat | None = None,
    ) -> None:
        from transformers import UMT5EncoderModel

        licence = "Apache-2.0 (umT5)"
        model = load_pretrained(UMT5EncoderModel, name_or_path, dtype=getattr(torch, dtype), licence=licence)
        tokenizer = load_tokenizer(name_or_path, num_embeddings=model.config.vocab_size, licence=licence)
        super().__init__(model, tokenizer, max_tokens, prompt_format)
