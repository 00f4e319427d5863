"""Networks that are made without memory and filled later are those that would have been made at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from baton_lightning.clip import ClipSpec
from baton_lightning.deferred import Tape, fill, storage_id
from baton_lightning.frozen.llm import TinyLLM
from baton_lightning.models.codes import DiscreteTowers
from baton_lightning.models.dit import DualBranchDiT
from baton_lightning.models.planner import VAPlanner

CLIP = ClipSpec(
    seconds=1.0, height=32, width=32, keyframe_fps=2.0, plan_grid=(2, 2), audio_plan_rate=4, video_plan_width=8, audio_plan_width=8
)
CPU = torch.device("cpu")


def dit() -> nn.Module:
    return DualBranchDiT(CLIP, width=24, depth=2, num_heads=2, ffn_width=32, frequency_width=16)


def planner() -> nn.Module:
    return VAPlanner(CLIP, lambda: TinyLLM(width=16, depth=1, num_heads=2), lambda clip, width: DiscreteTowers(clip, width, 4, num_heads=2))


class OddInitialisation(nn.Module):
    """Truncated normal, parts of a tensor, a tensor made of another, a shared one, and buffers that are computed or drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6)
        nn.init.trunc_normal_(self.a.weight, std=0.02)
        with torch.no_grad():
            self.a.weight[:2] = 0.0
            self.a.weight[2:].mul_(3)
        self.b = nn.Parameter(self.a.weight.detach().clone().T)
        self.c = nn.Linear(4, 6)
        self.c.weight = self.a.weight
        self.register_buffer("steps", torch.arange(5) / 2, persistent=False)
        self.register_buffer("drawn", torch.randn(3))
        nn.init.orthogonal_(self.c.weight[:4])
        self.half = nn.Linear(3, 3).to(torch.bfloat16)


def made_later(make: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, Tensor], Tape]:
    """A deferred network, its tensors once made, and its tape."""
    with Tape() as tape, torch.device("meta"):
        module = make()
    tensors = [*module.parameters(), *module.buffers()]
    result = {id(t): v.clone() for t, v in tape.replay([t for t in tensors if t.is_meta], CPU) if v is not None}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return module, {name: result.get(id(t), t) for name, t in named}, tape


@pytest.mark.parametrize("make", [dit, planner, OddInitialisation])
def test_a_deferred_network_has_the_numbers_of_one_made_at_once(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(3)
    module = make()
    reference, after = dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers()]), torch.rand(1)
    torch.manual_seed(3)
    _, later, _ = made_later(make)
    assert reference.keys() == later.keys()
    assert all(torch.equal(reference[name], later[name]) and reference[name].dtype == later[name].dtype for name in reference)
    assert torch.equal(after, torch.rand(1)), "as many numbers were drawn"


def test_what_a_file_fills_is_not_drawn_and_what_it_leaves_has_the_same_draws() -> None:
    torch.manual_seed(3)
    reference = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 2))
    torch.manual_seed(3)
    with Tape() as tape:
        with torch.device("meta"):
            later = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 2))
        for parameter in (*later[0].parameters(), *later[2].parameters()):
            fill(parameter, lambda shape=parameter.shape: torch.ones(shape, dtype=torch.float64))
    result = dict(zip(later.parameters(), (v.clone() for _, v in sorted_as(later, tape)), strict=True))
    for ours, theirs in zip(later[1].parameters(), reference[1].parameters(), strict=True):
        assert torch.equal(result[ours], theirs)
    assert all((result[p] == 1).all() and result[p].dtype == torch.float32 for p in later[0].parameters())


def sorted_as(module: nn.Module, tape: Tape) -> list[tuple[Tensor, Tensor]]:
    """Parameters with their values, in the module's order."""
    values = {storage_id(t): (t, v.clone()) for t, v in tape.replay(list(module.parameters()), CPU) if v is not None}
    return [values[storage_id(parameter)] for parameter in module.parameters()]


def test_one_tensor_at_a_time_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with Tape() as tape, torch.device("meta"):
        module = dit()
    alive, most = 0, 0
    real = torch.UntypedStorage

    class Counted(real):  # type: ignore[misc, valid-type]
        def __del__(self) -> None:
            nonlocal alive
            alive -= self.size

    def counted(size: int, device: torch.device) -> torch.UntypedStorage:
        nonlocal alive, most
        result = Counted(size, device=device)
        result.size = size
        alive, most = alive + size, max(most, alive + size)
        return result

    monkeypatch.setattr("baton_lightning.deferred.torch.UntypedStorage", counted)
    for _, value in tape.replay(list(module.parameters()), CPU):
        del value
    largest = max(p.numel() * 4 for p in module.parameters())
    assert most <= 3 * largest


def test_ranks_that_make_nothing_go_through_the_tensors_in_the_same_order() -> None:
    with Tape() as tape, torch.device("meta"):
        module = dit()
    targets = list(module.parameters())
    state = torch.random.get_rng_state()
    idle = [(id(t), v) for t, v in tape.replay(targets, CPU, run=False)]
    assert torch.equal(state, torch.random.get_rng_state()) and all(v is None for _, v in idle)
    assert [i for i, _ in idle] == [id(t) for t, _ in tape.replay(targets, CPU)] and len(idle) == len(targets)
