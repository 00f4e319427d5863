"""Recomputation of a transformers model's activations. Releases before 5.18 call it gradient checkpointing."""

from __future__ import annotations

from typing import Any


def set_checkpointing(model: Any, on: bool) -> None:
    """Turns the recomputation of activations in the backward pass on or off.

    Args:
        model: A model of transformers.
        on: Whether activations are recomputed.
    """
    name = "activation_checkpointing" if hasattr(model, "activation_checkpointing_enable") else "gradient_checkpointing"
    if on:
        getattr(model, f"{name}_enable")(**{f"{name}_kwargs": {"use_reentrant": False}})
    elif is_checkpointing(model):
        getattr(model, f"{name}_disable")()


def is_checkpointing(model: Any) -> bool:
    """Whether the model recomputes activations in the backward pass."""
    if hasattr(model, "activation_checkpointing_enable"):
        return bool(getattr(model, "is_activation_checkpointing", False))
    return bool(getattr(model, "is_gradient_checkpointing", False))
