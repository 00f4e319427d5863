import pytest
import torch

from baton_lightning.frozen.downloads import hub_file
from baton_lightning.frozen.llm import PretrainedLLM
from baton_lightning.frozen.mmaudio_vae import MMAudio16k
from baton_lightning.frozen.siglip import Siglip2
from baton_lightning.frozen.text import UMT5
from baton_lightning.frozen.wan_vae import WanVAE
from baton_lightning.frozen.wavtokenizer import WavTokenizer


@pytest.mark.parametrize("network", [PretrainedLLM, UMT5, Siglip2, WanVAE, WavTokenizer, MMAudio16k])
def test_a_path_that_is_not_there_is_named(network, tmp_path):
    with pytest.raises(ValueError, match=r"nothing-here.* could not be read: check the path. Licence of these weights: "):
        network(str(tmp_path / "nothing-here"))


def test_a_file_that_cannot_be_fetched_names_the_command_and_the_licence(monkeypatch):
    import huggingface_hub

    def offline(repo, file):
        raise OSError("no network\nand more lines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ValueError, match=r"run `hf download hkchengrex/MMAudio ext_weights/v1-16.pth`.*CC BY-NC 4.0.*\(no network\)"):
        MMAudio16k()
    with pytest.raises(ValueError, match=r"run `hf download novateur/WavTokenizer-large-unify-40token .*ckpt`"):
        WavTokenizer()


def test_a_given_path_is_taken_without_asking_the_hub(tmp_path):
    torch.save({}, tmp_path / "file")
    assert hub_file("a/b", "c", licence="", path=str(tmp_path / "file")) == tmp_path / "file"
