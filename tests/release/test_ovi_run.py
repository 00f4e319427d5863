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


POWER_CUT = """
import os
from lightning.pytorch import Callback

class PowerCut(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if str(trainer.global_step) == os.environ.get("POWER_CUT"):
            raise ValueError("power cut")
"""


@pytest.fixture(scope="module")
def released(survival: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny Ovi as it is released, its conversion `ovi/`, and an overlay `tiny.yaml` of experiments/ovi for it."""
    base, demo = (yaml.safe_load((ROOT / f"experiments/{name}.yaml").read_text()) for name in ("base", "stage3_adapt"))
    folder = survival / "released"
    folder.mkdir()
    clip = base["clip"]
    spec = ClipSpec(**{name: tuple(value) if isinstance(value, list) else value for name, value in clip.items()})
    weights = DualBranchDiT(spec, **SIZES, plan_attention=None).state_dict()
    save_file(weights, folder / "ovi.safetensors")
    (folder / "ovi.json").write_text(json.dumps(ovi_config(weights, spec, SIZES["num_heads"])))
    files = ["--config", f"{folder}/ovi.json", "--weights", f"{folder}/ovi.safetensors"]
    assert main(["convert", "ovi", *files, "--out", f"{folder}/ovi"]) == 0
    codecs = {name: demo["model"]["init_args"][name] for name in ("video_codec", "audio_codec", "text_encoder", "sampler")}
    tiny = {
        "clip": clip | {"audio_latents": None, "audio_position_scale": spec.audio_scale},
        "data": {"init_args": {"root": f"{survival}/data", "batch_size": 4, "num_workers": 0}},
        "run": {"checkpoint_every": 2, "checkpoint_interval": None},
        "model": {
            "init_args": {
                "dit": {"init_args": SIZES},
                **codecs,
                "video_negative": "",
                "audio_negative": "",
                "guidance": {"class_path": "baton_lightning.flow.guidance.Guidance", "init_args": {"skip_block": None}},
                "parents": {"dit": f"{folder}/ovi"},
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
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    (survival / "power_cut.py").write_text(POWER_CUT)
    return folder, weights


def fit(folder: Path, runs: Path, *more: str) -> int:
    return main(["fit", "-c", "experiments/ovi/lora.yaml", "-c", f"{folder}/tiny.yaml", f"--run.root={runs}", *more])


@pytest.mark.slow
def test_ovi_is_converted_adapted_sampled_and_merged(released, tmp_path: Path) -> None:
    folder, weights = released
    assert fit(folder, tmp_path / "runs") == 0
    run = tmp_path / "runs/ovi/lora"
    held = torch.load(next((run / "checkpoints").glob("step-4*.ckpt")), weights_only=True)["state_dict"]
    assert held and all(".lora_" in key for key in held)

    assert main(["generate", "--run", str(run), "--plan", "none", "--num", "1", "--out", f"{tmp_path}/clips"]) == 0
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 2  # a clip of each tier
    assert main(["export", str(run), "--format", "ovi", "--out", f"{tmp_path}/merged"]) == 0
    merged = load_file(tmp_path / "merged/model.safetensors")
    assert merged.keys() == weights.keys()
    moved = {key for key in merged if not torch.equal(merged[key], weights[key])}
    assert (
        moved
        == {key.removeprefix("dit.").replace(".lora_B.default.", ".") for key, value in held.items() if ".lora_B." in key and value.any()}
        != set()
    )
    files = ["--config", f"{tmp_path}/merged/config.json", "--weights", f"{tmp_path}/merged"]
    assert main(["convert", "ovi", *files, "--out", f"{tmp_path}/again"]) == 0


@pytest.mark.slow
def test_over_a_base_in_int8_a_run_resumes_exactly_makes_clips_and_is_merged(released, tmp_path: Path, monkeypatch) -> None:
    folder, weights = released
    short = ["--trainer.max_steps=2", "--run.checkpoint_every=1", "--trainer.callbacks+=power_cut.PowerCut"]
    int8 = ["--model.init_args.dit.init_args.lora.base=int8", *short]
    assert fit(folder, tmp_path / "whole", *int8) == 0
    monkeypatch.setenv("POWER_CUT", "1")
    assert fit(folder, tmp_path / "cut", *int8) == 1
    monkeypatch.delenv("POWER_CUT")
    assert fit(folder, tmp_path / "cut", *int8) == 0
    run, cut = (tmp_path / f"{name}/ovi/lora" for name in ("whole", "cut"))
    found, wanted = (load_file(path / "weights.safetensors") for path in (cut, run))
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert any(".lora_B." in key and tensor.any() for key, tensor in wanted.items())
    held = torch.load(next((run / "checkpoints").glob("step-2*.ckpt")), weights_only=True)["state_dict"]
    assert held and all(".lora_" in key for key in held)

    assert main(["generate", "--run", str(cut), "--plan", "none", "--num", "1", "--out", f"{tmp_path}/clips"]) == 0
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 2  # a clip of each tier
    assert main(["export", str(cut), "--format", "ovi", "--out", f"{tmp_path}/merged"]) == 0
    merged = load_file(tmp_path / "merged/model.safetensors")
    assert {key: tensor.shape for key, tensor in merged.items()} == {key: tensor.shape for key, tensor in weights.items()}
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}
    errors = [((merged[key] - tensor).norm() / tensor.norm()).item() for key, tensor in weights.items() if tensor.any()]
    assert 0.001 < max(errors) < 0.01, max(errors)
