"""What MkDocs does beyond its own: fills the marked places of a page from the source, and leads links out of `docs/` to their pages.

A page holds ``<!-- generated: NAME ARGUMENT -->`` where a text of :data:`MAKERS` is put. Nothing that is generated is stored.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import configuration
import errors

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"<!-- generated: (\w+) ?(.*?) -->")
LINK = re.compile(r"(!?)\[((?:!\[[^\]]*\]\([^()\s]+\)|[^\[\]])*)\]\(([^()\s]+)\)")
ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):<code>~?([\w.]+)</code>")
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "baton_lightning/weights/nano/README.md": "nano.md",
    "docs/tutorials/first_clip.ipynb": "tutorials/first_clip.md",
}
"""File of the checkout -> page that holds it, relative to `docs/`."""


def file(name: str, page: str) -> str:
    """A Markdown file of the checkout without its head of settings and its title."""
    text = re.sub(r"\A---\n.*?\n---\n", "", (ROOT / name).read_text(), flags=re.DOTALL)
    return relinked(re.sub(r"\A\s*# .*\n", "", text), os.path.dirname(name), page)


def section(argument: str, page: str) -> str:
    """A section of a Markdown file: ``FILE HEADING``."""
    name, _, heading = argument.partition(" ")
    text = (ROOT / name).read_text().partition(f"\n## {heading}\n")[2]
    return relinked(re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0].strip(), os.path.dirname(name), page)


def notebook(name: str, page: str) -> str:
    """The cells of a notebook without its title."""
    cells = json.loads((ROOT / name).read_text())["cells"]
    texts = {"code": "```python\n{}\n```", "markdown": "{}"}
    written = "\n\n".join(texts[cell["cell_type"]].format("".join(cell["source"])) for cell in cells)
    return re.sub(r"\A\s*# .*\n", "", written)


MAKERS: dict[str, Callable[[str, str], str]] = {
    "file": file,
    "section": section,
    "notebook": notebook,
    "errors": lambda argument, page: errors.page(errors.messages(ROOT)),
    "commands": lambda argument, page: commands.page(),
    "configuration": lambda argument, page: configuration.page(ROOT),
}


def relinked(text: str, folder: str, page: str) -> str:
    """A text whose relative links lead from a page.

    Args:
        text: Markdown.
        folder: Folder of its file, relative to the checkout.
        page: Page that shows it, relative to `docs/`.
    """

    def lead(found: re.Match[str]) -> str:
        picture, shown, target = found.groups()
        shown = LINK.sub(lead, shown)
        if "://" in target or target.startswith("#"):
            return f"{picture}[{shown}]({target})"
        name, _, anchor = target.partition("#")
        path = os.path.normpath(os.path.join(folder, name))
        below = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if below is None:
            return shown  # a file that is no page
        relative = os.path.relpath(below, os.path.dirname(page) or ".")
        return f"{picture}[{shown}]({relative}{'#' + anchor if anchor else ''})"

    return LINK.sub(lead, text)


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """MkDocs: a page before it is rendered."""
    name = page.file.src_uri
    markdown = relinked(markdown, os.path.join("docs", os.path.dirname(name)), name)
    return MARK.sub(lambda mark: MAKERS[mark[1]](mark[2], name), markdown)


def on_page_content(html: str, *, page: Any, config: Any, files: Any) -> str:
    """MkDocs: a page after it is rendered. Names in docstrings become links where they have a place."""
    return ROLE.sub(lambda role: f'<autoref optional identifier="{role[1]}"><code>{role[1].rpartition(".")[2]}</code></autoref>', html)
