import re
from pathlib import Path

import pytest

from baton_lightning.clip import ClipSpec
from baton_lightning.world import vocabulary as v
from baton_lightning.world.parse import parse_prompts
from baton_lightning.world.prompts import VOCABULARY, prompts
from baton_lightning.world.scene import TIERS, sample_scene

SCENE = "a red circle on the left and a blue square in the middle. "


@pytest.mark.parametrize("clip", [ClipSpec(), ClipSpec(seconds=5, height=48, width=48)], ids=["nano", "toy"])
@pytest.mark.parametrize("references", [False, True])
def test_prompts_tell_the_whole_scene_and_its_schedule(clip, references):
    for tier in TIERS:
        for split in ("train", "ood"):
            for i in range(30):
                scene = sample_scene(0, i, tier, clip, split, references=references)
                assert parse_prompts(*prompts(scene, references=references), clip.seconds, tier) == scene


def test_other_spellings_mean_the_same():
    scene = parse_prompts(
        SCENE + "first the red circle talks. then the other one hits the red circle.", "first [red] says 'ba'. then a clack.", 2.0
    )
    shouted = parse_prompts(
        "A blue square in the middle, and a red circle on the left.  First, the red circle talks.\nThen the other one hits the red circle",
        "First [RED] says “ba”; then a clack.",
        2.0,
    )
    assert shouted == scene and scene.tier == "multi"


def test_the_other_one_that_is_hit_is_never_the_one_that_hits():
    for first in ("red circle", "blue square"):
        video = f"{SCENE}first the {first} jumps. then the red circle hits the other one."
        assert parse_prompts(video, "first a thump. then a clack.", 2.0).events[1].target == "blue"


def test_the_tier_is_inferred():
    one = parse_prompts(SCENE + "first the red circle jumps.", "first a thump.", 2.0)
    talk = SCENE + "first the red circle talks. then the blue square talks."
    assert one.tier == "single"
    assert parse_prompts(talk, "first [red] says 'ba'. then [blue] says the same words as the first speaker.", 2.0).tier == "talk"


@pytest.mark.parametrize(
    ("video", "audio", "message"),
    [
        ("a man walks his dog.", "first a bark.", "first sentence must name objects"),
        (SCENE, "", "at least one event"),
        (SCENE + "first the red circle jumps.", "first a thump. then a ding.", "got 1 in the video prompt .* 2 in the audio prompt"),
        ("a red circle on the left and a blue square on the left. first the red circle jumps.", "first a thump.", "different places"),
        (SCENE + "first the red circle hits the red circle.", "first a clack.", "must name two different objects"),
        (SCENE + "first the red circle dances.", "first a thump.", "'first the red circle dances' is not in the world's language"),
        (SCENE + "first the green circle jumps.", "first a thump.", "must be one of the red circle, the blue square"),
        (SCENE + "first the other one jumps.", "first a thump.", "must be one of"),
        (SCENE + "first the red circle jumps.", "first a ding.", "must be picture and sound of the same event"),
        (SCENE + "first the red circle talks.", "first [blue] says 'ba'.", "must be picture and sound of the same event"),
        (SCENE + "first the red circle talks.", "first [red] says 'hello'.", "must quote words of ba, bo"),
        (SCENE + "first the red circle talks.", "first [red] says the same words as the first speaker.", "must quote words"),
        (SCENE + "first the red circle slides to the right.", "first a thump.", "must be picture and sound"),
    ],
)
def test_texts_outside_the_language_are_refused_by_sentence(video, audio, message):
    with pytest.raises(ValueError, match=message):
        parse_prompts(video, audio, 2.0)


def test_the_page_of_the_prompt_language_tells_the_truth() -> None:
    page = (Path(__file__).parents[2] / "docs/prompts.md").read_text()
    examples = [tuple(block.split("\n")) for block in re.findall(r"```\n(.*?)\n```", page, re.S)]
    pairs = [pair for pair in examples if len(pair) == 2]
    pairs.append((examples[0][0], examples[1][0]))
    assert len(pairs) == 5 and {event.kind for pair in pairs for event in parse_prompts(*pair, 2.0).events} == set(v.KINDS)
    assert f"{len(VOCABULARY)} words" in page and all(f"`{word}`" in page for word in (*v.COLOURS, *v.SHAPES, *v.WORDS))
