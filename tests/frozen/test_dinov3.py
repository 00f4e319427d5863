import copy

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from baton_lightning.frozen.dinov3 import MEAN, STD, Dinov3, Dinov3Perceiver, TinyDinov3


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    return DINOv3ViTModel(DINOv3ViTConfig(**sizes, patch_size=6, num_register_tokens=3, layerscale_value=1.0)).eval()


def frames(*shape):
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_features_are_the_patches_of_the_last_hidden_state_but_one(tower):
    pictures = frames(1, 2, 48, 48)
    features = Dinov3Perceiver(copy.deepcopy(tower), 48)(pictures)
    pixels = (pictures[0].permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        hidden = tower(pixels, output_hidden_states=True).hidden_states[-2]
    assert hidden.shape[1] == 1 + 3 + 64  # class token, registers, patches
    torch.testing.assert_close(features[0], hidden[:, 4:].reshape(2, 8, 8, 32), atol=1e-5, rtol=1e-5)


def test_a_patch_s_features_follow_that_patch_most():
    pictures = frames(1, 1, 48, 48)
    changed = pictures.clone()
    changed[0, 0, 6:12, 12:18] = 255 - changed[0, 0, 6:12, 12:18]
    perceiver = TinyDinov3(grid=(8, 8))
    moved = (perceiver(changed) - perceiver(pictures)).square().sum(-1)[0, 0]
    assert divmod(int(moved.argmax()), 8) == (1, 2)


def test_registers_are_left_out_whatever_their_number():
    assert TinyDinov3(num_registers=0)(frames(1, 1, 32, 32)).shape == TinyDinov3(num_registers=5)(frames(1, 1, 32, 32)).shape


def test_a_side_that_is_no_multiple_of_the_patch_is_refused(tower):
    with pytest.raises(ValueError, match="got 50; the nearest are 48 and 54"):
        Dinov3Perceiver(copy.deepcopy(tower), 50)


def test_a_saved_model_loads_by_path_and_nothing_of_it_trains(tower, tmp_path):
    tower.save_pretrained(tmp_path)
    loaded = Dinov3(str(tmp_path), side=48, grid=(2, 2))
    torch.testing.assert_close(loaded(frames(1, 1, 30, 40)), Dinov3Perceiver(copy.deepcopy(tower), 48, (2, 2))(frames(1, 1, 30, 40)))
    assert not any(p.requires_grad for p in loaded.parameters())
