"""Adapters of a transformer leave a run: for PEFT and diffusers, or added to its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.loaders.peft import PeftAdapterMixin
from safetensors.torch import load_file, save_file

from baton_lightning.__main__ import main
from baton_lightning.bench.parity import relative_error
from baton_lightning.clip import ClipSpec
from baton_lightning.construction.handover import hand_over
from baton_lightning.lora import LoraOptions, is_adapter
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.runs import manifest

CLIP = ClipSpec(seconds=1.0, height=16, width=16, video_channels=6, plan_grid=(2, 2), audio_plan_rate=10, text_tokens=8, text_width=12)
SIZES = {"width": 24, "depth": 1, "num_heads": 2, "ffn_width": 32, "frequency_width": 8}
LORA = {"rank": 2, "alpha": 6.0, "targets": ["q", "o", "ffn.0"]}


def make_dit(**more: object) -> DualBranchDiT:
    return DualBranchDiT(CLIP, **SIZES, **more)


def velocities(dit: DualBranchDiT, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    shapes = [(CLIP.video_channels, *CLIP.latent_grid), (CLIP.num_audio_latents, CLIP.audio_channels), (CLIP.text_tokens, CLIP.text_width)]
    video, audio, context = (torch.randn(2, *shape, generator=draw, dtype=dtype) for shape in shapes)
    with torch.no_grad():
        return list(dit(video, audio, torch.tensor([0.3, 0.8], dtype=dtype), context, context))


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, DualBranchDiT]:
    """A run of adapters, as stage 3 leaves it, in which nothing is silent."""
    dit = make_dit(lora=LoraOptions(2, 6.0, tuple(LORA["targets"])))
    for parameter in dit.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path / "run"
    folder.mkdir()
    save_file({f"dit.{k}": v.contiguous() for k, v in dit.state_dict().items()}, folder / manifest.WEIGHTS)
    node = {"class_path": "baton_lightning.models.dit.DualBranchDiT", "init_args": SIZES | {"lora": LORA}}
    described = manifest.describe(
        stage="JointTraining", clip=CLIP, parents={}, config={"model": {"init_args": {"dit": node}}}, data=None, seed=0, metrics={},
        seconds=1.0, weights=folder / manifest.WEIGHTS,
    )  # fmt: skip
    (folder / manifest.NAME).write_text(json.dumps(described | {"beyond_shapes": {"dit": dit.beyond_shapes}}))
    return folder, dit


def base_of(dit: DualBranchDiT) -> DualBranchDiT:
    """The transformer without its adapters."""
    base = make_dit()
    base.load_state_dict({k.replace(".base_layer.", "."): v for k, v in dit.state_dict().items() if not is_adapter(k)})
    return base


def test_merged_weights_give_the_outputs_of_the_adapters_and_are_a_plain_parent(run, tmp_path):
    folder, dit = run
    assert main(["export", str(folder), "--out", str(tmp_path / "out"), "--merge"]) == 0
    plain = make_dit()
    report = hand_over(plain, tmp_path / "out", source="dit", clip=CLIP)
    assert not report.fresh and not report.dropped
    assert max(relative_error(a, b) for a, b in zip(velocities(plain), velocities(dit), strict=True)) < 1e-6
    assert min(relative_error(a, b) for a, b in zip(velocities(base_of(dit)), velocities(dit), strict=True)) > 1e-3
    settings = json.loads((tmp_path / "out/dit/config.json").read_text())["init_args"]
    assert settings == SIZES and "lora" not in json.dumps(manifest.read(tmp_path / "out")["config"])
    assert set(manifest.read(tmp_path / "out")["beyond_shapes"]["dit"]) == set(plain.beyond_shapes)


def test_an_export_with_adapters_is_as_good_a_parent_as_the_run(run, tmp_path):
    folder, dit = run
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 0
    again = make_dit(lora=LoraOptions(2, 6.0, tuple(LORA["targets"])))
    hand_over(again, tmp_path / "out", source="dit", clip=CLIP)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), dit.state_dict().values(), strict=True))


def test_peft_itself_puts_the_adapter_on_the_base_bit_for_bit(run, tmp_path):
    from peft import PeftModel

    folder, dit = run
    main(["export", str(folder), "--out", str(tmp_path / "out")])
    theirs = PeftModel.from_pretrained(base_of(dit), str(tmp_path / "out/adapter"))
    assert all(torch.equal(a, b) for a, b in zip(velocities(theirs), velocities(dit), strict=True))
    assert json.loads((tmp_path / "out/adapter/adapter_config.json").read_text())["lora_alpha"] == 6


def test_diffusers_itself_puts_the_adapter_on_the_base_bit_for_bit(run, tmp_path):
    class Theirs(PeftAdapterMixin, DualBranchDiT):
        dtype, device = torch.float32, torch.device("cpu")

    folder, dit = run
    main(["export", str(folder), "--out", str(tmp_path / "out")])
    theirs = Theirs(CLIP, **SIZES)
    theirs.load_state_dict(base_of(dit).state_dict())
    theirs.load_lora_adapter(str(tmp_path / "out/adapter/pytorch_lora_weights.safetensors"), use_safetensors=True)
    assert all(torch.equal(a, b) for a, b in zip(velocities(theirs), velocities(dit), strict=True))


def test_ovi_s_format_has_the_adapters_in_its_weights(run, tmp_path, capsys):
    folder, _ = run
    assert main(["export", str(folder), "--out", str(tmp_path / "ovi"), "--format", "ovi"]) == 0
    assert "the adapters are added to the weights" in capsys.readouterr().out
    main(["export", str(folder), "--out", str(tmp_path / "out"), "--merge"])
    ovi, merged = load_file(tmp_path / "ovi/model.safetensors"), load_file(tmp_path / "out/dit/model.safetensors")
    assert ovi.keys() < merged.keys() and all(torch.equal(ovi[k], merged[k]) for k in ovi)
    assert {k for k in merged if k not in ovi} == {k for k in merged if ".plan_attn." in k or k.startswith("latent_mlp.")}


def test_there_is_nothing_to_merge_without_adapters(run, tmp_path, capsys):
    main(["export", str(run[0]), "--out", str(tmp_path / "out"), "--merge"])
    assert main(["export", str(tmp_path / "out"), "--out", str(tmp_path / "again"), "--merge"]) == 1
    assert "needs a run with LoRA adapters" in capsys.readouterr().err and not (tmp_path / "again").exists()
