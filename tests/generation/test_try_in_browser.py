"""The page of `try` in a browser: a prompt is planned, its span dragged in time, and the clips before and after it play."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from werkzeug.serving import make_server

import baton_lightning as baton
from baton_lightning.playground.desk import Desk
from baton_lightning.playground.server import LOOPBACK, application
from tests.browser import opened

pytestmark = pytest.mark.slow

SHIFT = 0.5
"""How far the span is dragged, in seconds."""
HOSTILE = "</textarea></script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'> \u202egnp.exe"


@pytest.fixture
def address() -> Iterator[str]:
    server = make_server(LOOPBACK, 0, application(Desk(baton.pretrained("nano"), HOSTILE)), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://{LOOPBACK}:{server.port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Polls from here: the page's policy forbids the evaluation that a wait inside the page needs."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def test_a_span_is_dragged_and_both_clips_play(address: str) -> None:
    with opened(address, 1000, 1400, (address, "data:")) as (sheet, said):
        sheet.locator("#events .event").first.wait_for()
        assert sheet.locator("#name").inner_text().startswith("</textarea></script>"), "a name is text"

        def press(button: str, figures: int) -> None:
            sheet.locator(button).click()
            until(lambda: sheet.locator("#clips figure").count() == figures, f"{figures} clips after {button}")
            until(sheet.locator(button).is_enabled, f"{button} is done")

        def drag(start: float, stop: float) -> None:
            """Drags over the picture of the plan from one time to another, in seconds."""
            box = sheet.locator("#canvas").bounding_box()
            seconds = sheet.evaluate("about.seconds")
            assert box is not None
            sheet.mouse.move(box["x"] + box["width"] * start / seconds, box["y"] + 30)
            sheet.mouse.down()
            sheet.mouse.move(box["x"] + box["width"] * stop / seconds, box["y"] + 30, steps=5)
            sheet.mouse.up()

        sheet.locator("#plan").click()
        until(sheet.locator("#make").is_enabled, "a plan")
        press("#make", 1)
        drag(0.35, 0.85)
        until(sheet.locator("#span").is_visible, "a marked span")
        drag(0.6, 0.6 + SHIFT)
        until(lambda: sheet.locator("#list li").count() == 1, "an edit in the list")
        assert f'"op":"shift","seconds":{SHIFT}' in sheet.locator("#list li").inner_text()
        until(sheet.locator("#make").is_enabled, "the edit is done")
        press("#make", 2)
        for clip in range(2):
            video = sheet.locator("#clips video").nth(clip)
            until(lambda video=video: video.evaluate("v => v.currentTime") > 0.1, f"clip {clip} plays")
            assert video.evaluate("v => v.error === null && v.videoWidth > 0")
        sources = [sheet.locator("#clips video").nth(clip).get_attribute("src") for clip in range(2)]
        assert sources[0] != sources[1], "the edit changes the clip"

        sheet.locator("#video").fill(HOSTILE)
        sheet.locator("#plan").click()
        until(lambda: "script" in sheet.locator("#message").inner_text(), "doubts about unknown words")
        assert sheet.evaluate("window.broken") is None and sheet.locator("#message *").count() == 0
    assert not said
