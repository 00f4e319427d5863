"""The page of errors: every `raise` of a `ValueError` in the source, with its message and its place, read without importing anything."""

from __future__ import annotations

import ast
import hashlib
import html
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("baton_lightning", "datamodules", "callbacks")
KINDS = ("ValueError", "WrongArguments", "MediaError", "DamagedMember", "ClipExcluded", "RuntimeError", "OSError", "FileNotFoundError")
"""What a verb prints as one line, or as the reason for which a clip is left out."""
OPEN, CLOSE = "«", "»"


@dataclass(frozen=True)
class Message:
    """An error that a user may see.

    Args:
        text: Message; values that are only known when it is raised stand between « and ».
        module: Module that raises it.
        line: Line of the `raise`.
    """

    text: str
    module: str
    line: int

    @property
    def room(self) -> str:
        """Folder or file of the library, or the workbench's package."""
        parts = self.module.split(".")
        return parts[1] if parts[0] == "baton_lightning" and len(parts) > 1 else parts[0]

    @property
    def anchor(self) -> str:
        """Name within the page; it stays while the message stays."""
        return "error-" + hashlib.sha256(f"{self.module} {self.text}".encode()).hexdigest()[:10]

    @property
    def first_words(self) -> str:
        """The first four words, for the index."""
        return " ".join(self.text.split()[:4]).rstrip(",;:")


def messages(root: Path) -> list[Message]:
    """The errors of all packages below a folder, in the order of modules and lines."""
    found = []
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found += [Message(text, module, line) for line, text in raised(path.read_text(encoding="utf-8"))]
    return found


def raised(source: str) -> list[tuple[int, str]]:
    """Line and message of every `raise` of such an error, in the order of lines."""
    tree = ast.parse(source)
    found = []
    for node, function in raises(tree, tree):
        if isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func) in KINDS:
            found.append((node.lineno, template(node.exc.args[0], assigned(function)) if node.exc.args else ""))
    return sorted(found)


def raises(node: ast.AST, function: ast.AST) -> Iterator[tuple[ast.Raise, ast.AST]]:
    """Every `raise` below a node, with the innermost function that holds it."""
    for below in ast.iter_child_nodes(node):
        if isinstance(below, ast.Raise):
            yield below, function
        elif isinstance(below, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from raises(below, below if isinstance(below, ast.FunctionDef | ast.AsyncFunctionDef) else function)


def assigned(function: ast.AST) -> dict[str, ast.expr]:
    """Names that a function assigns texts to, once each."""
    found: dict[str, list[ast.expr]] = defaultdict(list)
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id].append(node.value)
    return {name: values[0] for name, values in found.items() if len(values) == 1 and is_text(values[0])}


def is_text(node: ast.expr) -> bool:
    """Whether an expression is a text or is put together from texts."""
    match node:
        case ast.JoinedStr() | ast.Constant(value=str()):
            return True
        case ast.BinOp(left=left, op=ast.Add()):
            return is_text(left)
        case ast.IfExp(body=body, orelse=other):
            return is_text(body) or is_text(other)
    return False


def template(node: ast.expr, names: dict[str, ast.expr]) -> str:
    """The text of an expression, with its values between « and »; alternatives stand between ( and ), parted by |.

    Args:
        node: Argument of the error.
        names: Names whose text is known.
    """
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(template(value, names) for value in values)
        case ast.FormattedValue(value=value):
            return template(value, names)
        case ast.BinOp(left=left, op=ast.Add(), right=right) if is_text(node):
            return template(left, names) + template(right, names)
        case ast.IfExp(body=body, orelse=other) if is_text(body) or is_text(other):
            choices = [choice for choice in (template(body, names), template(other, names)) if choice]
            return choices[0] if len(choices) == 1 else f"({' | '.join(choices)})"
        case ast.Name(id=name) if name in names:
            return template(names[name], {key: value for key, value in names.items() if key != name})
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(between)), attr="join"), args=[several]):
            return f"{OPEN}{value_name(several)}{between.rstrip()} ...{CLOSE}"
    return f"{OPEN}{value_name(node)}{CLOSE}"


def value_name(node: ast.expr) -> str:
    """A short name of a value: that of the variable or attribute where there is one."""
    match node:
        case ast.GeneratorExp(elt=element) | ast.ListComp(elt=element):
            return value_name(element)
        case ast.JoinedStr():
            return template(node, {}).replace(OPEN, "").replace(CLOSE, "")
        case ast.Call(func=ast.Name(id="sorted" | "str" | "len" | "map" | "quoted" | "printable" as name), args=[*_, argument]):
            return f"number of {value_name(argument)}" if name == "len" else value_name(argument)
        case ast.NamedExpr(value=value):
            return value_name(value)
    written = ast.unparse(node).removeprefix("self.")
    return written if len(written) <= 48 else written[:45] + "..."


def page(found: list[Message]) -> str:
    """The index and the errors of every room, as Markdown with HTML."""
    rooms: dict[str, dict[str, Message]] = defaultdict(dict)
    for message in found:
        rooms[message.room].setdefault(message.anchor, message)
    shown = sorted((message for room in rooms.values() for message in room.values()), key=lambda message: sorting_key(message.text))
    parts = [f"{len(found)} places raise an error. Values that are only known then stand between {OPEN} and {CLOSE}.", "## By first words"]
    letters: dict[str, list[Message]] = defaultdict(list)
    for message in shown:
        letters[sorting_key(message.text)[:1].upper() or OPEN].append(message)
    for letter, group in letters.items():
        links = [f'<a href="#{message.anchor}">{html.escape(message.first_words)}</a>' for message in group]
        parts.append(f'<p class="index"><strong>{letter if letter.isalpha() else OPEN}</strong> {" · ".join(links)}</p>')
    for room, group in sorted(rooms.items()):
        parts.append(f"## {room}")
        parts += [entry(message) for message in sorted(group.values(), key=lambda message: (message.module, message.line))]
    return "\n\n".join(parts)


def sorting_key(text: str) -> str:
    """A message without what is no letter at its start, in lower case."""
    return "" if text.startswith(OPEN) else re.sub(r"^[^a-z]+", "", text.lower())


def entry(message: Message) -> str:
    """A message with its module, as HTML."""
    text = re.sub(f"{OPEN}(.*?){CLOSE}", rf"<var>{OPEN}\1{CLOSE}</var>", html.escape(message.text, quote=False), flags=re.DOTALL)
    return (
        f'<div class="error" id="{message.anchor}"><p>{" ".join(text.split())}</p><p class="place"><code>{message.module}</code></p></div>'
    )
