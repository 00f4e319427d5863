"""Every page of the documentation: its links lead to files and headings that exist, its pictures can be opened and are described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^()\s]+)\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^()\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "")).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in LINK.findall(text):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link}: there is no {target.relative_to(ROOT)}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: {target.relative_to(ROOT)} has no such heading"


@pytest.mark.parametrize("page", [page for page in PAGES if PICTURE.search(page.read_text())], ids=lambda page: page.stem)
def test_pictures_can_be_opened_and_are_described(page: Path) -> None:
    for described, file in PICTURE.findall(page.read_text()):
        assert len(described.split()) >= 3, f"{file}: {described!r} does not tell what is seen"
        with Image.open(page.parent / file) as picture:
            darkest, lightest = picture.convert("L").getextrema()
        assert darkest < lightest, f"{file} is empty"
