"""Tiny random twins of the real classes, saved and loaded by path as the real weights are."""

import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from baton_lightning.frozen.words import word_tokenizer
from baton_lightning.metrics.audio_tags import AudioTags
from baton_lightning.metrics.clap import Clap
from baton_lightning.metrics.clips import ClipExcluded, read_folder
from baton_lightning.metrics.frechet import FrechetDistance
from baton_lightning.metrics.identity import Dinov3Identity
from baton_lightning.metrics.kl import PairedKL
from baton_lightning.metrics.transcripts import Whisper, segments

RATE = 16000


def only(folder, references=None):
    (clip,) = read_folder(folder, references=references)
    return clip


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    torch.manual_seed(0)
    words = word_tokenizer(["a tone", "a dog barks"])
    text = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sound = {"num_mel_bins": 16, "spec_size": 64, "window_size": 4, "patch_size": 2, "patch_stride": [2, 2], "hidden_size": 32}
    sound |= {"patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2], "freq_ratio": 2, "num_hidden_layers": 2}
    text |= {"max_position_embeddings": 34, "pad_token_id": 0}
    model = ClapModel(ClapConfig(text_config=text, audio_config=sound, projection_dim=16)).eval()
    folder = tmp_path_factory.mktemp("clap")
    hears = ClapFeatureExtractor(
        feature_size=16, sampling_rate=RATE, hop_length=160, max_length_s=1, fft_window_size=512, frequency_max=8000
    )
    hears.truncation = "rand_trunc"
    for part in (model, hears, words):
        part.save_pretrained(folder)
    return Clap(str(folder), device="cpu")


def test_clap_is_the_cosine_of_prompt_and_sound(clap, tmp_path, write_clip):
    write_clip(tmp_path, "a", audio_prompt="a dog barks")
    model, extractor, tokenizer = clap.network
    clip = only(tmp_path)
    features = extractor(clip.sound(RATE).numpy(), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        out = model(**tokenizer(["a dog barks"], return_tensors="pt", return_token_type_ids=False), **features)
    assert clap.measure(clip)["similarity"] == pytest.approx((out.text_embeds @ out.audio_embeds.T).item(), abs=1e-5)
    assert clap.name in clap.protocol


def test_clap_hears_all_of_a_long_clip_and_the_same_every_time(clap, tmp_path, write_clip):
    write_clip(tmp_path, "a", seconds=2.5)
    clip = only(tmp_path)
    first, second = clap.measure(clip), clap.measure(clip)  # its own extractor would draw a window at random
    assert first == second
    (tmp_path / "a.json").write_text('{"video_prompt": "x", "audio_prompt": " "}')
    with pytest.raises(ClipExcluded, match="no audio prompt"):
        clap.measure(only(tmp_path))


MARKS = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>"]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    torch.manual_seed(0)
    letters = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyzĠ")}
    tokenizer = WhisperTokenizerFast(vocab=letters | {MARKS[0]: len(letters)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS[1:]})
    end, start, en, de, transcribe, translate, no_times = tokenizer.convert_tokens_to_ids(MARKS)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": len(tokenizer), "max_target_positions": 16, "init_std": 1.0}
    ends = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, **ends, suppress_tokens=None, begin_suppress_tokens=None)).eval()
    known = model.generation_config
    known.is_multilingual, known.no_timestamps_token_id, known.max_length = True, no_times, 12
    known._from_model_config = False  # else it is made anew from the configuration when it is loaded
    known.lang_to_id, known.task_to_id = {MARKS[2]: en, MARKS[3]: de}, {"transcribe": transcribe, "translate": translate}
    folder = tmp_path_factory.mktemp("whisper")
    for part in (model, tokenizer, WhisperFeatureExtractor()):
        part.save_pretrained(folder)
    return str(folder)


def test_whisper_writes_down_one_text_and_the_same_every_time(whisper, tmp_path, write_clip):
    write_clip(tmp_path, "a")
    backend = Whisper(whisper, device="cpu")
    measured = backend.measure(only(tmp_path))
    (segment,) = measured["segments"]
    assert segment["text"] and measured == backend.measure(only(tmp_path))
    assert not any(mark in segment["text"] for mark in MARKS)
    assert "in the prompt's language" in backend.protocol


def test_whisper_hears_in_the_language_of_the_prompt_and_leaves_out_those_it_does_not_know(whisper, tmp_path, write_clip, monkeypatch):
    write_clip(tmp_path, "a", speech="Hallo", language="de")
    backend, asked = Whisper(whisper, device="cpu"), []
    generate = WhisperForConditionalGeneration.generate
    monkeypatch.setattr(WhisperForConditionalGeneration, "generate", lambda *a, **k: asked.append(k["language"]) or generate(*a, **k))
    assert backend.measure(only(tmp_path))["segments"] and asked == ["de"]
    (tmp_path / "a.json").unlink()
    write_clip(tmp_path, "a", speech="去公园吧")
    with pytest.raises(ClipExcluded, match="speech is in zh, which .* does not know"):
        backend.measure(only(tmp_path))


def test_a_clip_longer_than_whisper_hears_is_left_out_before_weights_are_read(tmp_path, write_clip):
    write_clip(tmp_path, "a", seconds=31)
    with pytest.raises(ClipExcluded, match="longer than the 30 s"):
        Whisper("nowhere").measure(only(tmp_path))


