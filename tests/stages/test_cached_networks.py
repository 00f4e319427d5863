"""A transformer is not trained or sampled on latents and texts of other networks than it knows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from baton_lightning.stages.cached_networks import networks_of, of_training, require_same


def cached(root: Path, **digests: str) -> Path:
    root.mkdir(parents=True)
    (root / "cache.json").write_text(json.dumps({"networks": {role: {"sha256": digest} for role, digest in digests.items()}}))
    return root


def test_the_networks_of_a_set_are_those_of_its_cache_also_of_one_folder_a_geometry(tmp_path: Path) -> None:
    one = cached(tmp_path / "one", video_codec="a", text_encoder="b", video_perceiver="c")
    several = cached(tmp_path / "several/32x32x2s", video_codec="a").parent
    assert networks_of(one) == {"video_codec": "a", "text_encoder": "b"}
    assert networks_of(several) == {"video_codec": "a"} and networks_of(tmp_path / "none") == {}


def test_another_network_is_refused_by_name_and_a_run_without_a_record_is_not_compared(tmp_path: Path) -> None:
    root = cached(tmp_path / "set", video_codec="a", text_encoder="b")
    assert require_same({"networks": {"video_codec": "a"}}, "runs/r", root) == {"video_codec": "a", "text_encoder": "b"}
    assert require_same({}, "runs/r", root) == networks_of(root)
    with pytest.raises(ValueError, match=r"set/ must be encoded by the text encoder that runs/r/ was trained with.*\(b, not c\)"):
        require_same({"networks": {"video_codec": "a", "text_encoder": "c"}}, "runs/r", root)


def test_a_training_compares_its_data_with_those_of_the_transformer_s_parent(tmp_path: Path) -> None:
    data = SimpleNamespace(root=cached(tmp_path / "set", video_codec="a"))
    parent = tmp_path / "parent"
    parent.mkdir()
    assert of_training(data, None) == {"video_codec": "a"} and of_training(SimpleNamespace(), None) == {}
    (parent / "manifest.json").write_text(
        json.dumps({"stage": "JointTraining", "weights_sha256": "", "networks": {"video_codec": "other"}})
    )
    with pytest.raises(ValueError, match="video codec"):
        of_training(data, parent)
