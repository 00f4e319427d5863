"""Adapters to packages that are nobody's dependency: what they hand over, and what they say where the package is missing."""

import sys
from types import SimpleNamespace

import pytest
import torch

from baton_lightning.metrics.audiobox import AudioBox
from baton_lightning.metrics.clips import ClipExcluded, read_folder
from baton_lightning.metrics.desync import MeanOffset
from baton_lightning.metrics.dynamics import FlowMagnitude, Raft
from baton_lightning.metrics.picture_quality import AestheticPredictor, Musiq
from baton_lightning.metrics.pictures import resize, sample_frames
from baton_lightning.metrics.synchformer import Synchformer, synchformer_pictures
from baton_lightning.metrics.syncnet import SyncNet


@pytest.fixture
def clip(tmp_path, write_clip):
    write_clip(tmp_path / "clips", "a", seconds=6)
    return read_folder(tmp_path / "clips")[0]


def stand_in(monkeypatch, name, **members):
    """A package under a name, with its parents."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**members))


@pytest.mark.parametrize(
    ("backend", "package", "install"),
    [
        (AudioBox(), "audiobox_aesthetics", "pip install audiobox_aesthetics"),
        (Musiq(), "pyiqa", "pip install pyiqa"),
        (AestheticPredictor(), "aesthetic_predictor_v2_5", "pip install aesthetic-predictor-v2-5"),
        (Raft(), "torchvision", "torchvision that was built for this torch"),
        (Synchformer(), "av_bench", "pip install git"),
    ],
)
def test_a_package_that_is_not_there_is_one_line_with_the_way_to_get_it(clip, monkeypatch, backend, package, install):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"needs the package {package}, which cannot be imported .*{install}") as error:
        backend.measure(clip)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("row", [{"CE": 4, "CU": 5, "PC": 2, "PQ": 6}, '{"CE": 4, "CU": 5, "PC": 2, "PQ": 6}'])
def test_audiobox_gets_the_sound_and_gives_four_scores(clip, monkeypatch, row):
    handed = []
    predictor = SimpleNamespace(forward=lambda batch: handed.extend(batch) or [row])
    stand_in(monkeypatch, "audiobox_aesthetics.infer", initialize_predictor=lambda: predictor)
    assert AudioBox().measure(clip) == {"PQ": 6, "CU": 5, "PC": 2, "CE": 4}
    assert handed[0]["path"].shape == (1, 6 * 16000) and handed[0]["sample_rate"] == 16000


def test_picture_predictors_see_two_frames_a_second_in_their_own_range(clip, monkeypatch):
    inputs = []

    class Predictor(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, pixels):
            inputs.append(pixels)
            return SimpleNamespace(logits=pixels.mean().reshape(1, 1))

    stand_in(monkeypatch, "aesthetic_predictor_v2_5", convert_v2_5_from_siglip=lambda **settings: (Predictor(), None))
    score = AestheticPredictor("cpu").measure(clip)["aesthetic"]
    assert len(inputs) == 12 and inputs[0].shape == (1, 3, 384, 384) and all(p.min() >= -1 and p.max() <= 1 for p in inputs)
    assert score == pytest.approx(torch.cat(inputs).mean().item(), abs=1e-5)
    stand_in(monkeypatch, "pyiqa", create_metric=lambda name, device: lambda pixels: pixels.mean())
    assert 0 < Musiq("cpu").measure(clip)["quality"] == pytest.approx((score + 1) / 2, abs=1e-2)


def test_frames_are_chosen_by_time(clip):
    media = clip.frames()
    every = sample_frames(media)
    assert len(every) == 48 and torch.equal(sample_frames(media, 2), every[::4]) and torch.equal(sample_frames(media, 60), every)


class Diagonal(FlowMagnitude):
    flow_by = "a test"

    def flow(self, first, second):
        assert first.shape == (1, 3, 256, 256) and not torch.equal(first, second)
        return torch.tensor([3.0, 4.0])[None, :, None, None].expand(1, 2, 256, 256)


def test_dynamics_is_the_mean_length_of_the_flow(clip, tmp_path, write_clip):
    assert Diagonal().measure(clip) == {"magnitude": pytest.approx(5)}
    short = read_folder(write_clip(tmp_path / "short", "b", seconds=0.125).parent)[0]
    with pytest.raises(ClipExcluded, match="nothing can move"):
        Diagonal().measure(short)


class Twin(torch.nn.Module):
    """Takes and gives the shapes of Synchformer, and hears 2 s early at the beginning, 1 s late at the end."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answers = iter((0, 15))

    def extract_vfeats(self, x):
        assert x.shape == (14, 1, 16, 3, 224, 224) and x.min() >= -1 and x.max() <= 1
        return torch.zeros(14, 1, 8, 768)

    def extract_afeats(self, x):
        assert x.shape == (1, 14, 1, 128, 66)
        return torch.zeros(1, 14, 6, 768)

    def compare_v_a(self, video_features, audio_features):
        assert video_features.shape == (1, 14, 8, 768) and audio_features.shape == (1, 14, 6, 768)
        return torch.eye(21)[next(self.answers)][None]


