import json

import pytest

from baton_lightning.frozen.prompts import Ovi720
from baton_lightning.metrics.prompt_files import read_prompts
from baton_lightning.metrics.prompts import Line, Prompt
from baton_lightning.verbs.generate import parser

RECORDS = {
    "set1": {
        "00000001": {
            "video_prompt": "A kettle stands on a stove.",
            "audio_prompt": ["Water boils.", "a whistle"],
            "speech_prompt": {"speaker": "", "text": ""},
            "prompt": "A kettle boils on a stove until it whistles.",
            "videos": [],
            "first_frame_path": "",
        },
        "00000002": {
            "video_prompt": "A girl waves at the camera.",
            "audio_prompt": [""],
            "speech_prompt": {"speaker": "the girl.", "text": 'My teacher said "well done" to me.'},
            "videos": [],
            "first_frame_path": "",
        },
    },
    "set3": {
        "00001000": {
            "video_prompt": "A man stands on a stage.",
            "audio_prompt": ["A man is speaking"],
            "speech_prompt": {"speaker": "Speaker1", "text": "大家好。"},
            "videos": [],
            "first_frame_path": "",
        }
    },
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(RECORDS))
    return path


def broken(file, **changes):
    values = json.loads(json.dumps(RECORDS))
    values["set1"]["00000001"] |= changes
    file.write_text(json.dumps(values))
    return file


def test_every_record_becomes_a_prompt_under_its_number(file):
    prompts = read_prompts(file)
    assert list(prompts) == ["00000001", "00000002", "00001000"]
    assert prompts["00000001"] == Prompt("A kettle stands on a stove.", "Water boils, a whistle", (), "en", "set1")
    assert (prompts["00001000"].tier, prompts["00001000"].language) == ("set3", "zh")


def test_speech_is_quoted_where_generators_look_for_it_and_heard_where_no_sound_is_given(file):
    prompt = read_prompts(file)["00000002"]
    assert prompt.speech == (Line("the girl", 'My teacher said "well done" to me.'),)
    assert prompt.video_prompt == "A girl waves at the camera. The girl says: \"My teacher said 'well done' to me.\""
    assert prompt.audio_prompt == "the girl speaking"
    assert "<S>My teacher said 'well done' to me.<E>" in Ovi720()(prompt.video_prompt, prompt.audio_prompt)


def test_generate_takes_every_prompt(file):
    for prompt in read_prompts(file).values():
        texts = ["--video-prompt", prompt.video_prompt, "--audio-prompt", prompt.audio_prompt]
        options = parser().parse_args(["--run", "run", "--out", "clips", *texts])
        assert options.video_prompt and options.audio_prompt


def test_prompts_survive_our_own_format(file, tmp_path):
    prompts = read_prompts(file)
    (tmp_path / "own.json").write_text(json.dumps({key: prompt.to_dict() for key, prompt in prompts.items()}))
    assert read_prompts(tmp_path / "own.json") == prompts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_prompt": " "}, "set1/00000001: video_prompt must be a text"),
        ({"audio_prompt": "a whistle"}, "audio_prompt must be a list of texts, got 'a whistle'"),
        ({"audio_prompt": []}, "must have sounds or speech, got neither"),
        ({"speech_prompt": {"text": "hi"}}, "speech_prompt must be"),
    ],
)
def test_a_record_that_lacks_something_is_named(file, changes, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(broken(file, **changes))


def test_a_number_that_two_sets_share_is_refused(file):
    file.write_text(json.dumps({"set1": RECORDS["set1"], "set2": RECORDS["set1"]}))
    with pytest.raises(ValueError, match="00000001 is in set1 and set2"):
        read_prompts(file)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": {"video_prompt": "x"}}'])
def test_what_is_no_prompt_file_says_what_one_holds(file, text):
    file.write_text(text)
    with pytest.raises(ValueError, match="prompts must be a JSON file|must hold|audio_prompt must be a text"):
        read_prompts(file)
