import numpy as np
import pytest

from baton_lightning.clip import ClipSpec
from baton_lightning.world import vocabulary as v
from baton_lightning.world.clips import make_clip
from baton_lightning.world.events import Event
from baton_lightning.world.render import area, coverage, motion, render
from baton_lightning.world.scene import Object, Scene
from baton_lightning.world.sound import synthesise

NANO = ClipSpec()


def two(*events: Event) -> Scene:
    return Scene("multi", 2.0, (Object("red", "circle", 0), Object("blue", "square", 1)), events)


@pytest.mark.parametrize("clip", [NANO, ClipSpec(seconds=5, height=48, width=48), ClipSpec(seconds=5, fps=24, height=48, width=48)])
def test_a_clip_has_the_frames_and_samples_its_geometry_asks_for(clip):
    made = make_clip(0, 0, "multi", clip)
    assert made.frames.shape == (clip.num_frames, clip.height, clip.width, 3) and made.frames.dtype == np.uint8
    assert made.waveform.shape == (clip.num_samples,) and made.waveform.dtype == np.float32
    assert np.abs(made.waveform).max() <= 1 and "." not in made.key


@pytest.mark.parametrize("shape", v.SHAPES)
@pytest.mark.parametrize("size", [32, 48, 96])
def test_coverage_adds_up_to_the_area_wherever_the_shape_lies(shape, size):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(10, 38, (2, 20))
    share = coverage(shape, x, y, np.full(20, v.RADIUS), size, size)
    assert share.sum((1, 2)) * (v.CANVAS / size) ** 2 == pytest.approx(np.full(20, area(shape)), rel=0.03)
    assert share.min() >= 0 and share.max() <= 1


def test_events_peak_in_the_picture_at_their_anchors():
    says, hits = Event("says", "red", 0.3, words=("ba", "ku")), Event("hits", "red", 0.3, target="blue")
    assert motion(two(says), np.array(says.anchors))["red"][2] == pytest.approx([1 + v.PULSE_SCALE] * 2)
    contact = motion(two(hits), np.array(hits.anchors))
    assert contact["blue"][0, 0] - contact["red"][0, 0] == pytest.approx(2 * v.RADIUS)
    jumps = Event("jumps", "red", 0.3)
    just_before, landing = motion(two(jumps), np.array([jumps.anchors[0] - 0.05, jumps.anchors[0]]))["red"][1]
    assert just_before < v.BASELINE_Y and landing == v.BASELINE_Y
    flashes = Event("flashes", "red", 0.3)
    assert motion(two(flashes), np.array(flashes.anchors))["red"][3] == pytest.approx(v.FLASH_WHITE)


def test_only_a_slide_leaves_a_trace():
    after = np.array([2.0])
    for event in (Event("says", "red", 0.3, words=("ba",)), Event("hits", "red", 0.3, target="blue"), Event("jumps", "blue", 0.3)):
        assert np.allclose(motion(two(event), after)["red"], motion(two(), after)["red"])
    assert motion(two(Event("slides", "blue", 0.3, column=2)), after)["blue"][0] == v.COLUMN_X[2]


def test_sound_is_centred_on_the_anchors_and_lies_on_its_carriers():
    for event, carriers in (
        (Event("says", "green", 0.5, words=("di",)), (v.CARRIERS[4], v.CARRIERS[3])),  # the second voice; "di" is its tones 1, 0
        (Event("jumps", "red", 0.5), (160,)),
        (Event("hits", "red", 0.5, target="blue"), (160, 6000)),
    ):
        wave = synthesise(two(event), NANO).astype(float)
        power = wave**2
        assert (power * np.arange(len(wave))).sum() / power.sum() / NANO.sample_rate == pytest.approx(event.anchors[0], abs=0.002)
        spectrum = np.abs(np.fft.rfft(wave)) ** 2
        hertz = np.fft.rfftfreq(len(wave), 1 / NANO.sample_rate)
        inside = sum(spectrum[np.abs(hertz - carrier) < 25].sum() for carrier in carriers)
        assert inside / spectrum.sum() > 0.99


def test_a_slide_is_silent():
    assert not synthesise(two(Event("slides", "blue", 0.3, column=2)), NANO).any()


def test_carriers_turn_whole_times_in_a_planned_token():
    assert all(carrier % 40 == 0 for carrier in v.CARRIERS)
    assert np.diff(sorted(v.CARRIERS)).min() >= 80


def test_voices_and_pictures_of_colours_differ():
    pictures = {c: render(Scene("single", 2.0, (Object(c, "circle", 1),), ()), NANO)[0].tobytes() for c in v.COLOURS}
    assert len(set(pictures.values())) == len(v.COLOURS)
    waves = {
        synthesise(Scene("single", 2.0, (Object(c, "circle", 1),), (Event("says", c, 0.3, words=(w,)),)), NANO).tobytes()
        for c in v.COLOURS
        for w in v.WORDS
    }
    assert len(waves) == len(v.COLOURS) * len(v.WORDS)
