"""Plain Ovi from end to end: its checkpoint is converted, adapters are trained without a plan, clips are made, merged weights leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from baton_lightning.__main__ import main
from baton_lightning.clip import ClipSpec
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.ovi import ovi_config

ROOT = Path(__file__).parents[2]
SIZES = {"width": 48, "depth": 2, "num_heads": 2, "ffn_width": 64, "frequency_width": 16}


@pytest.mark.slow
def test_ovi_is_converted_adapted_sampled_and_merged(survival: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, demo = (yaml.safe_load((ROOT / f"experiments/{name}.yaml").read_text()) for name in ("base", "stage3_adapt"))
    clip = base["clip"]
    spec = ClipSpec(**{name: tuple(value) if isinstance(value, list) else value for name, value in clip.items()})
    released = DualBranchDiT(spec, **SIZES, plan_attention=None).state_dict()
    save_file(released, tmp_path / "ovi.safetensors")
    (tmp_path / "ovi.json").write_text(json.dumps(ovi_config(released, spec, SIZES["num_heads"])))
    files = ["--config", f"{tmp_path}/ovi.json", "--weights", f"{tmp_path}/ovi.safetensors"]
    assert main(["convert", "ovi", *files, "--out", f"{tmp_path}/ovi"]) == 0

    codecs = {name: demo["model"]["init_args"][name] for name in ("video_codec", "audio_codec", "text_encoder", "sampler")}
    tiny = {
        "clip": clip | {"audio_latents": None, "audio_position_scale": spec.audio_scale},
        "data": {"init_args": {"root": f"{survival}/data", "batch_size": 4, "num_workers": 0}},
        "run": {"root": f"{tmp_path}/runs", "checkpoint_every": 2, "checkpoint_interval": None},
        "model": {
            "init_args": {
                "dit": {"init_args": SIZES},
                **codecs,
                "video_negative": "",
                "audio_negative": "",
                "guidance": {"class_path": "baton_lightning.flow.guidance.Guidance", "init_args": {"skip_block": None}},
                "parents": {"dit": f"{tmp_path}/ovi"},
            }
        },
        "trainer": {
            "max_steps": 4,
            "val_check_interval": 4,
            "precision": "32-true",
            "accelerator": "cpu",
            "callbacks": base["trainer"]["callbacks"],
        },
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    assert main(["fit", "-c", "experiments/ovi/lora.yaml", "-c", f"{tmp_path}/tiny.yaml"]) == 0
    run = tmp_path / "runs/ovi/lora"
    held = torch.load(next((run / "checkpoints").glob("step-4*.ckpt")), weights_only=True)["state_dict"]
    assert held and all(".lora_" in key for key in held)

    assert main(["generate", "--run", str(run), "--plan", "none", "--num", "1", "--out", f"{tmp_path}/clips"]) == 0
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 2  # a clip of each tier
    assert main(["export", str(run), "--format", "ovi", "--out", f"{tmp_path}/merged"]) == 0
    merged = load_file(tmp_path / "merged/model.safetensors")
    assert merged.keys() == released.keys()
    moved = {key for key in merged if not torch.equal(merged[key], released[key])}
    assert (
        moved
        == {key.removeprefix("dit.").replace(".lora_B.default.", ".") for key, value in held.items() if ".lora_B." in key and value.any()}
        != set()
    )
    files = ["--config", f"{tmp_path}/merged/config.json", "--weights", f"{tmp_path}/merged"]
    assert main(["convert", "ovi", *files, "--out", f"{tmp_path}/again"]) == 0
