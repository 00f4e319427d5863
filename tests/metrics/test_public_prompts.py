"""Prompts of AVGen-Bench and JavisBench, in the formats in which they are published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from baton_lightning.metrics.prompt_files import read_prompts
from baton_lightning.metrics.prompts import Prompt

NEWS = [
    {"content": "Harbour: Fog Horn", "prompt": "A ship leaves a harbour. Its horn sounds twice."},
    {"content": "Weather / Hail!", "prompt": "Hail falls on a tin roof."},
]
TABLE = 'id,video_text,audio_text,category\nv_1,"A dog runs, then stops.",It barks.,animals\nv_2,Rain falls.,Rain is heard.,nature\n'


def test_a_category_of_avgen_bench_is_both_prompts_under_its_title(tmp_path: Path) -> None:
    file = tmp_path / "news.json"
    file.write_text(json.dumps(NEWS))
    found = read_prompts(file)
    assert list(found) == ["harbour-fog-horn", "weather-hail"]
    assert found["weather-hail"] == Prompt("Hail falls on a tin roof.", "Hail falls on a tin roof.", tier="news")


def test_a_table_of_javis_bench_is_read_by_its_ids_or_rows(tmp_path: Path) -> None:
    file = tmp_path / "mini.csv"
    file.write_text("\ufeff" + TABLE)
    assert read_prompts(file) == {"v_1": Prompt("A dog runs, then stops.", "It barks."), "v_2": Prompt("Rain falls.", "Rain is heard.")}
    file.write_text(TABLE.replace("id,", "name,"))
    assert list(read_prompts(file)) == ["00000", "00001"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", json.dumps([NEWS[0], {**NEWS[0], "content": "harbour fog-horn"}]), "titles must be unique"),
        ("a.json", json.dumps([{"content": "x", "prompt": 3}]), "record 0 must be texts, got 'x' and 3"),
        ("a.json", "[1, 2]", "or a list of AVGen-Bench"),
        ("a.csv", "id,text\n1,a\n", "video_text is missing"),
        ("a.csv", "", "video_text is missing"),
        ("a.csv", TABLE.replace("v_2", "v_1"), "v_1 is given again in row 2"),
        ("a.csv", "video_text,audio_text\na,\n", "row 1 must have a text"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / name)


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(TABLE.encode("utf-16"))
    with pytest.raises(ValueError, match="must be a CSV file in UTF-8"):
        read_prompts(tmp_path / "a.csv")
