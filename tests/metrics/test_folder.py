"""The verb: what runs, what is missing, what is kept."""

import json

import pytest
import yaml

from baton_lightning.__main__ import main
from baton_lightning.metrics.clips import read_folder
from baton_lightning.metrics.folder import METRICS, import_class
from baton_lightning.metrics.prompts import Prompt
from baton_lightning.metrics.result import ClipMetric

LOUDNESS = {"class_path": "test_folder_backends.Counting", "init_args": {"level": 2.0}}


def beside(folder, key, kind, values):
    (folder / f"{key}.{kind}.json").write_text(json.dumps(values))


@pytest.fixture
def recorded(clips, tmp_path):
    """Transcripts beside the clips, and a file that says so."""
    cat, on = {"speaker": "Ann", "text": "the cat"}, {"speaker": "Bob", "text": "sat on"}
    beside(clips, "a", "transcript", {"segments": [cat, on], "named": True})
    beside(clips, "b", "transcript", {"segments": [{"speaker": "S01", "text": "hello world"}], "named": False})
    backend = {"class_path": "baton_lightning.metrics.backend.Recorded", "init_args": {"kind": "transcript"}}
    settings = tmp_path / "backends.yaml"
    settings.write_text(yaml.safe_dump({"wer": backend, "cpwer": backend}))
    return settings


