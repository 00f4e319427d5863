"""Ovi's checkpoint becomes a parent, and a run becomes a folder that anybody can load; nothing changes on the way."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from baton_lightning.__main__ import main
from baton_lightning.bench.parity import relative_error, replay
from baton_lightning.bench.recording import read_config, read_tensors
from baton_lightning.clip import ClipSpec
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.ovi import ovi_model
from baton_lightning.runs import manifest
from baton_lightning.stages.joint import JointTraining
from baton_lightning.stages.plan_sources import GroundTruthPlan

FIXTURE = Path(__file__).parents[1] / "fixtures" / "ovi-micro"
CLIP = ClipSpec(video_channels=4, video_patch=(1, 2, 2), audio_channels=3, text_tokens=8, text_width=16, audio_position_scale=0.19676)


def convert(out: Path, *options: str) -> int:
    files = ["--config", str(FIXTURE / "config.json"), "--weights", str(FIXTURE / "weights.safetensors")]
    return main(["convert", "ovi", *files, "--out", str(out), *options])


def stage(parent: Path, clip: ClipSpec = CLIP, num_heads: int = 2) -> JointTraining:
    dit = partial(DualBranchDiT, width=48, depth=2, num_heads=num_heads, ffn_width=64, frequency_width=16)
    return JointTraining(clip, dit, GroundTruthPlan, torch.optim.AdamW, parents={"dit": str(parent)})


@pytest.mark.parametrize("shards", [(), ("--shard-size", "0.0003")])
def test_a_stage_starts_from_ovi_with_fresh_plan_layers(tmp_path, shards, caplog):
    assert convert(tmp_path / "ovi", *shards) == 0
    assert (tmp_path / "ovi/dit/model.safetensors.index.json").exists() == bool(shards)
    model = stage(tmp_path / "ovi")
    with caplog.at_level("INFO"):
        model.configure_model()
    released = load_file(FIXTURE / "weights.safetensors")
    own = model.dit.state_dict()
    assert all(torch.equal(own[key], tensor.to(own[key].dtype)) for key, tensor in released.items())
    fresh = own.keys() - released.keys()
    assert fresh and all(".plan_attn." in key or key.startswith("latent_mlp.") for key in fresh)
    assert f"{len(released)} tensors loaded, {len(fresh)} fresh" in caplog.text


def test_there_and_back_is_bit_equal(tmp_path):
    convert(tmp_path / "ovi")
    assert main(["export", str(tmp_path / "ovi"), "--out", str(tmp_path / "back"), "--format", "ovi"]) == 0
    was, now = load_file(FIXTURE / "weights.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert was.keys() == now.keys() and all(torch.equal(was[k], now[k]) and was[k].dtype == now[k].dtype for k in was)


def test_what_is_exported_for_ovi_is_converted_again_by_its_own_configuration(tmp_path):
    convert(tmp_path / "ovi")
    main(["export", str(tmp_path / "ovi"), "--out", str(tmp_path / "back"), "--format", "ovi"])
    files = ["--config", str(tmp_path / "back/config.json"), "--weights", str(tmp_path / "back")]
    assert main(["convert", "ovi", *files, "--out", str(tmp_path / "again")]) == 0
    assert manifest.read(tmp_path / "ovi")["weights_sha256"] == manifest.read(tmp_path / "again")["weights_sha256"]
    assert "CC BY-NC 4.0" in (tmp_path / "back/README.md").read_text()


def test_an_export_of_a_conversion_is_the_same_parent(tmp_path):
    convert(tmp_path / "ovi")
    assert main(["export", str(tmp_path / "ovi"), "--out", str(tmp_path / "out"), "--shard-size", "0.0003"]) == 0
    assert json.loads((tmp_path / "out/dit/config.json").read_text())["ovi"] == {k: read_config(FIXTURE)[k] for k in ("video", "audio")}
    first, second = stage(tmp_path / "ovi"), stage(tmp_path / "out")
    for model in (first, second):
        torch.manual_seed(0)
        model.configure_model()
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="num_heads: 4 here, 2 there"):
        stage(tmp_path / "out", num_heads=4).configure_model()


def test_converted_weights_give_the_recorded_velocities(tmp_path):
    convert(tmp_path / "ovi", "--shard-size", "0.0003")
    settings = json.loads((tmp_path / "ovi/dit/config.json").read_text())["ovi"]
    model = ovi_model(settings).double()
    model.load_state_dict({k: v for f in (tmp_path / "ovi/dit").glob("model*.safetensors") for k, v in load_file(f).items()})
    recorded = read_tensors(FIXTURE / "t2av.safetensors")
    computed = replay(model.eval(), "t2av", read_config(FIXTURE)["cases"]["t2av"], recorded)
    assert max(relative_error(computed[k], recorded[k]) for k in recorded if k.startswith("out.")) < 1e-10


def test_two_files_of_settings_are_as_good_as_one_and_a_pickle_as_safetensors(tmp_path):
    config = read_config(FIXTURE)
    for name in ("video", "audio"):
        (tmp_path / f"{name}.json").write_text(json.dumps(config[name]))
    torch.save(load_file(FIXTURE / "weights.safetensors"), tmp_path / "model.pth")
    files = [str(tmp_path / "video.json"), str(tmp_path / "audio.json")]
    assert main(["convert", "ovi", "--config", *files, "--weights", str(tmp_path / "model.pth"), "--out", str(tmp_path / "a")]) == 0
    convert(tmp_path / "b")
    assert manifest.read(tmp_path / "a")["weights_sha256"] == manifest.read(tmp_path / "b")["weights_sha256"]


def test_a_pickle_that_would_run_code_does_not(tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"x": Trap()}, tmp_path / "trap.pth")
    files = ["--config", str(FIXTURE / "config.json"), "--weights", str(tmp_path / "trap.pth")]
    assert main(["convert", "ovi", *files, "--out", str(tmp_path / "out")]) == 1
    assert "cannot be read as weights" in capsys.readouterr().err
    assert not (tmp_path / "sprung").exists() and not (tmp_path / "out").exists()


def test_every_tensor_is_accounted_for(tmp_path, capsys):
    tensors = load_file(FIXTURE / "weights.safetensors")
    tensors["video_model.surplus"] = tensors.pop("video_model.head.modulation")
    tensors["audio_model.head.head.bias"] = torch.zeros(7)
    save_file(tensors, tmp_path / "w.safetensors")
    files = ["--config", str(FIXTURE / "config.json"), "--weights", str(tmp_path / "w.safetensors")]
    assert main(["convert", "ovi", *files, "--out", str(tmp_path / "out")]) == 1
    output = capsys.readouterr().err
    assert "missing (1): video_model.head.modulation" in output and "unexpected (1): video_model.surplus" in output
    assert "audio_model.head.head.bias [7], not [3]" in output and not (tmp_path / "out").exists()


def test_a_conversion_is_repeated_for_nothing_and_never_written_over(tmp_path, capsys):
    convert(tmp_path / "ovi")
    before = {p: p.read_bytes() for p in (tmp_path / "ovi").rglob("*") if p.is_file()}
    assert convert(tmp_path / "ovi") == 0 and "nothing to do" in capsys.readouterr().out
    (tmp_path / "mine").mkdir()
    assert convert(tmp_path / "mine") == 1 and "delete it" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in (tmp_path / "ovi").rglob("*") if p.is_file()}


def test_a_parent_of_other_latents_or_changed_weights_is_refused(tmp_path):
    convert(tmp_path / "ovi")
    with pytest.raises(ValueError, match="audio_channels: 20 != 3"):
        stage(tmp_path / "ovi", ClipSpec(**{**CLIP.to_dict(), "video_patch": (1, 2, 2), "video_stride": (4, 8), "plan_grid": (3, 3),
                                            "audio_channels": 20})).configure_model()  # fmt: skip
    file = tmp_path / "ovi/dit/model.safetensors"
    save_file({k: v + 1 for k, v in load_file(file).items()}, file)
    with pytest.raises(ValueError, match="changed after the run"):
        stage(tmp_path / "ovi").configure_model()


def test_the_card_names_licences_and_where_it_comes_from(tmp_path):
    convert(tmp_path / "ovi")
    card = (tmp_path / "ovi/README.md").read_text()
    assert "CC BY-NC 4.0" in card and "Apache-2.0" in card
    assert manifest.read(tmp_path / "ovi")["source_sha256"] in card
