"""The page in a browser: a clip plays, the playhead moves, tabs and filter change, and nothing is an error."""

import pytest

from baton_lightning.evaluation.report.page import write_page
from tests.browser import opened

pytestmark = pytest.mark.slow


def test_the_page_plays_seeks_and_sorts_without_an_error(experiment):
    file = write_page(experiment).file
    with opened(file.as_uri(), 400, 900, ("file:", "data:")) as (sheet, said):
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
    assert said == []
