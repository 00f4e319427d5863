"""The page in a browser: a clip plays, the playhead moves, tabs and filter change, and nothing is an error."""

import shutil

import pytest

from baton_lightning.evaluation.report.page import write_page

pytestmark = pytest.mark.slow


def test_the_page_plays_seeks_and_sorts_without_an_error(experiment):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is in the dev extra: pip install -e .[dev]")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    file = write_page(experiment).file
    said: list[str] = []
    with api.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=browser, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
        sheet = started.new_page(viewport={"width": 400, "height": 900})
        sheet.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        sheet.on("pageerror", lambda error: said.append(str(error)))
        sheet.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else said.append(request.url))
        sheet.goto(file.as_uri())
        assert sheet.evaluate("document.documentElement.scrollWidth") <= 400, "the page is as wide as a narrow screen"

        def at(box: str) -> float:
            return float(sheet.eval_on_selector(box, "box => box.style.getPropertyValue('--at') || 0"))

        def until(box: str, least: float) -> None:
            for _ in range(100):
                if at(box) > least:
                    return
                sheet.wait_for_timeout(50)
            raise AssertionError(f"the playhead of {box} stands at {at(box)}, not beyond {least}")

        card = ".card:not([hidden])"
        sheet.eval_on_selector(f"{card} video", "video => { video.muted = true; return video.play() }")
        until(card, 0.05)
        sheet.eval_on_selector(f"{card} video", "video => video.pause()")

        sheet.focus(f"{card} input[type=range]")
        before = at(card)
        for _ in range(5):
            sheet.keyboard.press("ArrowRight")
        assert at(card) == pytest.approx(before + 0.05 / 2, abs=0.006), "five steps of 0.01 s"
        lane = sheet.locator(f"{card} .spectrogram").first
        lane.click(position={"x": lane.bounding_box()["width"] * 0.75, "y": 20})
        sheet.wait_for_timeout(200)
        assert sheet.eval_on_selector(f"{card} video", "video => video.currentTime") == pytest.approx(1.5, abs=0.1)
        assert at(card) == pytest.approx(0.75, abs=0.02)

        sheet.click(".take .play")
        until(".take", 0.05)
        assert sheet.inner_text(".take .play").endswith("Pause")

        def keys() -> list[str]:
            return sheet.locator(f"{card} h3").all_inner_texts()

        worst = keys()
        sheet.focus("#tab-worst")
        sheet.keyboard.press("ArrowRight")
        assert sheet.get_attribute("#tab-best", "aria-selected") == "true" and keys() == worst[::-1] and len(worst) == 3
        sheet.select_option("#tier", "multi")
        assert len(keys()) == 2 and sheet.inner_text("#count") == "2 clips of tier multi"
        started.close()
    assert said == []
