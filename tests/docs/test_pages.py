"""Pages that are made from the source: every error is on its page, links lead to pages, and placeholders stand for values."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for package in ("baton_lightning", "datamodules", "callbacks") for path in (ROOT / package).rglob("*.py")]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of the hooks, as MkDocs does: from their folder."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "hooks"))

    def imported(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        return import_module(name)

    return imported


def test_every_value_error_of_the_library_is_on_the_page(hook):
    errors = hook("errors")
    pattern = re.compile(rf"^\s*raise (?:{'|'.join(errors.KINDS)})\(")
    written = [line for path in SOURCES for line in path.read_text().splitlines() if pattern.match(line)]
    found = errors.messages(ROOT)
    raised = [pair for path in SOURCES for pair in errors.raised(path.read_text())]
    assert len(raised) == len(written) > 600 and {text for _, text in raised if text} == {message.text for message in found}
    page = errors.page(found)
    assert {message.anchor for message in found} == set(re.findall(r'<div class="error" id="(error-\w+)">', page))
    assert set(re.findall(r'href="#(error-\w+)"', page)) == {message.anchor for message in found}


def test_a_message_keeps_its_words_and_names_its_values(hook):
    source = """
def check(path, names):
    kind = f"clips of {path.name}"
    if path:
        raise ValueError(f"{path} must hold {kind}, " f"got {', '.join(sorted(names))}{'' if names else ': nothing'} in row {number + 1}")
    raise MediaError("no sound") from error
    raise AssertionError("not a user's mistake")
"""
    told = [text for _, text in hook("errors").raised(source)]
    assert told == ["«path» must hold clips of «path.name», got «names, ...»: nothing in row «number + 1»", "no sound"]


def test_the_page_of_errors_escapes_what_a_browser_would_read(hook):
    errors = hook("errors")
    shown = errors.entry(errors.Message("give <k> & «a < b»", "baton_lightning.clip", 1))
    assert "give &lt;k&gt; &amp; <var>«a &lt; b»</var>" in shown


def test_every_verb_has_a_section_and_its_options(hook):
    commands = hook("commands")
    section = "\n".join(commands.described("shards", commands.parser_of("shards"), level=2))
    assert "### shards build" in section and "--fit-codec N" in section and "training clips, all tiers together" in section


def test_links_lead_from_the_page_that_shows_a_text(hook):
    pytest.importorskip("griffe", reason="mkdocstrings is in the dev extra: pip install -e .[dev]")
    relinked = hook("pages").relinked
    assert relinked("[a](docs/plan.md#b) ![c d e](docs/images/hero.webp)", "", "index.md") == "[a](plan.md#b) ![c d e](images/hero.webp)"
    assert relinked("[a](../README.md)", "docs", "api/data.md") == "[a](../index.md)"
    assert relinked("[cite](CITATION.cff), [u](https://a.b), [h](#h)", "", "index.md") == "cite, [u](https://a.b), [h](#h)"
    assert relinked("[![a b c](x.webp)](x.mp4)", "docs", "gallery.md") == "[![a b c](x.webp)](x.mp4)"


def test_every_mark_has_a_maker_and_every_page_a_place(hook):
    pytest.importorskip("griffe", reason="mkdocstrings is in the dev extra: pip install -e .[dev]")
    pages = hook("pages")
    sources = sorted((ROOT / "docs").rglob("*.md"))
    marks = {mark[1] for page in sources for mark in pages.MARK.finditer(page.read_text())}
    assert marks == set(pages.MAKERS)
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    placed = sorted(re.findall(r"- (?:\w+: )?(\S+\.md)$", nav, re.MULTILINE))
    assert placed == sorted(page.relative_to(ROOT / "docs").as_posix() for page in sources)