def test_a_diariser_s_marks_become_speakers_and_no_marks_one_speaker():
    parsed = [{"Start": 0.0, "End": 1.0, "Speaker": 1, "Content": "hello"}, {"Start": 1.0, "End": 2.0, "Speaker": 2, "Content": "you"}]
    assert segments(parsed) == [{"speaker": "S01", "text": "hello"}, {"speaker": "S02", "text": "you"}]
    assert segments(" hello you ") == [{"speaker": "unmarked", "text": "hello you"}]
    assert segments(" ") == []


@pytest.fixture(scope="module")
def tags(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8}
    shape = {"frequency_stride": 8, "time_stride": 8, "max_length": 64, "num_mel_bins": 16}
    model = ASTForAudioClassification(ASTConfig(**sizes, **shape, num_labels=5, initializer_range=0.5)).eval()
    folder = tmp_path_factory.mktemp("tags")
    for part in (model, ASTFeatureExtractor(num_mel_bins=16, max_length=64, sampling_rate=RATE)):
        part.save_pretrained(folder)
    return AudioTags(str(folder), device="cpu")


def test_a_set_held_against_itself_has_no_fd_and_no_kl_and_other_sounds_have(tags, tmp_path, write_clip):
    made, true = tmp_path / "made", tmp_path / "true"
    for i, pitch in enumerate((200, 900, 3000)):
        write_clip(true, f"k{i}", pitch=pitch)
        write_clip(made, f"k{i}", pitch=pitch * 1.7)
    for folder, same in ((true, True), (made, False)):
        clips = read_folder(folder, references=true)
        measured = [tags.measure(clip) for clip in clips]
        fd, kl = FrechetDistance.from_measured(measured[0], tags.protocol), PairedKL.from_measured(measured[0], tags.protocol)
        for clip, values in zip(clips, measured, strict=True):
            assert (len(values["made"]["features"]), len(values["made"]["logits"])) == (16, 5)
            fd.add(clip, values)
            kl.add(clip, values)
        assert fd.result().n == kl.result().n == 3
        assert (fd.result().value < 1e-6 and kl.result().value < 1e-9) == same


def test_a_clip_without_its_true_clip_is_left_out(tags, tmp_path, write_clip):
    write_clip(tmp_path, "a")
    with pytest.raises(ClipExcluded, match="no true clip"):
        tags.measure(only(tmp_path))


def test_a_long_sound_is_heard_in_windows_that_are_averaged(tags):
    window = torch.randn(64 * 160, generator=torch.Generator().manual_seed(0)) * 0.1
    other = window.flip(0)
    parts = [tags.tag(part)["logits"] for part in (window, other)]
    assert tags.tag(torch.cat([window, other]))["logits"] == pytest.approx([(a + b) / 2 for a, b in zip(*parts, strict=True)], abs=1e-5)


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = DINOv3ViTModel(DINOv3ViTConfig(**sizes, patch_size=8, num_register_tokens=3, layerscale_value=1.0, initializer_range=0.3))
    folder = tmp_path_factory.mktemp("dinov3")
    model.save_pretrained(folder)
    return Dinov3Identity(str(folder), side=32, frames_at_once=3, device="cpu")


def test_identity_looks_at_the_whole_picture_not_at_one_corner_patch(identity):
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for y in (0, 16):
        for x in (0, 16):
            changed = picture.clone()
            changed[..., y : y + 16, x : x + 16] = 1 - changed[..., y : y + 16, x : x + 16]
            assert torch.cosine_similarity(identity.embed(picture), identity.embed(changed)) < 0.999, (y, x)
    pixels = (picture - torch.tensor((0.485, 0.456, 0.406))[:, None, None]) / torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    with torch.no_grad():
        states = identity.network(pixels).last_hidden_state[0]
    torch.testing.assert_close(identity.embed(picture)[0], states[0], atol=1e-4, rtol=1e-4)  # the class token
    assert all((identity.embed(picture)[0] - patch).norm() > 0.1 for patch in states[4:])


def test_identity_is_the_mean_over_all_frames(identity, tmp_path, write_clip):
    from PIL import Image

    clip = only(write_clip(tmp_path, "a").parent)
    with pytest.raises(ClipExcluded, match="no reference image"):
        identity.measure(clip)
    frames = torch.from_numpy(clip.frames().frames)
    Image.fromarray(frames[0].numpy()).save(tmp_path / "a.png")
    embedded = identity.embed(frames.permute(0, 3, 1, 2) / 255)
    expected = torch.cosine_similarity(embedded, embedded[:1]).mean().item()
    assert identity.measure(clip)["similarity"] == pytest.approx(expected, abs=1e-5)
    assert expected < 1


@pytest.mark.parametrize(
    "backend", [Clap("nobody/nothing"), Whisper("nobody/nothing"), AudioTags("nobody/nothing"), Dinov3Identity("nobody/nothing")]
)
def test_weights_that_are_not_there_are_one_line(backend):
    with pytest.raises(ValueError, match="the weights nobody/nothing could not be read: run `hf download nobody/nothing`"):
        _ = backend.network
