"""``bench parity`` as a user meets it: exit codes, table, and what it says of a folder that is not a fixture."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from baton_lightning.runs import bench

FIXTURE = Path(__file__).parents[1] / "fixtures" / "ovi-micro"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FIXTURE, tmp_path / "fixture"))


def parity(folder, *options):
    return bench.main(["parity", "--fixture", str(folder), *options])


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_good_fixture_passes_and_is_tabled(capsys):
    assert parity(FIXTURE) == 0
    table = capsys.readouterr().out
    for word in ("float64", "float32", "ragged_batch_i2av", "blk.1.vid", "out.audio.1", "gradients", "passed"):
        assert word in table


def test_a_wrong_weight_fails_and_names_the_cases(folder, capsys):
    weights = load_file(folder / "weights.safetensors")
    weights["audio_model.blocks.1.cross_attn.k_fusion.weight"] *= 1.001
    save_file(weights, folder / "weights.safetensors")
    assert parity(folder, "--dtype", "float64") == 1
    table = capsys.readouterr().out
    assert "ABOVE THE BAR" in table and "FAILED in" in table
    assert "video_only" not in table.splitlines()[-1]


def test_a_wrong_gradient_fails(folder):
    gradients = load_file(folder / "grads.safetensors")
    gradients["video_model.head.head.bias"] += 1e-6
    save_file(gradients, folder / "grads.safetensors")
    assert parity(folder, "--dtype", "float64") == 1
    assert parity(folder, "--dtype", "float32") == 0


def test_a_value_that_is_not_a_number_fails(folder):
    case = load_file(folder / "t2av.safetensors")
    case["out.vid.0"] = torch.full_like(case["out.vid.0"], torch.nan)
    save_file(case, folder / "t2av.safetensors")
    assert parity(folder, "--dtype", "float32") == 1


def test_gradients_are_optional(folder):
    (folder / "grads.safetensors").unlink()
    assert parity(folder, "--dtype", "float64") == 0


def remove(name):
    return lambda folder: (folder / name).unlink()


def drop_key(name, key):
    def change(folder):
        tensors = load_file(folder / name)
        del tensors[key]
        save_file(tensors, folder / name)

    return change


def configure(change):
    return lambda folder: change_config(folder, change)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (remove("config.json"), "config.json"),
        (remove("weights.safetensors"), "weights.safetensors"),
        (remove("i2av.safetensors"), "i2av.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "t2av.safetensors").write_bytes(b"x" * 40), "not a readable safetensors"),
        (configure(lambda c: c.pop("cases")), "missing: cases"),
        (configure(lambda c: c["cases"].clear()), "names no cases"),
        (configure(lambda c: c["video"].pop("num_heads")), "num_heads"),
        (configure(lambda c: c["video"].update(ffn_dim=72)), "does not fit config.json"),
        (configure(lambda c: c["cases"]["video_only"].update(drop="sound")), "drop must be one of vid, audio"),
        (drop_key("weights.safetensors", "video_model.head.head.bias"), "video_model.head.head.bias"),
        (drop_key("t2av.safetensors", "in.t"), "in.t"),
        (drop_key("ragged_batch.safetensors", "in.audio.1"), "in.audio.1"),
        (drop_key("t2av.safetensors", "out.audio.0"), "out.audio.0"),
    ],
)
def test_a_malformed_folder_is_told_and_exits_with_two(folder, spoil, complaint, capsys):
    spoil(folder)
    assert parity(folder, "--dtype", "float32") == 2
    assert complaint in capsys.readouterr().out


def test_a_path_that_is_no_folder_is_told(tmp_path, capsys):
    assert parity(tmp_path / "nowhere") == 2
    assert "is not a folder" in capsys.readouterr().out
