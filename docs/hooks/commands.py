"""The page of commands: every verb with its options, from the parsers that read its arguments."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
from collections.abc import Iterator
from unittest import mock

from baton_lightning.__main__ import LIGHTNING, OTHERS, main

PROGRAM = "python -m baton_lightning"
LENGTH = 100
"""Columns of usages, so that they fit a page."""


class Captured(Exception):
    """Carries the parser of a verb; its arguments are not read."""


def page() -> str:
    """All verbs, as Markdown."""
    parts = ["## All verbs", table(("verb", "what it does"), [(f"[`{verb}`](#{verb})", text) for verb, text in verbs().items()])]
    parts += [section for verb in LIGHTNING for section in lightning(verb)]
    parts += [section for verb in OTHERS for section in described(verb, parser_of(verb), level=2)]
    return "\n\n".join(parts)


def verbs() -> dict[str, str]:
    """Verb -> what it does."""
    return {**LIGHTNING, **{verb: text for verb, (_, text) in OTHERS.items()}}


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The parser of a verb, caught when it is asked to read arguments."""

    def catch(self: argparse.ArgumentParser, args: object = None, namespace: object = None) -> None:
        raise Captured(self)

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", catch):
        try:
            importlib.import_module(OTHERS[verb][0]).main([])
        except Captured as caught:
            return caught.args[0]
    raise AssertionError(f"{verb} read no arguments")


def described(title: str, parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """Heading, text, usage and options of a parser, then of those below it."""
    parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=LENGTH)
    yield f"{'#' * level} {title}"
    if parser.description:
        yield as_markdown(parser.description)
    below = next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)
    if below is None:
        yield f"```text\n{parser.format_usage().removeprefix('usage: ').strip()}\n```"
    rows = [(names(action), help_text(parser, action)) for action in parser._actions if action is not below and action.dest != "help"]
    if rows:
        yield table(("option", "meaning"), rows)
    if parser.epilog:
        yield f"```text\n{parser.epilog.replace('%(prog)s', parser.prog).strip()}\n```"
    for name, one in below.choices.items() if below else ():
        yield from described(f"{title} {name}", one, level + 1)


def names(action: argparse.Action) -> str:
    """An option as it is written, with what it takes."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    takes = ""
    if action.nargs != 0:
        takes = " " + ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else str(action.metavar or action.dest.upper()))
    return f"`{', '.join(action.option_strings)}{takes}`"


def help_text(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """The help of an option with its default."""
    text = parser._get_formatter()._expand_help(action) if action.help and action.help != argparse.SUPPRESS else ""
    usual = action.default not in (None, False, True, argparse.SUPPRESS, "", [], ()) and "default" not in text
    return f"{text} (default: `{action.default}`)" if usual else text


def lightning(verb: str) -> Iterator[str]:
    """A verb of Lightning. Model, data and trainer take the arguments of their classes; all four verbs take the options of `fit`."""
    yield f"## {verb}"
    yield f"{verbs()[verb].capitalize()}. Every setting of [the configuration](configuration.md) is an option, too."
    yield f"```text\n{PROGRAM} {verb} -c FILE [-c FILE ...] [--SETTING VALUE ...]\n```"
    if verb != "fit":
        return
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main([verb, "--help"])
    lines = told.getvalue().partition("\n\n")[2].splitlines()
    yield '??? note "Options of the four verbs"\n\n    ```text\n' + "\n".join(f"    {line}".rstrip() for line in lines) + "\n    ```"


def as_markdown(text: str) -> str:
    """A description; indented lines are examples."""
    return "\n\n".join(
        f"```text\n{block}\n```" if block.startswith(" ") else " ".join(block.split()) for block in text.strip("\n").split("\n\n")
    )


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table whose cells may hold what a table's syntax would read as its own."""
    cells = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |" for row in cells)
