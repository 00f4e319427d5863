"""The built site in a browser: axe finds nothing serious, in light and dark."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("index", "plan", "errors", "commands", "api/generation", "tutorials/first_clip", "evidence")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


@pytest.mark.slow
def test_pages_have_no_serious_barrier(tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is in the dev extra: pip install -e .[dev]")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is in the dev extra: pip install -e .[dev]").Axe()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    found: dict[str, list[str]] = {}
    with api.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            sheet = started.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}).new_page()
            for page in PAGES:
                sheet.goto(f"file://{tmp_path}/{page}.html")
                sheet.wait_for_selector(".md-content h1")
                rules = axe.run(sheet, options={"runOnly": RULES}).response["violations"]
                serious = [rule for rule in rules if rule["impact"] in ("serious", "critical")]
                found |= {f"{scheme} {page}: {rule['id']}": [node["html"][:200] for node in rule["nodes"][:3]] for rule in serious}
        started.close()
    assert found == {}
