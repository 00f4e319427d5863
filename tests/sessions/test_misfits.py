"""What torch says of a state that does not fit is one line that names the first difference and the way out."""

from __future__ import annotations

import pytest
import torch

from baton_lightning.sessions.misfits import misfits_named


def test_networks_of_other_sizes_or_parts_are_named() -> None:
    net, wider, other = (torch.nn.Sequential(torch.nn.Linear(2, rows)) for rows in (3, 4, 3))
    output = r"0.weight is \[3, 2\] there and \[4, 2\] here.*another run.experiment"
    with pytest.raises(ValueError, match=output) as caught, misfits_named():
        wider.load_state_dict(net.state_dict())
    assert "2 parameters of another shape" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"2 that only one of both has \(0.weight, 0.bias\)"), misfits_named():
        other.load_state_dict({})


@pytest.mark.parametrize("groups", [1, 2])
def test_an_optimiser_of_other_parameters_is_named(groups: int) -> None:
    made = torch.optim.SGD([{"params": [torch.zeros(1)]} for _ in range(3 - groups)], lr=0.1)
    other = torch.optim.SGD([{"params": [torch.zeros(1), torch.zeros(1)]} for _ in range(groups)], lr=0.1)
    with pytest.raises(ValueError, match="the state of an optimiser of other parameters; .*another run.experiment"), misfits_named():
        other.load_state_dict(made.state_dict())


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="^something else$"), misfits_named():
        raise RuntimeError("something else")
