"""Files that are not what they should be are refused in one line: no network runs on numbers that nobody trained."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from baton_lightning.frozen.dinov3 import Dinov3
from baton_lightning.frozen.llm import PretrainedLLM, TinyLLM
from baton_lightning.frozen.mmaudio_vae import MMAudio16k
from baton_lightning.frozen.siglip import Siglip2
from baton_lightning.frozen.text import UMT5, TinyText
from baton_lightning.frozen.wan_vae import TinyWanVAE, WanVAE
from baton_lightning.frozen.wavtokenizer import WavTokenizer

WORDS = "a red circle".split()
PICKLED = [WavTokenizer, pytest.param(lambda path: MMAudio16k(path, path), marks=pytest.mark.slow)]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48}


def save_llm(folder):
    twin = TinyLLM(width=32, depth=2, vocabulary=WORDS)
    twin.model.save_pretrained(folder)
    twin.tokenizer.save_pretrained(folder)


def save_text(folder):
    twin = TinyText(width=32, vocabulary=WORDS)
    twin.model.save_pretrained(folder)
    twin.tokenizer.save_pretrained(folder)


def save_siglip(folder):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    SiglipVisionModel(SiglipVisionConfig(**TOWER, patch_size=6)).save_pretrained(folder)


def save_dino(folder):
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    DINOv3ViTModel(DINOv3ViTConfig(**TOWER, patch_size=16)).save_pretrained(folder)


def save_wan(folder):
    TinyWanVAE().vae.save_pretrained(folder / "vae")


NETWORKS = {PretrainedLLM: save_llm, UMT5: save_text, Siglip2: save_siglip, Dinov3: save_dino, WanVAE: save_wan}


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda kind: kind.__name__)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    NETWORKS[request.param](folder)
    return request.param, folder


@pytest.fixture
def copy(saved, tmp_path):
    return saved[0], shutil.copytree(saved[1], tmp_path / "copy")


def refused(network, path, because):
    with pytest.raises(ValueError, match=because) as caught:
        network(str(path))
    assert "Licence of these weights" in str(caught.value) and "\n" not in str(caught.value)


def rewrite(folder, change):
    file = next(folder.rglob("*.safetensors"))
    weights = load_file(file)
    change(weights, sorted(key for key, tensor in weights.items() if tensor.ndim)[len(weights) // 2])
    save_file(weights, file, metadata={"format": "pt"})


def test_a_missing_weight_is_not_made_up(copy):
    network, folder = copy
    rewrite(folder, lambda weights, key: weights.pop(key))
    refused(network, folder, "1 weights of .* are missing, the first is")


def test_a_weight_of_another_shape_is_not_made_up(copy):
    network, folder = copy
    rewrite(folder, lambda weights, key: weights.update({key: torch.zeros(3)}))
    refused(network, folder, "of another shape|expected shape")


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_file_that_was_cut_off_is_said_to_be_damaged(copy, share):
    network, folder = copy
    file = next(folder.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    refused(network, folder, "could not be read")


def test_a_language_model_of_another_kind_is_refused(tmp_path):
    save_llm(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 12}))
    refused(PretrainedLLM, tmp_path, "belong to another model")


@pytest.mark.parametrize(("network", "save"), [(PretrainedLLM, save_llm), (UMT5, save_text)])
def test_a_model_without_its_tokenizer_is_refused(network, save, tmp_path):
    save(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    refused(network, tmp_path, "tokenizer")


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path):
    save_llm(tmp_path)
    TinyLLM(vocabulary=[*WORDS, "blue", "green"]).tokenizer.save_pretrained(tmp_path)
    refused(PretrainedLLM, tmp_path, "do not belong together")


@pytest.mark.parametrize("network", PICKLED, ids=["WavTokenizer", "MMAudio16k"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", "cut"], ids=["empty", "text", "cut"])
def test_a_checkpoint_that_cannot_be_read_is_refused(network, content, tmp_path):
    file = tmp_path / "file.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(3000)}}, file)
    file.write_bytes(file.read_bytes()[:2000] if content == "cut" else content)
    refused(network, file, "damaged or belong to another model")


@pytest.mark.parametrize("network", PICKLED, ids=["WavTokenizer", "MMAudio16k"])
@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"x": torch.zeros(2)}, {}], ids=["list", "number", "other", "none"])
def test_a_checkpoint_of_something_else_is_refused(network, content, tmp_path):
    torch.save(content, tmp_path / "file.ckpt")
    with pytest.raises(ValueError, match="hold") as caught:
        network(str(tmp_path / "file.ckpt"))
    assert "\n" not in str(caught.value)


def test_towers_and_encoders_are_found_in_the_whole_models_that_are_released(tmp_path):
    from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipConfig, SiglipModel, UMT5Config, UMT5ForConditionalGeneration

    text = {"vocab_size": 30, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    both = SiglipModel(SiglipConfig(text_config=text, vision_config={**TOWER, "patch_size": 6}))
    both.save_pretrained(tmp_path / "siglip")
    found = Siglip2(str(tmp_path / "siglip")).model.state_dict()
    whole = both.vision_model.state_dict()
    assert found and all(torch.equal(tensor, whole[key]) for key, tensor in found.items())

    speaking = Qwen3ForCausalLM(Qwen3Config(**text, num_key_value_heads=1, head_dim=16))
    speaking.save_pretrained(tmp_path / "llm")
    TinyLLM(vocabulary=WORDS).tokenizer.save_pretrained(tmp_path / "llm")
    silent = PretrainedLLM(str(tmp_path / "llm")).model.state_dict()
    assert all(torch.equal(tensor, silent[key]) for key, tensor in speaking.model.state_dict().items())

    pair = UMT5ForConditionalGeneration(UMT5Config(vocab_size=30, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2))
    pair.save_pretrained(tmp_path / "text")
    TinyText(vocabulary=WORDS).tokenizer.save_pretrained(tmp_path / "text")
    encoder = UMT5(str(tmp_path / "text"), dtype="float32").model.encoder.state_dict()
    assert all(torch.equal(tensor, encoder[key]) for key, tensor in pair.encoder.state_dict().items())
