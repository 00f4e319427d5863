"""What a conversion or an export says when files or the disk are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from baton_lightning.__main__ import main
from baton_lightning.runs import weights

OVI = Path(__file__).parents[1] / "fixtures" / "ovi-micro"


def convert(out: Path, *, config: Path = OVI / "config.json", source: Path = OVI / "weights.safetensors", size: str = "0.0004") -> int:
    return main(["convert", "ovi", "--config", str(config), "--weights", str(source), "--out", str(out), "--shard-size", size])


def test_a_damaged_conversion_is_not_called_done(tmp_path, capsys):
    assert convert(tmp_path / "ovi") == 0
    shard = weights.files(tmp_path / "ovi")[1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert convert(tmp_path / "ovi") == 1
    assert "changed after the run" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["convert", "export"])
def test_a_full_disk_is_one_line_and_leaves_nothing(verb, tmp_path, monkeypatch, capsys):
    assert convert(tmp_path / "ovi") == 0

    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    out = tmp_path / "out"
    assert (convert(out) if verb == "convert" else main(["export", str(tmp_path / "ovi"), "--out", str(out)])) == 1
    assert "could not be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ovi"]


@pytest.mark.parametrize("size", ["0", "-1"])
def test_a_shard_has_a_size(size, tmp_path, capsys):
    assert convert(tmp_path / "ovi", size=size) == 1
    assert "--shard-size must be positive" in capsys.readouterr().err


def test_a_setting_of_the_wrong_kind_is_named(tmp_path, capsys):
    config = json.loads((OVI / "config.json").read_text())
    config["video"]["patch_size"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert convert(tmp_path / "ovi", config=tmp_path / "config.json") == 1
    assert "patch_size" in capsys.readouterr().err
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    assert convert(tmp_path / "ovi", config=tmp_path / "config.json") == 1
    assert "must be a JSON file" in capsys.readouterr().err


def test_a_pickle_of_something_else_is_named(tmp_path, capsys):
    torch.save([1, 2], tmp_path / "list.pth")
    assert convert(tmp_path / "ovi", source=tmp_path / "list.pth") == 1
    assert "dictionary of tensors" in capsys.readouterr().err


def test_shards_are_read_once(tmp_path, monkeypatch):
    assert convert(tmp_path / "ovi") == 0
    read, calls = weights.read, []
    monkeypatch.setattr(weights, "read", lambda *args: calls.append(args) or read(*args))
    assert main(["export", str(tmp_path / "ovi"), "--out", str(tmp_path / "back"), "--format", "ovi"]) == 0
    assert len(calls) == 1


def test_a_tensor_in_two_files_is_refused(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes((OVI / "weights.safetensors").read_bytes())
    assert convert(tmp_path / "out", source=tmp_path) == 1
    assert "b.safetensors holds" in capsys.readouterr().err and not (tmp_path / "out").exists()