@pytest.fixture
def counting_backend(tmp_path, monkeypatch):
    """A backend that counts how often it measures, as somebody's own module."""
    (tmp_path / "test_folder_backends.py").write_text(
        "class Counting:\n"
        "    calls = []\n"
        "    def __init__(self, level): self.level = level\n"
        "    protocol = property(lambda self: f'counts, level {self.level}')\n"
        "    def measure(self, clip):\n"
        "        self.calls.append(clip.key)\n"
        "        return {'PQ': self.level, 'CU': 1.0}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = tmp_path / "counting.yaml"
    settings.write_text(yaml.safe_dump({"pq": LOUDNESS, "cu": LOUDNESS}))
    yield settings, import_class("test_folder_backends.Counting", "").calls
    import_class("test_folder_backends.Counting", "").calls.clear()


def metrics(folder, *arguments):
    return main(["metrics", str(folder), *map(str, arguments)])


def report(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_recorded_transcripts_give_word_error_rates_with_n_and_what_was_left_out(clips, recorded, capsys):
    assert metrics(clips, "--metrics", "wer", "cpwer", "attributed", "--backends", recorded) == 0
    found = report(clips)["metrics"]
    assert (found["wer"]["value"], found["wer"]["n"]) == (0, 2)
    assert found["wer"]["left_out"] == {"the prompt has no speech": 1}
    assert found["cpwer"]["value"] == pytest.approx(2 / 6)  # "sat" moved from one speaker to the other
    assert (found["attributed"]["value"], found["attributed"]["n"]) == (0.5, 1)
    for result in found.values():
        assert result["n"] + sum(result["left_out"].values()) == report(clips)["clips"] == 3
        assert "recorded transcripts" in result["protocol"]
    assert "M-WER" in capsys.readouterr().out


def test_a_metric_that_cannot_run_is_listed_with_what_it_lacks_and_the_others_run(clips, recorded, capsys):
    assert metrics(clips, "--metrics", "wer", "desync", "sync-c", "fd", "id", "p-acc", "--backends", recorded) == 0
    missing = report(clips)["missing"]
    assert set(report(clips)["metrics"]) == {"wer"} and set(missing) == {"desync", "sync-c", "fd", "id", "p-acc"}
    assert "needs a checkout of SyncNet" in missing["sync-c"] and "git clone" in missing["sync-c"]
    assert missing["id"] == "no clip could be measured: no reference image: k.png or k.jpg is not beside k.mp4 (3)"
    assert "MIT/ast-finetuned-audioset" in missing["fd"] and "hf download" in missing["fd"]
    assert "k.checklist.json" in missing["p-acc"]
    assert "missing desync: " in capsys.readouterr().out
    assert all("\n" not in reason for reason in missing.values())


def test_nothing_that_runs_is_a_failure(clips):
    assert metrics(clips, "--metrics", "sync-d", "--json", clips / "other.json") == 1
    assert json.loads((clips / "other.json").read_text())["metrics"] == {}


def test_what_was_measured_is_kept_and_measured_again_only_if_clip_or_network_changed(clips, counting_backend):
    settings, calls = counting_backend
    assert metrics(clips, "--metrics", "pq", "cu", "--backends", settings) == 0
    assert calls == ["a", "b", "c"]  # one network for both metrics, each clip once
    assert json.loads((clips / "metrics" / "Counting" / "b.json").read_text())["measured"] == {"PQ": 2.0, "CU": 1.0}
    assert metrics(clips, "--metrics", "pq", "--backends", settings) == 0
    assert calls == ["a", "b", "c"]
    beside(clips, "b", "note", {"changed": True})
    assert metrics(clips, "--metrics", "pq", "--backends", settings) == 0
    assert calls == ["a", "b", "c", "b"]
    settings.write_text(yaml.safe_dump({"pq": LOUDNESS | {"init_args": {"level": 4.0}}}))
    assert metrics(clips, "--metrics", "pq", "--backends", settings) == 0
    assert calls == ["a", "b", "c", "b", "a", "b", "c"] and report(clips)["metrics"]["pq"]["value"] == 4


def test_a_judge_s_answers_are_compared_with_the_checklists(clips):
    question = {"question": "Is the square red?", "answer": "yes"}
    beside(clips, "a", "checklist", [question, {"question": "How many squares?", "answer": "one"}])
    beside(clips, "b", "checklist", [question])
    beside(clips, "a", "answers", {"answers": ["Yes.", "two"]})
    beside(clips, "b", "answers", {"answers": ["yes"]})
    assert metrics(clips, "--metrics", "p-acc") == 0
    found = report(clips)["metrics"]["p-acc"]
    assert (found["value"], found["n"], found["also"]) == (0.75, 2, {"strict": 0.5, "questions": 3})
    beside(clips, "b", "answers", {"answers": []})
    assert metrics(clips, "--metrics", "p-acc") == 1
    assert "the 1 questions of b" in report(clips)["missing"]["p-acc"]


def test_prompts_of_a_benchmark_serve_clips_that_bring_none(clips, recorded):
    (clips / "b.json").unlink()
    prompts = clips.parent / "prompts.json"
    speech_prompt = {"speaker": "the man", "text": "Hello there"}
    record = {"video_prompt": "x", "audio_prompt": ["y"], "speech_prompt": speech_prompt}
    prompts.write_text(json.dumps({"set2": {"b": record}}))
    assert metrics(clips, "--metrics", "wer", "--backends", recorded, "--prompts", prompts) == 0
    assert report(clips)["metrics"]["wer"]["also"] == {"errors": 1, "words": 6}


def test_a_damaged_clip_is_left_out_by_name(clips, tmp_path):
    (clips / "a.mp4").write_bytes(b"no clip")
    settings = tmp_path / "whisper.yaml"
    settings.write_text(yaml.safe_dump({"wer": {"class_path": "baton_lightning.metrics.transcripts.Whisper"}}))
    (clips / "b.mp4").unlink()
    assert metrics(clips, "--metrics", "wer", "--backends", settings) == 1
    assert "unreadable (unreadable) (1)" in report(clips)["missing"]["wer"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wrr: {class_path: a.B}", "must map metrics"),
        ("wer: {class_path: nowhere.B}", "class_path must name a class that can be imported, got 'nowhere.B'"),
        ("wer: nowhere.B", "wer must be {class_path"),
        ("wer: {class_path: baton_lightning.metrics.clap.Clap, init_args: {naem: x}}", "does not take these init_args"),
    ],
)
def test_a_mistake_in_the_backends_is_one_line(clips, tmp_path, capsys, text, message):
    (tmp_path / "wrong.yaml").write_text(text)
    assert metrics(clips, "--metrics", "wer", "--backends", tmp_path / "wrong.yaml") == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_clips_or_prompts_says_what_must_be_there(tmp_path, clips, capsys):
    assert metrics(tmp_path, "--metrics", "wer") == 1
    (clips / "c.json").unlink()
    assert metrics(clips, "--metrics", "wer") == 1
    err = capsys.readouterr().err
    assert "must hold k.mp4 files" in err and "c.json beside it" in err


@pytest.mark.parametrize("name", METRICS)
def test_every_choice_names_a_metric_and_a_backend(name):
    spec = METRICS[name]
    if not isinstance(spec.metric, tuple):
        kind = import_class(f"baton_lightning.metrics.{spec.metric}", name)
        assert issubclass(kind, ClipMetric)
    backend = import_class(f"baton_lightning.metrics.{spec.backend}", name)(**spec.settings)
    assert isinstance(backend.protocol, str) and backend.protocol


def test_prompts_without_a_clip_are_counted(clips, recorded, tmp_path, capsys):
    prompts = {key: {"video_prompt": "x", "audio_prompt": "y", "speech": "hello world"} for key in ("a", "b", "c", "d", "e")}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    for key in "ac":
        beside(clips, key, "transcript", {"segments": [{"speaker": "S01", "text": "hello world"}], "named": False})
    assert metrics(clips, "--metrics", "wer", "--backends", recorded, "--prompts", tmp_path / "prompts.json") == 0
    assert report(clips)["prompts_without_clip"] == ["d", "e"]
    found = report(clips)["metrics"]["wer"]
    assert (found["n"], found["left_out"]) == (3, {"prompts have no clip": 2})
    assert "2 of 5 prompts have no clip (d, e)" in capsys.readouterr().out


def test_videos_of_other_kinds_are_named_and_not_forgotten(clips, recorded, capsys):
    (clips / "._a.mp4").write_bytes(b"Mac")
    assert metrics(clips, "--metrics", "wer", "--backends", recorded) == 0
    (clips / "d.MP4").write_bytes(b"x")
    (clips / "e.webm").write_bytes(b"x")
    assert metrics(clips, "--metrics", "wer", "--backends", recorded) == 1
    assert "must be k.mp4 files, got d.MP4, e.webm; convert them" in capsys.readouterr().err


@pytest.mark.parametrize(("speech", "language"), [("去公园吧", "zh"), ("こんにちは", "ja"), ("안녕", "ko"), ("hello, café", "en")])
def test_the_language_of_speech_is_that_of_its_script(speech, language):
    for values in ({}, {"language": "en"}):
        assert Prompt.from_dict({"video_prompt": "x", "audio_prompt": "y", "speech": speech} | values, "here").language == language


def test_true_clips_may_be_recordings_of_any_kind(clips, tmp_path):
    for name in ("a.MOV", "b.mkv", "b.json"):
        (tmp_path / name).write_bytes(b"x")
    assert [clip.reference and clip.reference.name for clip in read_folder(clips, references=tmp_path)] == ["a.MOV", "b.mkv", None]
    (tmp_path / "a.webm").write_bytes(b"x")
    with pytest.raises(ValueError, match="must hold one clip named 'a', got a.MOV, a.webm"):
        read_folder(clips, references=tmp_path)
