import pytest

from baton_lightning.clip import ClipSpec
from baton_lightning.world.events import Event
from baton_lightning.world.prompts import VOCABULARY, prompts, tokenize
from baton_lightning.world.scene import Object, Scene, sample_scene

BLUE, CYAN = Object("blue", "square", 0), Object("cyan", "triangle", 1)


def scene(*events: Event) -> Scene:
    return Scene("multi", 2.0, (BLUE, CYAN), events)


def test_the_two_texts_say_what_is_seen_and_what_is_heard():
    video, audio = prompts(scene(Event("says", "blue", words=("ku", "ba")), Event("flashes", "cyan")))
    assert video == (
        "a blue square on the left and a cyan triangle in the middle. first the blue square talks. then the cyan triangle flashes."
    )
    assert audio == "first [blue] says 'ku ba'. then a ding."


def test_slides_and_hits_name_their_goal():
    video, audio = prompts(scene(Event("hits", "blue", target="cyan"), Event("slides", "cyan", column=2)))
    assert "the blue square hits the cyan triangle. then the cyan triangle slides to the right." in video
    assert audio == "first a clack. then silence."


def test_references_stand_only_where_it_is_unambiguous():
    hit = scene(Event("hits", "blue", target="cyan"), Event("jumps", "cyan"))
    assert "then the one that was hit jumps" in prompts(hit, references=True)[0]
    echo = scene(Event("says", "blue", words=("ku",)), Event("says", "cyan", words=("ku",)))
    video, audio = prompts(echo, references=True)
    assert "then the other one talks" in video
    assert audio.endswith("then [cyan] says the same words as the first speaker.")
    alone = scene(Event("jumps", "blue"), Event("jumps", "blue"))
    assert prompts(alone, references=True) == prompts(alone)


@pytest.mark.parametrize("references", [False, True])
def test_every_token_is_in_the_vocabulary(references):
    for clip in (ClipSpec(), ClipSpec(seconds=5)):
        for tier in ("single", "multi", "talk"):
            for split in ("train", "ood"):
                for i in range(25):
                    texts = prompts(sample_scene(0, i, tier, clip, split), references=references)
                    assert set(tokenize(" ".join(texts))) <= set(VOCABULARY)


def test_the_vocabulary_has_no_doubles_and_holds_single_tokens():
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert all(tokenize(word) == [word] for word in VOCABULARY)


def test_different_scenes_have_different_texts():
    scenes = {sample_scene(0, i, "multi", ClipSpec()).content: prompts(sample_scene(0, i, "multi", ClipSpec())) for i in range(200)}
    assert len(set(scenes.values())) == len(scenes)


@pytest.mark.parametrize("tier", ["multi", "talk"])
def test_scenes_drawn_for_references_mostly_use_them(tier):
    phrases = ("the other one", "the one that was hit" if tier == "multi" else "the same words as the first speaker")
    texts = [" ".join(prompts(sample_scene(0, i, tier, ClipSpec(), references=True), references=True)) for i in range(60)]
    assert all(sum(phrase in text for text in texts) > 6 for phrase in phrases)
    assert sum(any(phrase in text for phrase in phrases) for text in texts) > 30
    assert all(sample_scene(0, i, tier, ClipSpec(), split, references=True).split == split for split in ("train", "ood") for i in range(9))
