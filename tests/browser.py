"""A page in an installed Chromium, for the tests of what people look at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def opened(address: str, width: int, height: int, loads: tuple[str, ...]) -> Iterator[tuple[Any, list[str]]]:
    """A page with a list of what must not be: errors and warnings of the console, and requests for other addresses than it may load.

    Args:
        address: Address of the page.
        width: Width of the window, in pixels.
        height: Its height.
        loads: Beginnings of the addresses that it may load.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is in the dev extra: pip install -e .[dev]")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    said: list[str] = []
    with api.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=browser, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
        sheet = started.new_page(viewport={"width": width, "height": height})
        sheet.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        sheet.on("pageerror", lambda error: said.append(str(error)))
        sheet.on("request", lambda request: None if request.url.startswith(loads) else said.append(request.url))
        sheet.goto(address)
        yield sheet, said
        started.close()
