"""Adapters: what is trained, that they start as nothing, in which precision they are, and how a base comes under them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from baton_lightning.bench.parity import relative_error
from baton_lightning.clip import ClipSpec
from baton_lightning.lora import LoraOptions, is_adapter
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.plan_attention import PlanOptions
from baton_lightning.runs import manifest
from baton_lightning.stages.joint import JointTraining
from baton_lightning.stages.plan_sources import GroundTruthPlan

CLIP = ClipSpec(seconds=1.0, height=16, width=16, video_channels=6, plan_grid=(2, 2), audio_plan_rate=10, text_tokens=8, text_width=12)
LORA = LoraOptions(rank=2, alpha=6.0)
PLAN = (".plan_attn.", "latent_mlp.")


def make_dit(clip: ClipSpec = CLIP, **more: object) -> DualBranchDiT:
    return DualBranchDiT(clip, width=24, depth=1, num_heads=2, ffn_width=32, frequency_width=8, **more)


def stirred(dit: DualBranchDiT) -> DualBranchDiT:
    """The transformer with no weight at zero."""
    for parameter in dit.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return dit


def inputs(clips: int = 2) -> tuple[torch.Tensor, ...]:
    video = torch.randn(clips, CLIP.video_channels, *CLIP.latent_grid)
    audio = torch.randn(clips, CLIP.num_audio_latents, CLIP.audio_channels)
    context = torch.randn(clips, CLIP.text_tokens, CLIP.text_width)
    return video, audio, torch.rand(clips), context, context


def run_of(folder: Path, dit: DualBranchDiT, **more: object) -> Path:
    """A finished run with the weights of a transformer."""
    folder.mkdir()
    save_file({f"dit.{k}": v.contiguous() for k, v in dit.state_dict().items()}, folder / manifest.WEIGHTS)
    described = {"clip": CLIP.to_dict(), "weights_sha256": manifest.file_digest(folder / manifest.WEIGHTS), **more}
    (folder / manifest.NAME).write_text(json.dumps(described))
    return folder


def stage(parent: Path | None = None, **settings: object) -> JointTraining:
    dit = partial(make_dit, **{"lora": LORA} | settings.pop("dit", {}))
    parents = {} if parent is None else {"dit": str(parent)}
    made = JointTraining(CLIP, dit, GroundTruthPlan, torch.optim.AdamW, parents=parents, **settings)
    made.configure_model()
    return made


def test_adapters_and_plan_layers_are_trained_and_nothing_else():
    dit = make_dit(lora=LORA)
    trained = {name for name, p in dit.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in dit.named_parameters() if is_adapter(name) or any(part in name for part in PLAN)}
    adapted = {name.partition(".lora_A")[0] for name in trained if ".lora_A." in name}
    assert len(adapted) == 2 * 12 and not any(part in f"{name}." for name in adapted for part in PLAN)


def test_new_adapters_do_not_change_the_output_and_get_a_gradient():
    base = stirred(make_dit())
    dit = make_dit(lora=LORA)
    dit.load_state_dict({k.replace(".base_layer.", "."): v for k, v in base.state_dict().items()}, strict=False)
    for name, layer in base.named_parameters():
        own = dict(dit.named_parameters())
        own[name if name in own else name[: name.rindex(".")] + ".base_layer." + name.rpartition(".")[2]].data.copy_(layer)
    given = inputs()
    for one, other in zip(base(*given), dit(*given), strict=True):
        assert torch.equal(one, other)
    sum(velocity.square().mean() for velocity in dit(*given)).backward()
    for name, parameter in dit.named_parameters():
        assert not is_adapter(name) or (parameter.grad is not None and parameter.grad.isfinite().all()), name
        assert ".base_layer." not in name or parameter.grad is None


def test_recomputation_gives_the_same_gradients():
    dit, given = stirred(make_dit(lora=LORA)), inputs()
    gradients = []
    for dit.recompute in (False, True):
        dit.zero_grad()
        sum(velocity.square().mean() for velocity in dit(*given)).backward()
        gradients.append({name: p.grad for name, p in dit.named_parameters() if is_adapter(name)})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_in_mixed_precision_velocities_are_near_those_of_float32_and_weights_stay_float32():
    dit, given = stirred(make_dit(lora=LORA)), inputs()
    exact = dit(*given)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = dit(*given)
    assert all(0 < relative_error(a, b) < 0.05 for a, b in zip(rounded, exact, strict=True))
    assert {p.dtype for p in dit.parameters()} == {torch.float32}


def test_a_base_without_adapters_comes_under_new_ones(tmp_path):
    base = stirred(make_dit())
    made = stage(run_of(tmp_path / "base", base))
    own = made.dit.state_dict()
    assert all(torch.equal(own[k if k in own else k.rpartition(".")[0] + ".base_layer." + k.rpartition(".")[2]], v)
               for k, v in base.state_dict().items())  # fmt: skip
    assert all(own[k].any() == (".lora_A." in k) for k in own if is_adapter(k))
    assert made.described["beyond_shapes"]["dit"]["lora_alpha"] == 6.0
    untrained = made.untrained()
    assert untrained.keys() == {f"dit.{name}" for name, p in made.dit.named_parameters() if not p.requires_grad}
    assert all(torch.equal(own[key.removeprefix("dit.")], tensor) for key, tensor in untrained.items())


def test_adapters_go_on_in_the_next_stage_only_with_the_same_options(tmp_path):
    first = stirred(make_dit(lora=LORA))
    run = run_of(tmp_path / "first", first, beyond_shapes={"dit": first.beyond_shapes})
    second = stage(run)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.dit.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="lora_alpha: 7 here, 6 there"):
        stage(run, dit={"lora": replace(LORA, alpha=7.0)})
    with pytest.raises(ValueError, match="lora_A.default.weight: .2, 24. here, .1, 24. there|shapes differ"):
        stage(run, dit={"lora": replace(LORA, rank=1)})
    with pytest.raises(ValueError, match=r"give both stages the same lora, or merge .* export .*first --merge --out OUT"):
        stage(run, dit={"lora": None})


def test_parts_are_frozen_and_have_rates_by_their_names(tmp_path):
    made = stage(frozen=["dit.audio_model", "dit.latent_mlp"], rates={"dit.*.lora_B": 4.0})
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("dit.video_model.") for name in trained)
    groups = made.configure_optimizers()["optimizer"].param_groups
    faster = {id(p) for group in groups if group["lr"] == pytest.approx(0.004) for p in group["params"]}
    assert faster == {id(p) for name, p in made.named_parameters() if ".lora_B." in name and name in trained} != set()


def test_a_checkpoint_lacks_the_base_only_if_a_parent_has_it(tmp_path):
    alone, with_parent = stage(), stage(run_of(tmp_path / "base", make_dit()))
    for made, dropped in ((alone, False), (with_parent, True)):
        checkpoint = {"state_dict": made.state_dict()}
        made.on_save_checkpoint(checkpoint)
        assert made.drops_frozen == dropped
        assert any(".base_layer." in key for key in checkpoint["state_dict"]) != dropped
        assert sum(map(is_adapter, checkpoint["state_dict"])) == 2 * 24


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"targets": ("q", "cross_attn.qq")}, "'cross_attn.qq' must end the name of a linear layer, none does; near it are cross_attn.q"),
        ({"targets": ("norm3",)}, "'norm3' must end the name of a linear layer"),
        ({"rank": 0}, "a rank of at least 1, a positive alpha and at least one target, got rank=0"),
        ({"alpha": -1.0}, "got rank=2, alpha=-1.0"),
        ({"targets": ()}, "targets="),
    ],
)
def test_options_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        make_dit(lora=replace(LORA, **wrong))


def test_plain_ovi_has_adapters_without_a_plan():
    dit = make_dit(plan_attention=None, lora=LORA)
    assert all(is_adapter(name) for name, p in dit.named_parameters() if p.requires_grad)
    shared = make_dit(plan_attention=PlanOptions(placement="concat"), lora=LORA)
    assert {name.split(".")[0] for name, p in shared.named_parameters() if p.requires_grad and not is_adapter(name)} == {"latent_mlp"}
