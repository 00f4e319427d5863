import pytest
import torch
from transformers import initialization

from baton_lightning.frozen.freeze import seeded
from baton_lightning.frozen.llm import TinyLLM
from baton_lightning.frozen.mmaudio_vae import TinyMMAudio
from baton_lightning.frozen.siglip import TinySiglip
from baton_lightning.frozen.text import TinyText
from baton_lightning.frozen.wan_vae import TinyWanVAE
from baton_lightning.frozen.wavtokenizer import TinyEncodec

WORDS = ("red", "square", "jumps")
FROZEN = [TinySiglip, TinyEncodec, lambda seed=0: TinyText(vocabulary=WORDS, seed=seed), TinyWanVAE, TinyMMAudio]
NAMES = ["siglip", "encodec", "text", "wan", "mmaudio"]


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("make", [*FROZEN, lambda seed=0: TinyLLM(vocabulary=WORDS, seed=seed)], ids=[*NAMES, "llm"])
def test_a_random_twin_is_a_function_of_its_seed_and_leaves_the_global_random_state_alone(make):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(make())
    torch.rand(3)
    second, other = weights(make()), weights(make(seed=1))
    torch.manual_seed(1)
    make()
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_weights_do_not_depend_on_how_a_version_of_torch_draws_truncated_normals():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.nn.init, "trunc_normal_", None)
        patched.setitem(initialization.TORCH_INIT_FUNCTIONS, "trunc_normal_", None)
        patches = TinySiglip().model.embeddings.patch_embedding.weight
    recorded = [0.07455188, -0.04356297, 0.18968974, -0.05010412, -0.12763214, -0.10604662]  # the same with torch 2.11 and 2.13
    assert patches[0, 0, 0].tolist() == pytest.approx(recorded, abs=1e-6)


@pytest.mark.parametrize("make", FROZEN, ids=NAMES)
def test_a_frozen_network_has_nothing_to_train_and_stays_in_evaluation_mode(make):
    network = torch.nn.Sequential(make()).train()[0]
    assert not any(p.requires_grad for p in network.parameters())
    assert not any(m.training for m in network.modules())


def test_seeded_restores_the_random_state_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(3):
        torch.rand(2)
        raise RuntimeError
    assert torch.equal(before, torch.get_rng_state())
