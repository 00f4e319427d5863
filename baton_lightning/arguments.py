"""What arguments of several verbs must hold."""

from __future__ import annotations


def require_at_least_one(verb: str, options: object, *names: str) -> None:
    """Refuses numbers below 1.

    Args:
        verb: Named in the error.
        options: Holds them as attributes.
        names: Which of them.

    Raises:
        ValueError: If one is below 1.
    """
    for name in names:
        if (value := getattr(options, name)) < 1:
            raise ValueError(f"{verb}: --{name.replace('_', '-')} must be at least 1, got {value}")
