"""Random recordings are built as ffmpeg's own filters show them, or refused for a reason that is true of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.recordings.generated import draw
from tests.recordings.second_decode import judge

CHUNK = 25


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, CHUNK))
def test_random_recordings_are_built_as_filters_show_them_or_truly_refused(first: int, tmp_path: Path) -> None:
    """More of them: ``python -m tests.recordings.second_decode 2000``."""
    outcomes: Counter[str] = Counter()
    wrong = []
    for seed in range(first, first + CHUNK):
        outcome, fault = judge(draw(seed), tmp_path)
        outcomes[outcome] += 1
        wrong += [f"{fault}: {draw(seed)}"] if fault else []
    assert not wrong, "\n".join(wrong)
    assert outcomes["accepted"] > CHUNK / 2


@pytest.mark.parametrize(
    ("seed", "what"),
    [
        (26, "sound without a time at the end, from what the decoder of WMA held back"),
        (341, "ASF, which states when the file ends and not how long a track lasts"),
        (185, "an AVI whose empty places count as frames"),
    ],
)
def test_a_kind_of_recording_that_was_refused_or_misread_is_built(seed: int, what: str, tmp_path: Path) -> None:
    assert judge(draw(seed), tmp_path) == ("accepted", ""), what