def test_synchformer_measures_both_ends_and_errors_do_not_cancel(clip, tmp_path, monkeypatch):
    stand_in(monkeypatch, "av_bench.synchformer.synchformer", Synchformer=Twin)
    mel = torch.nn.Identity()
    mel.forward = lambda sound: sound[:, :128, None].abs().expand(-1, -1, 65)
    stand_in(monkeypatch, "torchaudio.transforms", MelSpectrogram=lambda **settings: mel)
    with pytest.raises(ValueError, match="needs Synchformer's weights, but nowhere.pth"):
        Synchformer("nowhere.pth").measure(clip)
    torch.save(Twin().state_dict(), tmp_path / "weights.pth")
    backend = Synchformer(str(tmp_path / "weights.pth"), device="cpu")
    measured = backend.measure(clip)
    assert measured["offsets"] == pytest.approx([-2.0, 1.0])
    metric = MeanOffset.from_measured(measured, backend.protocol)
    metric.add(clip, measured)
    assert metric.result().value == pytest.approx(1.5) and metric.result().also["signed"] == pytest.approx(-0.5)


def test_a_clip_too_short_for_synchformer_is_left_out(tmp_path, write_clip):
    short = read_folder(write_clip(tmp_path, "b", seconds=4).parent)[0]
    with pytest.raises(ClipExcluded, match="shorter than the 4.8 s"):
        Synchformer().measure(short)


def checkout(folder, says):
    folder.mkdir()
    (folder / "run_pipeline.py").write_text("import sys; assert sys.argv[1] == '--videofile' and sys.argv[2].endswith('a.mp4')")
    (folder / "run_syncnet.py").write_text(says)
    return SyncNet(str(folder))


def test_syncnet_s_log_gives_confidence_and_distance_of_the_surest_track(clip, tmp_path):
    log = "AV offset: \\t3\\nMin dist: \\t7.5\\nConfidence: \\t2.25\\nMin dist: \\t5.353\\nConfidence: \\t10.021"
    backend = checkout(tmp_path / "one", f"import sys; print('{log}', file=sys.stderr)")
    assert backend.measure(clip) == {"confidence": 10.021, "distance": 5.353}
    with pytest.raises(ClipExcluded, match="found no face"):
        checkout(tmp_path / "none", "print('no track')").measure(clip)
    with pytest.raises(ValueError, match="run_syncnet.py failed on a.mp4: RuntimeError: no weights"):
        checkout(tmp_path / "broken", "raise RuntimeError('no weights')").measure(clip)
    with pytest.raises(ValueError, match="needs a checkout of SyncNet"):
        SyncNet(str(tmp_path / "nowhere")).measure(clip)


def test_a_clip_of_any_rate_is_seen_at_synchformer_s(clip):
    media = clip.frames()
    inputs = synchformer_pictures(media)
    assert inputs.shape == (150, 3, 224, 224)
    torch.testing.assert_close(inputs[100:101], resize(sample_frames(media)[32:33], 224, 224) * 2 - 1)  # 4 s
