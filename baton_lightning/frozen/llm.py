"""The planner's language model: token ids, embeddings and one causal forward over embeddings. Unlike the other networks, it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from baton_lightning.deferred import immediate_construction, is_deferred, skips_pretrained_weights
from baton_lightning.frozen import language_files
from baton_lightning.frozen.activation_checkpointing import set_checkpointing
from baton_lightning.frozen.downloads import explain_weight_errors, load_pretrained, load_tokenizer
from baton_lightning.frozen.freeze import Dtype, seeded
from baton_lightning.frozen.words import WORDS, warn_of_unknown_words, word_tokenizer
from baton_lightning.lora import LoraOptions, add_adapters

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast, Qwen3Model


class TextLLM(nn.Module):
    """A causal language model without its head, which returns hidden states; it generates no text (Baton, Sec. 3).

    Args:
        model: A decoder of transformers that takes ``inputs_embeds``.
        tokenizer: Its tokenizer. Placeholders and marks are not in the vocabulary; the planner appends them as learned embeddings.

    Attributes:
        width: Channels C of embeddings and hidden states.
        max_positions: Longest sequence L that the model supports.
    """

    def __init__(self, model: Qwen3Model, tokenizer: PreTrainedTokenizerFast | None) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.width: int = model.config.hidden_size
        self.max_positions: int = model.config.max_position_embeddings

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        if not texts:
            return []
        assert self.tokenizer is not None, "a model without a tokenizer embeds ids only"
        ids = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        warn_of_unknown_words(self.tokenizer, texts, ids)
        return ids

    def embed(self, ids: Int[Tensor, "*L"]) -> Float[Tensor, "*L C"]:
        """Input embeddings of token ids."""
        return self.model.get_input_embeddings()(ids)

    def forward(self, inputs_embeds: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        """Hidden states after the last block and norm. Attention is causal, so padding at the end does not affect other tokens.

        Args:
            inputs_embeds: Embedded sequence.
        """
        return self.model(inputs_embeds=inputs_embeds, use_cache=False).last_hidden_state


class TinyLLM(TextLLM):
    """A small, randomly initialised Qwen3 with the vocabulary of the benchmark world.

    Args:
        width: Channels C, a multiple of ``2 * num_heads``.
        depth: Blocks.
        num_heads: Query heads.
        num_kv_heads: Key and value heads, a divisor of ``num_heads``.
        max_positions: Longest sequence.
        vocabulary: Words; ``None`` = those of the benchmark world.
        seed: Seed of the weights; the global random state does not change.

    Raises:
        ValueError: If heads do not divide the width.
    """

    def __init__(
        self,
        width: int = 96,
        depth: int = 3,
        num_heads: int = 4,
        num_kv_heads: int = 2,
        max_positions: int = 1024,
        vocabulary: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        if width % (2 * num_heads) or num_heads % num_kv_heads:
            raise ValueError(
                f"TinyLLM: width must be a multiple of 2 * num_heads and num_heads of num_kv_heads, got width={width}, "
                f"num_heads={num_heads}, num_kv_heads={num_kv_heads}"
            )
        from transformers import Qwen3Config, Qwen3Model

        tokenizer = word_tokenizer(vocabulary or WORDS)
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=depth,
            num_attention_heads=num_heads,
            num_key_value_heads=num_kv_heads,
            head_dim=width // num_heads,
            max_position_embeddings=max_positions,
        )
        with seeded(seed):
            super().__init__(Qwen3Model(config), tokenizer)


QWEN3: dict[str, dict[str, int | bool]] = {
    "Qwen/Qwen3-0.6B": {
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-4B": {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32, "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-8B": {
        "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32, "tie_word_embeddings": False,
    },
    "Qwen/Qwen3-32B": {
        "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""Sizes of Qwen3 models (arXiv 2505.09388, Table 1), so that ``estimate`` needs no download."""


def language_model_config(name_or_path: str) -> PretrainedConfig:
    """Configuration of a language model. Configurations of the Qwen3 models that experiments name are built in.

    Raises:
        ValueError: If it is not built in and cannot be read.
    """
    from transformers import AutoConfig, Qwen3Config

    if sizes := QWEN3.get(name_or_path):
        shared = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960}
        return Qwen3Config(**shared, **sizes, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    with explain_weight_errors(name_or_path, licence="that of the model"):
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)


class PretrainedLLM(TextLLM):
    """A released language model (Baton: Qwen3-8B, fully trained).

    On the meta device (``with torch.device("meta")``) it has no tokenizer, and no files are read. Within
    :func:`~baton_lightning.frozen.language_files.used_from` it has the run's configuration and tokenizer, and no weights are read.

    Args:
        name_or_path: Hub name or local directory.
        dtype: Type of the weights.
        gradient_checkpointing: Recompute activations in the backward pass.
        lora_rank: Rank of low-rank adapters, which are trained instead of the weights; ``None`` trains all weights, as the paper does.
        lora_alpha: Scale of the adapters; ``None`` = ``2 * lora_rank``.
        lora_targets: Names of the linear layers that get an adapter.
        seed: Seed of the adapters' initial weights.

    Raises:
        ValueError: If the weights cannot be read, or adapters cannot be added.
    """

    def __init__(
        self,
        name_or_path: str = "Qwen/Qwen3-8B",
        dtype: Dtype = "float32",
        gradient_checkpointing: bool = False,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        lora_targets: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        seed: int = 0,
    ) -> None:
        from transformers import AutoModel

        licence = "Apache-2.0 (Qwen3)"
        if (run_folder := language_files.current()) is not None:
            model = uninitialised(str(run_folder), dtype=getattr(torch, dtype))
            tokenizer = load_tokenizer(str(run_folder), num_embeddings=model.config.vocab_size, licence=licence)
        elif torch.get_default_device().type == "meta" and not is_deferred():
            tokenizer, model = None, AutoModel.from_config(language_model_config(name_or_path), dtype=getattr(torch, dtype))
        else:
            if skips_pretrained_weights():
                model = uninitialised(name_or_path, dtype=getattr(torch, dtype))
            else:
                with immediate_construction():
                    model = load_pretrained(AutoModel, name_or_path, dtype=getattr(torch, dtype), licence=licence)
            tokenizer = load_tokenizer(name_or_path, num_embeddings=model.config.vocab_size, licence=licence)
        if lora_rank is not None:
            with seeded(seed):
                add_adapters(model, LoraOptions(lora_rank, lora_alpha, tuple(lora_targets)))
        if gradient_checkpointing:
            set_checkpointing(model, True)
        super().__init__(model, tokenizer)


def uninitialised(name_or_path: str, *, dtype: torch.dtype) -> Qwen3Model:
    """A language model with initialised buffers and uninitialised weights, which the caller must load."""
    from transformers import AutoModel
    from transformers.initialization import no_init_weights

    with no_init_weights():
        return AutoModel.from_config(language_model_config(name_or_path), dtype=dtype)
