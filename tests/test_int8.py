"""A frozen base in int8: its error, its gradients, what is kept of it, how a parent comes into it, and what leaves it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from baton_lightning.__main__ import main
from baton_lightning.bench.parity import relative_error
from baton_lightning.clip import ClipSpec
from baton_lightning.construction.handover import hand_over
from baton_lightning.estimate.cli import weigh
from baton_lightning.int8 import Int8Linear, dequantise, dequantised, quantise
from baton_lightning.lora import LoraOptions, is_adapter, under_base_names
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.placement import cast_parameters
from baton_lightning.runs import manifest
from baton_lightning.stages.joint import JointTraining
from baton_lightning.stages.plan_sources import GroundTruthPlan

CLIP = ClipSpec(seconds=1.0, height=16, width=16, video_channels=6, plan_grid=(2, 2), audio_plan_rate=10, text_tokens=8, text_width=12)
SIZES = {"width": 24, "depth": 1, "num_heads": 2, "ffn_width": 32, "frequency_width": 8}
FLOAT = LoraOptions(rank=2, alpha=6.0)
INT8 = replace(FLOAT, base="int8")


def make_dit(lora: LoraOptions | None = None, **more: object) -> DualBranchDiT:
    return DualBranchDiT(CLIP, **SIZES, lora=lora, **more)


def stirred(dit: DualBranchDiT) -> DualBranchDiT:
    """The transformer with no trained or float weight at zero."""
    for parameter in dit.parameters():
        if parameter.is_floating_point() and parameter.ndim > 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return dit


def run_of(folder: Path, dit: DualBranchDiT, lora: dict[str, object] | None = None) -> Path:
    """A finished run with the weights of a transformer."""
    folder.mkdir()
    save_file({f"dit.{k}": v.contiguous() for k, v in dit.state_dict().items()}, folder / manifest.WEIGHTS)
    node = {"class_path": "baton_lightning.models.dit.DualBranchDiT", "init_args": SIZES | ({"lora": lora} if lora else {})}
    described = manifest.describe(
        stage="JointTraining", clip=CLIP, parents={}, config={"model": {"init_args": {"dit": node}}}, data=None, seed=0, metrics={},
        seconds=1.0, weights=folder / manifest.WEIGHTS,
    )  # fmt: skip
    (folder / manifest.NAME).write_text(json.dumps(described | {"beyond_shapes": {"dit": dit.beyond_shapes}}))
    return folder


def stage(parent: Path, lora: LoraOptions = INT8, **settings: object) -> JointTraining:
    dit = partial(DualBranchDiT, **SIZES, lora=lora)
    made = JointTraining(CLIP, dit, GroundTruthPlan, torch.optim.AdamW, parents={"dit": str(parent)}, **settings)
    made.configure_model()
    return made


def velocities(dit: DualBranchDiT) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    shapes = [(CLIP.video_channels, *CLIP.latent_grid), (CLIP.num_audio_latents, CLIP.audio_channels), (CLIP.text_tokens, CLIP.text_width)]
    video, audio, context = (torch.randn(2, *shape, generator=draw) for shape in shapes)
    return list(dit(video, audio, torch.tensor([0.3, 0.8]), context, context))


def over_float(dit: DualBranchDiT) -> DualBranchDiT:
    """The same transformer over the dequantised weights, in float."""
    made = make_dit(FLOAT)
    made.load_state_dict(dequantised(dit.state_dict()))
    return made


def gradients(dit: DualBranchDiT) -> dict[str, Tensor]:
    dit.zero_grad()
    sum(velocity.square().mean() for velocity in velocities(dit)).backward()
    return {name: p.grad for name, p in dit.named_parameters() if is_adapter(name)}


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_weight_is_off_by_at_most_a_254th_of_the_largest_of_its_row(scale):
    weight = scale * torch.randn(7, 50) * torch.logspace(-3, 0, 7)[:, None]
    weight[3] = 0.0
    codes, scales = quantise(weight)
    assert codes.dtype == torch.int8 and scales.dtype == torch.float32 and codes.min() >= -127
    error = (dequantise(codes, scales) - weight).abs().amax(1)
    assert (error <= weight.abs().amax(1) / 254 * 1.0001).all() and error[3] == 0
    assert (codes.abs().amax(1) == torch.tensor([127, 127, 127, 0, 127, 127, 127])).all()


def test_velocities_are_within_a_percent_of_the_float_base_and_not_equal_to_them():
    exact = stirred(make_dit(FLOAT))
    rounded = make_dit(INT8)
    own = rounded.state_dict()
    for key, tensor in exact.state_dict().items():
        codes = own[key].dtype == torch.int8
        own[key].copy_(quantise(tensor)[0] if codes else tensor)
        if codes:
            own[key.removesuffix("weight") + "scale"].copy_(quantise(tensor)[1])
    with torch.no_grad():
        wanted = velocities(exact)
        errors = [relative_error(a, b) for a, b in zip(velocities(rounded), wanted, strict=True)]
        cast_parameters(rounded, torch.bfloat16)  # as `generate` does on a GPU
        halved = [relative_error(a, b) for a, b in zip(velocities(rounded), wanted, strict=True)]
    assert all(1e-5 < error < 0.01 for error in errors), errors
    assert all(error < 0.03 for error in halved), halved


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_of_adapters_are_those_over_the_dequantised_base(recompute):
    dit = stirred(make_dit(INT8))
    dit.recompute = recompute
    found, wanted = gradients(dit), gradients(over_float(dit))
    assert found.keys() == wanted.keys() and all(wanted[name].any() for name in wanted)
    assert max(relative_error(found[name], wanted[name]) for name in wanted) < 1e-6


def test_in_mixed_precision_layers_agree_with_those_over_the_dequantised_base():
    linear = nn.Linear(12, 5)
    layer, given = Int8Linear(linear), torch.randn(3, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(given)
        wanted = nn.functional.linear(given, dequantise(layer.weight, layer.scale)) + linear.bias.bfloat16()
    assert found.dtype == torch.bfloat16 and torch.equal(found, wanted)
    (gradient,) = torch.autograd.grad(found.sum(), given)
    assert gradient.dtype == torch.float32 and relative_error(gradient, torch.autograd.grad(wanted.sum(), given)[0]) < 0.01


def test_no_float_copy_of_a_weight_is_kept_for_the_backward_pass():
    layer, kept = Int8Linear(nn.Linear(12, 5)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.randn(3, 12, requires_grad=True)).sum()
    assert {tensor.dtype for tensor in kept if tensor.shape == (5, 12)} == {torch.int8}


def test_the_base_takes_no_part_in_the_optimiser_and_has_a_byte_a_weight(tmp_path):
    made = stage(run_of(tmp_path / "base", make_dit()))
    stepped = {id(p) for group in made.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    names = {name for name, p in made.named_parameters() if id(p) in stepped}
    assert names and all(is_adapter(name) or ".plan_attn." in name or "latent_mlp." in name for name in names)
    frozen = {name: p for name, p in made.named_parameters() if id(p) not in stepped}
    codes = {name for name, p in frozen.items() if p.dtype == torch.int8}
    assert codes == {n for n in frozen if n.endswith(".weight") and "blocks" in n and frozen[n].ndim == 2} and len(codes) == 2 * 12
    settings = {"trainer": {"callbacks": [], "precision": "bf16-mixed"}}
    load = weigh(made, json.loads(json.dumps(settings), object_hook=lambda d: type("Settings", (), d)), [], walked(), 0)
    assert load.frozen_codes == sum(frozen[name].numel() for name in codes)
    assert load.frozen_bytes == load.frozen_codes + 4 * (load.frozen - load.frozen_codes)
    assert load.held(2) == 2 * (load.trained + load.frozen) - load.frozen_codes


def walked():
    from baton_lightning.estimate.footprint import Footprint

    return Footprint(1, 1)


@pytest.mark.parametrize("targets", [FLOAT.targets, ("q", "ffn.0")])
def test_a_float_parent_is_quantised_as_it_is_read(tmp_path, targets):
    base = stirred(make_dit())
    made = stage(run_of(tmp_path / "base", base), replace(INT8, targets=targets))
    own = made.dit.state_dict()
    found = under_base_names(own, base.state_dict())
    for key, tensor in found.items():
        if own[key].dtype == torch.int8:
            codes, scale = quantise(tensor)
            assert torch.equal(own[key], codes) and torch.equal(own[key.removesuffix("weight") + "scale"], scale)
        else:
            assert torch.equal(own[key], tensor), key
    assert sum(tensor.dtype == torch.int8 for tensor in own.values()) == 2 * 12
    untrained = made.untrained()
    assert untrained.keys() == {f"dit.{name}" for name, p in made.dit.named_parameters() if not p.requires_grad}
    assert all(torch.equal(own[key.removeprefix("dit.")], tensor) for key, tensor in untrained.items())


def test_without_a_parent_deferred_construction_gives_what_direct_construction_gives(tmp_path):
    torch.manual_seed(3)
    direct = make_dit(INT8)
    made = JointTraining(CLIP, partial(DualBranchDiT, **SIZES, lora=INT8), GroundTruthPlan, torch.optim.AdamW)
    torch.manual_seed(3)
    made.configure_model()
    assert all(torch.equal(a, b) for a, b in zip(direct.state_dict().values(), made.dit.state_dict().values(), strict=True))


@pytest.mark.slow
def test_a_run_over_int8_is_the_parent_of_the_next_and_of_no_float_run(tmp_path):
    first = stirred(make_dit(INT8))
    run = run_of(tmp_path / "first", first)
    second = stage(run).dit.state_dict()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.state_dict().items())
    with pytest.raises(ValueError, match=r"unexpected from the parent .*\.scale.*give both stages the same lora, or merge"):
        stage(run, FLOAT)


@pytest.mark.slow
def test_merged_weights_give_the_outputs_over_int8_and_half_precision_leaves_the_scales(tmp_path):
    dit = stirred(make_dit(INT8))
    run = run_of(tmp_path / "run", dit, {"rank": 2, "alpha": 6.0, "base": "int8"})
    assert main(["export", str(run), "--out", str(tmp_path / "out"), "--merge"]) == 0
    plain = make_dit()
    hand_over(plain, tmp_path / "out", source="dit", clip=CLIP)
    with torch.no_grad():
        assert max(relative_error(a, b) for a, b in zip(velocities(plain), velocities(dit), strict=True)) < 1e-6
    assert main(["export", str(run), "--out", str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    half = load_file(tmp_path / "half/dit/model.safetensors")
    assert {t.dtype for k, t in half.items() if k.endswith(".scale")} == {torch.float32}
    assert {t.dtype for k, t in half.items() if not k.endswith(".scale")} == {torch.bfloat16, torch.int8}


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lora.base must be int8, or null .* got 'int4'"):
        replace(FLOAT, base="int4")
    base = run_of(tmp_path / "base", make_dit())
    with pytest.raises(
        ValueError, match=r"trained: dit.video_model.blocks.0.self_attn.q.base_layer.weight is in int8, which has no gradient"
    ):
        stage(base, frozen=["dit.video_model"], trained=["dit.*.self_attn"])
