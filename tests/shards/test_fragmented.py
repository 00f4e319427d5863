"""Fragmented mp4, as browsers and streaming cameras write it: the same clips as from the plain file, or a reason."""

from __future__ import annotations

import json
from pathlib import Path

import av

from baton_lightning.__main__ import main
from baton_lightning.shards.build import REJECTED
from baton_lightning.shards.format import SplitIndex
from tests.shards.defects import encode, murmur, wander

FPS, RATE = 24, 44100


def fragmented(file: Path, target: Path, flags: str) -> None:
    """The same packets in fragments."""
    with av.open(str(file)) as source, av.open(str(target), "w", options={"movflags": flags}) as container:
        streams = {stream.index: container.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                container.mux(packet)


def test_a_fragmented_mp4_gives_the_very_clips_of_the_plain_file_or_is_rejected_with_its_reason(tmp_path: Path) -> None:
    options = {"g": str(FPS), "bf": "2"}
    encode(tmp_path / "plain.mp4", wander(2 * FPS, 64, 64), FPS, murmur(2.0, RATE), RATE, options=options)
    fragmented(tmp_path / "plain.mp4", tmp_path / "late.mp4", "frag_keyframe+empty_moov+delay_moov")  # has an edit list
    fragmented(tmp_path / "plain.mp4", tmp_path / "early.mp4", "frag_keyframe+empty_moov")  # has none: the sound begins too early
    rows = [{"file": f"{name}.mp4", "text": "x", "split": "train"} for name in ("plain", "late", "early")]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ["--seconds", "1", "--fps", str(FPS), "--workers", "0", "--repeat", "caption", "--limit", "min_height=64"]
    assert main(["shards", "build", str(tmp_path / "list.jsonl"), str(tmp_path / "set"), *more]) == 0
    notes = list(map(json.loads, (tmp_path / "set" / REJECTED).read_text().splitlines()))
    assert {note["key"]: note["reason"] for note in notes} == {"late-0000": "duplicate", "late-0001": "duplicate", "early": "drift"}
    assert SplitIndex.read(tmp_path / "set/train").num_clips == 2
