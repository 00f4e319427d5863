"""What docs/streaming.md shows, run on a set of the world."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from baton_lightning.__main__ import main

ROOT = Path(__file__).parents[2]


def test_the_documented_stream_gives_every_clip_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--train 5 --val 0 --test 0 --tiers single --shard-size 2 --workers 0".split()
    assert main(["shards", "world", str(tmp_path / "data"), *words]) == 0
    capsys.readouterr()
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/streaming.md").read_text(), re.DOTALL)[1]
    documented = "data/demo/train/clips-{000000..000023}.tar"
    assert documented in code
    exec(code.replace(documented, str(tmp_path / "data/train/clips-{000000..000002}.tar")), {})
    lines = capsys.readouterr().out.splitlines()
    assert len({line.split()[0] for line in lines}) == len(lines) == 5
    assert all("(24, 32, 32, 3)" in line or "(25, 32, 32, 3)" in line for line in lines)
