"""Command lines of the verbs that are not Lightning's: mistakes in one line, with the nearest name, and what arguments must hold."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors are one line that names what was misspelt and what it may have meant. Its subparsers are such, too."""

    given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.given = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        verb = self.prog.removeprefix("python -m ").removeprefix("baton_lightning ")
        text = self.explained(message)
        self.exit(2, f"baton_lightning: error: {verb}: {text}{'' if text.endswith('?') else f'; see `{self.prog} --help`'}\n")

    def explained(self, message: str) -> str:
        """A complaint of argparse, and what may have been meant."""
        if choices := re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
            names = [name.strip(" '") for name in choices[2].split(",")]
            return message + suggestion(choices[1], names)
        named = re.search(r"unrecognized arguments: (\S+)", message)
        known = self.known_options()
        unknown = [word.partition("=")[0] for word in [*(named.groups() if named else ()), *self.given] if word.startswith("--")]
        if strange := next((word for word in unknown if word != "--" and not any(name.startswith(word) for name in known)), None):
            return f"there is no option {strange}{suggestion(strange, known)}"
        return message

    def known_options(self) -> list[str]:
        """Options of this parser and of those below it."""
        found = [name for name in self._option_string_actions if name.startswith("--")]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [name for below in action.choices.values() for name in below.known_options()]
        return list(dict.fromkeys(found))


def suggestion(word: str, names: Sequence[str]) -> str:
    """The nearest name as a question, as the end of a sentence; empty if none is near."""
    near = difflib.get_close_matches(word, names, 1)
    return f"; did you mean {near[0]}?" if near else ""


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
