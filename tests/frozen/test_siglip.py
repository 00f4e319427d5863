import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipVisionConfig, SiglipVisionModel

from baton_lightning.clip import ClipSpec
from baton_lightning.frozen.patch_perceiver import resize
from baton_lightning.frozen.siglip import PlacelessSiglip, Siglip2, SiglipPerceiver, TinySiglip
from baton_lightning.world.clips import make_clip


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=48, patch_size=6
    )
    return SiglipVisionModel(config).eval()


def frames(*shape):
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def penultimate(tower, pictures):
    """Hidden states of the whole tower on [B, Y, X, 3] pictures of its own size."""
    with torch.no_grad():
        return tower(pictures.permute(0, 3, 1, 2) / 127.5 - 1, output_hidden_states=True).hidden_states[-2]


def test_features_are_the_whole_tower_s_last_hidden_state_but_one(tower):
    pictures = frames(2, 3, 48, 48)
    features = SiglipPerceiver(copy.deepcopy(tower))(pictures)
    assert features.shape == (2, 3, 8, 8, 32)
    expected = penultimate(tower, pictures.flatten(0, 1)).reshape(2, 3, 8, 8, 32)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(features.flatten(2, 3).flatten(0, 1), tower(pictures.flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1)[0])


def test_the_last_block_is_not_kept(tower):
    kept = SiglipPerceiver(copy.deepcopy(tower))
    assert sum(p.numel() for p in kept.parameters()) < 0.75 * sum(p.numel() for p in tower.parameters())


def test_a_coarse_grid_is_the_mean_of_its_patches_in_row_column_order(tower):
    pictures = frames(1, 1, 48, 48)
    fine = penultimate(tower, pictures[0]).reshape(8, 8, 32)
    coarse = SiglipPerceiver(copy.deepcopy(tower), grid=(4, 2))(pictures)[0, 0]
    assert coarse.shape == (4, 2, 32)
    torch.testing.assert_close(coarse, fine.reshape(4, 2, 2, 4, 32).mean((1, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("side", "num_tokens"), [(27, 729), (13, 169), (9, 81)])
def test_the_released_tower_s_own_grid_pools_to_every_plan_of_the_paper_s_size(side, num_tokens):
    config = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1, image_size=384, patch_size=14
    )
    perceiver = SiglipPerceiver(SiglipVisionModel(config), grid=(side, side))
    assert perceiver.native_grid == (27, 27) and perceiver(frames(1, 1, 64, 64)).flatten(2, 3).shape[2] == num_tokens


def test_a_grid_finer_than_the_tower_s_is_refused(tower):
    with pytest.raises(ValueError, match="8 x 8, got 9 x 8"):
        SiglipPerceiver(copy.deepcopy(tower), grid=(9, 8))


def test_chunks_bound_memory_and_change_nothing(tower):
    pictures = frames(2, 5, 48, 48)
    whole, chunked = (SiglipPerceiver(copy.deepcopy(tower), frames_at_once=n)(pictures) for n in (64, 3))
    torch.testing.assert_close(whole, chunked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (40, 96), (200, 150)])
def test_resizing_agrees_with_an_image_library_to_a_level(size):
    pictures = frames(1, *size)
    ours = resize(pictures.permute(0, 3, 1, 2), 48)[0].permute(1, 2, 0)
    theirs = np.asarray(Image.fromarray(pictures[0].numpy()).resize((48, 48), Image.Resampling.BILINEAR), np.float32)
    assert np.abs(ours.numpy() - theirs).max() <= 1


def test_the_tiny_tower_sees_where_a_colour_is():
    """A linear probe reads a patch's colour from the pooled features of held-out pictures."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (40, 6, 4, 4, 3), generator=generator, dtype=torch.uint8)
    pictures = colours.repeat_interleave(8, 2).repeat_interleave(8, 3)
    features = TinySiglip()(pictures).flatten(0, 1)
    assert features.shape == (240, 4, 4, 64)
    inputs, targets = features - features.mean(0), colours.flatten(0, 1) / 255.0 - 0.5
    inputs, targets = inputs.flatten(1, 2), targets.flatten(1, 2)
    probe = torch.linalg.lstsq(inputs[:200].flatten(0, 1), targets[:200].flatten(0, 1)).solution
    error = (inputs[200:] @ probe - targets[200:]).square().mean() / targets[200:].var()
    assert error < 0.2


def test_a_saved_tower_loads_by_path(tower, tmp_path):
    tower.save_pretrained(tmp_path)
    pictures = frames(1, 2, 30, 40)
    torch.testing.assert_close(Siglip2(str(tmp_path), grid=(2, 2))(pictures), SiglipPerceiver(copy.deepcopy(tower), (2, 2))(pictures))


def read_places(perceiver: SiglipPerceiver) -> list[float]:
    """R2 of a linear map from tokens of held-out clips to their keyframe, row and column."""
    clip = ClipSpec()
    count, (rows, columns) = round(clip.seconds * clip.keyframe_fps), clip.plan_grid
    films = [make_clip(0, i, "multi", clip).frames for i in range(64)]
    keyframes = torch.stack([torch.as_tensor(film)[:: len(film) // count][:count] for film in films])
    features = perceiver(keyframes).double().flatten(1, 3)
    axes = (torch.arange(n, dtype=torch.double) for n in (count, rows, columns))
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)
    seen, held_out = (torch.nn.functional.pad(part.flatten(0, 1), (0, 1), value=1.0) for part in (features[:48], features[48:]))
    ridge = 1e-3 * torch.eye(seen.shape[1], dtype=torch.double)
    weights = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ places.repeat(48, 1))
    error = (held_out @ weights - places.repeat(16, 1)).square().mean(0)
    return (1 - error / places.var(0, correction=0)).tolist()


def test_a_token_says_where_it_is_and_not_when() -> None:
    """What spatial positions of a plan repeat, and temporal ones alone can tell, with features of frames seen one by one."""
    when, row, column = read_places(TinySiglip(grid=ClipSpec().plan_grid, width=ClipSpec().video_plan_width))
    assert row > 0.8 and column > 0.8 and when < 0.1


def test_a_token_of_the_placeless_tower_moves_with_its_patch_and_does_not_say_where_it_is() -> None:
    picture = frames(1, 1, 48, 48)
    tower, moved = PlacelessSiglip(grid=(8, 8)), picture.roll((12, 18), (2, 3))
    torch.testing.assert_close(tower(moved), tower(picture).roll((2, 3), (2, 3)), atol=1e-5, rtol=1e-5)
    placed = TinySiglip(grid=(8, 8))
    assert not torch.allclose(placed(moved), placed(picture).roll((2, 3), (2, 3)), atol=1e-2)
    when, row, column = read_places(PlacelessSiglip(ClipSpec().plan_grid, ClipSpec().video_plan_width))
    assert max(when, column) < 0.1 and row < 0.6  # objects stand on the ground, so what is seen tells of the row
