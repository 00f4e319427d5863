"""The page of `try`: what its requests answer, and whom it answers."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import av
import pytest
from werkzeug.test import Client

import baton_lightning as baton
from baton_lightning.__main__ import main
from baton_lightning.playground.desk import Desk
from baton_lightning.playground.server import application

PROMPTS = {"video": "a red circle on the left. first the red circle jumps.", "audio": "first a thump."}


@pytest.fixture(scope="module")
def desk(made: Path) -> Desk:
    return Desk(baton.load(made / "runs/e/stage3_joint"), "e")


@pytest.fixture
def client(desk: Desk) -> Client:
    return Client(application(desk))


def post(client: Client, path: str, content: Any, **more: Any) -> tuple[int, dict[str, Any]]:
    answer = client.post(
        path, data=json.dumps(content), **({"content_type": "application/json", "base_url": "http://127.0.0.1:7860/"} | more)
    )
    return answer.status_code, json.loads(answer.get_data())


def test_a_plan_is_drawn_changed_and_becomes_a_clip(client: Client) -> None:
    status, plan = post(client, "/plan", PROMPTS)
    assert status == 200 and not plan["doubts"]
    about = json.loads(client.get("/about", base_url="http://localhost:1/").get_data())
    assert len(plan["video"]) == about["seconds"] * about["keyframes_per_second"] and plan["video"][0][0][0].startswith("#")
    shift = {"op": "shift", "seconds": about["step"], "start": 0.5, "stop": 1.0}
    _, edited = post(client, "/edit", {"plan": plan["plan"], "edits": [shift]})
    assert edited["video"][6:9] == plan["video"][3:6] and edited["video"][:3] == plan["video"][:3]
    clips = [
        post(client, "/clip", {"plan": plan["plan"], "edits": edits, "seed": 1, "plan_scale": 1.0, "follow": follow})[1]["mp4"]
        for edits, follow in (([], True), ([], True), ([shift], True), ([], False))
    ]
    assert clips[0] == clips[1] and len(set(clips)) == 3
    with av.open(io.BytesIO(base64.b64decode(clips[0].partition(",")[2]))) as file:
        assert {stream.type for stream in file.streams} == {"video", "audio"} and file.streams.video[0].height >= 288


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        ("/plan", {"video": "a red circle", "audio": " "}, "write the audio prompt first"),
        ("/plan", {"video": "a" * 3000, "audio": "b"}, "at most 2,000 characters"),
        ("/plan", [1], "must be a JSON object"),
        ("/edit", {"plan": 99}, "no longer kept"),
        ("/edit", {"plan": True}, "no longer kept"),
        ("/edit", {"plan": 1, "edits": "x"}, "edits must be a list"),
        ("/edit", {"plan": 1, "edits": [{"op": "shift", "seconds": 9.0}]}, "shift: seconds must be within"),
        ("/edit", {"plan": 1, "edits": [{"op": "mix", "other": "/etc/passwd"}]}, "no longer kept"),
        ("/clip", {"plan": 1, "seed": -1, "plan_scale": 1.0}, "seed must be a number"),
        ("/clip", {"plan": 1, "seed": 1, "plan_scale": 1e9}, "plan_scale must be a number"),
    ],
)
def test_a_mistake_is_told_in_one_line(client: Client, path: str, content: Any, told: str) -> None:
    post(client, "/plan", PROMPTS)
    status, answer = post(client, path, content)
    assert status == 400 and told in answer["error"] and "\n" not in answer["error"]


def test_only_this_machine_s_own_page_is_answered(client: Client) -> None:
    assert post(client, "/plan", PROMPTS, base_url="http://evil.example:7860/")[0] == 403
    assert post(client, "/plan", PROMPTS, content_type="text/plain")[0] == 415
    assert post(client, "/plan", {"video": "a" * 100_000, "audio": "b"})[0] == 413
    assert post(client, "/shell", {})[0] == 404
    page = client.get("/", base_url="http://127.0.0.1:7860/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"] and "<title>" in page.get_data(as_text=True)


def test_unknown_words_are_named_with_the_nearest_known_ones(client: Client) -> None:
    _, answer = post(client, "/plan", PROMPTS | {"video": "a red circel on the left. first the red circel jumps."})
    assert "circel (did you mean circle?)" in answer["doubts"][0]


def test_a_run_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["try", "--run", "runs/nothing", "--no-browser"]) == 1
    assert "there is no run runs/nothing" in capsys.readouterr().err


def test_weights_of_the_library_are_loaded_by_name() -> None:
    with pytest.raises(ValueError, match="comes with weights named"):
        baton.pretrained("giant")
