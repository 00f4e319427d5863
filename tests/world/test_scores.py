"""Known clips must read as what they are: the truth, and every way of getting it wrong."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from baton_lightning.clip import ClipSpec
from baton_lightning.media import mp4_bytes, read_mp4
from baton_lightning.world.clips import WorldClip, make_clip
from baton_lightning.world.events import Event
from baton_lightning.world.render import render
from baton_lightning.world.scene import Object, Scene
from baton_lightning.world.scores import ClipScores, aggregate, score
from baton_lightning.world.sound import synthesise

NANO = ClipSpec()
TIERS = ("single", "multi", "talk")


@pytest.fixture(scope="module")
def clips() -> dict[str, list[WorldClip]]:
    return {tier: [make_clip(5, i, tier, NANO, "test") for i in range(20)] for tier in TIERS}


def judge(scene: Scene, shown: Scene, heard: Scene | None = None) -> ClipScores:
    return score(scene, render(shown, NANO), synthesise(heard or shown, NANO), NANO.fps)


def mean(scores: list[ClipScores]) -> dict[str, float | None]:
    return {name: entry["mean"] for name, entry in aggregate(scores).items() if isinstance(entry, dict)}


def assert_true(s: ClipScores, slack: float = 0.25 / NANO.fps) -> None:
    assert s.p_acc == s.p_check == s.p_strict == 1 and s.order in (1, None)
    assert s.m_ter in (0, None) and s.m_ter_cp in (0, None)
    assert s.desync is None or s.desync < slack
    assert s.desync21 in (0, None)


@pytest.mark.parametrize("tier", TIERS)
def test_the_truth_is_perfect(clips, tier):
    for c in clips[tier]:
        s = score(c.scene, c.frames, c.waveform, NANO.fps)
        assert_true(s, slack=0.002)
        assert s.id == 1


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p"])
@pytest.mark.parametrize("tier", TIERS)
def test_the_truth_is_perfect_after_an_mp4(clips, tier, pix_fmt):
    for c in clips[tier]:
        media = read_mp4(mp4_bytes(c.frames, NANO.fps, c.waveform, NANO.sample_rate, pix_fmt=pix_fmt))
        assert_true(score(c.scene, media.frames, media.waveform, media.fps, media.sample_rate))


@pytest.mark.parametrize("clip", [ClipSpec(seconds=5, height=48, width=48), ClipSpec(seconds=5, fps=24, height=48, width=48)])
def test_the_truth_is_perfect_in_longer_clips(clip):
    for tier in TIERS:
        for i in range(3):
            c = make_clip(5, i, tier, clip, "ood")
            assert_true(score(c.scene, c.frames, c.waveform, clip.fps))


@pytest.mark.slow
@pytest.mark.parametrize("clip", [NANO, ClipSpec(seconds=5, height=48, width=48)], ids=["nano", "toy"])
@pytest.mark.parametrize("tier", TIERS)
def test_the_truth_is_perfect_for_many_seeds(clip, tier):
    for split in ("train", "ood"):
        for i in range(150):
            c = make_clip(11, i, tier, clip, split)
            assert_true(score(c.scene, c.frames, c.waveform, clip.fps), slack=0.005)


@pytest.mark.parametrize("shift", [0.1, -0.2, 0.3])
def test_a_shift_of_the_sound_reads_as_that_shift(clips, shift):
    samples = round(shift * NANO.sample_rate)
    room = np.zeros(16000, np.float32)
    scores = []
    for c in clips["multi"] + clips["talk"]:
        padded = np.concatenate([room, c.waveform, room])
        scores.append(score(c.scene, c.frames, padded[16000 - samples :][: NANO.num_samples + 8000], NANO.fps))
    for s in scores:
        if s.num_matched:
            assert s.desync_signed == pytest.approx(shift, abs=0.002)
    assert mean(scores)["desync21"] == pytest.approx(abs(shift), abs=0.11)


def test_a_still_or_noisy_clip_scores_nothing(clips):
    rng = np.random.default_rng(0)
    for c in clips["single"][:10] + clips["multi"][:10]:
        still = np.repeat(c.frames[:1], len(c.frames), 0)
        noise = rng.integers(0, 256, c.frames.shape, dtype=np.uint8)
        hiss = rng.normal(0, 0.1, NANO.num_samples).astype(np.float32)
        for frames, waveform in ((still, 0 * hiss), (still, hiss), (noise, hiss), (np.zeros_like(still), 0 * hiss)):
            s = score(c.scene, frames, waveform, NANO.fps)
            assert s.p_acc == s.p_strict == 0 and s.m_ter in (1, None)
            assert s.desync is None and s.sync_c == 0


def test_a_still_clip_shows_why_the_checklist_is_no_headline(clips):
    still = [score(c.scene, np.repeat(c.frames[:1], len(c.frames), 0), 0 * c.waveform, NANO.fps) for c in clips["single"]]
    assert mean(still)["p_check"] > 0.7 and mean(still)["p_acc"] == 0


def test_the_first_event_alone_is_one_of_k(clips):
    for c in clips["multi"]:
        s = judge(c.scene, replace(c.scene, events=c.scene.events[:1]))
        assert s.p_acc == 1 / len(c.scene.events)


def test_the_wrong_speaker_is_seen_by_m_ter_only(clips):
    scores = []
    for c in clips["talk"]:
        one, two, *_ = (o.colour for o in c.scene.objects)
        swap = {one: two, two: one}
        heard = replace(c.scene, events=tuple(replace(e, actor=swap.get(e.actor, e.actor)) for e in c.scene.events))
        scores.append(judge(c.scene, c.scene, heard))
        assert scores[-1].m_ter_cp == 0
    assert mean(scores)["m_ter"] > 1 and mean(scores)["p_acc"] < 0.2


def test_the_reversed_order_lowers_order_not_m_ter(clips):
    scores = []
    for c in clips["talk"]:
        first, second = c.scene.events
        second = replace(second, start=0.3)
        first = replace(first, start=0.3 + second.seconds + 0.34)
        scores.append(judge(c.scene, replace(c.scene, events=(second, first))))
    assert mean(scores)["order"] == 0 and mean(scores)["m_ter"] == 0 and mean(scores)["p_acc"] == 0.5


def test_another_prompts_clip_scores_nothing(clips):
    for c, other in zip(clips["multi"], clips["multi"][1:] + clips["multi"][:1], strict=True):
        assert score(c.scene, other.frames, other.waveform, NANO.fps).p_acc <= 0.25


def test_small_damage_costs_nothing(clips):
    rng = np.random.default_rng(0)
    for c in clips["multi"][:8] + clips["talk"][:4]:
        rough = np.clip(c.frames + rng.normal(0, 20, c.frames.shape), 0, 255).astype(np.uint8)
        soft = gaussian_filter(c.frames.astype(np.float32), (0, 1, 1, 0)).astype(np.uint8)
        dim = (c.frames * 0.75).astype(np.uint8)
        hiss = rng.normal(0, max(c.waveform.std(), 1e-3), NANO.num_samples).astype(np.float32)
        for frames, waveform in ((rough, c.waveform), (soft, c.waveform), (dim, 0.5 * c.waveform), (c.frames, c.waveform + hiss)):
            assert score(c.scene, frames, waveform, NANO.fps).p_acc == 1


TWO = (Object("red", "circle", 0), Object("blue", "square", 1))
TALK = Scene("multi", 2.0, TWO, (Event("says", "red", 0.8, words=("ba", "ku")),))


def test_an_early_surplus_word_leaves_the_right_ones_right():
    heard = replace(TALK, events=(Event("says", "red", 0.2, words=("ka",)), *TALK.events))
    s = judge(TALK, TALK, heard)
    assert s.num_word_errors == 1 and s.p_acc == 0.5 and s.desync == pytest.approx(0, abs=0.002)


def test_an_early_surplus_thump_does_not_shift_the_right_one():
    jump = Scene("single", 2.0, TWO, (Event("jumps", "red", 0.9),))
    s = judge(jump, jump, replace(jump, events=(Event("jumps", "red", 0.2), *jump.events)))
    assert s.p_acc == 0.5 and s.desync == pytest.approx(0, abs=0.002)


def test_a_surplus_object_and_a_wrong_shape_cost():
    more = replace(TALK, objects=(*TWO, Object("green", "circle", 2)))
    assert judge(TALK, more).p_acc == 0.5 and judge(TALK, more).id == 0
    wrong = replace(TALK, objects=(Object("red", "triangle", 0), TWO[1]))
    assert judge(TALK, wrong).p_acc == 0


def test_sounds_at_the_very_ends_are_heard_in_place():
    for start in (0.0, NANO.seconds - 0.28):
        edge = replace(TALK, events=(Event("says", "red", start, words=("ba",)),))
        s = judge(edge, edge)
        assert s.m_ter == 0
        assert s.desync is None or s.desync < 0.06


def test_a_set_sums_errors_over_words_and_knows_its_interval(clips):
    scores = [score(c.scene, c.frames, c.waveform, NANO.fps) for c in clips["single"][:6]]
    scores += [score(c.scene, c.frames, 0 * c.waveform, NANO.fps) for c in clips["single"][6:]]
    result = aggregate(scores)
    words = sum(s.num_words for s in scores)
    assert result["num_clips"] == 20 and result["m_ter"]["n"] == words
    assert result["m_ter"]["mean"] == sum(s.num_word_errors for s in scores) / words
    assert result["p_acc"]["low"] < result["p_acc"]["mean"] < result["p_acc"]["high"]
    assert aggregate(scores) == result
    assert aggregate(scores)["order"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert aggregate([])["p_acc"]["mean"] is None


def test_unusable_input_is_refused(clips):
    c = clips["single"][0]
    with pytest.raises(ValueError, match="uint8"):
        score(c.scene, c.frames.astype(np.float32), c.waveform, NANO.fps)
    with pytest.raises(ValueError, match="14000"):
        score(c.scene, c.frames, c.waveform, NANO.fps, sample_rate=8000)
